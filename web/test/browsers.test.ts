/** Chromium and Firefox: the vectors, the protocol in a worker, and calls with each other over real nodes. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  type Browser,
  type BrowserName,
  installedBrowsers,
  launch,
  servePage,
  type Tab,
  until,
  untilRinging,
  untilState,
  untilTone,
} from "./support/browsers.js";
import { type Federation, startFederation } from "./support/federation.js";

let federation: Federation;
let page: Awaited<ReturnType<typeof servePage>>;
const browsers = new Map<BrowserName, Browser>();
const installed = installedBrowsers();

beforeAll(async () => {
  [federation, page] = await Promise.all([startFederation(3), servePage()]);
  for (const name of installed) browsers.set(name, await launch(name, page.url));
}, 120_000);

afterEach(async () => {
  await Promise.all([...browsers.values()].map((browser) => browser.closeTabs()));
});

afterAll(async () => {
  for (const browser of browsers.values()) await browser.close();
  page.close();
  await federation.stop();
});

async function open(name: BrowserName): Promise<Tab> {
  return (browsers.get(name) as Browser).open();
}

/** The tone of a page without a microphone, in hertz. */
const TONE = 660;

describe.each(installed)("%s", (name) => {
  test("makes a connection whatever servers for media a node names", async () => {
    const urls = [
      ...["stun:a.example:0", "stun:a.example:65536", "turn:a.example:70000?transport=tcp", "stun:a.example:99999"],
      ...["stun:a.example?transport=udp", "stuns:a.example:1?transport=tcp", "turn:a.example?transport=TCP"],
      ...["turn:..", "turn:-", "stun:a..b", "stun:1", "stun:0x7f.1", "turns:[::::]", "stun:[1]", "turn:[::1]:22"],
      ...[`stun:${"a".repeat(64)}.example`, `stun:${"a.".repeat(200)}example`, "stun:a.example:", "turn:a_b.example"],
    ];
    const texts = ["", " ", "u".repeat(508), "u".repeat(600), "é".repeat(300), "\0", "\u{1f600}:\r\n", "\ud800"];
    const good = { urls: ["turn:b.example"], username: "u", credential: "c" };
    const odd = [
      ...urls.map((url) => ({ ...good, urls: [url, "stun:c.example"] })),
      ...texts.flatMap((text) => [
        { ...good, username: text },
        { ...good, credential: text },
      ]),
    ];
    const tab = await open(name);
    const used = await tab.run(
      "usedServers",
      odd.map((server) => [good, server]),
    );
    for (const [index, servers] of used.entries()) {
      const named = servers.flatMap((server) => server.urls);
      expect(named, JSON.stringify(odd[index])).toContain("turn:b.example");
      if (index < urls.length) expect(named).toContain("stun:c.example");
    }
  });

  test("computes the vectors, and keeps its keys from scripts", async () => {
    const tab = await open(name);
    expect(await tab.run("vectors")).toEqual([]);
    expect(await tab.run("keyProtection")).toBe("non-extractable");
  });

  test("runs the protocol in a worker: it connects, pairs, and calls until it rings", async () => {
    const [a, b] = [await open(name), await open(name)];
    const options = { registries: [federation.registry], roots: [federation.root], isPrivate: true };
    await b.run("start", { ...options, name: "Bob" });
    const { code } = await b.run("showCode", false);
    const { words, ...report } = await a.run("callFromWorker", { options, code });
    expect(report).toEqual({ hasDocument: false, events: ["ringing", "hung-up"] });
    expect(words).toEqual((await b.run("paired"))?.words);
    await untilRinging(b);
    await b.run("close");
  });
});

const pairs = installed.flatMap((caller) => installed.map((callee) => ({ caller, callee })));

test.each(pairs)(
  "$caller calls $callee on another node, and each hears the other, also after each has restarted the connection",
  async ({ caller, callee }) => {
    const [a, b] = await Promise.all([open(caller), open(callee)]);
    const options = { registries: [federation.registry], roots: [federation.root], isPrivate: true };
    const first = await a.run("start", { ...options, name: "Ada" });
    await b.run("start", { ...options, name: "Bob", avoid: [first.node as string] });
    const { code } = await b.run("showCode", false);
    const atA = await a.run("pair", code);
    const atB = await b.run("paired");
    expect(atA.words).toEqual(atB?.words);

    await a.run("call", atA.contact);
    await untilRinging(b);
    await b.run("accept");
    const bothHear = () =>
      Promise.all(
        [a, b].map(async (tab) => {
          await untilTone(tab, TONE);
          await untilState(tab, "connected");
        }),
      );
    await Promise.all([a, b].map((tab) => untilState(tab, "connected")));
    await bothHear();
    for (const [restarting, other] of [
      [b, a],
      [a, b],
      [b, a],
    ] as const) {
      const before = await restarting.run("iceNames");
      await restarting.run("restart");
      const renewed = [
        [restarting, before],
        [other, before.toReversed()],
      ] as const;
      await Promise.all(
        renewed.map(([tab, former]) =>
          until(
            "the new connection",
            () => tab.run("iceNames"),
            (names) => names.every((name, at) => name !== former[at]),
          ),
        ),
      );
      await bothHear();
    }
    await b.run("hangUp");
    await untilState(a, "ended");
    await Promise.all([a.run("close"), b.run("close")]);
  },
  120_000,
);
