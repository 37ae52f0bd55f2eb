/** Calls: the app's actions, the peers' messages, and the outputs of the state machine. */
import type { Attaching } from "./attaching.js";
import { randomBytes, toBase64url } from "./bytes.js";
import { type CallInput, type CallOutput, type CallState, CallStateError, Calls, type EndReason } from "./call.js";
import { CallRecord, type Side } from "./call-record.js";
import type { Clock, Timers } from "./clock.js";
import {
  addressText,
  type Contact,
  type ContactId,
  pairingAfter,
  pairingInUse,
  peerAddress,
  sealingSecret,
} from "./contact.js";
import { FinishedCalls } from "./finished-calls.js";
import { lookUp } from "./lookup.js";
import {
  FRESH,
  type Ice,
  type Json,
  MAX_SDP,
  type Offer,
  parseObject,
  readAnswer,
  readIce,
  readOffer,
} from "./messages.js";
import type { NegotiationOutput } from "./negotiation.js";
import type { NodeFinder } from "./node-finder.js";
import { kindOf, type MediaStates, type OutboxMessage } from "./outbox.js";
import type { Profile } from "./profile.js";
import { CALL_KINDS, type CallId, type CallKind, callIdOf, type Envelope, open, parseEnvelope } from "./seal.js";
import type { Outcome, Session } from "./session.js";
import { type CallActions, SignalledCall, type Step } from "./signalled-call.js";
import type { X25519KeyPair } from "./x25519.js";

/** How long an unreachable contact is retried, in milliseconds. */
const PATIENCE = 10_000;
/** When a ringing callee is first looked up again, and the longest pause between lookups, in milliseconds. */
const FIRST_RECHECK = 500;
const RECHECK = 3_000;
/** The most records: the active call, and others whose end is still being sent. */
const MAX_RECORDS = 16;
/** The most records with one contact, so that no contact can fill the table with calls that are rejected. */
const MAX_RECORDS_OF_A_CONTACT = 4;

/** The messages of the outputs that send one. */
const FIRST_MESSAGES = {
  send_offer: { type: "offer" },
  send_answer: { type: "answer" },
  send_reject: { type: "reject", isBusy: false },
} as const;

/** An action on a call failed. Nothing was sent. */
export class CallActionError extends Error {
  override readonly name = "CallActionError";
  constructor(readonly code: "full" | "too-long" | "no-contact") {
    super(
      {
        full: "too much is waiting to be sent",
        "too-long": "the session description is too long",
        "no-contact": "there is no such contact",
      }[code],
    );
  }
}

/** What the driver needs. */
export interface CallDriverParts {
  readonly profile: Profile;
  readonly finder: NodeFinder;
  readonly clock: Clock;
  readonly timers: Timers;
  attaching(): Attaching;
  /** A contact calls, or comes back into the call `rejoins` with a new one. */
  onIncoming(call: SignalledCall, contact: Contact, rejoins: CallId | undefined): void;
  /** The contact has stored this pairing, or has shared nodes. */
  onLearned(change: Promise<Contact>): void;
}

/** The calls of a running client. */
export class CallDriver implements CallActions {
  readonly #parts: CallDriverParts;
  readonly #calls = new Calls();
  readonly #records = new Map<CallId, CallRecord>();
  readonly #handles = new Map<CallId, SignalledCall>();
  readonly #finished = new FinishedCalls();
  #cancelTimer: (() => void) | undefined;

  constructor(parts: CallDriverParts) {
    this.#parts = parts;
  }

