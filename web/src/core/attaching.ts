/**
 * Keeps the client attached to a node: searches, attaches and renews inboxes, and replaces a session that fails or whose
 * node is about to stop.
 */
import { fromBase64url, toBase64url } from "./bytes.js";
import type { Clock, Timers } from "./clock.js";
import type { ContactId, PairingId } from "./contact.js";
import type { Attachment, Rejection, Seqs, SlotId } from "./leases.js";
import type { Json } from "./messages.js";
import { DiscoverError, type NodeCheck, type NodeFinder } from "./node-finder.js";
import type { Profile } from "./profile.js";
import { Refusals } from "./refusals.js";
import { type DisconnectReason, type MessageHandler, type Outcome, REQUEST_TIMEOUT, Session } from "./session.js";
import { decodeLease } from "./statements.js";

/** The most inboxes in one `attach`: each takes about 380 bytes of the 64 KiB. */
const ATTACH_BATCH = 96;
/** How long a node may take to attach the first inboxes, in milliseconds. */
const ATTACH_TIMEOUT = 5_000;
/**
 * How long a node may take to answer a probe while a call has lost its media, in milliseconds, and in round trips of the probe
 * before: on a link that is full, its answer takes longer, and a new session would not be faster.
 */
const URGENT_PROBE_TIMEOUT = 1_000;
const URGENT_ROUND_TRIPS = 4;
/** How long a client is in a hurry: a little more than the pause between two new paths. In milliseconds. */
const URGENT_FOR = 2_500;
/** The shortest time from one renewal to the next, in milliseconds, so that no deadline makes it spin. */
const SHORTEST_PAUSE = 100;
/** How long a replaced session still receives messages, in milliseconds. */
const LINGER = 2_000;
/** The shortest time between two searches without a pause, in milliseconds. */
const IMMEDIATE_EVERY = 5_000;
/** A search without a pause starts within this time, at random: a node that fails drops all its clients at once. */
const FIRST_JITTER = 300;
/** The pauses after lost sessions, and after searches that found no node, in milliseconds: the first, the longest. */
const BACKOFF = [250, 30_000] as const;
const RETRY = [5_000, 300_000] as const;
/** The clients of a node that stops leave within this time at most, at random: not all may arrive at the others at once. */
const LONGEST_DEPARTURE = 15_000;
/** The most nodes that a search avoids. */
const MAX_AVOID = 8;
/** After this many nodes in a row that attached nothing, the cause is probably on this side, such as its clock. */
const MAX_UNATTACHED = 3;
/** The longest random delay before the inboxes of a new contact are attached, in milliseconds. */
const MAX_ATTACH_DELAY = 3_000;

/** Why a node has rejected an inbox: `outdated` means that another device with this profile has it. */
export type InboxRejection = "outdated" | "invalid" | "unavailable";

/** What {@link Attaching} reports. */
export interface AttachingEvents {
  connected(session: Session): void;
  disconnected(session: Session, reason: DisconnectReason): void;
  searchFailed(error: DiscoverError, retryIn: number): void;
  checked(node: string, check: NodeCheck): void;
  reachable(contact: ContactId): void;
  rejected(contact: ContactId, reason: InboxRejection): void;
  /** Nodes were found, but several in a row attached no inbox. */
  notAttached(): void;
}

/** What {@link Attaching} needs. */
export interface AttachingParts {
  readonly finder: NodeFinder;
  readonly profile: Profile;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly onMessage: MessageHandler;
  readonly events: AttachingEvents;
}

/** The sessions of a running client. */
export class Attaching {
  readonly #parts: AttachingParts;
  readonly #signal: AbortSignal;
  readonly #seqs: Seqs = new Map();
  readonly #sessions = new Set<Session>();
  readonly #attaching = new WeakMap<Session, Promise<void>>();
  readonly #renewals = new WeakMap<Session, () => void>();
  readonly #refusals = new WeakMap<Session, Refusals>();
  /** Sessions whose node has rejected an inbox for its own reasons. */
  readonly #unavailable = new WeakSet<Session>();
  #ready: Session | undefined;
  #avoid: readonly string[];
  #immediateAt = Number.NEGATIVE_INFINITY;
  #urgentAt = Number.NEGATIVE_INFINITY;
  #searchedAt = Number.NEGATIVE_INFINITY;
  #endPause: (() => void) | undefined;
  #losses = 0;
  #failures = 0;
  #unattached = 0;

