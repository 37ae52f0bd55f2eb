/**
 * Renegotiation: the rounds of offers and answers within one call. The first offer and answer of the call are round 0.
 *
 * Pure. Each further offer opens a round, and its answer has the same number. If both sides open one at once, the
 * callee is polite: it takes its own offer back. `docs/protocol/media.md` has the rules.
 */

/** The most rounds of a call. An ICE restart every ten seconds of a call of a day takes fewer. */
export const MAX_ROUNDS = 10_000;

/** What to do with an offer of the other side: `repeat` the answer that was given, or accept it. */
export type OfferVerdict = "accept" | "roll-back-and-accept" | "repeat" | "ignore";

/** What to do with candidates: those of a later round wait for its description. */
export type CandidatesVerdict = "take" | "hold" | "drop";

/** The rounds of one call. */
export class Negotiation {
  readonly #isPolite: boolean;
  #round = 0;
  #isPending = false;
  #hasAnswered = false;

  /** The callee of the call is polite. */
  constructor(isPolite: boolean) {
    this.#isPolite = isPolite;
  }

  /** The highest round of which a description was sent or received. */
  get round(): number {
    return this.#round;
  }

  /** Whether an own offer has no answer yet. */
  get isPending(): boolean {
    return this.#isPending;
  }

  /** Opens a round for an own offer and returns its number, or `undefined` while one is pending. */
  open(): number | undefined {
    if (this.#isPending || this.#round >= MAX_ROUNDS) return undefined;
    this.#round += 1;
    this.#isPending = true;
    this.#hasAnswered = false;
    return this.#round;
  }

  /** Handles an offer of the other side. */
  handleOffer(round: number): OfferVerdict {
    const isGlare = round === this.#round && this.#isPending;
    // The other side opens a round only after the former one, so it is at most one ahead.
    if (round === this.#round + 1 && round <= MAX_ROUNDS) return this.#accept(round);
    if (isGlare) return this.#isPolite ? this.#accept(round) : "ignore";
    return round > 0 && round === this.#round && this.#hasAnswered ? "repeat" : "ignore";
  }

  /** Records that the offer of this round was answered. Returns `false` if it is no longer the newest. */
  answer(round: number): boolean {
    if (round !== this.#round || this.#isPending) return false;
    this.#hasAnswered = true;
    return true;
  }

  /** Handles an answer of the other side. Returns whether it is one to the pending offer. */
  handleAnswer(round: number): boolean {
    if (!this.#isPending || round !== this.#round) return false;
    this.#isPending = false;
    return true;
  }

  /** Handles candidates of the other side. */
  handleCandidates(round: number): CandidatesVerdict {
    if (round === this.#round) return "take";
    return round === this.#round + 1 ? "hold" : "drop";
  }

  #accept(round: number): OfferVerdict {
    const wasPending = this.#isPending;
    this.#round = round;
    this.#isPending = false;
    this.#hasAnswered = false;
    return wasPending ? "roll-back-and-accept" : "accept";
  }
}