  /** Calls a contact. */
  async place(contactId: ContactId, offer: string, rejoins: CallId | undefined): Promise<SignalledCall> {
    const { profile, clock } = this.#parts;
    if (offer.length > MAX_SDP) throw new CallActionError("too-long");
    const contact = profile.contact(contactId);
    if (contact === undefined) throw new CallActionError("no-contact");
    const call = newCallId();
    const side: Side = { role: "caller", offer, rejoins, lease: undefined, offeredTo: undefined, recheckAt: undefined };
    const record = await CallRecord.create(call, contact, pairingInUse(contact), side, undefined, clock.now());
    if (this.#records.size >= MAX_RECORDS) throw new CallActionError("full");
    const outputs = this.#calls.handle(call, { type: "place", contact: contactId, rejoins }, clock.now());
    const handle = new SignalledCall(call, contactId, undefined, this);
    this.#records.set(call, record);
    this.#handles.set(call, handle);
    // The callee's answer arrives at the inbox of this contact.
    void this.#parts.attaching().attachNow(contactId);
    this.#perform(outputs);
    return handle;
  }

  state(call: CallId): CallState | "ended" {
    return this.#calls.active?.call === call ? this.#calls.state : "ended";
  }

  input(call: CallId, input: CallInput): void {
    this.#perform(this.#calls.handle(call, input, this.#parts.clock.now()));
  }

  accept(call: CallId, sdp: string): void {
    if (sdp.length > MAX_SDP) throw new CallActionError("too-long");
    const side = this.#active(call)?.side;
    if (side?.role !== "callee") throw new CallStateError("out-of-turn");
    // The first answer stands: it may already be sent.
    side.answer ??= sdp;
    this.input(call, { type: "accept" });
  }

  sendCandidates(call: CallId, candidates: readonly string[], round: number): void {
    const record = this.#active(call);
    if (record === undefined) throw new CallStateError("out-of-turn");
    if (candidates.length === 0) return;
    if (!record.outbox.push({ type: "ice", round, candidates })) throw new CallActionError("full");
    this.#pump(record);
  }

  tellMedia(call: CallId, media: MediaStates): boolean {
    const record = this.#active(call);
    if (!record?.outbox.push({ type: "ice", round: record.negotiation.round, candidates: [], media })) return false;
    this.#pump(record);
    return true;
  }

  renegotiate(call: CallId, sdp: string): number {
    if (sdp.length > MAX_SDP) throw new CallActionError("too-long");
    const record = this.#answered(call);
    this.#performNegotiation(record, record.negotiation.renegotiate(sdp, this.#parts.clock.now()));
    return record.negotiation.round;
  }

  answerRenegotiation(call: CallId, sdp: string, round: number): void {
    if (sdp.length > MAX_SDP) throw new CallActionError("too-long");
    const record = this.#answered(call);
    this.#performNegotiation(record, record.negotiation.answer(round, sdp));
  }

  round(call: CallId): number {
    return this.#records.get(call)?.negotiation.round ?? 0;
  }

  isAnswerDue(call: CallId): boolean {
    return this.#records.get(call)?.negotiation.isAnswerDue ?? false;
  }

  #performNegotiation(record: CallRecord, outputs: readonly NegotiationOutput[]): void {
    const handle = this.#handles.get(record.call);
    for (const output of outputs) {
      switch (output.type) {
        case "send":
          this.#queue(record, output.message);
          break;
        case "offer":
        case "answer": {
          const { type, round, sdp } = output;
          const mustRollBack = output.type === "offer" && output.rollBack;
          handle?.emit("description", { description: { type, sdp }, round, mustRollBack });
          break;
        }
        case "candidates":
        case "unanswered":
          handle?.emit(output.type, output as never);
          break;
        case "refused":
          break;
      }
    }
    this.#arm();
  }

  /** Handles a message of a node. */
  async handleMessage(session: Session, message: Json): Promise<void> {
    const kind = CALL_KINDS.find((known) => known === message.type);
    const envelope = parseEnvelope(message.payload);
    if (kind === undefined || envelope === undefined || typeof message.to !== "string") return;
    const owner = session.leases.owner(message.to);
    const contact = owner && this.#parts.profile.contact(owner.contact);
    const pairing = contact?.pairings.find((known) => known.id === owner?.pairing);
    if (contact === undefined || pairing === undefined || contact.isBlocked) return;
    const record = this.#records.get(envelope.call);
    if (record === undefined) {
      if (kind === "call_offer") await this.#handleNewOffer(session, message.to, contact, pairing, envelope);
      return;
    }
    if (record.contact.id !== contact.id || record.pairing.id !== pairing.id) return;
    const inbox = message.to;
    const keys = [...this.#parts.attaching().sessions].flatMap((other) => other.leases.keys(inbox));
    const text = await record.open(envelope, kind, keys);
    if (text === undefined) return;
    this.#learn(contact, pairing.id);
    this.#step(record, session, "received", kind);
    this.#handleOpened(record, kind, text);
  }

  #handleOpened(record: CallRecord, kind: CallKind, text: string): void {
    const { call } = record;
    switch (kind) {
      case "call_offer":
        if (!record.isCaller) this.#handleOfferAgain(record, readOffer(text));
        break;
      case "call_answer":
        if (record.isCaller) this.#handleAnswer(record, text);
        break;
      case "call_ice": {
        const ice = readIce(text);
        if (ice !== undefined && !record.isOver) this.#handleIce(record, ice);
        break;
      }
      case "call_reject":
        if (record.isCaller) {
          const { busy, tooOften } = parseObject(text) ?? {};
          this.#tryInput(call, { type: "rejected", isBusy: busy === true, isTooOften: tooOften === true });
        }
        break;
      case "call_hangup":
        this.#tryInput(call, { type: "peer_hangup" });
        break;
    }
  }