  constructor(parts: AttachingParts, avoid: readonly string[], signal: AbortSignal) {
    this.#parts = parts;
    this.#signal = signal;
    this.#avoid = avoid;
    void this.#run();
  }

  /** The session on which messages are sent. */
  get ready(): Session | undefined {
    return this.#ready;
  }

  /** All sessions on which messages may arrive. */
  get sessions(): Iterable<Session> {
    return this.#sessions;
  }

  /** Applies a change of the contacts. Resolves when the nodes have answered what ends inboxes, or after five seconds. */
  async contactsChanged(): Promise<void> {
    if (this.#ready) void this.#attach(this.#ready);
    await Promise.all([...this.#sessions].map((session) => this.#detach(session)));
  }

  /** Delays the inboxes of a new pairing, so that a node that took part in it does not see them appear at once. */
  delay(pairing: PairingId): void {
    const until = this.#parts.clock.now() + Math.random() * MAX_ATTACH_DELAY;
    for (const session of this.#sessions) session.leases.delay(pairing, until);
  }

  /** Attaches the inboxes of a contact that is about to be called. Resolves when the node has answered. */
  async attachNow(contact: ContactId): Promise<void> {
    const { clock } = this.#parts;
    for (const session of this.#sessions) session.leases.attachNow(contact, clock.now());
    if (this.#ready !== undefined) await this.#attach(this.#ready);
  }

  /** Checks the session after the device has slept or changed its network. */
  wake(): void {
    this.#parts.timers.wake();
    // What comes after a sleep is no measure of the link.
    this.#ready?.probe(false);
  }

  /**
   * Checks the session, or searches a node at once if there is none: a call has lost its media, and a new path for it is
   * negotiated on the session. Called again while that lasts.
   */
  checkSession(): void {
    this.#urgentAt = this.#parts.clock.now();
    const roundTrips = URGENT_ROUND_TRIPS * (this.#ready?.roundTrip ?? 0);
    this.#ready?.probe(true, Math.min(Math.max(roundTrips, URGENT_PROBE_TIMEOUT), REQUEST_TIMEOUT));
    this.#endPause?.();
  }

  /** Ends all sessions. */
  close(): void {
    for (const session of this.#sessions) session.end("closed");
  }

  async #run(): Promise<void> {
    const { timers, clock, finder, events } = this.#parts;
    let pause = this.#nextPause();
    while (!this.#signal.aborted) {
      // A call in need is searched for once, and without jitter: nobody else's network has changed at the same moment.
      if (this.#searchedAt >= this.#urgentAt || !this.#isInNeed())
        await Promise.race([timers.until(clock.now() + pause, this.#signal), this.#urgentCheck()]);
      // Once: a search that fails at once must not be repeated at once.
      this.#searchedAt = clock.now();
      if (this.#signal.aborted) return;
      try {
        const found = await finder.search("inboxes", this.#avoid, this.#signal);
        if (this.#signal.aborted) {
          found.connection.close();
          return;
        }
        this.#failures = 0;
        void found.check.then((check) => events.checked(found.connection.nodeId, check));
        await this.#use(new Session(found.connection, this.#seqs, clock, timers, (s, m) => this.#message(s, m)));
        pause = this.#nextPause();
      } catch (error) {
        pause = jittered(RETRY, this.#failures++);
        if (!this.#signal.aborted) events.searchFailed(discoverError(error), pause);
      }
    }
  }

  /** Whether a call has lost its media. */
  #isInNeed(): boolean {
    return this.#parts.clock.now() - this.#urgentAt < URGENT_FOR;
  }

  /** Resolves when {@link checkSession} is called. */
  #urgentCheck(): Promise<void> {
    return new Promise((resolve) => {
      this.#endPause = resolve;
    });
  }

  #nextPause(): number {
    const now = this.#parts.clock.now();
    if (now - this.#immediateAt < IMMEDIATE_EVERY) return jittered(BACKOFF, this.#losses++);
    this.#immediateAt = now;
    this.#losses = 0;
    return Math.random() * FIRST_JITTER;
  }

  /** Attaches the inboxes in a new session, and waits until it has to be replaced. */
  async #use(session: Session): Promise<void> {
    const { clock, timers, events } = this.#parts;
    this.#sessions.add(session);
    void session.ended.then((reason) => this.#ended(session, reason));
    const isAttached = await Promise.race([this.#attachFirst(session), session.ended.then(() => false)]);
    if (!isAttached || session.hasEnded) {
      session.end("not-attached");
      this.#avoidNode(session);
      this.#unattached += 1;
      if (this.#unattached === MAX_UNATTACHED) events.notAttached();
      return;
    }
    // Nothing is attached, at several nodes: the session is kept for pairing, and the app is told.
    const { leases } = session;
    const isUseless = leases.attachedCount === 0 && leases.hasActiveInbox(clock.now(), clock.unixMs());
    if (isUseless) events.notAttached();
    this.#unattached = 0;
    this.#avoid = [];
    // What a contact has named lasts, what a node has named does not.
    this.#parts.finder.setAlternatives();
    const former = this.#ready;
    this.#ready = session;
    // Measures the link. At rest, nobody needs to know that.
    if (this.#isInNeed()) session.probe(true);
    if (former !== undefined) timers.at(clock.now() + LINGER, () => former.end("going-away"));
    events.connected(session);
    await Promise.race([session.ended, session.departure]);
    this.#avoidNode(session);
  }

  #ended(session: Session, reason: DisconnectReason): void {
    this.#sessions.delete(session);
    const wasReady = this.#ready === session;
    if (wasReady) this.#ready = undefined;
    if (wasReady || session.isGoingAway) {
      this.#parts.events.disconnected(session, session.isGoingAway ? "going-away" : reason);
    }
  }

  #avoidNode(session: Session): void {
    const node = session.connection.nodeId;
    this.#avoid = [...this.#avoid.filter((known) => known !== node), node].slice(-MAX_AVOID);
  }

  async #message(session: Session, message: Json): Promise<void> {
    if (message.type !== "going_away") return this.#parts.onMessage(session, message);
    if (session.isGoingAway) return;
    session.isGoingAway = true;
    const { clock, timers, finder } = this.#parts;
    // A node that was left, or is not used yet, has no say in the next search.
    if (session === this.#ready) finder.setAlternatives(message.nodes);
    // Half of the time that the node leaves, in milliseconds. The other half is for the search and for attaching.
    const within = Math.min((message.graceSeconds as number) * 500, LONGEST_DEPARTURE);
    timers.at(clock.now() + Math.random() * within || 0, session.depart);
  }

  /**
   * Attaches the first inboxes. A session is used if any inbox is attached, or none is due. If several nodes in a row
   * have accepted none, the cause is probably this clock: then it is kept, as pairing works on it.
   */
  async #attachFirst(session: Session): Promise<boolean> {
    const { clock, timers } = this.#parts;
    const timeout = timers.until(clock.now() + ATTACH_TIMEOUT).then(() => "timeout" as const);
    const outcomes = await Promise.race([this.#attach(session), timeout]);
    if (outcomes === "timeout") return false;
    const { leases } = session;
    if (leases.attachedCount > 0 || !leases.hasActiveInbox(clock.now(), clock.unixMs())) return true;
    return this.#unattached + 1 >= MAX_UNATTACHED && !this.#unavailable.has(session);
  }

  /** Attaches what is due, one change of a session at a time, and sets the timer to what is due next. */
  #attach(session: Session): Promise<void> {
    const former = this.#attaching.get(session) ?? Promise.resolve();
    const next = former
      .then(() => this.#attachDue(session))
      .then(() => this.#arm(session))
      .catch((error: unknown) => {
        // A fault of this library, or of the platform's cryptography: another session may do better.
        console.error(error);
        session.end("not-attached");
      });
    this.#attaching.set(session, next);
    return next;
  }

  #arm(session: Session): void {
    const { clock, timers } = this.#parts;
    this.#renewals.get(session)?.();
    if (session.hasEnded || this.#isReplaced(session)) return;
    const due = session.leases.nextDeadline(clock.unixMs());
    const cancel = timers.at(Math.max(due, clock.now() + SHORTEST_PAUSE), () => void this.#attach(session));
    this.#renewals.set(session, cancel);
  }

  #isReplaced(session: Session): boolean {
    return this.#ready !== undefined && this.#ready.serial > session.serial;
  }

  /** Detaches the inboxes whose contact was removed or blocked, or whose day is over. */
  async #detach(session: Session): Promise<void> {
    const { clock, profile } = this.#parts;
    const inboxes = session.leases.update(profile.contacts, clock.now(), clock.unixMs());
    if (inboxes.length > 0) await session.request({ type: "detach", inboxes });
  }

  async #attachDue(session: Session): Promise<void> {
    const { clock } = this.#parts;
    void this.#detach(session);
    // An outdated lease is due again at once, with a higher `seq`; `Leases` bounds how often.
    for (;;) {
      const due = await session.leases.due(clock.now(), clock.unixMs());
      if (due.length === 0 || session.hasEnded) return;
      const batches = Array.from({ length: Math.ceil(due.length / ATTACH_BATCH) }, (_, at) =>
        due.slice(at * ATTACH_BATCH, (at + 1) * ATTACH_BATCH),
      );
      await Promise.all(batches.map((batch) => this.#attachBatch(session, batch)));
    }
  }

  async #attachBatch(session: Session, batch: readonly Attachment[]): Promise<void> {
    const { clock, events } = this.#parts;
    const inboxes = batch.map(({ lease, proof }) => ({ lease: toBase64url(lease), proof: toBase64url(proof) }));
    const outcome = await session.request({ type: "attach", inboxes });
    const ttl = outcome.ok && typeof outcome.reply.ttl === "number" ? outcome.reply.ttl * 1000 : 0;
    const refused: { readonly isRenewal: boolean; readonly isBusy: boolean }[] = [];
    for (const [index, { slot, isRenewal }] of batch.entries()) {
      const rejection = await rejectionOf(outcome, index, session, slot);
      const isReported = this.#ready === session;
      if (rejection?.type === "busy" || rejection?.type === "unavailable") {
        refused.push({ isRenewal, isBusy: rejection.type === "busy" });
      }
      if (rejection === undefined) {
        const contact = session.leases.attached(slot, ttl, clock.now());
        if (contact !== undefined && isReported) events.reachable(contact);
      } else {
        const contact = session.leases.rejected(slot, rejection, clock.now(), clock.unixMs());
        const reason = rejection.type === "busy" ? "unavailable" : rejection.type;
        if (contact !== undefined) events.rejected(contact, reason);
      }
    }
    if (!this.#staysAfter(session, refused)) session.end("not-attached");
  }

  /** Whether a session stays after a response with these refusals. A session that still attaches decides later. */
  #staysAfter(
    session: Session,
    refused: readonly { readonly isRenewal: boolean; readonly isBusy: boolean }[],
  ): boolean {
    if (refused.length > 0) this.#unavailable.add(session);
    if (this.#ready !== session) return true;
    const refusals = this.#refusals.get(session) ?? new Refusals();
    this.#refusals.set(session, refusals);
    if (refused.length === 0) {
      refusals.handleAttached();
      return true;
    }
    return refusals.handleRefused({
      isPartial: session.leases.isAnyServed(this.#parts.clock.unixMs()),
      hasNew: refused.some(({ isRenewal }) => !isRenewal),
      isTemporary: refused.every(({ isBusy }) => isBusy),
    });
  }
}

async function rejectionOf(
  outcome: Outcome,
  index: number,
  session: Session,
  slot: SlotId,
): Promise<Rejection | undefined> {
  const isBusy = (code: unknown) => code === "congested" || code === "rate_limited";
  if (!outcome.ok) return { type: isBusy(outcome.code) ? "busy" : "unavailable" };
  const rejected = Array.isArray(outcome.reply.rejected) ? (outcome.reply.rejected as Json[]) : [];
  const rejection = rejected.find((item) => item?.index === index);
  if (rejection === undefined) return undefined;
  if (rejection.code !== "bad_lease") return { type: isBusy(rejection.code) ? "busy" : "unavailable" };
  const bytes = fromBase64url(rejection.lease);
  const newer = bytes && (await decodeLease(bytes));
  const own = session.leases.inboxOf(slot);
  const isOwn = newer !== undefined && own !== undefined && toBase64url(newer.inbox) === toBase64url(own);
  return isOwn ? { type: "outdated", seq: newer.seq } : { type: "invalid" };
}

/** Anything else is a fault, which must not end the search for ever. */
function discoverError(error: unknown): DiscoverError {
  if (error instanceof DiscoverError) return error;
  console.error(error);
  return new DiscoverError([{ source: "client", result: String(error) }]);
}

/** The pause after `attempts` failures, with jitter. */
function jittered([first, longest]: readonly [number, number], attempts: number): number {
  return Math.min(first * 2 ** attempts * (1 + Math.random()), longest);
}
