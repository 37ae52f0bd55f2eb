/**
 * Limits how often a contact can make this side ring, so that no contact can block the phone. Pure.
 *
 * A contact rings at most once in {@link RING_EVERY}; after an answered call it may ring again at once. Each unanswered
 * ring in a row doubles the pause, up to {@link LONGEST_PAUSE}.
 */
import type { ContactId } from "./contact.js";

/** The shortest time from one ring of a contact to the next, in milliseconds. */
export const RING_EVERY = 30_000;
/** The longest pause after unanswered rings, in milliseconds. */
export const LONGEST_PAUSE = 3_600_000;
/** After this time without a ring, a contact's history is dropped. In milliseconds. */
export const FORGET_AFTER = 6 * 3_600_000;

/** The recent rings of each contact. Has at most one entry for each contact, as only sealed messages reach it. */
export class RingLimiter {
  readonly #contacts = new Map<ContactId, { last: number; next: number; unanswered: number }>();

  /** Returns whether the contact may ring now, and records the ring if so. */
  tryRing(contact: ContactId, now: number): boolean {
    for (const [id, rings] of this.#contacts) if (now - rings.last >= FORGET_AFTER) this.#contacts.delete(id);
    const rings = this.#contacts.get(contact) ?? { last: now, next: now, unanswered: 0 };
    if (rings.next > now) return false;
    this.#contacts.set(contact, { ...rings, last: now, next: now + RING_EVERY });
    return true;
  }

  /** Records that the contact's ring was answered. */
  answered(contact: ContactId): void {
    this.#contacts.delete(contact);
  }

  /** Records that the contact's ring was declined, cancelled or not answered. */
  unanswered(contact: ContactId, now: number): void {
    const rings = this.#contacts.get(contact);
    if (rings === undefined) return;
    const pause = Math.min(RING_EVERY * 2 ** rings.unanswered, LONGEST_PAUSE);
    rings.next = Math.max(rings.next, now + pause);
    rings.unanswered += 1;
  }
}
