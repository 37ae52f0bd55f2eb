/** A call of two Chromiums in networks of their own, of which one's link fails in the ways of real links. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  type Browser,
  installedBrowsers,
  launchInNetwork,
  type Page,
  servePage,
  type Tab,
  until,
  untilRinging,
  untilState,
} from "./support/browsers.js";
import { binary, type Federation, startFederation, WITHOUT_RATES } from "./support/federation.js";
import { canMakeNetworks, type Faults, type Network, startNetwork } from "./support/network.js";

const canRun = installedBrowsers().includes("chromium") && canMakeNetworks();
/** Samples of sound in a second. */
const RATE = 48_000;

let network: Network;
let federation: Federation;
let page: Page;
let browsers: Browser[] = [];
let here: string;
let a: Tab;
let b: Tab;
let contact: string;

beforeAll(async () => {
  if (!canRun) return;
  [network, page] = await Promise.all([startNetwork(3), servePage()]);
  const [ofA, ofB, ofNodes] = network.namespaces as [string, string, string];
  here = ofA;
  const sets = [
    'client.listen="203.0.113.3:0"',
    'turn.listen=["203.0.113.3:0"]',
    'turn.allowed_peers=["203.0.113.0/24"]',
  ];
  federation = await startFederation(2, [...sets, ...WITHOUT_RATES], network.programIn(ofNodes, binary()));
  browsers = await Promise.all([ofA, ofB].map((namespace) => launchInNetwork(network, namespace, page)));
  [a, b] = (await Promise.all(browsers.map((browser) => browser.open()))) as [Tab, Tab];
  const nodes = federation.nodes.map(({ id, clientUrl }) => `${clientUrl}#${id}`);
  const options = { roots: [federation.root], nodes, isPrivate: true };
  const first = await a.run("start", { ...options, name: "Ada" });
  await b.run("start", { ...options, name: "Bob", avoid: [first.node as string] });
  const { code } = await b.run("showCode", false);
  ({ contact } = await a.run("pair", code));
}, 120_000);

afterAll(async () => {
  if (!canRun) return;
  for (const browser of browsers) await browser.close();
  page.close();
  await federation.stop();
  await network.stop();
}, 60_000);

afterEach(async () => {
  if (!canRun) return;
  await network.change(here, {});
  await a.run("hangUp");
  await untilState(b, "ended");
}, 60_000);

/** The person of the bad network calls. */
async function talk(hasCamera: boolean): Promise<void> {
  for (const tab of [a, b]) {
    expect(await tab.run("open", "microphone")).toBe("open");
    await (hasCamera ? tab.run("open", "camera") : tab.run("closeSource", "camera"));
  }
  await a.run("call", contact);
  await untilRinging(b);
  await b.run("accept");
  for (const tab of [a, b]) {
    await untilState(tab, "connected");
    await tab.run("play");
    await untilHeard(tab);
  }
  await Promise.all([a, b].map((tab) => tab.run("log")));
}

/** Waits until packets of sound arrive. Returns how long that took, in milliseconds. */
async function untilHeard(tab: Tab): Promise<number> {
  const began = Date.now();
  const before = (await tab.run("statistics"))?.packetsReceived ?? 0;
  await until(
    "packets",
    () => tab.run("statistics"),
    (now) => (now?.packetsReceived ?? 0) > before + 2,
  );
  return Date.now() - began;
}

