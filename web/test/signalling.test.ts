/** Two clients of this library over real nodes. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { showCode } from "../src/pairing/pair.js";
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

test("a session that moves while a code is shown avoids the node of the code", async () => {
  const processes = await startProcesses();
  const { client, pairing } = person("Ada", processes);
  try {
    await client.connect();
    // One other node is left each time. By chance, a client would choose it four times in one of sixteen runs.
    for (let round = 0; round < 4; round++) {
      const abort = new AbortController();
      const shown = await showCode(false, { ...pairing, signal: abort.signal });
      const [codeAt] = client.pairingNodes;
      const left = client.node as string;
      await processes.kill(left);
      const cameTo = await eventually("another node", () => client.node !== left && client.node);
      expect([left, codeAt]).not.toContain(cameTo);
      if (round === 3) {
        // If no other is left, the node of the code serves both.
        await processes.kill(cameTo);
        await eventually("the last node", () => client.node === codeAt);
      }
      abort.abort();
      await expect(shown.paired).rejects.toThrow();
      expect(client.pairingNodes).toEqual([]);
      await processes.revive(left);
    }
  } finally {
    await client.close();
    await processes.stop();
  }
}, 120_000);

test("a node that the session and a pairing have found at the same time serves one of them", async () => {
  const ids = federation.nodes.map(({ id }) => id);
  const { finder, ...ada } = somebody("Ada");
  const search = finder.search.bind(finder);
  /** Lets the next search find this node, once `before` is over. */
  const findNext = (node: string, before: () => Promise<unknown>) => {
    finder.search = async (_, signal) => {
      finder.search = search;
      await before();
      return search(new Set(ids.filter((id) => id !== node)), signal);
    };
  };
  const [first, second] = ids as [string, string];
  const abort = new AbortController();
  const show = () => showCode(false, { ...ada.pairing, signal: abort.signal });
  // The session's search has begun when a code comes to the node that it finds.
  findNext(first, async () => {
    findNext(first, async () => {});
    await show();
    expect(ada.client.pairingNodes).toEqual([first]);
  });
  await ada.client.connect();
  expect(ada.client.node).not.toBe(first);
  abort.abort();
  await eventually("the code is gone", () => ada.client.pairingNodes.length === 0);
  await ada.client.close();

  // The search of a pairing has begun when the session comes to the node that it finds.
  findNext(second, async () => {
    findNext(second, async () => {});
    await ada.client.connect();
    expect(ada.client.node).toBe(second);
  });
  await showCode(false, ada.pairing);
  expect(ada.client.pairingNodes).not.toContain(second);
}, 60_000);