  async #handleNewOffer(
    session: Session,
    inbox: string,
    contact: Contact,
    pairing: CallRecord["pairing"],
    envelope: Envelope,
  ): Promise<void> {
    const { clock, profile } = this.#parts;
    const opened = await openOffer(envelope, contact, pairing, session.leases.keys(inbox));
    if (opened === undefined) return;
    const { offer, key } = opened;
    const { call } = envelope;
    this.#learn(contact, pairing.id);
    const side: Side = { role: "callee", openedWith: key, answer: undefined };
    const record = await CallRecord.create(call, contact, pairing, side, offer.replyKey, clock.now());
    record.markSeen(envelope.counter);
    const ofContact = [...this.#records.values()].filter((other) => other.contact.id === contact.id).length;
    // Nothing is awaited from here on: another session may have brought the same offer. Checked after opening: a stranger must not learn from the response, nor fill a table.
    if (
      !this.#isFresh(offer) ||
      this.#finished.refuses(call, contact.id, clock.now()) ||
      this.#records.has(call) ||
      this.#records.size >= MAX_RECORDS ||
      ofContact >= MAX_RECORDS_OF_A_CONTACT
    ) {
      return;
    }
    const outputs = this.#calls.handle(
      call,
      { type: "offered", contact: contact.id, rejoins: offer.rejoins },
      clock.now(),
    );
    const isWanted = outputs.some((output) => output.call === call);
    if (!isWanted) {
      // It lost to this side's own call. A replay of it must not ring later.
      this.#finished.insert(call, contact.id, clock.now());
    } else {
      this.#records.set(call, record);
      this.#step(record, session, "received", "call_offer");
    }
    const rings = outputs.some((output) => output.type === "ring" || output.type === "rejoin");
    if (rings) {
      this.#handles.set(call, new SignalledCall(call, contact.id, offer.sdp, this));
      // Only for an offer that rings, because a referral is stored.
      this.#learnNodes(contact.id, offer.nodes);
    }
    this.#perform(outputs, profile.contact(contact.id) ?? contact, offer.rejoins);
  }

  #handleOfferAgain(record: CallRecord, offer: Offer | undefined): void {
    if (record.isOver) {
      // The caller has missed the end of the call.
      this.#queue(record, { type: "hangup" });
    } else if (offer !== undefined && this.#isFresh(offer)) {
      // The caller may be at another node now, so an answer in flight may go to the old one.
      record.forgetLocation();
      // A message in flight goes on: each would leave a lookup behind, and a contact decides how often it repeats its offer.
      record.outbox.endPause();
      this.#tryInput(record.call, { type: "offered", contact: record.contact.id, rejoins: offer.rejoins });
    }
  }

  #handleAnswer(record: CallRecord, text: string): void {
    const answer = readAnswer(text);
    // After a duplicate, the first answer stands.
    if (answer === undefined || record.isOver || record.peerKey !== undefined) return;
    record.peerKey = answer.replyKey;
    if (record.side.role === "caller") record.side.recheckAt = undefined;
    this.#learnNodes(record.contact.id, answer.nodes);
    const wasOutgoing = this.#calls.state === "outgoing";
    this.#tryInput(record.call, { type: "answered" });
    if (wasOutgoing) this.#handles.get(record.call)?.emit("answered", { sdp: answer.sdp });
  }

  #handleIce(record: CallRecord, ice: Ice): void {
    // A description that comes before the call is answered is dropped; candidates are kept.
    const isAnswered = !["outgoing", "incoming", "rejoining"].includes(this.state(record.call));
    const received = isAnswered ? ice : { ...ice, description: undefined };
    this.#performNegotiation(record, record.negotiation.receive(received, this.#parts.clock.now()));
    if (ice.media !== undefined) this.#handles.get(record.call)?.emit("media", ice.media);
  }

  /** A session is ready: what was not delivered is sent on it. */
  handleReady(): void {
    for (const record of this.#records.values()) {
      record.outbox.retryNow();
      // The answer may have been lost with the old session. A repeated offer makes the callee send it again.
      if (record.side.role === "caller" && record.side.offeredTo !== undefined && record.side.recheckAt !== undefined) {
        record.forgetLocation();
        record.outbox.push({ type: "offer" });
      }
      this.#pump(record);
    }
  }

  /** Ends the active call, and waits until its end is sent, for at most `patience` milliseconds. */
  async shutdown(patience: number): Promise<void> {
    const { clock, timers } = this.#parts;
    this.#perform(this.#calls.shutdown(clock.now()));
    const until = clock.now() + patience;
    while (this.#records.size > 0 && clock.now() < until) {
      if ([...this.#records.values()].every((record) => record.outbox.isEmpty)) break;
      await timers.until(Math.min(until, clock.now() + 50));
    }
    this.#cancelTimer?.();
  }

  #active(call: CallId): CallRecord | undefined {
    const record = this.#records.get(call);
    return record?.isOver ? undefined : record;
  }

  #answered(call: CallId): CallRecord {
    const record = this.#active(call);
    const state = this.state(call);
    const isAnswered = state === "connecting" || state === "connected" || state === "reconnecting";
    if (record === undefined || !isAnswered) throw new CallStateError("out-of-turn");
    return record;
  }

  /** Applies an input that may be invalid in the call's state. If it is, it is ignored. */
  #tryInput(call: CallId, input: CallInput): void {
    try {
      this.input(call, input);
    } catch (error) {
      if (!(error instanceof CallStateError)) throw error;
    }
  }

  #perform(outputs: readonly CallOutput[], contact?: Contact, rejoins?: CallId): void {
    const now = this.#parts.clock.now();
    for (const output of outputs) {
      const record = this.#records.get(output.call);
      const handle = this.#handles.get(output.call);
      switch (output.type) {
        case "send_offer":
        case "send_answer":
        case "send_reject":
          if (record !== undefined) this.#queue(record, FIRST_MESSAGES[output.type]);
          break;
        case "send_busy":
        case "send_too_often":
          record?.end(now);
          if (record !== undefined) {
            // Earlier versions know only `busy`.
            this.#queue(record, { type: "reject", isBusy: true, isTooOften: output.type === "send_too_often" });
          }
          break;
        case "send_hangup":
          if (record !== undefined && this.state(output.call) === "ended") record.end(now);
          if (record?.mayBeKnown) this.#queue(record, { type: "hangup" });
          break;
        case "ring":
        case "rejoin":
          if (handle !== undefined && contact !== undefined) {
            this.#parts.onIncoming(handle, contact, output.type === "rejoin" ? rejoins : undefined);
          }
          break;
        case "stop_gathering":
          handle?.emit("stopgathering", undefined);
          break;
        case "end":
          this.#end(output.call, output.reason);
          break;
      }
    }
    this.#arm();
  }

  #end(call: CallId, reason: EndReason): void {
    const record = this.#records.get(call);
    record?.outbox.keepOnlyEnd();
    record?.end(this.#parts.clock.now());
    this.#handles.get(call)?.emit("ended", { reason });
    this.#handles.delete(call);
    if (record !== undefined) this.#finishIfDone(record);
  }

  #finishIfDone(record: CallRecord): void {
    if (record.isOver && record.outbox.isEmpty) this.#finish(record);
  }

  /** Removes a call's record. If the call was received, remembers that it is over: its offer may be replayed. */
  #finish(record: CallRecord): void {
    this.#records.delete(record.call);
    if (!record.isCaller) this.#finished.insert(record.call, record.contact.id, this.#parts.clock.now());
  }

  #isFresh(offer: Offer): boolean {
    return Math.abs(this.#parts.clock.unixMs() / 1000 - offer.sentAt) <= FRESH;
  }

  #queue(record: CallRecord, message: OutboxMessage): void {
    record.outbox.push(message);
    this.#pump(record);
  }

  /** Sends what waits, one message at a time. */
  #pump(record: CallRecord): void {
    if (record.isPumping) return;
    record.isPumping = true;
    void this.#send(record).finally(() => {
      record.isPumping = false;
      this.#finishIfDone(record);
      this.#arm();
    });
  }

  async #send(record: CallRecord): Promise<void> {
    const { clock, timers } = this.#parts;
    for (let message = record.outbox.first; message !== undefined; message = record.outbox.first) {
      if (!this.#records.has(record.call)) return;
      const session = this.#parts.attaching().ready;
      // Without a session, `handleReady` continues.
      if (session === undefined || session.hasEnded) return;
      if (record.outbox.retryAt > clock.now()) {
        await timers.until(record.outbox.retryAt, record.outbox.interruption());
        continue;
      }
      const signal = record.outbox.start();
      const interrupted = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()));
      const recipient = record.recipient(message);
      const sent =
        recipient === undefined
          ? this.#locate(record, session, message, signal)
          : this.#deliver(record, session, message, recipient, signal);
      await Promise.race([sent, interrupted]);
    }
  }

  /** Looks the peer up, to send the first message of the outbox to it. */
  async #locate(record: CallRecord, session: Session, message: OutboxMessage, signal: AbortSignal): Promise<void> {
    this.#step(record, session, "resolving", undefined);
    const found = await lookUp(session, record.pairing, this.#parts.clock.unixMs());
    if (signal.aborted) return;
    if (found.lease === undefined) {
      this.#undelivered(record, session, message, found.failure);
      return;
    }
    record.mustLookUp = false;
    if (record.side.role === "caller") record.side.lease = found.lease;
    this.#step(record, session, "resolved", undefined, toBase64url(found.lease.node));
  }

  async #deliver(
    record: CallRecord,
    session: Session,
    message: OutboxMessage,
    recipient: Uint8Array<ArrayBuffer>,
    signal: AbortSignal,
  ): Promise<void> {
    const { clock, profile } = this.#parts;
    const kind = kindOf(message);
    const describes = message.type === "offer" || message.type === "answer";
    let payload: string;
    let to: string;
    try {
      const nodes = describes ? this.#nodesToShare(session) : [];
      payload = await record.seal(message, recipient, profile.identity, nodes, clock.unixMs());
      to = addressText(await peerAddress(record.pairing, clock.unixMs() / 1000));
    } catch {
      this.#drop(record, message);
      return;
    }
    // The call may have ended meanwhile: an offer after its end would ring.
    if (signal.aborted) return;
    this.#step(record, session, "sent", kind);
    const outcome = await session.request({ type: kind, to, payload });
    if (signal.aborted) return;
    if (!outcome.ok) {
      this.#undelivered(record, session, message, outcome);
      return;
    }
    this.#step(record, session, "delivered", kind);
    const wasFirst = record.outbox.remove(message, true);
    if (wasFirst && message.type === "offer" && record.side.role === "caller" && !record.isOver) {
      const isFirstTime = record.side.offeredTo === undefined;
      record.side.offeredTo = recipient;
      // The answer may have been faster than the node's acknowledgement.
      if (record.peerKey !== undefined) return;
      record.side.recheckAt = clock.now() + FIRST_RECHECK;
      if (isFirstTime) this.#handles.get(record.call)?.emit("ringing", undefined);
    }
  }

  #undelivered(record: CallRecord, session: Session, message: OutboxMessage, outcome: Outcome): void {
    if (outcome.ok) return;
    const { clock, profile } = this.#parts;
    const { code } = outcome;
    if (code === "too_large" || code === "bad_message" || code === "unknown_type") {
      this.#drop(record, message);
      return;
    }
    record.forgetLocation();
    record.outbox.failed(message, clock.now(), outcome.isClosed);
    if (outcome.isClosed) return;
    this.#step(record, session, "failed", kindOf(message));
    const isUnreached = message.type === "offer" && record.side.role === "caller" && !record.side.offeredTo;
    if (!isUnreached || record.isOver) return;
    // The contact may not have stored every pairing, so the next attempt uses another one.
    const contact = profile.contact(record.contact.id);
    if (contact !== undefined) record.pairing = pairingAfter(contact, record.pairing);
    this.#handles.get(record.call)?.emit("notreached", { code });
    if (clock.now() - record.placedAt >= PATIENCE) this.#tryInput(record.call, { type: "undeliverable" });
  }

  /** Drops a message that cannot be delivered. A call cannot go on without its offer or answer. */
  #drop(record: CallRecord, message: OutboxMessage): void {
    record.outbox.remove(message, false);
    if (message.type === "offer") this.#tryInput(record.call, { type: "undeliverable" });
    if (message.type === "answer") this.#tryInput(record.call, { type: "hangup" });
  }

  /** Looks up whether the callee of a ringing call has moved to another node or session. */
  async #recheck(record: CallRecord): Promise<void> {
    const { clock } = this.#parts;
    const { side } = record;
    if (side.role !== "caller") return;
    const pause = Math.min(Math.max(clock.now() - record.placedAt, FIRST_RECHECK), RECHECK);
    side.recheckAt = clock.now() + pause;
    const session = this.#parts.attaching().ready;
    if (session === undefined) return;
    const { lease } = await lookUp(session, record.pairing, clock.unixMs());
    const isStillRinging = !record.isOver && side.recheckAt !== undefined;
    if (lease === undefined || !isStillRinging) return;
    const hasMoved = side.offeredTo === undefined || toBase64url(side.offeredTo) !== toBase64url(lease.sessionKey);
    if (!hasMoved) return;
    side.lease = lease;
    record.mustLookUp = false;
    this.#queue(record, { type: "offer" });
  }

  #nodesToShare(session: Session): readonly string[] {
    const { finder } = this.#parts;
    const here = `${session.connection.url}#${session.connection.nodeId}`;
    const others = finder.remembered().filter((text) => !text.endsWith(`#${session.connection.nodeId}`));
    return finder.usableReferrals([here, ...others]);
  }

  #learn(contact: Contact, pairing: string): void {
    const index = contact.pairings.findIndex((known) => known.id === pairing);
    const isKnown = index < contact.inUse || (index === 0 && contact.isProved);
    if (!isKnown) this.#parts.onLearned(this.#parts.profile.confirm(contact.id, pairing));
  }

  #learnNodes(contact: ContactId, nodes: readonly string[]): void {
    const usable = this.#parts.finder.usableReferrals(nodes);
    const known = this.#parts.profile.contact(contact)?.nodes ?? [];
    if (usable.length === 0 || usable.join() === known.join()) return;
    this.#parts.onLearned(this.#parts.profile.setNodes(contact, usable));
  }

  #step(record: CallRecord, session: Session, kind: Step["kind"], message?: CallKind, peerNode?: string): void {
    const step = { at: this.#parts.clock.now(), node: session.connection.nodeId, kind, message, peerNode };
    this.#handles.get(record.call)?.emit("step", step);
  }

  /** Sets the timer to the next deadline of a call. */
  #arm(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    const deadlines = [this.#calls.pollTimeout()];
    for (const record of this.#records.values()) {
      const recheckAt = record.side.role === "caller" ? record.side.recheckAt : undefined;
      const renegotiateAt = record.isOver ? undefined : record.negotiation.pollTimeout();
      deadlines.push(record.forgetAt, recheckAt, renegotiateAt);
    }
    const next = Math.min(...deadlines.filter((at) => at !== undefined));
    if (Number.isFinite(next)) this.#cancelTimer = this.#parts.timers.at(next, () => this.#handleTime());
  }

  #handleTime(): void {
    const now = this.#parts.clock.now();
    for (const record of [...this.#records.values()]) {
      if (record.forgetAt !== undefined && record.forgetAt <= now) this.#finish(record);
      const recheckAt = record.side.role === "caller" ? record.side.recheckAt : undefined;
      if (recheckAt !== undefined && recheckAt <= now) void this.#recheck(record);
      if (!record.isOver) this.#performNegotiation(record, record.negotiation.handleTimeout(now));
    }
    this.#perform(this.#calls.handleTimeout(now));
  }
}

async function openOffer(
  envelope: Envelope,
  contact: Contact,
  pairing: CallRecord["pairing"],
  keys: readonly X25519KeyPair[],
): Promise<{ offer: Offer; key: X25519KeyPair } | undefined> {
  const secret = await sealingSecret(pairing);
  for (const key of keys) {
    const text = await open(envelope, secret, contact.identity, key, "to-callee", "call_offer");
    const offer = text === undefined ? undefined : readOffer(text);
    if (offer !== undefined) return { offer, key };
  }
  return undefined;
}

/** A random UUID of version 4. */
function newCallId(): CallId {
  const bytes = randomBytes(16);
  bytes[6] = ((bytes[6] as number) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80;
  return callIdOf(bytes);
}
