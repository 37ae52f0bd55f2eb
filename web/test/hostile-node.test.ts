/** Nodes that keep the protocol's form and not its purpose: played by a real WebSocket server with a key of its own. */
import { createServer, type Server } from "node:http";
import { type AddressInfo, createServer as createTcpServer, type Socket } from "node:net";
import { afterEach, describe, expect, test, vi } from "vitest";
import { WebSocket as NodeWebSocket, type WebSocket as Peer, WebSocketServer } from "ws";
import { concat, fromBase64url, randomBytes, toBase64, toBase64url, utf8 } from "../src/core/bytes.js";
import { ConnectError, SignallingClient } from "../src/core/client.js";
import { SystemClock, Timers } from "../src/core/clock.js";
import { type Contact, dayOf, newPairing, ownInbox, type Pairing } from "../src/core/contact.js";
import { type Signer, signerOfSeed } from "../src/core/ed25519.js";
import { urlOf } from "../src/core/endpoint.js";
import { FinishedCalls } from "../src/core/finished-calls.js";
import { readIceServers } from "../src/core/ice-servers.js";
import { type Json, readIce } from "../src/core/messages.js";
import { Negotiation } from "../src/core/negotiation.js";
import { DiscoverError } from "../src/core/node-finder.js";
import { Outbox } from "../src/core/outbox.js";
import { MemoryProfileStore } from "../src/core/profile.js";
import { Refusals } from "../src/core/refusals.js";
import { decodeLease, federationId } from "../src/core/statements.js";
import { hkdfKey, x25519OfBytes } from "../src/core/x25519.js";
import { readAlternatives } from "../src/discovery/alternatives.js";
import { Discovery, type DiscoveryOptions } from "../src/discovery/discovery.js";
import { Trust } from "../src/discovery/trust.js";
import { isOfProfile } from "../src/media/media-profile.js";
import { eventually } from "./support/federation.js";
import { keyOf, nodeRecord, type RecordFields } from "./support/statements.js";

const closing: (() => unknown)[] = [];

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
  vi.restoreAllMocks();
});

/** What a hostile node does with a message; without a handler it answers nothing. */
type Behaviour = (message: Json, peer: Peer, node: HostileNode) => void | Promise<void>;

interface HostileNode {
  readonly url: string;
  readonly address: string;
  readonly received: Json[];
}

/** A node that proves its key, and then does what `behave` says. */
async function startNode(behave: Behaviour = () => {}, seed = randomBytes(32)): Promise<HostileNode> {
  const key: Signer = await signerOfSeed(seed);
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  await new Promise((resolve) => server.once("listening", resolve));
  const url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const node: HostileNode = { url, address: `${url}#${toBase64url(key.publicKey)}`, received: [] };
  server.on("connection", (peer) => {
    const nonce = randomBytes(32);
    const serverId = `ed25519:${toBase64(key.publicKey)}`;
    peer.send(
      JSON.stringify({
        type: "server_info",
        serverId,
        endpoint: url,
        region: null,
        protocol: 1,
        nonce: toBase64(nonce),
      }),
    );
    peer.on("message", async (data) => {
      const message = JSON.parse(String(data)) as Json;
      node.received.push(message);
      if (message.type !== "prove") return behave(message, peer, node);
      const challenge = fromBase64url(message.challenge, 32) ?? new Uint8Array(32);
      const proof = await key.sign(concat(utf8("chappe/prove/v1\0"), challenge, nonce, utf8(url)));
      peer.send(JSON.stringify({ type: "proof", id: "prove", signature: toBase64url(proof) }));
      await behave(message, peer, node);
    });
  });
  closing.push(() => {
    for (const peer of server.clients) peer.terminate();
    server.close();
  });
  return node;
}

async function makeContact(name: string): Promise<Contact> {
  const pairing = await newPairing({
    role: "a",
    secret: await hkdfKey(randomBytes(32)),
    ownRoot: randomBytes(32),
    peerRoot: (await signerOfSeed(randomBytes(32))).publicKey,
  });
  const identity = randomBytes(32);
  const id = toBase64url(identity);
  return { id, name, identity, pairings: [pairing], inUse: 0, isProved: true, isBlocked: false, nodes: [] };
}

