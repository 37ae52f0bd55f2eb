/** The root of a federation is replaced: clients that have pinned the old one go on, and nobody can forge that. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Bytes, fromBase64url, toBase64url, toHex } from "../src/core/bytes.js";
import { type Signer, signerOfSeed } from "../src/core/ed25519.js";
import { DiscoverError } from "../src/core/node-finder.js";
import { decodeDirectory } from "../src/core/statements.js";
import type { CacheData } from "../src/discovery/cache.js";
import type { DiscoveryOptions } from "../src/discovery/discovery.js";
import { createLink, linkQrText } from "../src/discovery/new-link.js";
import { framed, Trust } from "../src/discovery/trust.js";
import { fetchFederation } from "../src/link.js";
import { type Browser, installedBrowsers, launch, servePage, type Tab } from "./support/browsers.js";
import { serveDns } from "./support/dns.js";
import { eventually, type ProcessFederation, startProcesses } from "./support/federation.js";
import { person } from "./support/people.js";
import { directory, keyOf, nodeRecord, succession } from "./support/statements.js";

const installed = installedBrowsers();
const now = () => Math.floor(Date.now() / 1000);

let federation: ProcessFederation;
let page: Awaited<ReturnType<typeof servePage>>;
/** A tab of each browser, whose profile has pinned the old root. */
let tabs: Tab[];
let link: string;
let root: Signer;
let id: Bytes;
/** The new root. */
let next: string;
const closing: (() => unknown)[] = [];

const BAD = "not signed under a pinned root key";

beforeAll(async () => {
  [federation, page] = await Promise.all([startProcesses(2, "1s"), servePage()]);
  const browsers: Browser[] = [];
  for (const name of installed) browsers.push(await launch(name, page.url));
  closing.push(...browsers.map((browser) => () => browser.close()));
  tabs = await Promise.all(browsers.map((browser) => browser.open()));
  for (const tab of tabs) {
    await tab.run("start", { ...options(), name: "Ada" });
    await tab.run("close");
  }
  root = await signerOfSeed(new Uint8Array(federation.rootSeed));
  id = await new Trust([federation.root]).federation;
  const nodes = federation.nodes.map((node) => `${node.clientUrl}#${node.id}`);
  link = linkQrText(createLink(nodes, undefined, now() + 3600, id) as never);

  // Both roots count: the registry signs under the old one, as earlier versions know no other.
  ({ root: next } = await federation.rotateRoot("30days"));
  expect(await isSignedUnder(federation.root)).toBe(true);
  expect(await reportOf({})).toMatch(/addresses of nodes/);
  await federation.rotateRoot("0s");
  await eventually("the registry signs under the new root alone", async () => !(await isSignedUnder(federation.root)));
  await eventually("each node knows of it", async () => {
    const lists = federation.nodes.map(({ clientUrl }) => fetch(`${clientUrl.replace("ws", "http")}/v1/revocations`));
    const lengths = await Promise.all(lists.map(async (list) => (await (await list).arrayBuffer()).byteLength));
    return lengths.every((length) => length > 0);
  });
}, 120_000);

afterAll(async () => {
  for (const close of closing.reverse()) await close();
  page.close();
  await federation.stop();
});

function options(): { registries: string[]; roots: string[]; isPrivate: true } {
  return { registries: [federation.registry], roots: [federation.root], isPrivate: true };
}

