/** What the page says when something does not work: a microphone, a sound that may not play, a way to a node. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hasChromium } from "../examples/chromium.js";
import { startFederation } from "../support/federation.js";
import { Site } from "./site.js";
import { pair, Visitor } from "./visitor.js";

const YEAR = 365 * 86_400_000;

const isInstalled = hasChromium();
let site: Site;

beforeAll(async () => {
  if (!isInstalled) return;
  site = await Site.start(startFederation(2));
}, 90_000);

afterAll(() => site?.stop());

/** Makes the browser refuse a microphone with an error of this name. */
function refuse(name: string): void {
  const original = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = (constraints) =>
    constraints?.audio ? Promise.reject(new DOMException("", name)) : original(constraints);
}

/** Gives the page a microphone in which nothing sounds. */
function silence(): void {
  const original = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (constraints) =>
    constraints?.audio ? new AudioContext().createMediaStreamDestination().stream : original(constraints);
}

/** Collects the tracks that the page opens. */
function collectTracks(): void {
  const tracks: MediaStreamTrack[] = [];
  const original = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (constraints) => {
    const stream = await original(constraints);
    tracks.push(...stream.getTracks());
    return stream;
  };
  Object.assign(globalThis, { tracks });
}

/** Lets an element sound only if it was played in a click once, as Safari does. */
function playOnlyAfterClick(): void {
  const unlocked = new WeakSet<HTMLMediaElement>();
  let isClicked = false;
  addEventListener(
    "click",
    () => {
      isClicked = true;
      setTimeout(() => {
        isClicked = false;
      });
    },
    { capture: true },
  );
  const original = HTMLAudioElement.prototype.play;
  HTMLAudioElement.prototype.play = function (this: HTMLMediaElement) {
    if (isClicked) unlocked.add(this);
    return unlocked.has(this) ? original.call(this) : Promise.reject(new DOMException("", "NotAllowedError"));
  };
}

describe.skipIf(!isInstalled)("in a call", () => {
  test("without a microphone one still hears, and is told why one is not heard", async () => {
    const [ada, bob] = await site.openTwo();
    await pair(ada, bob);
    await ada.page.evaluate(refuse, "NotReadableError");
    await ada.call("Bob");
    await bob.click("callAccept");
    await Promise.all([ada.talks(), bob.talks()]);
    await ada.seesText("notice_refused_microphone_in_use");
    await bob.seesText("callRemoteSilent", { name: "Ada" });
    await ada.untilHeard();
    await ada.page.evaluate(() => Reflect.deleteProperty(navigator.mediaDevices, "getUserMedia"));
    await ada.click("noticeAgain");
    await bob.untilHeard();
    await Promise.all([ada.context.close(), bob.context.close()]);
  }, 120_000);

  test("a page that is loaded again and finds no node at first comes back when it does", async () => {
    const [ada, bob] = await site.openTwo();
    await pair(ada, bob);
    await ada.call("Bob");
    await bob.click("callAccept");
    await Promise.all([ada.talks(), bob.talks()]);
    let isCut = true;
    await ada.page.route(`${site.federation.registry}/**`, (route) => (isCut ? route.abort() : route.continue()));
    await ada.page.routeWebSocket(/^ws/, (socket) => {
      if (isCut) void socket.close();
      else socket.connectToServer();
    });
    await ada.page.reload();
    await ada.seesText("statusFailed");
    isCut = false;
    await ada.talks();
    await ada.untilHeard();
    await Promise.all([ada.context.close(), bob.context.close()]);
  }, 120_000);

  test("a sound that the browser does not play is played by a tap", async () => {
    const [ada, bob] = await Promise.all([site.open("Ada"), site.open("Bob")]);
    await bob.page.addInitScript(playOnlyAfterClick);
    await bob.page.reload();
    await Promise.all([ada.start(), bob.start()]);
    await pair(ada, bob);
    await ada.call("Bob");
    await bob.click("callAccept");
    await bob.talks();
    expect(await bob.button("callTap").count()).toBe(0);
    // After a reload nobody has clicked in the page.
    await bob.page.reload();
    await bob.click("callTap");
    await expect.poll(() => bob.button("callTap").count()).toBe(0);
    await bob.untilHeard();
    await Promise.all([ada.context.close(), bob.context.close()]);
  }, 120_000);
});