/** The profile of somebody with these contacts. */
async function contactStore(contacts?: readonly Contact[]): Promise<MemoryProfileStore> {
  const store = new MemoryProfileStore();
  const identity = await x25519OfBytes(randomBytes(32));
  await store.save({ name: "Ada", identity, contacts: contacts ?? [await makeContact("Bob")] });
  return store;
}

function clientOf(options: DiscoveryOptions, store = new MemoryProfileStore()): SignallingClient {
  const clock = new SystemClock();
  const timers = new Timers(clock);
  const webSocket = NodeWebSocket as unknown as typeof WebSocket;
  const finder = new Discovery({ isPrivate: true, webSocket, ...options }, clock, timers);
  const client = new SignallingClient({ store, finder, name: "Ada", clock, timers });
  closing.push(() => client.close());
  return client;
}

function reply(message: Json, peer: Peer, fields: Json): void {
  peer.send(JSON.stringify({ id: message.id, ...fields }));
}

const attached: Behaviour = (message, peer) => {
  if (message.type === "attach") reply(message, peer, { type: "attached", ttl: 3_600, rejected: [] });
};

const refusing: Behaviour = (message, peer) => {
  const inboxes = message.inboxes as unknown[];
  const rejected = inboxes?.map((_, index) => ({ index, code: "internal" }));
  if (message.type === "attach") reply(message, peer, { type: "attached", ttl: 3_600, rejected });
};

