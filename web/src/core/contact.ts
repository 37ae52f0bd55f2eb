/**
 * A contact: a person whom this profile has paired with. Owns the derivation of inboxes, access tokens and the sealing
 * secret. Both sides can compute an inbox, but only its owner can sign for it.
 */
import { type Bytes, concat, fromBase64url, toBase64url, u32, utf8 } from "./bytes.js";
import { blindingFactor, blindPublicKey, blindSeed, type Signer, signerOfSeed } from "./ed25519.js";
import { expand } from "./x25519.js";

/** The most contacts of a profile. */
export const MAX_CONTACTS = 200;
/** The length of a day in seconds. Leap seconds are not counted, as in Unix time. */
export const DAY = 24 * 3600;

/** The role of a side in a pairing: `a` typed the code, `b` showed it. */
export type Role = "a" | "b";

/** Identifies a contact: the base64url text of its identity key. */
export type ContactId = string;

/** Identifies a pairing among those with one contact: the base64url text of this side's public root key. */
export type PairingId = string;

/** One pairing, as this side stores it. */
export interface Pairing {
  readonly id: PairingId;
  readonly role: Role;
  /** The pairing secret, for HKDF. Not extractable. */
  readonly secret: CryptoKey;
  /** The secret itself, only in a profile that its owner can export. */
  readonly secretBytes?: Bytes | undefined;
  /** The seed of this side's inbox root key, made for this pairing. */
  readonly ownRoot: Bytes;
  readonly peerRoot: Bytes;
}

/** A contact, as this side stores it. */
export interface Contact {
  readonly id: ContactId;
  readonly name: string;
  /** The X25519 identity key. */
  readonly identity: Bytes;
  /**
   * Never empty, the oldest first. The first is the last one that both sides have used, if there is one. The contact
   * may not have stored those after `inUse`.
   */
  readonly pairings: readonly Pairing[];
  /** The index of the pairing that this side calls by first. */
  readonly inUse: number;
  /** Whether the contact is known to have stored the pairing in use. */
  readonly isProved: boolean;
  readonly isBlocked: boolean;
  /** Whether calls with this contact may use other paths than relays, so that it sees this device's address. */
  readonly isDirectAllowed?: boolean | undefined;
  /** Up to three nodes that the contact has shared, as `wss://host:port#NODE-ID`. */
  readonly nodes: readonly string[];
}

/** An inbox of this side: its signing key, and the token that the contact has to show. */
export interface OwnInbox {
  readonly key: Signer;
  /** The base64url text of the public key. */
  readonly text: string;
  readonly token: Bytes;
}

/** The other side's address on one day: the inbox, and its token. */
export interface Address {
  readonly inbox: Bytes;
  readonly token: Bytes;
}

/** The number of the UTC day, since 1970, of a time in seconds. */
export function dayOf(seconds: number): number {
  return Math.floor(seconds / DAY);
}

/** A pairing with the id of this side's root key. */
export async function newPairing(pairing: Omit<Pairing, "id">): Promise<Pairing> {
  return { ...pairing, id: toBase64url((await signerOfSeed(pairing.ownRoot)).publicKey) };
}

/** This side's inbox of a day. */
export async function ownInbox(pairing: Pairing, day: number): Promise<OwnInbox> {
  const root = fromBase64url(pairing.id) as Bytes;
  const key = await blindSeed(pairing.ownRoot, await inboxFactor(pairing.secret, pairing.role, root, day));
  return { key, text: toBase64url(key.publicKey), token: await accessToken(pairing.secret, pairing.role, day) };
}

/** The other side's address at a time in seconds. */
export async function peerAddress(pairing: Pairing, seconds: number): Promise<Address> {
  const day = dayOf(seconds);
  const owner = otherRole(pairing.role);
  const factor = await inboxFactor(pairing.secret, owner, pairing.peerRoot, day);
  const inbox = blindPublicKey(pairing.peerRoot, factor);
  // Such a key is refused when a pairing is made.
  if (inbox === undefined) throw new Error("the root key cannot be blinded");
  return { inbox, token: await accessToken(pairing.secret, owner, day) };
}

/** Whether inboxes can be derived from a root key of the other side. */
export function isUsableRoot(root: Uint8Array): boolean {
  return blindPublicKey(root, 1n) !== undefined;
}

/** The text of an address in the protocol: inbox and token. */
export function addressText({ inbox, token }: Address): string {
  return toBase64url(concat(inbox, token));
}

/** The secret for sealing (the PSK of HPKE). */
export function sealingSecret(pairing: Pairing): Promise<Bytes> {
  return expand(pairing.secret, "chappe/seal-psk/v1\0");
}

/** The tag by which A confirms that it has stored the pairing. */
export function storedTag(pairing: Pairing): Promise<Bytes> {
  return expand(pairing.secret, "chappe/pair-stored/v1\0");
}

/** The other role. */
export function otherRole(role: Role): Role {
  return role === "a" ? "b" : "a";
}

async function inboxFactor(secret: CryptoKey, owner: Role, root: Uint8Array, day: number): Promise<bigint> {
  const blinding = await expand(secret, "chappe/inbox-blinding/v1\0");
  return blindingFactor(concat(utf8("chappe/inbox/v2\0"), blinding, utf8(owner), root, u32(day)));
}

function accessToken(secret: CryptoKey, owner: Role, day: number): Promise<Bytes> {
  return expand(secret, concat(utf8("chappe/inbox-access/v1\0"), utf8(owner), u32(day)), 16);
}

/** The pairing in use: this side calls by it first. */
export function pairingInUse(contact: Contact): Pairing {
  return contact.pairings[contact.inUse] as Pairing;
}

/** The pairing to try after this one has failed. After the last one, the first follows. */
export function pairingAfter(contact: Contact, pairing: Pairing): Pairing {
  const at = contact.pairings.findIndex((known) => known.id === pairing.id);
  return contact.pairings[((at < 0 ? contact.inUse : at) + 1) % contact.pairings.length] as Pairing;
}

/** Whether the contact is known to have stored the newest pairing. */
export function isConfirmed(contact: Contact): boolean {
  return contact.isProved && contact.inUse + 1 === contact.pairings.length;
}

/**
 * The contact after it has shown that it has stored this pairing: the older ones are dropped. `undefined` if that
 * changes nothing.
 */
export function confirmed(contact: Contact, id: PairingId): Contact | undefined {
  const index = contact.pairings.findIndex((pairing) => pairing.id === id);
  const isKnown = index < 0 || index < contact.inUse || (index === 0 && contact.isProved);
  if (isKnown) return undefined;
  return { ...contact, pairings: contact.pairings.slice(index), inUse: 0, isProved: true };
}
