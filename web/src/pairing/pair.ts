/**
 * Pairing over two nodes: registers codes, sends the messages, and stores the contact. The part of the library with CPace
 * and ML-KEM, so it is loaded when somebody pairs.
 */
import { type Bytes, randomBytes, toBase64, toBase64url, utf8 } from "../core/bytes.js";
import type { SignallingClient } from "../core/client.js";
import type { Connection } from "../core/connection.js";
import { type Contact, isConfirmed, type Pairing, storedTag } from "../core/contact.js";
import { type Signer, signerOfSeed } from "../core/ed25519.js";
import { type Json, parseObject } from "../core/messages.js";
import type { NodeFinder } from "../core/node-finder.js";
import { Writer } from "../core/postcard.js";
import { sign } from "../core/statements.js";
import type { Link } from "../discovery/link.js";
import { createLink } from "../discovery/new-link.js";
import { PairError } from "./pair-error.js";
import { type Agreed, PairingFaultError, Requester, Responder } from "./pairing.js";
import { isCode, Phrase, randomCode } from "./phrase.js";

export { linkQrText, linkUrl } from "../discovery/new-link.js";

/** How long a person on the other side may take to answer, in milliseconds. A request is valid for two minutes. */
const RESPONSE_TIMEOUT = 130_000;
/** How long one step of the protocol may take, in milliseconds. */
const STEP_TIMEOUT = 10_000;
/** How long a shown code is valid, in milliseconds. */
export const CODE_LIFETIME = 600_000;
/** How long B waits for A's word that it has stored the pairing, in milliseconds. */
const LINGER = 5_000;
/** How often a taken code is drawn again. */
const MAX_COLLISIONS = 5;
/** The first and the longest pause between attempts to register a code again, in milliseconds. */
const REGISTER_AGAIN = 500;
const LONGEST_REGISTER_AGAIN = 5_000;

/** The result of a pairing. */
export interface Paired {
  readonly contact: Contact;
  /** Four words. If the other person sees others, somebody is in between: remove the contact. */
  readonly words: readonly string[];
  /** Whether the other side is known to have stored the pairing. Otherwise the first call confirms it. */
  readonly isConfirmed: boolean;
}

/** What a pairing needs of the client. */
export interface PairingParts {
  readonly client: SignallingClient;
  readonly finder: NodeFinder;
  readonly signal: AbortSignal;
}

/** Messages of a node, one at a time and with a deadline. */
class Channel {
  readonly #parts: PairingParts;
  readonly connection: Connection;
  readonly #messages: Json[] = [];
  #wake: () => void = () => {};
  #isClosed = false;

  constructor(connection: Connection, parts: PairingParts) {
    this.connection = connection;
    this.#parts = parts;
    connection.onText((text) => {
      const message = parseObject(text);
      if (message !== undefined) this.#messages.push(message);
      this.#wake();
      return Promise.resolve();
    });
    void connection.closed.then(() => {
      this.#isClosed = true;
      this.#wake();
    });
  }

  send(message: Json): void {
    this.connection.send(message);
  }

