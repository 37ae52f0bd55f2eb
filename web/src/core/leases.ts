/**
 * The leases of one session: which inboxes it attaches, when each lease is renewed, and the keys that callers seal to.
 *
 * A home must not be able to link two inboxes of a client. So each lease has its own random session key, `seq`, expiry
 * and renewal time.
 */
import type { Bytes } from "./bytes.js";
import {
  type Contact,
  type ContactId,
  DAY,
  dayOf,
  type OwnInbox,
  ownInbox,
  type Pairing,
  type PairingId,
} from "./contact.js";
import { accessHash, proveAttach, signLease } from "./statements.js";
import { generateX25519, type X25519KeyPair } from "./x25519.js";

/** The random lifetime of a lease in seconds: a node that hides the end of a session misleads callers for that long. */
const LEASE = [900, 1200] as const;
/** The longest time to a renewal. Homes get it two and a half minutes later, and clocks may differ by four. */
const LONGEST_RENEWAL = 300_000;
const SHORTEST_RENEWAL = 5_000;
/** Renewals due within this time are sent together, as the node sees all of them anyway. */
const TOGETHER = 2_000;
/** How far a `seq` is behind the clock at most, in milliseconds. */
const SEQ_JITTER = 30_000;
/** An inbox is attached this long before and after its day, in seconds, and up to as long again at random. */
const DAY_MARGIN = 3600;
/** The pause before a rejected inbox is tried again, and the random time added to it. */
const ATTACH_AGAIN = 60_000;
const ATTACH_AGAIN_JITTER = 15_000;
/** How often an outdated lease is retried at once. Two devices with one profile would outbid each other forever. */
const MAX_OUTBIDS = 3;
/** How far ahead of this clock a lease may be that is outbid: a node could use a later one to take the inbox back. */
const MAX_AHEAD = 5_000;
/** The most session keys of an inbox. A lease is renewed a few times before it expires. */
const MAX_KEYS = 8;

/** Identifies an inbox: a pairing and a day. */
export type SlotId = string;

/** A lease to attach. */
export interface Attachment {
  readonly slot: SlotId;
  /** The inbox is attached in this session already. */
  readonly isRenewal: boolean;
  readonly lease: Bytes;
  readonly proof: Bytes;
}

/** Why the node did not attach a lease; `outdated` has the `seq` of the newer lease that the node knows. */
export type Rejection =
  | { readonly type: "outdated"; readonly seq: number }
  | { readonly type: "invalid" | "busy" | "unavailable" };

interface Slot {
  readonly pairing: Pairing;
  readonly day: number;
  readonly owner: ContactId;
  /** When the inbox is attached and detached, in seconds since 1970. */
  readonly from: number;
  readonly until: number;
  inbox: OwnInbox | undefined;
  /** The newest is last. */
  keys: { readonly key: X25519KeyPair; readonly until: number }[];
  seq: number;
  /** When the lease that was sent last, and the one that is attached, expire. In seconds since 1970. */
  sentUntil: number;
  attachedUntil: number;
  isAttached: boolean;
  /** The same, and 0 if the node has rejected the last lease that was sent. */
  servedUntil: number;
  isPending: boolean;
  due: number;
  outbids: number;
}

/** The newest `seq` of each inbox over all sessions of a client: a new session's lease must be newer. */
export type Seqs = Map<SlotId, number>;

/** The leases of one session. */
export class Leases {
  readonly #node: Bytes;
  readonly #nonce: Bytes;
  readonly #seqs: Seqs;
  readonly #slots = new Map<SlotId, Slot>();
  readonly #inboxes = new Map<string, Slot>();
  readonly #reachable = new Set<ContactId>();
  readonly #delayedUntil = new Map<PairingId, number>();
  #nextDayCheck = Number.POSITIVE_INFINITY;

  constructor(node: Bytes, nonce: Bytes, seqs: Seqs) {
    this.#node = node;
    this.#nonce = nonce;
    this.#seqs = seqs;
  }

