/** What goes wrong around a page: a node that dies, sources that lie or are silent, and a clock that is off. */
import { createServer as createHttpServer } from "node:http";
import { type AddressInfo, createServer as createTcpServer, type Server } from "node:net";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  type Browser,
  installedBrowsers,
  launch,
  launchWithHttps,
  servePage,
  type Tab,
  until,
  untilHeard,
  untilRinging,
  untilState,
} from "./support/browsers.js";
import { type ProcessFederation, startProcesses } from "./support/federation.js";

const installed = installedBrowsers();
const YEAR = 365 * 24 * 3600 * 1000;

let federation: ProcessFederation;
let page: Awaited<ReturnType<typeof servePage>>;
const browsers: Browser[] = [];
const servers: { close(): unknown }[] = [];

beforeAll(async () => {
  [federation, page] = await Promise.all([startProcesses(4), servePage()]);
  for (const name of installed) browsers.push(await launch(name, page.url));
}, 120_000);

afterEach(async () => {
  for (const server of servers.splice(0)) server.close();
  await Promise.all(browsers.map((browser) => browser.closeTabs()));
});

afterAll(async () => {
  for (const browser of browsers) await browser.close();
  page.close();
  await federation.stop();
});

/** The first and the last browser that is installed: two different ones, where both are. */
const [caller, callee] = [() => browsers[0] as Browser, () => browsers.at(-1) as Browser];

function options() {
  return { registries: [federation.registry], roots: [federation.root], isPrivate: true };
}