describe("a client", () => {
  test("tells a node that refuses its servers for media from one that is gone", async () => {
    const answering = (answer: Behaviour): Behaviour => {
      return (message, peer, node) =>
        message.type === "get_ice_servers" ? answer(message, peer, node) : attached(message, peer, node);
    };
    const refuses = answering((message, peer) => reply(message, peer, { type: "error", code: "rate_limited" }));
    const vanishes = answering((_, peer) => peer.terminate());
    for (const [behave, code] of [
      [refuses, "refused"],
      [vanishes, "closed"],
    ] as const) {
      const client = clientOf({ nodes: [(await startNode(behave)).address] }, await contactStore());
      await client.connect();
      await expect(client.iceServers()).rejects.toMatchObject({ name: "ConnectError", code });
    }
  });

  test("reports a contact as blocked or removed once the node has detached its inbox, or does not answer", async () => {
    const contacts = await Promise.all(["Bob", "Cay"].map(makeContact));
    const [bob, cay] = contacts as [Contact, Contact];
    const detaches: (() => void)[] = [];
    const node = await startNode((message, peer, node) => {
      if (message.type !== "detach") return attached(message, peer, node);
      detaches.push(() => reply(message, peer, { type: "detached" }));
    });
    const client = clientOf({ nodes: [node.address] }, await contactStore(contacts));
    await client.connect();
    let isDone = false;
    const blocked = client.blockContact(bob.id, true).then(() => {
      isDone = true;
    });
    const began = Date.now();
    await eventually("the inbox is detached", () => detaches.length === 1);
    await new Promise((resolve) => setTimeout(resolve, 100));
    // After five seconds it is done without an answer.
    expect(isDone && Date.now() - began < 4_900).toBe(false);
    detaches[0]?.();
    await blocked;
    // The second has no answer.
    await client.removeContact(cay.id);
    expect(detaches).toHaveLength(2);
  }, 30_000);

  test("leaves a node that attaches none of its inboxes for another one", async () => {
    const [bad, good] = [await startNode(refusing), await startNode(attached)];
    for (let round = 0; round < 3; round++) {
      const client = clientOf({ nodes: [bad.address, good.address] }, await contactStore());
      await client.connect();
      expect(client.node).toBe(good.address.split("#")[1]);
      await client.close();
    }
  }, 30_000);

  test.each([
    ["no lease", () => undefined],
    ["bytes that nobody has signed", () => randomBytes(200)],
    ["the lease of another inbox", (sent: Uint8Array[]) => sent.at(-1)],
  ] as const)(
    "stays where the leases of one contact are rejected with %s, attaches the others, and names the contact",
    async (_, leaseOf) => {
      const contacts = await Promise.all(["Bob", "Cay", "Dan"].map(makeContact));
      const [bob] = contacts as [Contact];
      const today = dayOf(Date.now() / 1000);
      const days = [today - 1, today, today + 1];
      const refused = await Promise.all(days.map((day) => ownInbox(bob.pairings[0] as Pairing, day)));
      const texts = refused.map(({ text }) => text);
      const attaches: string[][] = [];
      const node = await startNode(async (message, peer) => {
        if (message.type !== "attach") return;
        const sent = (message.inboxes as { lease: string }[]).map(({ lease }) => Buffer.from(lease, "base64url"));
        const leases = await Promise.all(sent.map(decodeLease));
        const inboxes = leases.map((lease) => toBase64url(lease?.inbox ?? new Uint8Array()));
        attaches.push(inboxes);
        const lease = leaseOf(sent);
        const rejected = inboxes.flatMap((inbox, index) =>
          texts.includes(inbox) ? [{ index, code: "bad_lease", ...(lease && { lease: toBase64url(lease) }) }] : [],
        );
        reply(message, peer, { type: "attached", ttl: 1, rejected });
      });
      const client = clientOf({ nodes: [node.address] }, await contactStore(contacts));
      const named: string[] = [];
      client.addEventListener("inboxrejected", ({ detail: { contact, reason } }) => named.push(`${contact} ${reason}`));
      const disconnected = vi.fn();
      client.addEventListener("disconnected", disconnected);
      await client.connect();
      // Around midnight, Bob has an inbox of two days.
      expect(new Set(named)).toEqual(new Set([`${bob.id} invalid`]));
      const others = attaches[0]?.filter((inbox) => !texts.includes(inbox)) ?? [];
      expect(others.length).toBeGreaterThanOrEqual(2);
      // They are renewed after some seconds, in the same session. The rejected inbox is not tried again so soon.
      const renewed = () => attaches.slice(1).flat();
      await eventually("the others are renewed", () => others.every((inbox) => renewed().includes(inbox)));
      expect(renewed().filter((inbox) => texts.includes(inbox))).toEqual([]);
      expect(node.received.filter(({ type }) => type === "prove")).toHaveLength(1);
      expect(disconnected).not.toHaveBeenCalled();
    },
    60_000,
  );

  test("does not count as connected where nodes refuse for reasons of their own", async () => {
    const nodes = await Promise.all([1, 2, 3].map(() => startNode(refusing)));
    const client = clientOf({ nodes: nodes.map(({ address }) => address) }, await contactStore());
    const connected = vi.fn();
    client.addEventListener("connected", connected);
    await expect(client.connect()).rejects.toThrow(/no node attached/);
    expect(connected).not.toHaveBeenCalled();
  }, 30_000);

  test("survives a frame that violates WebSocket, and what comes with the proof", async () => {
    const node = await startNode((message, peer) => {
      if (message.type !== "prove") return;
      // In one segment with the proof; then a frame with reserved bits.
      peer.send(JSON.stringify({ type: "going_away", reason: "x", nodes: [], graceSeconds: 1 }));
      setTimeout(() => (peer as unknown as { _socket: Socket })._socket.write(Buffer.from([0xf1, 0x00])), 200);
    });
    const client = clientOf({ nodes: [node.address] });
    const ended = new Promise((resolve) =>
      client.addEventListener("disconnected", ({ detail }) => resolve(detail.reason)),
    );
    await client.connect();
    expect(await ended).toBe("going-away");
  }, 30_000);

  test.each([
    { graceSeconds: 60, after: 1_500 },
    { graceSeconds: 1e300, after: 1_500 },
    { graceSeconds: -1, after: 0 },
    { graceSeconds: "soon", after: 0 },
    { graceSeconds: undefined, after: 0 },
  ])(
    "leaves a node that stops after $graceSeconds s within 15 s, at random",
    async ({ graceSeconds, after }) => {
      const random = vi.spyOn(Math, "random").mockReturnValue(0.1);
      const proved: number[] = [];
      const node = await startNode((message, peer) => {
        if (message.type !== "prove") return;
        proved.push(performance.now());
        for (let n = 0; n < 3; n++) {
          peer.send(JSON.stringify({ type: "going_away", reason: "x", nodes: [], graceSeconds }));
        }
      });
      const client = clientOf({ nodes: [node.address] });
      await client.connect();
      await eventually("a second session", () => proved.length === 2);
      expect((proved[1] as number) - (proved[0] as number)).toBeGreaterThanOrEqual(after);
      random.mockRestore();
    },
    30_000,
  );

  test.each([
    ["refuses", { type: "error", code: "rate_limited" }],
    ["names none of", { type: "ice_servers", iceServers: [], ttl: 0 }],
  ] as const)("tells a node that %s its relays from one that has none", async (_, fields) => {
    const node = await startNode((message, peer) => {
      if (message.type === "get_ice_servers") reply(message, peer, fields);
    });
    const client = clientOf({ nodes: [node.address] });
    await client.connect();
    if (fields.type === "error") await expect(client.iceServers()).rejects.toThrow(ConnectError);
    else expect(await client.iceServers()).toEqual({ iceServers: [], ttl: 0 });
  });

  test("handles every message, whatever the last one did", async () => {
    const error = vi.spyOn(console, "error").mockImplementation(() => {});
    const junk = ["", "null", "[]", "{}", '{"type":"call_offer","to":1}', '{"type":"error","id":"1"}', '{"type":[]}'];
    const node = await startNode((message, peer) => {
      if (message.type === "prove") for (const text of junk) peer.send(text);
      if (message.type === "get_ice_servers") reply(message, peer, { type: "ice_servers", iceServers: [], ttl: 5 });
    });
    const client = clientOf({ nodes: [node.address] });
    await client.connect();
    expect(await client.iceServers()).toEqual({ iceServers: [], ttl: 5 });
    expect(error).not.toHaveBeenCalled();
  });

  test("stores a contact that was added while it was closed, before the next client reads", async () => {
    const node = await startNode(attached);
    const store = await contactStore();
    const save = store.save.bind(store);
    vi.spyOn(store, "save").mockImplementation(async (data) => {
      await new Promise((resolve) => setTimeout(resolve, 100));
      await save(data);
    });
    const first = clientOf({ nodes: [node.address] }, store);
    await first.connect();
    const renamed = first.renameContact(first.contacts[0]?.id ?? "", "Robert");
    // The write is under way.
    await vi.waitFor(() => expect(store.save).toHaveBeenCalled());
    const closed = first.close();
    const second = clientOf({ nodes: [node.address] }, store);
    await Promise.all([renamed, closed]);
    await second.connect();
    expect(second.contacts[0]?.name).toBe("Robert");
  });

  test("connects again after a close, also at once, as React's StrictMode does", async () => {
    const node = await startNode(attached);
    const client = clientOf({ nodes: [node.address] });
    const first = client.connect();
    const closed = client.close();
    const second = client.connect();
    first.catch(() => {});
    await Promise.all([closed, second]);
    await expect(first).rejects.toThrow(/not connected/);
    expect(client.node).toBe(node.address.split("#")[1]);
  });

  test("says at once that an option is not a URL", () => {
    for (const options of [
      { registries: ["registry.example"] },
      { dns: { names: ["a.example"], providers: ["dns.example/dns-query"] } },
      { roots: ["x"] },
      { nodes: ["x"] },
    ]) {
      expect(() => clientOf(options)).toThrow(SyntaxError);
    }
  });

  test("gives up on a node that never speaks, and goes on", async () => {
    const silent = createTcpServer();
    await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
    closing.push(() => silent.close());
    const node = await startNode(attached);
    const client = clientOf({ nodes: [`ws://127.0.0.1:${(silent.address() as AddressInfo).port}`, node.address] });
    await client.connect();
    expect(client.node).toBe(node.address.split("#")[1]);
  });
});

