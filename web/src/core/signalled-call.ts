/** The app's handle of one call's signalling. Media is elsewhere: descriptions and candidates are texts here. */
import type { CallInput, CallState, EndReason } from "./call.js";
import type { ContactId } from "./contact.js";
import { TypedEventTarget } from "./events.js";
import type { ErrorCode } from "./messages.js";
import type { Description, MediaStates } from "./outbox.js";
import type { CallId, CallKind } from "./seal.js";

/** The events of a {@link SignalledCall}, with their `detail`. */
export interface SignalledCallEvents {
  /** The offer was delivered to the contact's client. */
  ringing: undefined;
  /** An attempt to deliver the offer has failed, with the node's error code if it gave one. It is retried for 10 s. */
  notreached: { readonly code: ErrorCode | undefined };
  /** The callee has answered with this description. */
  answered: { readonly sdp: string };
  /** Candidates of the other side; `round` is that of the description that they belong to. */
  candidates: { readonly candidates: readonly string[]; readonly round: number };
  /** A renegotiation. With `mustRollBack`, this side's own pending offer is void. */
  description: { readonly description: Description; readonly round: number; readonly mustRollBack: boolean };
  /** An own renegotiation has had no answer for 30 s. It is void: roll it back. */
  unanswered: { readonly round: number };
  /** What the other side sends on its media lines has changed. */
  media: MediaStates;
  /** The time for gathering candidates is over: proceed with those so far. */
  stopgathering: undefined;
  /** A message of this call has taken a step on its way. */
  step: Step;
  /** The call is over. */
  ended: { readonly reason: EndReason };
}

/** A step of a message on its way, for a timeline. */
export interface Step {
  /** Milliseconds of the client's clock. */
  readonly at: number;
  /** The id of this client's node. */
  readonly node: string;
  readonly kind: "resolving" | "resolved" | "sent" | "delivered" | "failed" | "received";
  /** The kind of message, if the step is of one. */
  readonly message: CallKind | undefined;
  /** The node of the other side, once it was looked up. */
  readonly peerNode: string | undefined;
}

/** What a call's handle asks of the client. */
export interface CallActions {
  state(call: CallId): CallState | "ended";
  input(call: CallId, input: CallInput): void;
  accept(call: CallId, sdp: string): void;
  sendCandidates(call: CallId, candidates: readonly string[], round: number): void;
  tellMedia(call: CallId, media: MediaStates): boolean;
  round(call: CallId): number;
  isAnswerDue(call: CallId): boolean;
  renegotiate(call: CallId, sdp: string): number;
  answerRenegotiation(call: CallId, sdp: string, round: number): void;
}

/** A call, placed or received. Throws `CallStateError` where its state does not allow an action. */
export class SignalledCall extends TypedEventTarget<SignalledCallEvents> {
  readonly id: CallId;
  readonly contact: ContactId;
  readonly isCaller: boolean;
  /** The caller's session description, in a call that was received. */
  readonly offer: string | undefined;
  readonly #actions: CallActions;

  /** @internal */
  constructor(id: CallId, contact: ContactId, offer: string | undefined, actions: CallActions) {
    super();
    this.id = id;
    this.contact = contact;
    this.isCaller = offer === undefined;
    this.offer = offer;
    this.#actions = actions;
  }

  /** The state of the call. */
  get state(): CallState | "ended" {
    return this.#actions.state(this.id);
  }

  /** The highest round of which a description was sent or received. */
  get round(): number {
    return this.#actions.round(this.id);
  }

  /** Whether the other side's offer of the current round waits for an answer. */
  get isAnswerDue(): boolean {
    return this.#actions.isAnswerDue(this.id);
  }

  /** Accepts an incoming call with this description. */
  accept(sdp: string): void {
    this.#actions.accept(this.id, sdp);
  }

  /** Declines an incoming call. Does nothing if it is over. */
  decline(): void {
    if (this.state !== "ended") this.#actions.input(this.id, { type: "decline" });
  }

  /** Ends the call. Does nothing if it is over. */
  hangUp(): void {
    if (this.state !== "ended") this.#actions.input(this.id, { type: "hangup" });
  }

  /** Sends candidates of a round to the other side: at most 64 at a time, 16 KiB in all. */
  sendCandidates(candidates: readonly string[], round = 0): void {
    this.#actions.sendCandidates(this.id, candidates, round);
  }

  /** Opens a round of renegotiation and returns its number. Throws `NegotiationError` while one is pending. */
  renegotiate(sdp: string): number {
    return this.#actions.renegotiate(this.id, sdp);
  }

  /** Answers the other side's offer of a round. Throws `NegotiationError` if a newer round has begun meanwhile. */
  answerRenegotiation(sdp: string, round: number): void {
    this.#actions.answerRenegotiation(this.id, sdp, round);
  }

  /**
   * Tells the other side what this one sends on its media lines, for example that the camera is off. Returns `false` if the
   * call is over, or its queue is full: tell it again.
   */
  tellMedia(media: MediaStates): boolean {
    return this.#actions.tellMedia(this.id, media);
  }

  /** Reports that media flows, or that it has stopped. A call whose media stays away ends after 30 s. */
  reportMedia(isFlowing: boolean): void {
    if (this.state !== "ended") this.#actions.input(this.id, { type: isFlowing ? "media_up" : "media_down" });
  }
}