async function listen(server: Server): Promise<string> {
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** A registry that serves these bytes as its directory. */
function serveDirectory(bytes: () => Uint8Array): Promise<string> {
  const server = createHttpServer((_, response) => {
    response.setHeader("access-control-allow-origin", "*");
    response.end(bytes());
  });
  return listen(server);
}

/** A registry that takes connections and never answers. */
function serveBlackHole(): Promise<string> {
  return listen(createTcpServer());
}

async function fetchDirectory(): Promise<Uint8Array> {
  return new Uint8Array(await (await fetch(`${federation.registry}/v1/directory`)).arrayBuffer());
}

/** The causes that a failed connect has reported. */
async function causes(tab: Tab): Promise<string> {
  const log = await tab.run("log");
  const failed = log.find(({ event }) => event === "searchfailed");
  const reports = (failed?.error ?? []) as { source: string; result: string }[];
  return reports.map(({ source, result }) => `${source}: ${result}`).join("\n");
}

async function connectFails(tab: Tab, changed: Record<string, unknown>): Promise<string> {
  await expect(tab.run("start", { ...options(), ...changed })).rejects.toThrow(/no node was found/);
  return causes(tab);
}

describe.skipIf(installed.length === 0)("two pages on two nodes", () => {
  async function pairedOnTwoNodes() {
    const [a, b] = await Promise.all([caller().open(), callee().open()]);
    const atA = await a.run("start", { ...options(), name: "Ada" });
    const atB = await b.run("start", { ...options(), name: "Bob", avoid: [atA.node as string] });
    expect(atA.node).not.toBe(atB.node);
    const { code } = await b.run("showCode", false);
    const paired = await a.run("pair", code);
    await b.run("paired");
    return { a, b, contact: paired.contact, nodeA: atA.node as string, nodeB: atB.node as string };
  }

  test.each(["callee", "caller"])(
    "of which the %s's is killed while it rings: the call comes about",
    async (whose) => {
      const { a, b, contact, nodeA, nodeB } = await pairedOnTwoNodes();
      await a.run("call", contact);
      await untilRinging(b);
      const killed = whose === "callee" ? nodeB : nodeA;
      await federation.kill(killed);
      await b.run("accept");
      for (const tab of [a, b]) await untilState(tab, "connected");
      await a.run("hangUp");
      await federation.revive(killed);
      await Promise.all([a.run("close"), b.run("close")]);
    },
    150_000,
  );

  test("of which none has a relay: the call rings until it is accepted without one", async () => {
    const { a, b, contact } = await pairedOnTwoNodes();
    await expect(a.run("call", contact, true)).rejects.toThrow("the node names no relay");
    await a.run("call", contact);
    await untilRinging(b);
    await expect(b.run("accept", true)).rejects.toThrow("the node names no relay");
    await b.run("accept");
    for (const tab of [a, b]) await untilState(tab, "connected");
    await a.run("hangUp");
    await Promise.all([a.run("close"), b.run("close")]);
  }, 150_000);

  test("of which the caller's is killed in the call: nothing is missing, and a new path can be made", async () => {
    const { a, b, contact, nodeA } = await pairedOnTwoNodes();
    await a.run("call", contact);
    await untilRinging(b);
    await b.run("accept");
    for (const tab of [a, b]) {
      await untilState(tab, "connected");
      await tab.run("play");
      await until(
        "sound",
        () => tab.run("statistics"),
        (statistics) => (statistics?.packetsReceived ?? 0) > 50,
      );
    }
    const before = await b.run("statistics");
    await a.run("log");
    await federation.kill(nodeA);
    await until(
      "the end of the session",
      () => a.run("log"),
      (log) => log.some(({ event }) => event === "disconnected"),
    );
    await a.run("restart");
    const wanted = (before?.packetsReceived ?? 0) + 150;
    await until(
      "three seconds of sound",
      () => b.run("statistics"),
      (after) => (after?.packetsReceived ?? 0) > wanted,
    );
    const after = await b.run("statistics");
    expect((after?.packetsLost ?? 0) - (before?.packetsLost ?? 0)).toBeLessThan(10);
    for (const tab of [a, b]) await untilState(tab, "connected");
    // The hangup takes the way over the other node.
    await a.run("hangUp");
    await untilState(b, "ended");
    await federation.revive(nodeA);
    await Promise.all([a.run("close"), b.run("close")]);
  }, 150_000);

  /** Two pages in a call. */
  async function talking() {
    const pages = await pairedOnTwoNodes();
    const { a, b, contact } = pages;
    await a.run("call", contact);
    await untilRinging(b);
    await b.run("accept");
    for (const tab of [a, b]) await untilState(tab, "connected");
    return pages;
  }

  /** Waits until a page has recorded its call, loads it again, and connects. */
  async function loadAgain(tab: Tab): Promise<void> {
    await until(
      "the page has recorded the call",
      () => tab.run("recordsCall"),
      (isRecorded) => isRecorded,
    );
    await tab.reload();
    await tab.run("start", options());
  }

  test("of which each is loaded again, one of them twice: it comes back into the call, and nothing rings", async () => {
    const { a, b } = await talking();
    for (const [here, there] of [
      [a, b],
      [a, b],
      [b, a],
    ] as const) {
      await loadAgain(here);
      expect(await here.run("rejoin")).toBe(true);
      for (const tab of [here, there]) await untilState(tab, "connected");
      expect(await there.run("ringing")).toBe(0);
      await Promise.all([here, there].map((tab) => untilHeard(tab)));
    }
    await b.run("hangUp");
    await untilState(a, "ended");
    await until(
      "the record of the call is gone",
      () => a.run("recordsCall"),
      (isRecorded) => !isRecorded,
    );
    expect(await a.run("rejoin")).toBe(false);
    await Promise.all([a.run("close"), b.run("close")]);
  }, 240_000);

  test("of which one is loaded again, and again when it could not call or before media flows: it comes back", async () => {
    const { a, b } = await talking();
    await loadAgain(a);
    await expect(a.run("rejoin", true)).rejects.toThrow("the node names no relay");
    await a.reload();
    await a.run("start", options());
    await a.run("holdMedia", true);
    expect(await a.run("rejoin")).toBe(true);
    await loadAgain(a);
    expect(await a.run("rejoin")).toBe(true);
    for (const tab of [a, b]) await untilState(tab, "connected");
    expect(await b.run("ringing")).toBe(0);
    await Promise.all([a, b].map((tab) => untilHeard(tab)));
    await a.run("hangUp");
    await untilState(b, "ended");
    await Promise.all([a.run("close"), b.run("close")]);
  }, 150_000);

  test("of which one is loaded again, and again before it has noted that it was heard: it comes back", async () => {
    const { a, b } = await talking();
    await loadAgain(a);
    await a.run("ignoreWrites");
    await a.run("holdMedia", true);
    expect(await a.run("rejoin")).toBe(true);
    await untilState(b, "connecting");
    await a.reload();
    await a.run("start", options());
    expect(await a.run("rejoin")).toBe(true);
    for (const tab of [a, b]) await untilState(tab, "connected");
    expect(await b.run("ringing")).toBe(0);
    await Promise.all([a, b].map((tab) => untilHeard(tab)));
    await a.run("hangUp");
    await untilState(b, "ended");
    await Promise.all([a.run("close"), b.run("close")]);
  }, 150_000);

  test.each(["caller", "callee"])(
    "of which the %s's is loaded again after the answer, before media flows: it comes back into the call",
    async (whose) => {
      const { a, b, contact } = await pairedOnTwoNodes();
      await a.run("holdMedia", true);
      await a.run("call", contact);
      await untilRinging(b);
      await b.run("accept");
      const here = whose === "caller" ? a : b;
      await loadAgain(here);
      if (here === b) await a.run("holdMedia", false);
      expect(await here.run("rejoin")).toBe(true);
      for (const tab of [a, b]) await untilState(tab, "connected");
      await b.run("hangUp");
      await untilState(a, "ended");
      await Promise.all([a.run("close"), b.run("close")]);
    },
    150_000,
  );

  test.each(["offer", "answer"])(
    "of which one sends an %s that cannot be applied: both end the call, and can call again",
    async (type) => {
      const { a, b, contact } = await talking();
      const [liar, victim] = type === "offer" ? [a, b] : [b, a];
      await liar.run("corruptDescriptions");
      await a.run("restart");
      for (const tab of [a, b]) await untilState(tab, "ended");
      const reasons = async (tab: Tab) => (await tab.run("log")).filter(({ event }) => event === "ended");
      expect(await reasons(victim)).toMatchObject([{ reason: "hung-up" }]);
      expect(await reasons(liar)).toMatchObject([{ reason: "peer-hung-up" }]);
      await a.run("call", contact);
      await untilRinging(b);
      await b.run("accept");
      for (const tab of [a, b]) await untilState(tab, "connected");
      await a.run("hangUp");
      await Promise.all([a.run("close"), b.run("close")]);
    },
    150_000,
  );
});

describe.each(installed.map((name, index) => ({ name, index })))("$name", ({ index }) => {
  const open = (clockOffset?: number) => (browsers[index] as Browser).open(clockOffset);

  test("connects by another source if the registry is silent, and says so if there is none", async () => {
    const registries = [await serveBlackHole()];
    const tab = await open();
    expect(await connectFails(tab, { registries })).toContain("registry: no answer in time");
    const node = federation.nodes[0];
    const again = await open();
    await again.run("start", { ...options(), registries, nodes: [`${node?.clientUrl}#${node?.id}`] });
    await again.run("close");
    await tab.run("close");
  }, 60_000);

  test("tells a registry that lets no page read it from one that is not there", async () => {
    const withoutCors = await listen(createHttpServer((_, response) => response.end("a directory")));
    for (const [registry, cause] of [
      [withoutCors, "the server answers, but allows no page to read it (CORS)"],
      ["http://127.0.0.1:1", "no connection"],
    ] as const) {
      const tab = await open();
      expect(await connectFails(tab, { registries: [registry] })).toContain(`registry: ${cause}`);
      await tab.run("close");
    }
  }, 60_000);

  test("refuses a directory that is forged, or signed under other roots", async () => {
    const forged = await fetchDirectory();
    const at = forged.length - 70;
    forged[at] = (forged[at] as number) ^ 1;
    const tab = await open();
    expect(await connectFails(tab, { registries: [await serveDirectory(() => forged)] })).toContain(
      "registry: what it sends is not a signed list",
    );
    await tab.run("close");
    const other = await open();
    const roots = [federation.nodes[0]?.id as string];
    expect(await connectFails(other, { roots })).toContain("registry: its list is not signed under a pinned root key");
    await other.run("close");
  }, 60_000);

  test("refuses a directory that was rolled back, and goes on with the nodes that it knows", async () => {
    const older = await fetchDirectory();
    const victim = federation.nodes[3]?.id as string;
    // A node that leaves changes the directory.
    await federation.kill(victim);
    await federation.revive(victim);
    const seqOf = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64");
    let served = await until("a newer directory", fetchDirectory, (bytes) => seqOf(bytes) !== seqOf(older));
    const registries = [await serveDirectory(() => served)];
    const tab = await open();
    await tab.run("start", { ...options(), registries });
    await until(
      "the confirmation",
      () => tab.run("log"),
      (log) => log.some(({ event }) => event === "nodechecked"),
    );
    await tab.run("close");
    served = older;
    await tab.run("start", { ...options(), registries, nodes: [`${federation.nodes[0]?.clientUrl}#${victim}`] });
    const checked = await until(
      "the reports",
      () => tab.run("log"),
      (log) => log.some(({ event }) => event === "nodechecked"),
    );
    expect(JSON.stringify(checked)).toContain("its list is older than a known one");
    await tab.run("close");
  }, 150_000);

  test("does not take a node with the wrong key", async () => {
    const [first, second] = federation.nodes;
    const tab = await open();
    const nodes = [`${first?.clientUrl}#${second?.id}`];
    expect(await connectFails(tab, { registries: [], nodes })).toBe(
      `manual: 1 addresses of nodes\n${first?.clientUrl}: another node is at this address`,
    );
    await tab.run("close");
  }, 60_000);

  test.each([
    { when: "ahead", offset: YEAR, cause: "its list has expired; is this device's clock right?" },
    { when: "behind", offset: -YEAR, cause: "its list is from the future; is this device's clock right?" },
  ])(
    "says that its clock may be wrong if it is a year $when",
    async ({ offset, cause }) => {
      const tab = await open(offset);
      expect(await connectFails(tab, {})).toContain(`registry: ${cause}`);
      await tab.run("close");
    },
    60_000,
  );
});

describe.skipIf(!installed.includes("chromium"))("a page of https", () => {
  let https: Browser;
  beforeAll(async () => {
    https = await launchWithHttps(page);
    browsers.push(https);
  }, 60_000);

  test("is told that it may load nothing without TLS", async () => {
    const tab = await https.open();
    const id = federation.nodes[0]?.id;
    const reported = await connectFails(tab, { registries: ["http://192.0.2.1"], nodes: [`ws://192.0.2.1:1#${id}`] });
    expect(reported).toContain("registry: the browser lets no page of https load http (mixed content)");
    expect(reported).toContain("ws://192.0.2.1:1: the browser lets no page of https load http (mixed content)");
    await tab.run("close");
  }, 60_000);

  test("is told that the browser denies it the local network", async () => {
    const tab = await https.open();
    const { clientUrl, id } = federation.nodes[0] as ProcessFederation["nodes"][number];
    const reported = await connectFails(tab, { nodes: [`${clientUrl}#${id}`] });
    expect(reported).toContain("registry: the browser denies this page access to the local network");
    expect(reported).toContain(`${clientUrl}: the browser denies this page access to the local network`);
    await tab.run("close");
  }, 60_000);
});
