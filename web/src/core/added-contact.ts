/** A contact after a pairing. Loaded when a contact is added. */
import type { Contact, Pairing } from "./contact.js";
import { distinctName } from "./distinct-name.js";

/** The most pairings with one contact. With fewer than this between two calls, both sides share one. */
export const MAX_PAIRINGS = 6;

/**
 * The contacts with a newly paired one, or with a newer pairing of a known one; and the contact as it is among them.
 * `isStored`: the contact has stored the pairing, too.
 */
export function withContact(
  contacts: readonly Contact[],
  contact: Contact,
  isStored: boolean,
): [readonly Contact[], Contact] {
  const known = contacts.find(({ id }) => id === contact.id);
  const pairing = contact.pairings[0];
  if (known !== undefined && pairing !== undefined) {
    const again = withPairing(known, pairing, isStored);
    return [contacts.map((other) => (other === known ? again : other)), again];
  }
  const names = contacts.map(({ name }) => name);
  const added = { ...contact, name: distinctName(contact.name, names), isProved: isStored };
  return [[...contacts, added], added];
}

/**
 * The contact with a newer pairing. If it has `isStored` the new one, that is used at once. Otherwise the old one stays
 * in use until the contact confirms the new one, if the contact is known to have the old one.
 */
export function withPairing(contact: Contact, pairing: Pairing, isStored: boolean): Contact {
  let pairings = [...contact.pairings, pairing];
  let { inUse, isProved } = contact;
  if (isStored || !isProved) {
    inUse = pairings.length - 1;
    isProved = isStored;
  }
  if (pairings.length > MAX_PAIRINGS) {
    // The first one stays: it is the last that both sides are known to have.
    const dropped = inUse === 1 ? 2 : 1;
    pairings = pairings.filter((_, at) => at !== dropped);
    if (dropped < inUse) inUse -= 1;
  }
  return { ...contact, pairings, inUse, isProved };
}
