/** Microphone, camera and screen in calls of Chromium and Firefox, and what each side is told of the other's. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  type Browser,
  type BrowserName,
  installedBrowsers,
  launch,
  MICROPHONE_TONE,
  servePage,
  type Tab,
  until,
  untilHeard,
  untilRinging,
  untilState,
  untilTone,
} from "./support/browsers.js";
import { hasCoturn, startCoturn } from "./support/coturn.js";
import { type Federation, startFederation, WITHOUT_RATES } from "./support/federation.js";

let federation: Federation;
let page: Awaited<ReturnType<typeof servePage>>;
const browsers = new Map<BrowserName, Browser>();
const installed = installedBrowsers();
const opened: Tab[] = [];

beforeAll(async () => {
  // One node, since a relay does not relay to other ports of its own address, and all nodes here have one.
  const relay = ['turn.listen=["127.0.0.1:0"]', 'turn.allowed_peers=["127.0.0.0/8"]'];
  [federation, page] = await Promise.all([startFederation(1, [...relay, ...WITHOUT_RATES]), servePage()]);
  for (const name of installed) browsers.set(name, await launch(name, page.url));
}, 120_000);

afterEach(async () => {
  await Promise.all(opened.splice(0).map((tab) => tab.run("close")));
  await Promise.all([...browsers.values()].map((browser) => browser.closeTabs()));
});

afterAll(async () => {
  for (const browser of browsers.values()) await browser.close();
  page.close();
  await federation.stop();
});

/** The tone of each browser's microphone: Firefox has one of its own. */
const TONES: Record<BrowserName, number> = { chromium: MICROPHONE_TONE, firefox: 1000 };

async function open(name: BrowserName, person: string, { registry, root } = federation): Promise<Tab> {
  const tab = await (browsers.get(name) as Browser).open();
  await tab.run("start", { registries: [registry], roots: [root], isPrivate: true, name: person });
  opened.push(tab);
  return tab;
}

/** Does the same with both sides of a call, at the same time. */
async function both<T>(sides: readonly T[], run: (side: T) => Promise<unknown>): Promise<void> {
  await Promise.all(sides.map(run));
}

/** Two people in a call, with microphones and cameras. */
async function talk(
  caller: BrowserName,
  callee: BrowserName,
  isRelayOnly = false,
  where = federation,
): Promise<[Tab, Tab]> {
  const [a, b] = await Promise.all([open(caller, "Ada", where), open(callee, "Bob", where)]);
  const { code } = await b.run("showCode", false);
  const { contact } = await a.run("pair", code);
  await both([a, b], async (tab) => {
    expect(await tab.run("open", "microphone")).toBe("open");
    expect(await tab.run("open", "camera")).toBe("open");
  });
  await a.run("call", contact, isRelayOnly);
  await untilRinging(b);
  await b.run("accept", isRelayOnly);
  await both([a, b], (tab) => untilState(tab, "connected"));
  return [a, b];
}

async function untilRemote(tab: Tab, line: "sound" | "camera" | "screen", isOn: boolean): Promise<void> {
  await until(
    `${line} is ${isOn ? "on" : "off"}`,
    () => tab.run("callView"),
    ({ remoteMedia }) => remoteMedia?.[line] === isOn,
  );
}

async function untilFramesRise(tab: Tab, line: "camera" | "screen"): Promise<void> {
  const before = (await tab.run("statistics"))?.[line] ?? 0;
  await until(
    `pictures of the ${line}`,
    () => tab.run("statistics"),
    (statistics) => (statistics?.[line] ?? 0) > before + 5,
  );
}

