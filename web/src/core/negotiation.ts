/**
 * Renegotiation: the rounds of offers and answers within one call. The first offer and answer of the call are round 0.
 *
 * Pure. If both sides open a round at once, the callee is polite: it takes its own offer back.
 * `docs/protocol/sealing-and-pairing.md` has the rules.
 */
import { type Description, type IceMessage, MAX_CANDIDATE_LENGTH, MAX_CANDIDATES } from "./outbox.js";

/** An offer of a round that is further ahead is refused. Each side opens one at a time, so an honest one is not. */
const MAX_AHEAD = 16;
/** The most offers that are accepted within a minute: a contact must not keep this side gathering candidates. */
const MAX_ACCEPTED = 20;
const MINUTE = 60_000;
/** The most candidates of a round. Those that were delivered come again with a repeated answer. */
const MAX_TAKEN = 4 * MAX_CANDIDATES;
/** When an offer without an answer is sent again after it was made, and when it is taken back. In milliseconds. */
const REPEAT_AFTER = [3_000, 9_000, 21_000];
const GIVE_UP_AFTER = 30_000;

/** What follows from an input, in order. */
export type NegotiationOutput =
  /** Send this to the other side. */
  | { readonly type: "send"; readonly message: IceMessage }
  /** Apply the other side's offer. With `rollBack`, this side's own pending offer is void. */
  | { readonly type: "offer"; readonly round: number; readonly sdp: string; readonly rollBack: boolean }
  /** Apply the other side's answer. */
  | { readonly type: "answer"; readonly round: number; readonly sdp: string }
  /** Add the other side's candidates. */
  | { readonly type: "candidates"; readonly round: number; readonly candidates: readonly string[] }
  /** An offer was refused, because it exceeds a bound. */
  | { readonly type: "refused"; readonly round: number }
  /** The own offer had no answer in time. Roll it back; a new round may be opened. */
  | { readonly type: "unanswered"; readonly round: number };

/** A description is not due: an own offer is pending, or there is no offer of that round to answer. */
export class NegotiationError extends Error {
  override readonly name = "NegotiationError";
}

interface Pending {
  readonly sdp: string;
  readonly since: number;
  repeats: number;
}

/** The rounds of one call. */
export class Negotiation {
  readonly #isPolite: boolean;
  #round = 0;
  #pending: Pending | undefined;
  /** The other side's offer of the current round waits for this side's answer; or has got this one. */
  #isAnswerDue = false;
  #answered: string | undefined;
  #held: { readonly round: number; readonly candidate: string }[] = [];
  #accepted: number[] = [];
  #taken = { round: 0, count: 0, length: 0 };

  /** The callee of the call is polite. */
  constructor(isPolite: boolean) {
    this.#isPolite = isPolite;
  }

  /** The highest round of which a description was sent or accepted. */
  get round(): number {
    return this.#round;
  }

  /** Whether the other side's offer of the current round waits for this side's answer. */
  get isAnswerDue(): boolean {
    return this.#isAnswerDue;
  }

