/**
 * Decides whether a session stays after its node has rejected inboxes. Pure.
 *
 * Only rejections for the node's own reasons count: no capacity, a rate limit, or no reachable home. An invalid or outdated
 * lease is no reason to leave a node that attaches others.
 */

/** The response to one `attach` with inboxes that the node could not attach. */
export interface Refusal {
  /** The node serves at least one inbox, so its contact can call. */
  readonly isPartial: boolean;
  /** At least one rejected inbox was not attached before, so its contact cannot call. */
  readonly hasNew: boolean;
  /** All rejections are temporary. */
  readonly isTemporary: boolean;
}

/** The refusals of one session. */
export class Refusals {
  #inARow = 0;

  /** The node has rejected no inbox for its own reasons. */
  handleAttached(): void {
    this.#inARow = 0;
  }

  /** Returns whether the session stays. Leases outlast two attempts, so the second refusal in a row ends it. */
  handleRefused({ isPartial, hasNew, isTemporary }: Refusal): boolean {
    if (isPartial) return true;
    this.#inARow += 1;
    return isTemporary && !hasNew && this.#inARow < 2;
  }
}
