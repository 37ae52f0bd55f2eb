/**
 * The ids of received calls that are over, so that a replayed offer does not ring again. Pure.
 *
 * Each contact has a bound of its own: no contact can make this side forget the calls of another one.
 */
import type { ContactId } from "./contact.js";
import { FRESH } from "./messages.js";
import type { CallId } from "./seal.js";

/** The most ids of a contact. A node forwards six offers a minute to an inbox: half an hour has 180. */
const MAX_OF_A_CONTACT = 256;
/** An offer is accepted up to {@link FRESH} before or after its time. In milliseconds. */
const KEEP = 2 * FRESH * 1000;

/** The calls that are over. */
export class FinishedCalls {
  readonly #contacts = new Map<ContactId, Map<CallId, number>>();

  insert(call: CallId, contact: ContactId, now: number): void {
    for (const [id, calls] of this.#contacts) {
      for (const [known, at] of calls) if (now - at >= KEEP) calls.delete(known);
      if (calls.size === 0) this.#contacts.delete(id);
    }
    const calls = this.#contacts.get(contact) ?? new Map<CallId, number>();
    this.#contacts.set(contact, calls);
    if (calls.size < MAX_OF_A_CONTACT) calls.set(call, now);
  }

  /** Whether an offer is of a call that is over, or could not be remembered, as the contact has had too many. */
  refuses(call: CallId, contact: ContactId, now: number): boolean {
    const calls = this.#contacts.get(contact);
    if (calls === undefined) return false;
    const current = [...calls.values()].filter((at) => now - at < KEEP).length;
    return calls.has(call) || current >= MAX_OF_A_CONTACT;
  }
}
