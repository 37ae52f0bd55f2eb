/** Two clients of this library over real nodes. */
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { CallRecord } from "../src/core/call-record.js";
import type { Purpose } from "../src/core/node-finder.js";
import type { CacheData, CacheStore } from "../src/discovery/cache.js";
import { pairByCode, showCode } from "../src/pairing/pair.js";
import { eventually, type Federation, startFederation, startProcesses } from "./support/federation.js";
import { type Person, pair, person } from "./support/people.js";

let federation: Federation;
const people: Person[] = [];

beforeAll(async () => {
  federation = await startFederation();
}, 60_000);

afterAll(async () => {
  await Promise.all(people.map(({ client }) => client.close()));
  await federation.stop();
});

function somebody(...args: [name: string, avoid?: readonly string[]]): Person {
  const made = person(args[0], federation, {}, args[1]);
  people.push(made);
  return made;
}

test("two clients pair, see the same words, call, renegotiate and hang up", async () => {
  const [ada, bob] = [somebody("Ada"), somebody("Bob")];
  await Promise.all([ada.client.connect(), bob.client.connect()]);
  const { atA, atB } = await pair(ada, bob);
  expect(atA.words).toEqual(atB.words);
  expect(atA.contact.name).toBe("Bob");
  expect(atB.contact.name).toBe("Ada");
  expect(atB.isConfirmed).toBe(true);

  const call = await ada.client.call(atA.contact.id, "v=0 offer");
  const log: string[] = [];
  call.addEventListener("ringing", () => log.push("ringing"));
  call.addEventListener("answered", ({ detail }) => log.push(detail.sdp));
  call.addEventListener("candidates", ({ detail }) => log.push(...detail.candidates));
  call.addEventListener("description", ({ detail }) => log.push(`${detail.round} ${detail.description.sdp}`));
  call.addEventListener("ended", ({ detail }) => log.push(detail.reason));
  const incoming = await eventually("it rings", () => bob.incoming[0]);
  expect(incoming.call.offer).toBe("v=0 offer");
  const answered: string[] = [];
  incoming.call.addEventListener("description", ({ detail }) => {
    answered.push(detail.description.sdp);
    incoming.call.answerRenegotiation("second answer", detail.round);
  });
  incoming.call.accept("v=0 answer");
  incoming.call.sendCandidates(["candidate:1"]);
  await eventually("the candidates arrive", () => log.includes("candidate:1"));
  expect(log).toEqual(["ringing", "v=0 answer", "candidate:1"]);
  expect(call.renegotiate("second offer")).toBe(1);
  await eventually("the answer of round 1 arrives", () => log.includes("1 second answer"));
  expect(answered).toEqual(["second offer"]);
  incoming.call.hangUp();
  await eventually("the end arrives", () => log.includes("peer-hung-up"));
  expect(call.state).toBe("ended");
}, 60_000);

test("a man in the middle, made of two clients, cannot make both sides see the same words", async () => {
  const [ada, bob, toAda, toBob] = [somebody("Ada"), somebody("Bob"), somebody("Bob"), somebody("Ada")];
  await Promise.all([ada, bob, toAda, toBob].map(({ client }) => client.connect()));
  // Ada types the code of the man in the middle, who types Bob's: somebody has exchanged what Bob has sent her.
  const withAda = await pair(ada, toAda);
  const withBob = await pair(toBob, bob);
  expect([withAda.atA.contact.name, withBob.atB.contact.name]).toEqual(["Bob", "Ada"]);
  expect(withAda.atA.words).not.toEqual(withBob.atB.words);
}, 60_000);

/** The nodes that a client's searches have found, for this purpose, the last one last. */
function foundBy({ finder }: Person, wanted: Purpose): readonly string[] {
  const nodes: string[] = [];
  const search = finder.search.bind(finder);
  finder.search = async (purpose, ...rest) => {
    const found = await search(purpose, ...rest);
    if (purpose === wanted) nodes.push(found.connection.nodeId);
    return found;
  };
  return nodes;
}

