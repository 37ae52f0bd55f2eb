/** Looks up where a contact is: its lease, by the session's node. */
import { fromBase64url, toBase64url } from "./bytes.js";
import { type Address, addressText, type Pairing, peerAddress } from "./contact.js";
import type { Outcome, Session } from "./session.js";
import { accessHash, decodeLease, type Lease } from "./statements.js";

/** The result of a lookup: the contact's lease, or why there is none. */
export type Found =
  | { readonly lease: Lease }
  | { readonly lease: undefined; readonly failure: Outcome & { ok: false } };

/** Asks the node for the lease of the other side of a pairing. Takes five seconds at most. */
export async function lookUp(session: Session, pairing: Pairing, unixMs: number): Promise<Found> {
  const address = await peerAddress(pairing, unixMs / 1000);
  const outcome = await session.request({ type: "resolve", address: addressText(address) });
  if (!outcome.ok) return { lease: undefined, failure: outcome };
  const lease = await readLease(outcome.reply.lease, address, unixMs);
  return lease === undefined
    ? { lease: undefined, failure: { ok: false, code: "peer_offline", isClosed: false } }
    : { lease };
}

/** Decodes a lease. `undefined` unless it verifies, is of this address and has not expired. */
async function readLease(text: unknown, address: Address, unixMs: number): Promise<Lease | undefined> {
  const bytes = fromBase64url(text);
  const lease = bytes && (await decodeLease(bytes));
  if (lease === undefined) return undefined;
  const isOfAddress =
    toBase64url(lease.inbox) === toBase64url(address.inbox) &&
    toBase64url(lease.access) === toBase64url(await accessHash(address.token));
  return isOfAddress && lease.expiresAt > unixMs / 1000 ? lease : undefined;
}