  /** Opens a round with an own offer. Throws {@link NegotiationError} while one is pending. */
  renegotiate(sdp: string, now: number): NegotiationOutput[] {
    if (this.#pending !== undefined) throw new NegotiationError("the last offer has no answer yet");
    this.#round += 1;
    this.#pending = { sdp, since: now, repeats: 0 };
    this.#isAnswerDue = false;
    this.#answered = undefined;
    return [this.#send({ type: "offer", sdp })];
  }

  /** Answers the other side's offer of a round. Throws {@link NegotiationError} if it is no longer the newest. */
  answer(round: number, sdp: string): NegotiationOutput[] {
    if (round !== this.#round || !this.#isAnswerDue) throw new NegotiationError("there is no such offer to answer");
    this.#isAnswerDue = false;
    this.#answered = sdp;
    return [this.#send({ type: "answer", sdp })];
  }

  /** Handles what the other side has sent. The description counts before the candidates. */
  receive(message: Omit<IceMessage, "type">, now: number): NegotiationOutput[] {
    const { round, candidates, description } = message;
    const outputs =
      description === undefined
        ? []
        : description.type === "offer"
          ? this.#receiveOffer(round, description.sdp, now)
          : this.#receiveAnswer(round, description.sdp);
    if (candidates.length === 0 || round < this.#round || round > this.#round + MAX_AHEAD) return outputs;
    if (round > this.#round) {
      this.#hold(round, candidates);
      return outputs;
    }
    const taken = this.#take(candidates);
    return taken.length === 0 ? outputs : [...outputs, { type: "candidates", round, candidates: taken }];
  }

  #receiveOffer(round: number, sdp: string, now: number): NegotiationOutput[] {
    if (round < this.#round || round === 0) return [];
    if (round === this.#round && this.#pending === undefined) {
      return this.#answered === undefined ? [] : [this.#send({ type: "answer", sdp: this.#answered })];
    }
    if (round === this.#round && !this.#isPolite) return [];
    this.#accepted = this.#accepted.filter((at) => now - at < MINUTE);
    if (round > this.#round + MAX_AHEAD || this.#accepted.length >= MAX_ACCEPTED) return [{ type: "refused", round }];
    this.#accepted.push(now);
    const rollBack = this.#pending !== undefined;
    this.#pending = undefined;
    this.#round = round;
    this.#isAnswerDue = true;
    this.#answered = undefined;
    return [{ type: "offer", round, sdp, rollBack }, ...this.#release()];
  }

  #receiveAnswer(round: number, sdp: string): NegotiationOutput[] {
    if (round !== this.#round || this.#pending === undefined) return [];
    this.#pending = undefined;
    return [{ type: "answer", round, sdp }, ...this.#release()];
  }

  /** When to call {@link handleTimeout}. */
  pollTimeout(): number | undefined {
    const pending = this.#pending;
    return pending && pending.since + (REPEAT_AFTER[pending.repeats] ?? GIVE_UP_AFTER);
  }

  /** Sends an offer again that has no answer, or takes it back. */
  handleTimeout(now: number): NegotiationOutput[] {
    const due = this.pollTimeout();
    const pending = this.#pending;
    if (pending === undefined || due === undefined || due > now) return [];
    if (now >= pending.since + GIVE_UP_AFTER) {
      this.#pending = undefined;
      return [{ type: "unanswered", round: this.#round }];
    }
    pending.repeats += 1;
    return [this.#send({ type: "offer", sdp: pending.sdp })];
  }

  #send(description: Description): NegotiationOutput {
    return { type: "send", message: { type: "ice", round: this.#round, candidates: [], description } };
  }

  /** Bounds the candidates of a round: a contact must not fill this side's memory. */
  #take(candidates: readonly string[]): readonly string[] {
    if (this.#taken.round !== this.#round) this.#taken = { round: this.#round, count: 0, length: 0 };
    return candidates.filter((candidate) => {
      const taken = this.#taken;
      const isTaken = taken.count < MAX_TAKEN && taken.length + candidate.length <= MAX_CANDIDATE_LENGTH;
      if (isTaken) this.#taken = { ...taken, count: taken.count + 1, length: taken.length + candidate.length };
      return isTaken;
    });
  }

  #hold(round: number, candidates: readonly string[]): void {
    for (const candidate of candidates) {
      const length = this.#held.reduce((sum, held) => sum + held.candidate.length, candidate.length);
      if (this.#held.length >= MAX_CANDIDATES || length > MAX_CANDIDATE_LENGTH) return;
      this.#held.push({ round, candidate });
    }
  }

  /** The candidates that came before the description of the current round. */
  #release(): NegotiationOutput[] {
    const round = this.#round;
    const candidates = this.#held.filter((held) => held.round === round).map((held) => held.candidate);
    this.#held = this.#held.filter((held) => held.round > round);
    return candidates.length === 0 ? [] : [{ type: "candidates", round, candidates: this.#take(candidates) }];
  }
}