test("a session and a code that move avoid the nodes of each other, also those that were left", async () => {
  const processes = await startProcesses(4);
  const ids = processes.nodes.map(({ id }) => id);
  const nodeOf = (what: string, isWanted: (node: string) => boolean, node: () => string | undefined) =>
    eventually(what, () => {
      const found = node();
      return found !== undefined && isWanted(found) && found;
    });
  try {
    // By chance, a client without these rules would pass four rounds in few of a thousand runs.
    for (let round = 0; round < 4; round++) {
      const ada = person("Ada", processes);
      const { client, pairing } = ada;
      const codes = foundBy(ada, "pairing");
      await client.connect();
      const abort = new AbortController();
      const shown = await showCode(false, { ...pairing, signal: abort.signal });
      const codeAt = codes[0] as string;
      const left = client.node as string;
      await processes.kill(left);
      const cameTo = await nodeOf(
        "the session's next node",
        (node) => node !== left,
        () => client.node,
      );
      expect(cameTo).not.toBe(codeAt);
      await processes.revive(left);
      await processes.kill(codeAt);
      const movedTo = await nodeOf(
        "the code's next node",
        (node) => node !== codeAt,
        () => codes.at(-1),
      );
      expect([left, cameTo]).not.toContain(movedTo);
      const gone = [codeAt];
      if (round === 3) {
        // If no other is left, the node of the code serves both.
        for (const id of ids) {
          if (id === movedTo || id === codeAt) continue;
          await processes.kill(id);
          gone.push(id);
        }
        await nodeOf(
          "the last node",
          (node) => node === movedTo,
          () => client.node,
        );
      }
      abort.abort();
      await expect(shown.paired).rejects.toThrow();
      await client.close();
      for (const id of gone) await processes.revive(id);
    }
  } finally {
    await processes.stop();
  }
}, 180_000);

test("searches of a session and of a pairing that run at the same time find two nodes", async () => {
  const [first, second, ...others] = federation.nodes.map(({ id }) => id) as [string, string, ...string[]];
  const { signal } = new AbortController();
  // By chance, a client without this rule would pass in one of a thousand runs.
  for (let round = 0; round < 10; round++) {
    const { finder } = person("Ada", federation);
    const both = (["inboxes", "pairing"] as const).map((purpose) => finder.search(purpose, others, signal));
    const found = await Promise.all(both);
    expect(new Set(found.map(({ connection }) => connection.nodeId))).toEqual(new Set([first, second]));
    for (const { connection } of found) connection.close();
  }
}, 60_000);

test("the next client of a profile avoids the node of a code, and a code avoids the nodes of the last day", async () => {
  const [first, second, third] = federation.nodes.map(({ id }) => id) as [string, string, string];
  let stored: CacheData | undefined;
  const cache: CacheStore = {
    load: async () => stored,
    save: async (data) => {
      stored = data;
    },
  };
  const used = { inboxes: new Set<string>(), pairing: new Set<string>() };
  const search = async (purpose: Purpose, avoid: readonly string[] = []) => {
    const { finder } = person("Ada", federation, { cache });
    const { connection, check } = await finder.search(purpose, avoid, new AbortController().signal);
    await check;
    connection.close();
    used[purpose].add(connection.nodeId);
  };
  await search("inboxes", [second, third]);
  await search("pairing", [third]);
  expect(used).toEqual({ inboxes: new Set([first]), pairing: new Set([second]) });
  for (let run = 0; run < 5; run++) {
    await search("inboxes");
    await search("pairing");
    expect([...used.inboxes].filter((node) => used.pairing.has(node))).toEqual([]);
  }
}, 60_000);

test("a client that is not connected uses up no code", async () => {
  const [ada, bob] = [somebody("Ada"), somebody("Bob")];
  await bob.client.connect();
  const shown = await showCode(false, bob.pairing);
  await expect(pairByCode(shown.code, ada.pairing)).rejects.toThrow(/not connected/);
  await expect(showCode(false, ada.pairing)).rejects.toThrow(/not connected/);
  await ada.client.connect();
  const [atA, atB] = await Promise.all([pairByCode(shown.code, ada.pairing), shown.paired]);
  expect(atA.words).toEqual(atB.words);
}, 60_000);

test("an offer that is still being sealed when the call ends does not ring", async () => {
  const [ada, bob] = [somebody("Ada"), somebody("Bob")];
  await Promise.all([ada.client.connect(), bob.client.connect()]);
  const { atA } = await pair(ada, bob);
  const { seal } = CallRecord.prototype;
  let goOn = () => {};
  const isHeld = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  let hasSealed = false;
  const spy = vi.spyOn(CallRecord.prototype, "seal").mockImplementation(async function (this: CallRecord, ...args) {
    const payload = await seal.apply(this, args);
    if (args[0].type !== "offer") return payload;
    hasSealed = true;
    await isHeld;
    return payload;
  });
  try {
    const call = await ada.client.call(atA.contact.id, "v=0 abandoned");
    await eventually("the offer is sealed", () => hasSealed);
    call.hangUp();
    goOn();
    spy.mockRestore();
    const next = await ada.client.call(atA.contact.id, "v=0 meant");
    const ended = new Promise((resolve) => next.addEventListener("ended", ({ detail }) => resolve(detail.reason)));
    const ringing = await eventually("it rings", () => bob.incoming[0]);
    expect(ringing.call.offer).toBe("v=0 meant");
    ringing.call.decline();
    expect(await ended).toBe("declined");
    expect(bob.incoming).toHaveLength(1);
  } finally {
    spy.mockRestore();
  }
}, 60_000);