/** Without relays, waits until a side names each address that it has told the other. */
async function untilAddressesAreNamed(tab: Tab): Promise<void> {
  const description = (await tab.run("sentDescription")) ?? "";
  const told = [...description.matchAll(/^a=candidate:\S+ \d \S+ \d+ (\S+) \d+ typ (?!relay)/gm)].map(([, address]) =>
    String(address),
  );
  // The browser may have told a name in place of each. Both browsers are on one machine, and use its loopback, too.
  const addresses = told.filter((address) => !/\.local$|^127\.|^::1$/.test(address));
  expect(told).not.toEqual([]);
  await until(
    `${addresses} of ${told}`,
    () => tab.run("callView"),
    ({ route }) =>
      route !== undefined &&
      route.local.type !== "relay" &&
      addresses.every((address) => route.visibleAddresses.includes(address)),
  );
}

const pairs = installed.flatMap((caller) => installed.map((callee) => ({ caller, callee })));

test.each(pairs)(
  "$caller and $callee hear and see each other, and each is told what the other switches off",
  async ({ caller, callee }) => {
    const [a, b] = await talk(caller, callee);
    const sides = [
      { here: a, there: b, tone: TONES[callee] },
      { here: b, there: a, tone: TONES[caller] },
    ];
    await both(sides, async ({ here, tone }) => {
      await untilTone(here, tone);
      await untilFramesRise(here, "camera");
      await untilAddressesAreNamed(here);
    });
    await both(sides, async ({ here, there }) => {
      await there.run("mute", true);
      await untilRemote(here, "sound", false);
      await untilHeard(here, ({ decibels }) => decibels < -90);
      await there.run("mute", false);
      await untilRemote(here, "sound", true);
      await untilHeard(here);

      await there.run("closeSource", "camera");
      await untilRemote(here, "camera", false);
      expect(await there.run("open", "camera")).toBe("open");
      await untilRemote(here, "camera", true);
      await untilFramesRise(here, "camera");
    });
    await a.run("hangUp");
    await untilState(b, "ended");
  },
  120_000,
);

/** Waits until a call runs over relays, and checks that it names no address. */
async function expectRelayed(tab: Tab): Promise<void> {
  const { route } = await until(
    "the path",
    () => tab.run("callView"),
    (view) => view.route !== undefined,
  );
  // The other side's relay may be known by its packets (`prflx`) before its candidate arrives.
  expect(route?.local.type).toBe("relay");
  expect(route?.visibleAddresses).toEqual([]);
  expect(await tab.run("sentDescription")).not.toMatch(/typ (host|srflx|prflx)/);
  await untilFramesRise(tab, "camera");
}

// Two of one browser do so in the next test.
test.each(pairs.filter(({ caller, callee }) => caller !== callee))(
  "$caller and $callee use relays alone unless they may do otherwise, and name no address",
  async ({ caller, callee }) => {
    await both(await talk(caller, callee, true), expectRelayed);
  },
  120_000,
);

test.each(installed)(
  "%s calls over relays alone, and comes back over relays alone, whatever the app and the contact may do by then",
  async (name) => {
    const [a, b] = await talk(name, name, true);
    await both([a, b], expectRelayed);
    await until(
      "the page has recorded the call",
      () => a.run("recordsCall"),
      (isRecorded) => isRecorded,
    );
    const [contact] = await a.run("contacts");
    await a.run("allowDirect", contact?.id as string, true);
    await a.reload();
    await a.run("start", { registries: [federation.registry], roots: [federation.root], isPrivate: true });
    expect(await a.run("rejoin", false)).toBe(true);
    await both([a, b], (tab) => untilState(tab, "connected"));
    const { route } = await until(
      "the path",
      () => a.run("callView"),
      (view) => view.route !== undefined,
    );
    expect(route?.local.type).toBe("relay");
    expect(route?.visibleAddresses).toEqual([]);
    expect(await a.run("sentDescription")).not.toMatch(/typ (host|srflx|prflx)/);
  },
  120_000,
);

