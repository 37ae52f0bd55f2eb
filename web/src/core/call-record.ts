/** One call: its keys, its counters, and the messages that it still has to send. */
import type { Bytes } from "./bytes.js";
import type { Contact, Pairing } from "./contact.js";
import { sealingSecret } from "./contact.js";
import { answerText, iceText, offerText } from "./messages.js";
import { Negotiation } from "./negotiation.js";
import { kindOf, Outbox, type OutboxMessage } from "./outbox.js";
import {
  type CallId,
  type CallKind,
  type Direction,
  type Envelope,
  open,
  paddedLength,
  ReplayWindow,
  seal,
} from "./seal.js";
import type { Lease } from "./statements.js";
import { generateX25519, type X25519KeyPair } from "./x25519.js";

/** How long the client tries to send the end of a call, in milliseconds. */
const END_TIMEOUT = 10_000;

/** What only the caller, or only the callee, keeps. */
export type Side =
  | {
      readonly role: "caller";
      readonly offer: string;
      readonly rejoins: CallId | undefined;
      /** The lease from the last lookup. */
      lease: Lease | undefined;
      /** The session key to which an offer was delivered. */
      offeredTo: Bytes | undefined;
      /** When to look the callee up again while it rings: it may have changed its node. */
      recheckAt: number | undefined;
    }
  | {
      readonly role: "callee";
      /** The session key that opened the offer. The caller seals to it until it has the answer. */
      readonly openedWith: X25519KeyPair;
      answer: string | undefined;
    };

/** The state of one call's messages. */
export class CallRecord {
  readonly call: CallId;
  readonly contact: Contact;
  /** The pairing that the call uses. */
  pairing: Pairing;
  readonly side: Side;
  readonly placedAt: number;
  readonly outbox = new Outbox();
  readonly negotiation: Negotiation;
  /** The peer's key for this call, once known. */
  peerKey: Bytes | undefined;
  /** The last attempt failed: look the peer up before the next one, because it may have moved. */
  mustLookUp = false;
  /** When to remove the record, once the call is over. */
  forgetAt: number | undefined;
  isPumping = false;
  readonly #ownKey: X25519KeyPair;
  readonly #seen = new ReplayWindow();
  #counter = 0;

  private constructor(
    call: CallId,
    contact: Contact,
    pairing: Pairing,
    side: Side,
    peerKey: Bytes | undefined,
    ownKey: X25519KeyPair,
    now: number,
  ) {
    this.call = call;
    this.contact = contact;
    this.pairing = pairing;
    this.side = side;
    this.peerKey = peerKey;
    this.#ownKey = ownKey;
    this.placedAt = now;
    this.negotiation = new Negotiation(side.role === "callee");
  }

  /** Creates the record of a call with keys of its own. */
  static async create(
    call: CallId,
    contact: Contact,
    pairing: Pairing,
    side: Side,
    peerKey: Bytes | undefined,
    now: number,
  ): Promise<CallRecord> {
    return new CallRecord(call, contact, pairing, side, peerKey, await generateX25519(), now);
  }

  /** Records the counter of the offer that created this record. */
  markSeen(counter: number): void {
    this.#seen.insert(counter);
  }

  get isCaller(): boolean {
    return this.side.role === "caller";
  }

  get isOver(): boolean {
    return this.forgetAt !== undefined;
  }

  /** Whether the peer may have received a message of this call. */
  get mayBeKnown(): boolean {
    return !this.isCaller || this.#counter > 0;
  }

  /**
   * The key to seal a message to, or `undefined` if the peer has to be looked up first. An offer is sealed to a session
   * key, every other message to the call's key once that is known.
   */
  recipient(message: OutboxMessage): Bytes | undefined {
    if (this.mustLookUp) return undefined;
    const session = this.side.role === "caller" ? this.side.lease?.sessionKey : undefined;
    return message.type === "offer" ? session : (this.peerKey ?? session);
  }

  /** Drops the peer's lease, so that the next attempt looks it up. */
  forgetLocation(): void {
    this.mustLookUp = true;
    if (this.side.role === "caller") this.side.lease = undefined;
  }

  /** Seals a message under a new counter. Leaves `nodes` out if they would make it longer once padded. Throws `RangeError` if it is too long. */
  async seal(
    message: OutboxMessage,
    recipient: Bytes,
    identity: X25519KeyPair,
    nodes: readonly string[],
    unixMs: number,
  ): Promise<string> {
    const kind = kindOf(message);
    const direction: Direction = this.isCaller ? "to-callee" : "to-caller";
    const context = { call: this.call, direction, kind, counter: this.#counter++ };
    const hasDescription =
      kind === "call_offer" || kind === "call_answer" || (message.type === "ice" && message.description !== undefined);
    const full = this.#text(message, nodes, unixMs);
    const short = this.#text(message, [], unixMs);
    // The nodes must not make the message longer than others of its kind.
    const text = paddedLength(full, hasDescription) === paddedLength(short, hasDescription) ? full : short;
    return seal(await sealingSecret(this.pairing), identity, recipient, context, text, hasDescription);
  }

  #text(message: OutboxMessage, nodes: readonly string[], unixMs: number): string {
    const replyKey = this.#ownKey.publicKey;
    switch (message.type) {
      case "offer": {
        if (this.side.role !== "caller") throw new Error("only a caller offers");
        const { offer: sdp, rejoins } = this.side;
        return offerText({ sdp, replyKey, sentAt: Math.floor(unixMs / 1000), nodes, rejoins });
      }
      case "answer":
        if (this.side.role !== "callee") throw new Error("only a callee answers");
        return answerText({ sdp: this.side.answer ?? "", replyKey, nodes });
      case "ice":
        return iceText({ description: undefined, ...message });
      case "reject":
        return JSON.stringify({ busy: message.isBusy, tooOften: message.isTooOften || undefined });
      case "hangup":
        return "{}";
    }
  }

  /**
   * Opens a message of the peer and records its counter. `undefined` if it does not open or is a duplicate.
   * `sessionKeys` are those of the inbox that received it.
   */
  async open(envelope: Envelope, kind: CallKind, sessionKeys: readonly X25519KeyPair[]): Promise<string | undefined> {
    const direction: Direction = this.isCaller ? "to-caller" : "to-callee";
    // The caller seals to a session key until it knows the call's key. The callee never does.
    const sessions = this.side.role === "callee" ? [this.side.openedWith, ...sessionKeys] : [];
    const secret = await sealingSecret(this.pairing);
    for (const key of [this.#ownKey, ...sessions]) {
      const text = await open(envelope, secret, this.contact.identity, key, direction, kind);
      if (text !== undefined) return this.#seen.insert(envelope.counter) ? text : undefined;
    }
    return undefined;
  }

  /** Marks the call as over. Its end is sent for {@link END_TIMEOUT} at most. */
  end(now: number): void {
    this.forgetAt = now + END_TIMEOUT;
    if (this.side.role === "caller") this.side.recheckAt = undefined;
  }
}
