/** Why a pairing failed. Apart from the pairing, so that an app can tell its errors before that is loaded. */

/**
 * Why a pairing failed.
 *
 * - `not-a-code`: the text is not a code.
 * - `no-such-code`: nobody shows it; it was used up, or mistyped.
 * - `not-registered`: the node did not take the code.
 * - `declined`, `timed-out`, `peer-gone`: the other side declined, did not answer, or went away.
 * - `unproven`: somebody used the code and did not prove that it knows it: perhaps a guess.
 * - `wrong-secret`: the codes differ; both are used up.
 * - `protocol`: the other side, or somebody in between, violated the protocol.
 * - `disconnected`: the node went away in the middle.
 * - `no-node`: no node was found; see `cause`, a `DiscoverError`.
 * - `aborted`: the signal was aborted, or the client was closed.
 */
export type PairErrorCode =
  | "not-a-code"
  | "no-such-code"
  | "not-registered"
  | "declined"
  | "timed-out"
  | "peer-gone"
  | "unproven"
  | "wrong-secret"
  | "protocol"
  | "disconnected"
  | "no-node"
  | "aborted";

/** A pairing failed. The code is used up, unless it was not found. Nothing was stored, unless `cause` is an error of the store. */
export class PairError extends Error {
  override readonly name = "PairError";
  constructor(
    readonly code: PairErrorCode,
    options?: ErrorOptions,
  ) {
    super(`the pairing failed: ${code}`, options);
  }
}
