/** One session with a node: its connection, its leases, and the requests that have no response yet. Knows no calls. */
import type { Clock, Timers } from "./clock.js";
import type { Connection } from "./connection.js";
import { Leases, type Seqs } from "./leases.js";
import { type ErrorCode, errorCode, type Json, parseObject } from "./messages.js";

/** How long a node may take to respond, in milliseconds. It gives up on other nodes sooner. */
export const REQUEST_TIMEOUT = 5_000;

/** Why a session with a node has ended. */
export type DisconnectReason = "closed" | "silent" | "not-attached" | "going-away";

/** The outcome of a request: the reply, or why there is none. `isClosed`: the session has ended. */
export type Outcome =
  | { readonly ok: true; readonly reply: Json }
  | { readonly ok: false; readonly code?: ErrorCode | undefined; readonly isClosed: boolean };

/** Handles a message that is no reply. */
export type MessageHandler = (session: Session, message: Json) => Promise<void>;

let lastSerial = 0;

/** A session with a node. */
export class Session {
  readonly serial = ++lastSerial;
  readonly connection: Connection;
  readonly leases: Leases;
  hasEnded = false;
  #end!: (reason: DisconnectReason) => void;
  /** Resolves with the reason when the session has ended. */
  readonly ended = new Promise<DisconnectReason>((resolve) => {
    this.#end = resolve;
  });
  /** The node has announced that it stops. */
  isGoingAway = false;
  /** Has another node found in place of this one. */
  depart!: () => void;
  /** Resolves when {@link depart} was called. */
  readonly departure = new Promise<void>((resolve) => {
    this.depart = resolve;
  });
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #pending = new Map<string, (outcome: Outcome) => void>();
  #lastId = 0;
  #receivedAt: number;
  /** When the measuring probe was sent after which nothing has come yet. */
  #probedAt: number | undefined;
  #roundTrip = 0;

  constructor(connection: Connection, seqs: Seqs, clock: Clock, timers: Timers, onMessage: MessageHandler) {
    this.connection = connection;
    this.#clock = clock;
    this.#timers = timers;
    this.leases = new Leases(connection.node, connection.nonce, seqs);
    this.#receivedAt = clock.now();
    void connection.closed.then(() => this.end("closed"));
    connection.onText((text) => this.#handle(text, onMessage));
  }

  /** How long the node sent nothing after the last measuring probe, in milliseconds, also if that lasts still. */
  get roundTrip(): number {
    return this.#probedAt === undefined ? this.#roundTrip : this.#clock.now() - this.#probedAt;
  }

  /** Sends a request and waits for its response, for {@link REQUEST_TIMEOUT} at most. */
  request(message: Json): Promise<Outcome> {
    if (this.hasEnded) return Promise.resolve({ ok: false, isClosed: true });
    const id = String(++this.#lastId);
    const sentAt = this.#clock.now();
    return new Promise((resolve) => {
      const cancel = this.#timers.at(sentAt + REQUEST_TIMEOUT, () => {
        this.#settle(id, { ok: false, isClosed: false });
        if (this.#receivedAt < sentAt) this.probe(false);
      });
      this.#pending.set(id, (outcome) => {
        cancel();
        resolve(outcome);
      });
      this.connection.send({ ...message, id });
    });
  }

  /** Pings the node, and ends the session if nothing comes within this time, in milliseconds. */
  probe(isMeasuring: boolean, timeout = REQUEST_TIMEOUT): void {
    const sentAt = this.#clock.now();
    if (isMeasuring) this.#probedAt ??= sentAt;
    this.connection.send({ type: "ping" });
    this.#timers.at(sentAt + timeout, () => {
      if (this.#receivedAt < sentAt) this.end("silent");
    });
  }

  /** Ends the session. Its requests fail, and its messages are sent again on the next one. */
  end(reason: DisconnectReason): void {
    if (this.hasEnded) return;
    this.hasEnded = true;
    this.connection.close();
    for (const id of this.#pending.keys()) this.#settle(id, { ok: false, isClosed: true });
    this.#end(reason);
  }

  #settle(id: string, outcome: Outcome): void {
    this.#pending.get(id)?.(outcome);
    this.#pending.delete(id);
  }

  async #handle(text: string, onMessage: MessageHandler): Promise<void> {
    this.#receivedAt = this.#clock.now();
    this.#roundTrip = this.roundTrip;
    this.#probedAt = undefined;
    const message = parseObject(text);
    if (message === undefined || this.hasEnded) return;
    if (typeof message.id === "string" && this.#pending.has(message.id)) {
      const isError = message.type === "error";
      this.#settle(
        message.id,
        isError ? { ok: false, code: errorCode(message.code), isClosed: false } : { ok: true, reply: message },
      );
      return;
    }
    await onMessage(this, message);
  }
}