test("a call whose contact was not found is sent at once on the next session, however long the pause", async () => {
  let resolves = 0;
  let asking: Peer | undefined;
  const node = await startNode((message, peer) => {
    if (message.type !== "resolve") return attached(message, peer, node);
    resolves += 1;
    asking = peer;
    reply(message, peer, { type: "error", code: "peer_offline" });
  });
  const { failed } = Outbox.prototype;
  vi.spyOn(Outbox.prototype, "failed").mockImplementation(function (this: Outbox, message, now, isAtOnce) {
    const isFirst = resolves === 1;
    // A pause of an hour.
    failed.call(this, message, now + 3_600_000, isAtOnce);
    if (isFirst) asking?.terminate();
  });
  const bob = await makeContact("Bob");
  const client = clientOf({ nodes: [node.address] }, await contactStore([bob]));
  await client.connect();
  await client.call(bob.id, "v=0");
  await eventually("the contact is looked up again", () => resolves === 2);
});

describe("a node that stops", () => {
  const root = () => keyOf(1);
  const now = () => Math.floor(Date.now() / 1000);
  const federation = async () => federationId([(await root()).publicKey]);

  /** The text of the record of a node with this seed. */
  async function recordOf(seed: Uint8Array<ArrayBuffer>, fields: Partial<RecordFields>): Promise<string> {
    const all = { federation: await federation(), at: now(), urls: ["wss://relay.example"], ...fields };
    return toBase64url(await nodeRecord(await signerOfSeed(seed), all));
  }

  /** An address at which nothing proves a key. Counts the connections to it. */
  async function startDeadEnd(): Promise<{ readonly url: string; dials: number }> {
    const end = { url: "", dials: 0 };
    const server = createTcpServer((socket) => {
      end.dials += 1;
      socket.destroy();
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    closing.push(() => server.close());
    return Object.assign(end, { url: `ws://127.0.0.1:${(server.address() as AddressInfo).port}` });
  }

  const leave = (nodes: unknown) => JSON.stringify({ type: "going_away", reason: "x", nodes, graceSeconds: 0 });

  test("names others, which are tried once, and not in a later search", async () => {
    const seed = randomBytes(32);
    const deadEnd = await startDeadEnd();
    let records: string[] = [];
    const peers: Peer[] = [];
    const other = await startNode((message, peer) => {
      if (message.type === "prove") peers.push(peer);
    }, seed);
    const leaving = await startNode((message, peer) => {
      if (message.type === "ping") peer.send(leave(records));
    });
    records = [await recordOf(randomBytes(32), { urls: [deadEnd.url] }), await recordOf(seed, { urls: [other.url] })];
    const client = clientOf({ nodes: [leaving.address], roots: [toBase64url((await root()).publicKey)] });
    await client.connect();
    expect(deadEnd.dials).toBe(0);
    client.wake();
    await eventually("the other node is in use", () => client.node === other.address.split("#")[1]);
    const { dials } = deadEnd;
    expect(dials).toBeLessThanOrEqual(1);
    for (const peer of peers) peer.terminate();
    await eventually(
      "a node is in use again",
      () => client.node !== undefined && peers.length + leaving.received.length > 3,
    );
    expect(deadEnd.dials).toBe(dials);
  }, 30_000);

  test("names nobody before it is in use, and nobody to a client that has pinned no root", async () => {
    const deadEnd = await startDeadEnd();
    for (const [when, roots, of] of [
      // Before it refuses the inboxes.
      ["attach", [toBase64url((await root()).publicKey)], await federation()],
      ["ping", [], await federationId([])],
    ] as const) {
      const record = await recordOf(randomBytes(32), { urls: [deadEnd.url], federation: of });
      const proved: Peer[] = [];
      const leaving = await startNode((message, peer, node) => {
        if (message.type === "prove") proved.push(peer);
        if (message.type === when) peer.send(leave([record]));
        void refusing(message, peer, node);
      });
      const store = when === "attach" ? await contactStore() : undefined;
      const client = clientOf({ nodes: [leaving.address], roots }, store);
      const connected = client.connect().catch(() => {});
      if (when === "ping") await connected;
      client.wake();
      await eventually("a second session", () => proved.length >= 2);
      await client.close();
    }
    expect(deadEnd.dials).toBe(0);
  }, 30_000);

  test("is believed only where a record counts here and now", async () => {
    const trust = new Trust([toBase64url((await root()).publicKey)]);
    const read = async (records: unknown, isPrivate = false) =>
      (await readAlternatives(records, trust, now(), isPrivate)).map(urlOf);
    const seed = randomBytes(32);
    const good = await recordOf(seed, { urls: ["ws://8.8.8.8:1", "wss://relay.example"] });
    expect(await read([good])).toEqual(["wss://relay.example"]);
    expect(await read(Array(9).fill(good))).toHaveLength(3);
    const local = await recordOf(seed, { urls: ["ws://10.0.0.1:1"] });
    expect(await read([local], true)).toEqual(["ws://10.0.0.1:1"]);
    const forged = fromBase64url(good) as Uint8Array<ArrayBuffer>;
    forged[40] = (forged[40] as number) ^ 1;
    const refused = [
      local,
      await recordOf(seed, { federation: new Uint8Array(16) }),
      await recordOf(seed, { at: now() + 3600 }),
      await recordOf(seed, { lasts: 0 }),
      await recordOf(seed, { lasts: 8 * 24 * 3600 }),
      await recordOf(seed, { abilities: 2 }),
      await recordOf(seed, { urls: [] }),
      await recordOf(seed, { urls: ["wss://relay.example/path"] }),
      toBase64url(forged),
      "=",
      5,
      null,
    ];
    for (const record of refused) expect(await read([record]), String(record)).toEqual([]);
    for (const records of [undefined, "x", {}, 5]) expect(await read(records)).toEqual([]);
  });
});

describe("a registry", () => {
  test("leads nobody to a second server by a redirect", async () => {
    const visits: string[] = [];
    const start = async (handle: Parameters<typeof createServer>[1]): Promise<string> => {
      const server: Server = createServer(handle as never);
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      closing.push(() => server.close());
      return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    };
    const router = await start(((request: { method: string }, response: { end(): void }) => {
      visits.push(request.method);
      response.end();
    }) as never);
    const registry = await start(((
      _: unknown,
      response: { writeHead(status: number, head: object): { end(): void } },
    ) => {
      response.writeHead(302, { location: `${router}/reboot?now=1` }).end();
    }) as never);
    const client = clientOf({ registries: [registry], roots: [toBase64url(new Uint8Array(32).fill(1))] });
    await expect(client.connect()).rejects.toThrow(/no node was found/);
    expect(visits.filter((method) => method === "GET")).toEqual([]);
  });
});

describe("ICE servers of a node", () => {
  const read = (urls: unknown, mayBePrivate = false) =>
    readIceServers([{ urls, username: "u", credential: "c" }], "wss://192.168.5.5:8710", mayBePrivate).flatMap(
      (server) => server.urls,
    );

  test("in a private network are left out, unless that is where the node is", () => {
    const urls = [
      "turn:192.168.0.1:22?transport=tcp",
      "turn:router.lan:80",
      "turn:8.8.8.8:3478",
      "turn:192.168.5.5:8710",
    ];
    expect(read(urls)).toEqual(["turn:8.8.8.8:3478", "turn:192.168.5.5:8710"]);
    expect(read(urls, true)).toHaveLength(4);
  });

  test("of another form are left out, so that none makes a call fail", () => {
    expect(read(["turn:", "http://a.example", "turn:a b", 5, null, "turn:a.example:1?transport=sctp"])).toEqual([]);
    expect(readIceServers([{ urls: "turn:a.example" }, null, 5, {}], "wss://a.example", false)).toEqual([]);
    expect(readIceServers({}, "wss://a.example", false)).toEqual([]);
    expect(readIceServers(Array(100).fill({ urls: "stun:a.example" }), "wss://a.example", false)).toHaveLength(4);
  });
});

describe("a contact", () => {
  test("with many calls makes nobody forget a call of another contact", () => {
    const finished = new FinishedCalls();
    finished.insert("ada's call", "ada", 0);
    for (let call = 0; call < 1_000; call++) finished.insert(`call ${call}`, "mallory", 0);
    expect(finished.refuses("ada's call", "ada", 1)).toBe(true);
    expect(finished.refuses("another of ada", "ada", 1)).toBe(false);
    expect(finished.refuses("a new one", "mallory", 1)).toBe(true);
    expect(finished.refuses("a new one", "mallory", 1_800_001)).toBe(false);
  });

  test("cannot fill the memory with candidates of the round that runs", () => {
    const side = new Negotiation(true);
    let taken = 0;
    for (let message = 0; message < 1_000; message++) {
      const ice = readIce(JSON.stringify({ candidates: Array(64).fill("candidate:".padEnd(500)) }));
      for (const output of side.receive(ice as never, 0))
        if (output.type === "candidates") taken += output.candidates.length;
    }
    expect(taken * 500).toBeLessThanOrEqual(16 * 1024);
  });

  test("cannot add lines or a data channel to a call", () => {
    const lines = (...kinds: string[]) => ["v=0", ...kinds.map((kind) => `m=${kind} 9 X 0`)].join("\r\n");
    expect([["audio"], ["audio", "video", "video"]].map((kinds) => isOfProfile(lines(...kinds)))).toEqual([true, true]);
    for (const kinds of [
      [],
      ["video"],
      ["audio", "application"],
      ["audio", "video", "video", "video"],
      ["audio", "audio"],
    ]) {
      expect(isOfProfile(lines(...kinds)), kinds.join()).toBe(false);
    }
  });
});

test("the second refusal in a row ends a session, and so does the first for a new inbox or for good", () => {
  const refuse = (refusals: Refusals, changes = {}) =>
    refusals.handleRefused({ isPartial: false, hasNew: false, isTemporary: true, ...changes });
  const refusals = new Refusals();
  expect([refuse(refusals), refuse(refusals)]).toEqual([true, false]);
  expect(refuse(new Refusals(), { hasNew: true })).toBe(false);
  expect(refuse(new Refusals(), { isTemporary: false })).toBe(false);
  expect(refuse(new Refusals(), { isTemporary: false, isPartial: true })).toBe(true);
  const mended = new Refusals();
  refuse(mended);
  mended.handleAttached();
  expect(refuse(mended)).toBe(true);
});

test("a call in need makes a client that pauses search at once, and once", async () => {
  let searches = 0;
  const finder = {
    search: async () => {
      searches += 1;
      throw new DiscoverError([]);
    },
    remembered: () => [],
    setReferrals: () => {},
    setAlternatives: () => {},
    usableReferrals: () => [],
  };
  const client = new SignallingClient({ store: new MemoryProfileStore(), finder, name: "Ada" });
  closing.push(() => client.close());
  await expect(client.connect()).rejects.toThrow();
  const before = searches;
  client.checkSession();
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(searches).toBe(before + 1);
});

test("a call in need leaves a node that is silent, but not at once one whose answers have taken longer", async () => {
  let delay: number | undefined;
  const node = await startNode(async (message, peer) => {
    if (message.type !== "ping" || delay === undefined) return;
    await new Promise((resolve) => setTimeout(resolve, delay));
    peer.send(JSON.stringify({ type: "pong" }));
  });
  const client = clientOf({ nodes: [node.address] });
  await client.connect();
  const reasons: string[] = [];
  client.addEventListener("disconnected", ({ detail }) => reasons.push(detail.reason));
  const answers = (after: number) => {
    delay = after;
    client.checkSession();
    return new Promise((resolve) => setTimeout(resolve, after + 300));
  };
  await answers(400);
  await answers(1_100);
  expect(reasons).toEqual([]);
  await answers(10);
  delay = undefined;
  client.checkSession();
  await eventually("the node is left", () => reasons.length > 0);
  expect(reasons).toEqual(["silent"]);
}, 30_000);