describe.runIf(installed.length > 0 && hasCoturn())("coturn", () => {
  test.each(["udp", "tcp"] as const)(
    "relays a call over %s",
    async (transport) => {
      const coturn = await startCoturn();
      const elsewhere = await startFederation(1, [coturn.key(transport)]);
      try {
        const [a, b] = await talk(installed[0] as BrowserName, installed.at(-1) as BrowserName, true, elsewhere);
        await both([a, b], async (tab) => {
          await expectRelayed(tab);
          await until(
            "the protocol of the relay",
            () => tab.run("callView"),
            ({ route }) => route?.local.relayProtocol === transport,
          );
        });
        await Promise.all(opened.splice(0).map((tab) => tab.run("close")));
      } finally {
        await elsewhere.stop();
        await coturn.stop();
      }
    },
    150_000,
  );
});

// Firefox has no screen without a window system.
test.runIf(installed.includes("chromium"))(
  "Chromium shares the screen, and ends that",
  async () => {
    const [a, b] = await talk("chromium", "chromium");
    expect(await a.run("open", "screen")).toBe("open");
    await untilRemote(b, "screen", true);
    await untilFramesRise(b, "screen");
    // The sound of the screen, where the browser captures it, is mixed with the microphone.
    await untilHeard(b);
    await a.run("closeSource", "screen");
    await untilRemote(b, "screen", false);
    await untilTone(b, TONES.chromium);
  },
  120_000,
);

test.each(installed)("%s tells apart why a device cannot be opened, and a call goes on without it", async (name) => {
  const a = await open(name, "Ada");
  expect(await a.run("open", "microphone")).toBe("open");
  await a.run("refuseDevice", "video", "NotReadableError");
  expect(await a.run("open", "camera")).toBe("in-use");
  await a.run("refuseDevice", "video", "NotFoundError");
  expect(await a.run("open", "camera")).toBe("none");
  // The person closed the question: the browser would ask again.
  await a.run("askAgain", true);
  await a.run("refuseDevice", "video", "NotAllowedError");
  expect(await a.run("open", "camera")).toBe("dismissed");
  expect((await a.run("labels")).microphone).toBeTruthy();
});

test.each(installed)(
  "%s says that a person, or the browser for them, denies access",
  async (name) => {
    const browser = await launch(name, page.url, false);
    try {
      const tab = await browser.open();
      expect(await tab.run("open", "microphone")).toBe("denied");
      expect(await tab.run("open", "camera")).toBe("denied");
    } finally {
      await browser.close();
    }
  },
  90_000,
);

describe.runIf(installed.includes("chromium"))("a device", () => {
  test("that goes is replaced, and the chosen one is used again when it is back", async () => {
    const [a, b] = await talk("chromium", "chromium");
    const { microphones = [] } = (await a.run("devices")) ?? {};
    const chosen = microphones.find(({ deviceId }) => deviceId !== "default")?.deviceId ?? "";
    expect(await a.run("open", "microphone", chosen)).toBe("open");
    await a.run("log");
    await a.run("unplug", chosen, true);
    await until(
      "the other microphone",
      () => a.run("deviceOf", "microphone"),
      (device) => device !== chosen,
    );
    await untilHeard(b);
    await a.run("unplug", chosen, false);
    await until(
      "the chosen microphone",
      () => a.run("deviceOf", "microphone"),
      (device) => device === chosen,
    );
    // Each is reported after its track is in use.
    const events: unknown[] = [];
    await until(
      "both changes are reported",
      async () => {
        events.push(...(await a.run("log")).map(({ event }) => event).filter((event) => /device/.test(String(event))));
        return events.length;
      },
      (count) => count >= 2,
    );
    expect(events).toEqual(["devicelost", "devicereturned"]);
    await untilHeard(b);
  }, 120_000);

  test("that the system has silenced is opened again", async () => {
    const [a, b] = await talk("chromium", "chromium");
    const former = await a.run("interruptMicrophone");
    await until(
      "another track",
      () => a.run("microphoneTrack"),
      (track) => track !== undefined && track !== former,
    );
    await untilHeard(b);
    expect((await a.run("log")).map(({ event }) => event)).not.toContain("silent");
  }, 120_000);
});