/** Whether a client that knows this root and no succession accepts the registry's directory. */
async function isSignedUnder(key: string): Promise<boolean> {
  const response = await fetch(`${federation.registry}/v1/directory`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const trust = new Trust([key], toHex(id));
  return decodeDirectory(bytes, trust, now()).then(
    () => true,
    () => false,
  );
}

/** A store of known nodes in memory. */
function memory() {
  let stored: CacheData | undefined;
  return {
    load: () => Promise.resolve(stored),
    save: (data: CacheData) => {
      stored = data;
      return Promise.resolve();
    },
    /** Forgets the nodes, as if none was reachable. */
    forgetNodes: () => {
      if (stored !== undefined) stored = { ...stored, nodes: [], newest: [] };
    },
  };
}

/** What a search with these options reports of the first source, once it is confirmed or has failed. */
async function reportOf(changed: Partial<DiscoveryOptions>): Promise<string> {
  const { client } = person("Ada", federation, changed);
  const checked = new Promise<string>((resolve) => {
    client.addEventListener("nodechecked", ({ detail }) => resolve(JSON.stringify(detail.reports)));
  });
  try {
    await client.connect();
    return await checked;
  } catch (error) {
    const { cause } = error as Error;
    if (cause instanceof DiscoverError) return JSON.stringify(cause.reports);
    throw error;
  } finally {
    await client.close();
  }
}

/** A registry that sends these bytes. */
async function serveLies(files: Readonly<Record<string, Uint8Array>>): Promise<string> {
  const server = createServer((request, response) => {
    const body = files[request.url ?? ""];
    response.setHeader("access-control-allow-origin", "*");
    response.writeHead(body === undefined ? 404 : 200).end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  closing.push(() => server.close());
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** The registry of somebody whose root has this succession from the old one, with a node of its own. */
async function lyingRegistry(forge: (evil: Signer) => Promise<Bytes>): Promise<string> {
  const [evil, online, node] = await Promise.all([keyOf(7), keyOf(8), keyOf(9)]);
  const record = await nodeRecord(node, { federation: id, at: now(), urls: ["ws://127.0.0.1:9"] });
  return serveLies({
    "/v1/directory": await directory(id, evil, online, now(), [record]),
    "/v1/revocations": framed(await forge(evil)),
  });
}

/** One who has stolen the old root signs another successor. */
const thief = () => lyingRegistry((evil) => succession(id, root, evil, now(), 0));

/** One without any root of the federation makes up a succession: the old root's signature is that of the forger. */
const forger = () =>
  lyingRegistry((evil) =>
    succession(id, { publicKey: root.publicKey, sign: (bytes) => evil.sign(bytes) }, evil, now(), 30),
  );

describe.each(installed.map((name, index) => ({ name, index })))(
  "a page in $name that knew the old root",
  ({ index }) => {
    test("goes on after its end, keeps what it has learned, and is not misled by one who has stolen it", async () => {
      const tab = tabs[index] as Tab;
      const logged = async () => JSON.stringify((await tab.run("log")).filter(({ event }) => event === "nodechecked"));
      await tab.reload();
      await tab.run("start", options());
      await eventually("the registry's list counts", async () => /addresses of nodes/.test(await logged()));
      await tab.run("close");
      await tab.reload();
      // The thief's registry alone: the page still knows the nodes, and which successor it has learned.
      await tab.run("start", { ...options(), registries: [await thief()] });
      await eventually("the thief's list does not count", async () => (await logged()).includes(BAD));
      await tab.run("close");
    }, 60_000);
  },
);

test("a client that knows only the old root follows the registry, or DNS alone", async () => {
  expect(await reportOf({})).toMatch(/"registry","result":"\d+ addresses of nodes"/);
  const records = await federation.shards();
  expect(records.filter((text) => text.includes("chappe1s="))).toHaveLength(1);
  for (const texts of [records, records.toReversed()]) {
    const { url, close } = await serveDns(texts);
    const report = await reportOf({ registries: [], dns: { names: ["nodes.example"], providers: [url] } });
    expect(report).toMatch(/"result":"\d+ addresses of nodes"/);
    close();
  }
});

test("a client that pins the new root needs the federation's id", async () => {
  expect(await reportOf({ roots: [next] })).toContain("another federation");
  expect(await reportOf({ roots: [next], federation: toHex(id) })).toMatch(/addresses of nodes/);
});

test("a link that was made before leads to the new root", async () => {
  const found = await fetchFederation(link, { isPrivate: true });
  expect(found).toEqual({ roots: [next], federation: toHex(id), registries: [federation.registry] });
  expect(await reportOf(found ?? {})).toMatch(/addresses of nodes/);
  // A client that has used the new root is not misled by a thief of the old one.
  expect(await reportOf({ ...found, registries: [await thief()] })).toContain(BAD);
});

test("a forged succession is refused, and one of two registries that lies does not keep the other from being used", async () => {
  const lies = await forger();
  expect(await reportOf({ registries: [lies] })).toContain(BAD);
  for (const registries of [
    [lies, federation.registry],
    [federation.registry, lies],
  ]) {
    expect(await reportOf({ registries })).toMatch(/"registry","result":"\d+ addresses of nodes"/);
  }
});

test("the successor that was learned first stays, also in later searches and with a registry that knows another", async () => {
  const cache = memory();
  expect(await reportOf({ cache })).toMatch(/addresses of nodes/);
  const stored = (await cache.load())?.statements;
  expect(fromBase64url(stored)?.length).toBeGreaterThan(200);
  const stolen = await thief();
  cache.forgetNodes();
  expect(await reportOf({ cache, registries: [stolen] })).toContain(BAD);
  cache.forgetNodes();
  const registries = [stolen, federation.registry];
  expect(await reportOf({ cache, registries })).toMatch(/"registry","result":"\d+ addresses of nodes"/);
  expect((await cache.load())?.statements).toBe(stored);
  expect((await cache.load())?.nodes.map((node) => node.id)).not.toContain(toBase64url((await keyOf(9)).publicKey));
  // Without that knowledge, it is misled: the old root still counts for it.
  expect(await reportOf({ registries: [stolen] })).toContain("1 addresses of nodes");
});
