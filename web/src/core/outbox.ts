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
   * The delivered candidates of the newest round. The peer's session may end before it reads them, so they follow every
   * repeated description. Duplicates do no harm.
   */
  #delivered: string[] = [];
  #deliveredRound = 0;
  #inFlight: OutboxMessage | undefined;
  #attempts = 0;
  #retryAt = 0;
  #interruption = new AbortController();

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

  /**
   * Adds a message. Returns `false` if the queue is full or the candidates are too long. There is always room for the end,
   * and for the call's offer or answer, of which one waits at most.
   */
  push(message: OutboxMessage): boolean {
    if (isEnd(message)) this.#clear();
    const waiting = this.#queue.filter((queued) => queued !== this.#inFlight);
    const description = descriptionOf(message);
    if (description !== undefined && waiting.some((queued) => descriptionOf(queued) === description)) return true;
    if (message.type === "ice") {
      const last = waiting.at(-1);
      const isJoinable = last?.type === "ice" && last.round === message.round && description === undefined;
      const candidates = [...(isJoinable ? last.candidates : []), ...message.candidates];
      if (isJoinable && fits(candidates)) {
        this.#queue[this.#queue.length - 1] = { ...last, candidates, media: message.media ?? last.media };
        return true;
      }
      if (this.#queue.length >= MAX_QUEUE || !fits(message.candidates)) return false;
    }
    this.#queue.push(message);
    const isFollowed = description !== undefined && (message.type !== "ice" || message.round === this.#deliveredRound);
    if (isFollowed && this.#delivered.length > 0 && this.#queue.length < MAX_QUEUE) {
      this.#queue.push({ type: "ice", round: this.#deliveredRound, candidates: this.#delivered });
      this.#delivered = [];
    }
    return true;
  }

  /** Marks the first message as in flight. The signal is that of {@link interruption}. */
  start(): AbortSignal {
    this.#inFlight = this.#queue[0];
    return this.interruption();
  }

  /** Aborted when the first message is to be sent at once, again or for the first time: the attempt does not count. */
  interruption(): AbortSignal {
    this.#interruption = new AbortController();
    return this.#interruption.signal;
  }

  /** Removes a message that was delivered, or can never be. Returns whether it was still the first. */
  remove(message: OutboxMessage, wasDelivered: boolean): boolean {
    if (this.#queue[0] !== message) return false;
    this.#queue.shift();
    this.retryNow();
    if (wasDelivered && message.type === "ice") this.#keepDelivered(message);
    return true;
  }

  #keepDelivered({ round, candidates }: IceMessage): void {
    if (round > this.#deliveredRound) {
      this.#deliveredRound = round;
      this.#delivered = [];
    }
    const joined = [...this.#delivered, ...candidates];
    if (round === this.#deliveredRound && fits(joined)) this.#delivered = joined;
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

  /** Lets the first message be sent at once, also if it is in flight or waits after a failure. */
  retryNow(): void {
    this.#inFlight = undefined;
    this.endPause();
    this.#interruption.abort();
  }

  /** Lets the first message be sent at once if it waits after a failure. */
  endPause(): void {
    this.#attempts = 0;
    this.#retryAt = 0;
  }

  /** Drops everything but the end of the call. */
  keepOnlyEnd(): void {
    const ends = this.#queue.filter(isEnd);
    if (ends.length < this.#queue.length) {
      this.#clear();
      this.#queue = ends;
    }
  }

  #clear(): void {
    this.#queue = [];
    this.retryNow();
  }
}

function isEnd({ type }: OutboxMessage): boolean {
  return type === "reject" || type === "hangup";
}

/** What tells descriptions apart: the text of one, or the type of the call's first ones. */
function descriptionOf(message: OutboxMessage): string | undefined {
  if (message.type === "ice") return message.description?.sdp;
  return isEnd(message) ? undefined : message.type;
}

function fits(candidates: readonly string[]): boolean {
  const length = candidates.reduce((sum, candidate) => sum + candidate.length, 0);
  return candidates.length <= MAX_CANDIDATES && length <= MAX_CANDIDATE_LENGTH;
}