/** Makes the node refuse to name its relays: it knows no such request. */
function spoilRequestsOfRelays(): void {
  const { send } = WebSocket.prototype;
  WebSocket.prototype.send = function (data) {
    return send.call(this, typeof data === "string" ? data.replace('"get_ice_servers"', '"get_no_servers"') : data);
  };
}

test.skipIf(!isInstalled)(
  "a call for which the node gives no relay is no call that could not connect",
  async () => {
    const [ada, bob] = await site.openTwo();
    await ada.page.evaluate(spoilRequestsOfRelays);
    await bob.enter(await ada.showCode());
    await ada.click("wordsSame");
    await ada.call("Bob");
    await ada.sees("end_refused");
    await ada.seesText("endHelp_refused");
    expect(ada.errors).toEqual([]);
    await Promise.all([ada.context.close(), bob.context.close()]);
  },
  120_000,
);

describe.skipIf(!isInstalled)("the diagnosis names", () => {
  /** The lines of the diagnosis that do not say that something works, with their help. */
  async function faults(visitor: Visitor): Promise<Record<string, string>> {
    await visitor.click("settingsTitle");
    await visitor.click("settingsWhy");
    await visitor.click("diagnosisRun");
    await visitor.button("diagnosisRun").waitFor();
    return visitor.page.evaluate(() => {
      const lines = [...document.querySelectorAll<HTMLElement>("[data-check][data-verdict=bad]")];
      return Object.fromEntries(
        lines.map((line) => [line.dataset.check, line.querySelector(".help")?.textContent ?? ""]),
      );
    });
  }

  async function visit(url: string): Promise<Visitor> {
    const visitor = await Visitor.open(site.browser, "Ada", url);
    await visitor.page.getByLabel(visitor.text("welcomeName"), { exact: true }).fill("Ada");
    return visitor;
  }

  test("a registry and a node that do not answer", async () => {
    const ada = await visit(
      `${site.url}#${new URLSearchParams({ registry: "http://127.0.0.1:9", root: site.federation.root })}&private`,
    );
    await ada.click("welcomeStart");
    await ada.seesText("statusFailed");
    expect(await faults(ada)).toEqual({ registry: ada.text("help_registry"), node: ada.text("help_node") });
    await ada.context.close();
  }, 120_000);

  test("a device that is offline", async () => {
    const ada = await site.open("Ada");
    await ada.start();
    // The screens are loaded while the device is online.
    await faults(ada);
    await ada.context.setOffline(true);
    expect(await faults(ada)).toMatchObject({ device: ada.text("help_device") });
    await ada.context.close();
  }, 120_000);

  test("a wrong clock", async () => {
    const ada = await visit(site.federationUrl);
    await ada.page.evaluate((offset) => {
      const now = Date.now.bind(Date);
      Date.now = () => now() + offset;
    }, YEAR);
    await ada.click("welcomeStart");
    await ada.seesText("statusFailed");
    expect(await faults(ada)).toMatchObject({ clock: ada.text("help_clock") });
    await ada.context.close();
  }, 120_000);

  test.each([
    ["NotFoundError", "notice_refused_microphone_none"],
    ["NotReadableError", "notice_refused_microphone_in_use"],
    ["NotAllowedError", "notice_refused_microphone_dismissed"],
  ] as const)(
    "a microphone that fails with %s",
    async (name, help) => {
      const ada = await site.open("Ada");
      await ada.start();
      await ada.page.evaluate(refuse, name);
      expect(await faults(ada)).toEqual({ microphone: ada.text(help) });
      await ada.context.close();
    },
    120_000,
  );

  test("nothing while it works, and lets go of the devices that it has tried", async () => {
    const ada = await site.open("Ada");
    await ada.page.addInitScript(collectTracks);
    await ada.page.reload();
    await ada.start();
    expect(await faults(ada)).toEqual({});
    const tracks = () =>
      ada.page.evaluate(() =>
        (globalThis as unknown as { tracks: MediaStreamTrack[] }).tracks.map(
          ({ kind, readyState }) => `${kind} ${readyState}`,
        ),
      );
    expect((await tracks()).toSorted()).toEqual(["audio ended", "video ended"]);
    await ada.context.close();
  }, 120_000);

  test("a microphone that delivers silence", async () => {
    const ada = await site.open("Ada");
    await ada.start();
    await ada.page.evaluate(silence);
    expect(await faults(ada)).toEqual({ microphone: ada.text("help_microphone_silent") });
    await ada.context.close();
  }, 120_000);
});
