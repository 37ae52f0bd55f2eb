/** What the client needs of discovery: a node that has proved its key. */
import type { Connection } from "./connection.js";

/**
 * Whether a second source confirms the node that was found. `docs/protocol/discovery.md` explains each outcome. `no-answer` is
 * also that of a fault, such as a part of the page that could not be loaded.
 */
export type Confirmation = "confirmed" | "vouched" | "strangers" | "equivocation" | "no-other" | "no-answer";

/** Why one source named no usable node, in words for people. */
export interface SourceReport {
  /** Such as `registry` or `dns`. */
  readonly source: string;
  /** What happened, or how many nodes it named. */
  readonly result: string;
}

/** What is known about a node that was found, half a minute after the search began at most. */
export interface NodeCheck {
  readonly confirmation: Confirmation;
  /** What each source has come to, also where a node was found by another. */
  readonly reports: readonly SourceReport[];
}

/** A node that was found. */
export interface FoundNode {
  readonly connection: Connection;
  /** Must not reject. */
  readonly check: Promise<NodeCheck>;
}

/** No node was found. */
export class DiscoverError extends Error {
  override readonly name = "DiscoverError";
  constructor(
    /** One report for each source, and one for each dial that failed. */
    readonly reports: readonly SourceReport[],
  ) {
    super("no node was found");
  }
}

/** What a client uses a node for: a node that sees both could join a pairing code with the inboxes of the contacts. */
export type Purpose = "inboxes" | "pairing";

/** Finds nodes. */
export interface NodeFinder {
  /**
   * Searches a node for this purpose. Those in `avoid` (ids), and those of the other purpose in the last day, are dialled
   * only if no other is left, or after five seconds. Rejects with {@link DiscoverError} after ten seconds at most.
   */
  search(purpose: Purpose, avoid: readonly string[], signal: AbortSignal): Promise<FoundNode>;
  /** Nodes that have proved their key to this client, as `wss://host:port#NODE-ID`. */
  remembered(): readonly string[];
  /** The nodes that contacts have shared. */
  setReferrals(nodes: readonly string[]): void;
  /**
   * The records of nodes that the node in use names because it stops: base64url texts, not checked yet. They are used
   * beside the referrals until the next call. `undefined` ends that.
   */
  setAlternatives(records?: unknown): void;
  /** The texts of these nodes that may be used and shared, at most three. */
  usableReferrals(nodes: readonly string[]): readonly string[];
}
