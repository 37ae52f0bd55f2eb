/** Pairings of which messages are lost, forged or late on their way, and a code that somebody only guesses at. */
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { WebSocket as NodeWebSocket } from "ws";
import { randomBytes, toBase64 } from "../src/core/bytes.js";
import type { ContactId } from "../src/core/contact.js";
import type { Json } from "../src/core/messages.js";
import { pairByCode, showCode } from "../src/pairing/pair.js";
import { Requester } from "../src/pairing/pairing.js";
import { Phrase } from "../src/pairing/phrase.js";
import { eventually, type Federation, startFederation, WITHOUT_RATES } from "./support/federation.js";
import { type Person, pair, person } from "./support/people.js";

let federation: Federation;
const closing: (() => unknown)[] = [];

beforeAll(async () => {
  federation = await startFederation(2, WITHOUT_RATES);
}, 60_000);

afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

afterAll(() => federation.stop());

/** What becomes of a node's message on the way: another one, or the same; nothing if it is lost. */
type Change = (message: Json, isOver: Promise<unknown>) => Json | undefined | Promise<Json | undefined>;

/** Connects a client whose node's messages are changed on the way. */
async function behind(name: string, change: (message: Json) => ReturnType<Change>): Promise<Person> {
  class ChangedWebSocket extends NodeWebSocket {
    override emit(event: string | symbol, ...args: unknown[]): boolean {
      if (event !== "message") return super.emit(event, ...args);
      const [data, isBinary] = args;
      void Promise.resolve(change(JSON.parse(String(data)) as Json)).then((changed) => {
        if (changed !== undefined) super.emit(event, Buffer.from(JSON.stringify(changed)), isBinary);
      });
      return true;
    }
  }
  const webSocket = ChangedWebSocket as unknown as typeof WebSocket;
  const made = person(name, federation, { webSocket });
  closing.push(() => made.client.close());
  await made.client.connect();
  return made;
}

/** One person calls the other, who answers. */
async function call(from: Person, to: Person, contact: ContactId): Promise<void> {
  const call = await from.client.call(contact, "v=0 offer");
  let answer: string | undefined;
  call.addEventListener("answered", ({ detail }) => {
    answer = detail.sdp;
  });
  const incoming = await eventually("it rings", () => to.incoming.shift());
  incoming.call.accept("v=0 answer");
  await eventually("the answer arrives", () => answer === "v=0 answer");
  call.hangUp();
  await eventually("the end arrives", () => incoming.call.state === "ended");
}

const same: Change = (message) => message;

const lost =
  (kind: string): Change =>
  (message) =>
    message.type === kind ? undefined : message;

const forged =
  (kind: string, by: Json): Change =>
  (message) =>
    message.type === kind ? { ...by, ...("from" in by ? { from: message.from } : {}) } : message;

/** Arrives only when nobody waits for it any more. */
const late =
  (kind: string): Change =>
  async (message, isOver) => {
    if (message.type === kind) await isOver;
    return message;
  };

/** Pairs two people once, and again in each of these cases. After each of them, both can call. */
async function pairAgain(cases: readonly (readonly [string, Change])[]): Promise<void> {
  let [change, isOver] = [same, Promise.resolve()];
  const pass = (message: Json) => change(message, isOver);
  const [ada, bob] = await Promise.all([behind("Ada", pass), behind("Bob", pass)]);
  const first = await pair(ada, bob);
  const [toBob, toAda] = [first.atA.contact.id, first.atB.contact.id];
  const callBothWays = async () => {
    await call(ada, bob, toBob);
    await call(bob, ada, toAda);
  };
  await callBothWays();

  for (const [name, next] of cases) {
    let end = () => {};
    isOver = new Promise((resolve) => {
      end = resolve;
    });
    change = next;
    const shown = await showCode(false, bob.pairing);
    const results = await Promise.allSettled([pairByCode(shown.code, ada.pairing), shown.paired]);
    change = same;
    end();
    console.info(`${name}: ${results.map((result) => (result.status === "rejected" ? result.reason : "paired"))}`);
    // Bob stores the pairing before Ada does.
    const isStoredAtAda = !name.startsWith("answer");
    expect([name, results.map(({ status }) => status)]).toEqual([
      name,
      [isStoredAtAda ? "fulfilled" : "rejected", "fulfilled"],
    ]);
    expect([ada.client.contacts.length, bob.client.contacts.length]).toEqual([1, 1]);
    await callBothWays();
  }
  for (const { client } of [ada, bob]) expect(client.contacts[0]?.pairings).toHaveLength(1);
}

test("what is lost, forged or late in a second pairing leaves both able to call", async () => {
  const offline = { type: "error", code: "peer_offline", message: "Peer not found: AAAAAA" };
  const last = ["nothing is lost", same] as const;
  // Two people for each list: they wait for what never comes.
  await Promise.all([
    pairAgain([["answer is lost", lost("answer")], ["answer is late", late("answer")], last]),
    pairAgain([
      ["answer is an error", forged("answer", offline)],
      ["answer is forged", forged("answer", { type: "answer", from: "", payload: { sealed: "AA", possession: "AA" } })],
      last,
    ]),
    pairAgain([
      ["stored is lost", lost("ice_candidate")],
      ["stored is late", late("ice_candidate")],
      ["stored is forged", forged("ice_candidate", { type: "ice_candidate", from: "", payload: { stored: true } })],
      last,
    ]),
  ]);
}, 180_000);

test("who uses a code without a proof is reported as a guess", async () => {
  const bob = await behind("Bob", (message) => message);
  const shown = await showCode(false, bob.pairing);
  const locator = shown.code.slice(0, 6);
  // The guesser gets Bob's confirmation, by which it checks its guess, and leaves.
  const guess = Phrase.parse(`${locator}-AAAA`);
  if (guess === undefined) throw new Error("not a code");
  const own = "QQQQQQ";
  const { request } = await Requester.start(guess, own);
  const guesser = new NodeWebSocket(federation.nodes[0]?.clientUrl ?? "");
  closing.push(() => guesser.terminate());
  const received: Json[] = [];
  guesser.on("message", (data) => received.push(JSON.parse(String(data)) as Json));
  const send = (message: Json) => guesser.send(JSON.stringify(message));
  const arrives = (kind: string) => eventually(kind, () => received.find(({ type }) => type === kind));
  await arrives("server_info");
  send({ type: "register", pairingCode: own, publicKey: toBase64(randomBytes(32)) });
  await arrives("registered");
  send({ type: "pair_request", targetCode: locator, payload: request });
  expect(await arrives("pair_matched")).toMatchObject({ payload: { confirmation: expect.any(String) } });
  guesser.close();
  await expect(shown.paired).rejects.toMatchObject({ name: "PairError", code: "unproven" });
  expect(bob.client.contacts).toEqual([]);
}, 60_000);