  /** The number of attached inboxes. */
  get attachedCount(): number {
    return [...this.#slots.values()].filter((slot) => slot.isAttached).length;
  }

  /**
   * Whether the node serves any inbox: its lease lasts, and the node did not refuse to renew it. Each lease is renewed at its own
   * time, so the others may be refused next.
   */
  isAnyServed(unixMs: number): boolean {
    return [...this.#slots.values()].some((slot) => slot.isAttached && slot.servedUntil > unixMs / 1000);
  }

  /** Delays the inboxes of a pairing until then. */
  delay(pairing: PairingId, until: number): void {
    this.#delayedUntil.set(pairing, until);
  }

  /** Attaches the contact's inboxes without delay: it is about to be called, and its answer arrives there. */
  attachNow(contact: ContactId, now: number): void {
    for (const slot of this.#slots.values()) {
      if (slot.owner !== contact || slot.isAttached || slot.isPending) continue;
      this.#delayedUntil.delete(slot.pairing.id);
      slot.due = now;
    }
  }

  /** Adds and removes inboxes for these contacts and the current day. Returns the inboxes to detach. */
  update(contacts: Iterable<Contact>, now: number, unixMs: number): string[] {
    const unix = unixMs / 1000;
    const today = dayOf(unix);
    const wanted = new Set<SlotId>();
    for (const contact of contacts) {
      if (contact.isBlocked) continue;
      for (const pairing of contact.pairings) {
        for (const day of [today - 1, today, today + 1]) {
          const slot = `${pairing.id}:${day}`;
          wanted.add(slot);
          if (!this.#slots.has(slot)) this.#slots.set(slot, this.#newSlot(contact.id, pairing, day, now));
        }
      }
    }
    for (const [pairing, until] of this.#delayedUntil) if (until <= now) this.#delayedUntil.delete(pairing);
    const detached: string[] = [];
    for (const [id, slot] of this.#slots) {
      slot.keys = slot.keys.filter((key) => key.until > unix);
      const isWanted = wanted.has(id);
      if (isWanted && slot.until > unix) continue;
      if (slot.inbox !== undefined) {
        this.#inboxes.delete(slot.inbox.text);
        if (slot.isAttached || slot.isPending) detached.push(slot.inbox.text);
      }
      Object.assign(slot, { inbox: undefined, keys: [], isAttached: false });
      // A slot stays while its day is near, so that no second random time is drawn for it.
      if (isWanted) continue;
      this.#reachable.delete(slot.owner);
      this.#slots.delete(id);
      this.#seqs.delete(id);
    }
    const changes = [...this.#slots.values()].flatMap((slot) => [slot.from, slot.until]).filter((at) => at > unix);
    this.#nextDayCheck = now + (Math.min(...changes) - unix) * 1000;
    return detached;
  }

  #newSlot(owner: ContactId, pairing: Pairing, day: number, now: number): Slot {
    return {
      pairing,
      day,
      owner,
      from: day * DAY - DAY_MARGIN * (1 + Math.random()),
      until: (day + 1) * DAY + DAY_MARGIN * (1 + Math.random()),
      inbox: undefined,
      keys: [],
      seq: 0,
      sentUntil: 0,
      attachedUntil: 0,
      isAttached: false,
      servedUntil: 0,
      isPending: false,
      due: Math.max(now, this.#delayedUntil.get(pairing.id) ?? 0),
      outbids: 0,
    };
  }

  /** Signs the leases that are due and marks them as pending. */
  async due(now: number, unixMs: number): Promise<Attachment[]> {
    const signed: [Slot, Attachment][] = [];
    for (const [id, slot] of this.#slots) {
      const soon = slot.isAttached ? now + TOGETHER : now;
      if (slot.isPending || !isOpen(slot, unixMs / 1000) || slot.due > soon) continue;
      slot.isPending = true;
      signed.push([slot, await this.#sign(id, slot, unixMs)]);
    }
    // A contact may have been removed or blocked meanwhile, also for a moment.
    return signed.filter(([slot, { slot: id }]) => this.#slots.get(id) === slot).map(([, attachment]) => attachment);
  }

  async #sign(id: SlotId, slot: Slot, unixMs: number): Promise<Attachment> {
    slot.inbox ??= await ownInbox(slot.pairing, slot.day);
    const { inbox } = slot;
    this.#inboxes.set(inbox.text, slot);
    const behind = unixMs - Math.floor(Math.random() * SEQ_JITTER);
    const former = Math.max(slot.seq, this.#seqs.get(id) ?? 0);
    slot.seq = Math.max(behind, former + 1 + Math.floor(Math.random() * 999));
    this.#seqs.set(id, slot.seq);
    const expiresAt = Math.floor(unixMs / 1000 + LEASE[0] + Math.random() * (LEASE[1] - LEASE[0]));
    const key = await generateX25519();
    const terms = {
      node: this.#node,
      sessionKey: key.publicKey,
      access: await accessHash(inbox.token),
      seq: slot.seq,
      expiresAt,
    };
    const lease = await signLease(terms, inbox.key);
    slot.sentUntil = expiresAt;
    slot.keys = [...slot.keys.slice(1 - MAX_KEYS), { key, until: expiresAt }];
    return { slot: id, isRenewal: slot.isAttached, lease, proof: await proveAttach(inbox.key, this.#nonce, lease) };
  }

  /**
   * Handles a lease that the node has attached. `ttl` is the time to the renewal that the node asks for, in milliseconds.
   * Returns the inbox's contact if it could not call before.
   */
  attached(id: SlotId, ttl: number, now: number): ContactId | undefined {
    const slot = this.#slots.get(id);
    if (slot === undefined) return undefined;
    Object.assign(slot, { isAttached: true, isPending: false, outbids: 0 });
    slot.attachedUntil = slot.servedUntil = slot.sentUntil;
    const longest = Math.min(Math.max(ttl, SHORTEST_RENEWAL), LONGEST_RENEWAL);
    slot.due = now + longest * (0.5 + Math.random() / 2);
    if (this.#reachable.has(slot.owner)) return undefined;
    this.#reachable.add(slot.owner);
    return slot.owner;
  }

  /** Handles a lease that the node has rejected. Returns the inbox's contact if it cannot call now. */
  rejected(id: SlotId, rejection: Rejection, now: number, unixMs: number): ContactId | undefined {
    const slot = this.#slots.get(id);
    if (slot === undefined) return undefined;
    slot.isPending = false;
    if (rejection.type === "outdated" && slot.outbids < MAX_OUTBIDS && rejection.seq <= unixMs + MAX_AHEAD) {
      slot.outbids += 1;
      slot.seq = Math.max(slot.seq, rejection.seq);
      slot.due = now;
      return undefined;
    }
    // If the node only has no capacity, an inbox that was attached stays attached until its lease expires.
    const isLost = rejection.type === "outdated" || rejection.type === "invalid" || slot.attachedUntil <= unixMs / 1000;
    if (isLost) slot.isAttached = false;
    slot.servedUntil = slot.outbids = 0;
    slot.due = now + ATTACH_AGAIN + Math.random() * ATTACH_AGAIN_JITTER;
    const isReachable = [...this.#slots.values()].some((other) => other.owner === slot.owner && other.isAttached);
    if (isReachable) return undefined;
    this.#reachable.delete(slot.owner);
    return slot.owner;
  }

  /** When {@link due} or {@link update} has work to do. */
  nextDeadline(unixMs: number): number {
    const waiting = [...this.#slots.values()].filter((slot) => isOpen(slot, unixMs / 1000) && !slot.isPending);
    return Math.min(this.#nextDayCheck, ...waiting.map((slot) => slot.due));
  }

  /** Whether any inbox is attached, was sent to the node, or is due. */
  hasActiveInbox(now: number, unixMs: number): boolean {
    return [...this.#slots.values()].some(
      (slot) => isOpen(slot, unixMs / 1000) && (slot.isAttached || slot.inbox !== undefined || slot.due <= now),
    );
  }

  /** The contact and pairing of an inbox. */
  owner(inbox: string): { contact: ContactId; pairing: PairingId } | undefined {
    const slot = this.#inboxes.get(inbox);
    return slot && { contact: slot.owner, pairing: slot.pairing.id };
  }

  /** The public key of a slot's inbox. */
  inboxOf(id: SlotId): Bytes | undefined {
    return this.#slots.get(id)?.inbox?.key.publicKey;
  }

  /** The keys that a caller may have sealed to for this inbox, the newest first. */
  keys(inbox: string): X25519KeyPair[] {
    const keys = this.#inboxes.get(inbox)?.keys ?? [];
    return keys.map(({ key }) => key).reverse();
  }
}

function isOpen(slot: Slot, unix: number): boolean {
  return slot.from <= unix && unix < slot.until;
}