async function untilBothHear(): Promise<number> {
  return Math.max(...(await Promise.all([untilHeard(a), untilHeard(b)])));
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** What is missing of the sound while `run` runs, in seconds, and its part of the packets and of the sound. And the pictures shown. */
async function missing(tab: Tab, run: () => Promise<unknown>) {
  const before = await tab.run("statistics");
  await run();
  const after = await tab.run("statistics");
  const increase = (field: "samplesConcealed" | "samplesReceived" | "packetsLost" | "packetsReceived" | "camera") =>
    (after?.[field] ?? 0) - (before?.[field] ?? 0);
  const lost = increase("packetsLost");
  return {
    seconds: increase("samplesConcealed") / RATE,
    ofSound: increase("samplesConcealed") / increase("samplesReceived"),
    ofPackets: lost / (lost + increase("packetsReceived")),
    pictures: increase("camera"),
  };
}

function report(what: string, values: Record<string, number | string>): void {
  const texts = Object.entries(values).map(
    ([name, value]) => `${name} ${typeof value === "number" ? +value.toFixed(3) : value}`,
  );
  console.info(`${what}: ${texts.join(", ")}`);
}

describe.runIf(canRun)("a call goes on", () => {
  test("when an address changes: both hear again within 2.5 s", async () => {
    await talk(false);
    const times: number[] = [];
    // Moves away and back. Only the best time counts. If neither is in time, it moves once more: a loaded machine takes longer,
    // but not each time.
    const [first, second] = ["203.0.113.1", "203.0.113.11"];
    while (times.length < 2 || (times.length < 4 && Math.min(...times) >= 2_500)) {
      for (const [from, to] of [
        [first, second],
        [second, first],
      ] as const) {
        network.move(here, from, to);
        times.push(await untilBothHear());
        await pause(1_000);
      }
    }
    report("address change", { "ms until both hear": times.join(", ") });
    expect(Math.min(...times)).toBeLessThan(2_500);
    expect(Math.max(...times)).toBeLessThan(10_000);
    for (const tab of [a, b]) await untilState(tab, "connected");
  }, 180_000);

  test.each([5, 25])(
    "after %i s without a network",
    async (seconds) => {
      await talk(false);
      const times: number[] = [];
      const noticedAfter: number[] = [];
      // The best of three. Where the first is in time, there is no other.
      const isInTime = () => [times, noticedAfter].every((all) => Math.min(...all) < 2_500);
      while (times.length < 3 && !isInTime()) {
        await network.change(here, { down: 1 });
        const downAt = Date.now();
        await untilState(b, "reconnecting");
        const noticed = Date.now() - downAt;
        noticedAfter.push(noticed);
        await pause(seconds * 1_000 - noticed);
        const lost = await missing(b, async () => {
          await network.change(here, {});
          times.push(await untilBothHear());
        });
        report(`${seconds} s without a network`, {
          "ms until it is noticed": noticed,
          "ms until both hear": times.join(", "),
          "s of sound missing afterwards": lost.seconds,
        });
        for (const tab of [a, b]) await untilState(tab, "connected");
      }
      // The watchdog waits for 1.5 s.
      expect(isInTime()).toBe(true);
      expect(Math.max(...times)).toBeLessThan(10_000);
    },
    240_000,
  );

  test.each<[string, Faults, number, string[]]>([
    ["4 % loss", { loss: 4 }, 0.06, ["good", "fair"]],
    ["15 % loss", { loss: 15 }, 0.2, ["poor"]],
    ["100 ms each way", { delay: 100 }, 0.03, ["fair"]],
    ["300 kbit/s", { rate: 300 }, 0.1, ["good", "fair", "poor"]],
  ])(
    "with %s",
    async (name, faults, mostMissing, qualities) => {
      await talk(true);
      await network.change(here, faults);
      // A browser finds out by losses how much a link takes, and how long that takes differs.
      if (faults.loss === undefined) await pause(4_000);
      await until(
        "most of the sound arrives, and five pictures a second",
        () => missing(b, () => pause(6_000)),
        (lost) => {
          report(name, lost);
          return lost.ofSound < mostMissing && lost.pictures >= 30;
        },
        30_000,
      );
      // Two of three windows of three seconds have to say so.
      const { quality } = await until(
        `the quality is ${qualities.join(" or ")}`,
        () => b.run("callView"),
        (view) => qualities.includes(view.quality ?? "unknown"),
      );
      const statistics = await b.run("statistics");
      report(name, { quality: quality ?? "unknown", "round trip in ms": statistics?.roundTripMs ?? -1 });
      for (const tab of [a, b]) await untilState(tab, "connected");
    },
    180_000,
  );

  test("at 60 kbit/s: the sound stays, and the picture goes until there is room for it", async () => {
    await talk(true);
    await network.change(here, { rate: 60 });
    const narrow = Date.now();
    await until(
      "the pictures are left out",
      () => a.run("callView"),
      ({ isVideoPaused }) => isVideoPaused === true,
    );
    report("60 kbit/s", { "ms until the picture goes": Date.now() - narrow });
    await until(
      "the other side is told",
      () => b.run("callView"),
      ({ remoteMedia }) => remoteMedia?.camera === false,
    );
    // What was lost of the pictures is sent again for some seconds: a page cannot stop its browser from that.
    const told = Date.now();
    await until(
      "the sound is whole for five seconds",
      () => missing(b, () => pause(5_000)),
      (lost) => {
        report("60 kbit/s, sound alone", { ...lost, "ms since the picture went": Date.now() - told });
        return lost.ofSound < 0.05;
      },
      // It takes 8 to 51 s: sound alone fills most of such a link, so each other packet costs some of it.
      120_000,
    );
    await network.change(here, {});
    const wide = Date.now();
    await until(
      "the pictures are back",
      () => b.run("callView"),
      ({ remoteMedia }) => remoteMedia?.camera === true,
      // A first trial may fail, and the next one comes after twice the time.
      60_000,
    );
    report("60 kbit/s, and then none", { "ms until the picture is back": Date.now() - wide });
  }, 360_000);
});