  /** The next message. Rejects with {@link PairError}. */
  async next(until: number): Promise<Json> {
    const { client, signal } = this.#parts;
    for (;;) {
      const message = this.#messages.shift();
      if (message !== undefined) return message;
      if (signal.aborted) throw new PairError("aborted");
      if (this.#isClosed) throw new PairError("disconnected");
      if (client.clock.now() >= until) throw new PairError("timed-out");
      const waiting = new AbortController();
      this.#wake = () => waiting.abort();
      signal.addEventListener("abort", this.#wake, { signal: waiting.signal });
      await client.timers.until(until, waiting.signal);
    }
  }

  close(): void {
    this.connection.close();
  }
}

/** The key that a code is registered under. It takes the code back after a lost connection, and has no other use. */
class Registration {
  readonly #key: Signer;
  #seq = 0;

  private constructor(key: Signer) {
    this.#key = key;
  }

  static async create(): Promise<Registration> {
    return new Registration(await signerOfSeed(randomBytes(32)));
  }

  /** Registers the code. Returns `false` if another client has it. */
  async register(channel: Channel, code: string, client: SignallingClient): Promise<boolean> {
    this.#seq = Math.max(client.clock.unixMs(), this.#seq + 1);
    const claim = toBase64url(await signCodeClaim(code, channel.connection.node, this.#seq, this.#key));
    const registered = await this.#request(channel, code, claim, client);
    // The claim of a client whose clock is ahead is refused. Without one, the code cannot be taken back later.
    const again = registered ?? (await this.#request(channel, code, undefined, client));
    if (again === undefined) throw new PairError("not-registered");
    return again;
  }

  async #request(
    channel: Channel,
    code: string,
    claim: string | undefined,
    client: SignallingClient,
  ): Promise<boolean | undefined> {
    const publicKey = toBase64(this.#key.publicKey);
    channel.send({ type: "register", pairingCode: code, publicKey, ...(claim === undefined ? {} : { claim }) });
    const until = client.clock.now() + STEP_TIMEOUT;
    for (;;) {
      const { type } = await channel.next(until);
      if (type === "registered") return true;
      if (type === "code_collision") return false;
      if (type === "error") return undefined;
    }
  }
}

/** Connects to another node than those of the client's sessions and those that were left, if there is one. */
async function openChannel(parts: PairingParts, left: readonly string[] = []): Promise<Channel> {
  const { client, finder, signal } = parts;
  // The finder remembers a day, and a session may be older.
  const avoid = [...left, ...[...client.sessions].map((session) => session.connection.nodeId)];
  const { connection } = await finder.search("pairing", avoid, signal).catch((error: unknown) => {
    throw new PairError(signal.aborted ? "aborted" : "no-node", { cause: error });
  });
  return new Channel(connection, parts);
}

/** Signs a claim of a pairing code: with a higher `seq`, the same key takes the code back at another node. */
function signCodeClaim(code: string, node: Uint8Array, seq: number, key: Signer): Promise<Bytes> {
  const body = new Writer().bytes(utf8(code)).bytes(key.publicKey).bytes(node).varint(seq).finish();
  return sign("code-claim", body, key);
}

/** Pairs with the client that shows this code. Waits up to two minutes for a person there. */
export async function pairByCode(text: string, parts: PairingParts): Promise<Paired> {
  const phrase = Phrase.parse(text);
  if (phrase === undefined) throw new PairError("not-a-code");
  // Before anything is sent: a client that is not connected would use up the code.
  void parts.client.profile;
  let channel: Channel | undefined;
  try {
    channel = await openChannel(parts);
    return await requestPairing(phrase, channel, parts);
  } catch (error) {
    throw pairError(error);
  } finally {
    channel?.close();
  }
}

async function requestPairing(phrase: Phrase, channel: Channel, parts: PairingParts): Promise<Paired> {
  const { client } = parts;
  const target = phrase.locator;
  const own = await registerRandomCode(channel, client);
  const requester = await Requester.start(phrase, own);
  channel.send({ type: "pair_request", targetCode: target, payload: requester.request });
  const response = await waitForResponse(channel, client.clock.now() + RESPONSE_TIMEOUT);
  const local = client.profile.local;
  const { confirmed, proof } = await requester.handleResponse(response, local).catch((error: unknown) => {
    // Without a proof, so that the other side need not wait for its timeout.
    channel.send({ type: "offer", target, payload: { refused: true } });
    throw error;
  });
  channel.send({ type: "offer", target, payload: proof });
  const until = client.clock.now() + STEP_TIMEOUT;
  for (;;) {
    const message = await channel.next(until);
    if (message.type === "error") throw new PairError("peer-gone");
    if (message.type !== "answer") continue;
    const agreed = await confirmed.handleReply(message.payload);
    // The other side stores the pairing before it answers.
    const contact = await client.addContact(agreed.contact, true);
    const stored = toBase64url(await storedTag(pairingOf(agreed)));
    // If this is lost, the first call confirms the pairing.
    channel.send({ type: "ice_candidate", target, payload: { stored } });
    return { contact, words: agreed.words, isConfirmed: true };
  }
}

async function registerRandomCode(channel: Channel, client: SignallingClient): Promise<string> {
  const registration = await Registration.create();
  for (let attempt = 0; attempt < MAX_COLLISIONS; attempt++) {
    const own = randomCode();
    if (await registration.register(channel, own, client)) return own;
  }
  throw new PairError("not-registered");
}

async function waitForResponse(channel: Channel, until: number): Promise<unknown> {
  for (;;) {
    const message = await channel.next(until);
    switch (message.type) {
      case "pair_matched":
        return message.payload;
      case "pair_error":
        throw new PairError("no-such-code");
      case "pair_rejected":
        throw new PairError("declined");
      case "pair_timeout":
        throw new PairError("timed-out");
    }
  }
}

/** A code that was registered and waits for somebody to type it. */
export class ShownCode {
  /** Resolves when somebody has used the code. Only the first request is answered, right or wrong. */
  readonly paired: Promise<Paired>;
  /** When the code expires, in seconds since 1970. */
  readonly expiresAt: number;
  readonly #phrase: Phrase;
  readonly #nodes: readonly string[];

  /** @internal */
  constructor(phrase: Phrase, nodes: readonly string[], expiresAt: number, paired: Promise<Paired>) {
    this.#phrase = phrase;
    this.#nodes = nodes;
    this.expiresAt = expiresAt;
    this.paired = paired;
  }

  /** The code for the person to read out. */
  get code(): string {
    return this.#phrase.reveal();
  }

  /** A link with the code, the node where it is registered, and others that this client knows, if one fits. */
  link(federation: Bytes | undefined): Link | undefined {
    return createLink(this.#nodes, this.code, this.expiresAt, federation);
  }
}

/** Generates a code and registers it. With `isForLink`, its secret has 128 bits. */
export async function showCode(isForLink: boolean, parts: PairingParts): Promise<ShownCode> {
  const { client, finder } = parts;
  void client.profile;
  const registration = await Registration.create();
  let channel: Channel | undefined;
  let phrase = Phrase.generate(isForLink);
  try {
    channel = await openChannel(parts);
    for (let attempt = 0; ; attempt++) {
      if (await registration.register(channel, phrase.locator, client)) break;
      if (attempt === MAX_COLLISIONS) throw new PairError("not-registered");
      phrase = phrase.relocated();
    }
  } catch (error) {
    channel?.close();
    throw pairError(error);
  }
  const here = `${channel.connection.url}#${channel.connection.nodeId}`;
  const nodes = [here, ...finder.remembered().filter((node) => !node.endsWith(`#${channel.connection.nodeId}`))];
  const until = client.clock.now() + CODE_LIFETIME;
  const paired = answerFirst(phrase, registration, channel, until, parts);
  // Without this, a rejection that the app does not await would be reported as unhandled.
  paired.catch(() => {});
  return new ShownCode(phrase, nodes, (client.clock.unixMs() + CODE_LIFETIME) / 1000, paired);
}

async function answerFirst(
  phrase: Phrase,
  registration: Registration,
  first: Channel,
  until: number,
  parts: PairingParts,
): Promise<Paired> {
  let channel = first;
  try {
    for (;;) {
      const message = await channel.next(until).catch((error: unknown) => {
        if (error instanceof PairError && error.code === "disconnected") return { type: "going_away" };
        throw error;
      });
      if (message.type === "pair_incoming") return await respond(phrase, channel, message as Json, parts);
      // The node stops soon, so a pairing could not be completed there.
      if (message.type === "going_away") channel = await registerAgain(phrase, registration, channel, until, parts);
    }
  } catch (error) {
    throw pairError(error);
  } finally {
    channel.close();
  }
}

/** Registers the code at another node. Its homes accept the key that registered it before. */
async function registerAgain(
  phrase: Phrase,
  registration: Registration,
  former: Channel,
  until: number,
  parts: PairingParts,
): Promise<Channel> {
  const { clock, timers } = parts.client;
  former.close();
  const left = [former.connection.nodeId];
  let pause = REGISTER_AGAIN;
  while (clock.now() < until && !parts.signal.aborted) {
    const channel = await openChannel(parts, left).catch(() => undefined);
    const isRegistered =
      channel && (await registration.register(channel, phrase.locator, parts.client).catch(() => false));
    if (channel !== undefined && isRegistered) return channel;
    channel?.close();
    if (channel !== undefined) left.push(channel.connection.nodeId);
    await timers.until(Math.min(clock.now() + pause, until), parts.signal);
    pause = Math.min(2 * pause, LONGEST_REGISTER_AGAIN);
  }
  throw new PairError(parts.signal.aborted ? "aborted" : "timed-out");
}

async function respond(phrase: Phrase, channel: Channel, request: Json, parts: PairingParts): Promise<Paired> {
  const { client } = parts;
  const from = request.fromCode;
  if (!isCode(from)) throw new PairError("protocol");
  const responder = await Responder.answer(phrase, from, request.payload).catch((error: unknown) => {
    channel.send({ type: "pair_response", targetCode: from, accepted: false, payload: null });
    throw error;
  });
  channel.send({ type: "pair_response", targetCode: from, accepted: true, payload: responder.response });
  const proof = await waitForProof(channel, from, client.clock.now() + STEP_TIMEOUT);
  const local = client.profile.local;
  const { agreed, reply } = await responder.handleProof(proof, local);
  // Stored before the other side learns of it, because it may call at once.
  const contact = await client.addContact(agreed.contact, false);
  channel.send({ type: "answer", target: from, payload: reply });
  const pairing = pairingOf(agreed);
  const hasStored = await waitForStored(channel, toBase64url(await storedTag(pairing)), client.clock.now() + LINGER);
  if (hasStored) await client.confirmPairing(contact.id, pairing.id);
  const known = client.profile.contact(contact.id) ?? contact;
  return { contact: known, words: agreed.words, isConfirmed: isConfirmed(known) };
}

/** From the response on, the other side and every relay on the way can check their guess offline. */
async function waitForProof(channel: Channel, from: string, until: number): Promise<unknown> {
  try {
    for (;;) {
      const message = await channel.next(until);
      if (message.type === "offer" && message.from === from) return message.payload;
      if (message.type === "pair_error" || message.type === "pair_timeout") break;
    }
  } catch (error) {
    throw new PairError("unproven", { cause: error });
  }
  throw new PairError("unproven");
}

async function waitForStored(channel: Channel, tag: string, until: number): Promise<boolean> {
  try {
    for (;;) {
      const message = await channel.next(until);
      if (message.type === "ice_candidate" && (message.payload as Json | null)?.stored === tag) return true;
    }
  } catch {
    // It was lost, or never sent: the first call will tell.
    return false;
  }
}

function pairingOf(agreed: Agreed): Pairing {
  return agreed.contact.pairings[0] as Pairing;
}

function pairError(error: unknown): unknown {
  if (!(error instanceof PairingFaultError)) return error;
  return new PairError(error.fault === "wrong-secret" ? "wrong-secret" : "protocol", { cause: error });
}
