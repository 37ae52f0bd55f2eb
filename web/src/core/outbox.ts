/**
 * The messages that one call still has to send: in order, one at a time, each until it is delivered.
 *
 * Pure. One message at a time keeps the order across retries and nodes. Candidates that arrive meanwhile are merged into
 * one message, so waiting costs at most a round trip.
 */
import type { CallKind } from "./seal.js";

/** A session description of a renegotiation. */
export interface Description {
  readonly type: "offer" | "answer";
  readonly sdp: string;
}

/** What a side sends on each media line: `muted` is silence. A line that is absent has not changed. */
export interface MediaStates {
  readonly sound?: "on" | "muted" | "off";
  readonly camera?: "on" | "off";
  readonly screen?: "on" | "off";
}

/** Candidates of one round, the description that opens or answers it, and what its sender's media is now. */
export interface IceMessage {
  readonly type: "ice";
  readonly round: number;
  readonly candidates: readonly string[];
  readonly description?: Description | undefined;
  readonly media?: MediaStates | undefined;
}

/** A message that waits to be sent. The texts of the first offer and answer are kept by the call. */
export type OutboxMessage =
  | { readonly type: "offer" }
  | { readonly type: "answer" }
  | IceMessage
  | { readonly type: "reject"; readonly isBusy: boolean; readonly isTooOften?: boolean }
  | { readonly type: "hangup" };

/** The most candidates in one message, and their total size. A call has about ten candidates. */
export const MAX_CANDIDATES = 64;
export const MAX_CANDIDATE_LENGTH = 16 * 1024;
/** The most queued messages: an offer or answer, candidates, a description, and the end. */
const MAX_QUEUE = 8;
/** The pauses between attempts: a callee that changes its node is back within two seconds. In milliseconds. */
const FIRST_PAUSE = 200;
const LONGEST_PAUSE = 3000;
const FACTOR = 1.7;

/** The kind by which a message is sent. */
export function kindOf(message: OutboxMessage): CallKind {
  return `call_${message.type}`;
}

/** The queue of one call. */
export class Outbox {
  #queue: OutboxMessage[] = [];
  /**
   * The candidates of round 0 that were delivered. The peer's session may end before it reads them, so they follow every
   * further offer or answer. Duplicates do no harm.
   */
  #delivered: string[] = [];
  #inFlight: OutboxMessage | undefined;
  #attempts = 0;
  #retryAt = 0;
  #interrupt: (() => void) | undefined;

  get isEmpty(): boolean {
    return this.#queue.length === 0;
  }

  /** The first message, or `undefined`. */
  get first(): OutboxMessage | undefined {
    return this.#queue[0];
  }

  /** When the first message may be sent. */
  get retryAt(): number {
    return this.#retryAt;
  }

  /** Adds a message. Returns `false` if the queue is full or the candidates are too long. */
  push(message: OutboxMessage): boolean {
    if (message.type === "reject" || message.type === "hangup") this.#clear();
    const waiting = this.#queue.filter((queued) => queued !== this.#inFlight);
    const isRepeated =
      (message.type === "offer" || message.type === "answer") && waiting.some((queued) => queued.type === message.type);
    if (isRepeated) return true;
    const last = waiting.at(-1);
    if (message.type === "ice") {
      if (!fits(message.candidates)) return false;
      const joined = [...(last?.type === "ice" ? last.candidates : []), ...message.candidates];
      if (last?.type === "ice" && last.round === message.round && message.description === undefined && fits(joined)) {
        this.#queue[this.#queue.length - 1] = { ...last, candidates: joined, media: message.media ?? last.media };
        return true;
      }
    }
    if (this.#queue.length >= MAX_QUEUE) return false;
    this.#queue.push(message);
    const describes = message.type === "offer" || message.type === "answer";
    if (describes && this.#delivered.length > 0 && this.#queue.length < MAX_QUEUE) {
      this.#queue.push({ type: "ice", round: 0, candidates: this.#delivered });
      this.#delivered = [];
    }
    return true;
  }

  /** Marks the first message as in flight. The promise resolves if an end of the call replaces the queue meanwhile. */
  start(): Promise<undefined> {
    this.#inFlight = this.#queue[0];
    return new Promise((resolve) => {
      this.#interrupt = () => resolve(undefined);
    });
  }

  /** Removes a message that was delivered, or can never be. Returns whether it was still the first. */
  remove(message: OutboxMessage, wasDelivered: boolean): boolean {
    if (this.#queue[0] !== message) return false;
    this.#queue.shift();
    this.#inFlight = undefined;
    this.retryNow();
    if (wasDelivered && message.type === "ice" && message.round === 0) {
      const candidates = [...this.#delivered, ...message.candidates];
      if (fits(candidates)) this.#delivered = candidates;
    }
    return true;
  }

  /** The attempt has failed: the message is sent again after a pause, or at once on another session. */
  failed(message: OutboxMessage, now: number, isAtOnce: boolean): void {
    if (this.#queue[0] !== message) return;
    this.#inFlight = undefined;
    if (isAtOnce) return;
    const pause = Math.min(FIRST_PAUSE * FACTOR ** this.#attempts, LONGEST_PAUSE);
    this.#attempts += 1;
    this.#retryAt = now + pause * (1 + Math.random());
  }

  /** Lets the first message be sent at once. */
  retryNow(): void {
    this.#attempts = 0;
    this.#retryAt = 0;
  }

  /** Drops everything but the end of the call. */
  keepOnlyEnd(): void {
    const ends = this.#queue.filter((message) => message.type === "reject" || message.type === "hangup");
    if (ends.length < this.#queue.length) {
      this.#clear();
      this.#queue = ends;
    }
  }

  #clear(): void {
    this.#queue = [];
    this.#inFlight = undefined;
    this.retryNow();
    this.#interrupt?.();
  }
}

function fits(candidates: readonly string[]): boolean {
  const length = candidates.reduce((sum, candidate) => sum + candidate.length, 0);
  return candidates.length <= MAX_CANDIDATES && length <= MAX_CANDIDATE_LENGTH;
}
