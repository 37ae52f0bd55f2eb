/**
 * The call state machine: `idle → outgoing | incoming | rejoining → connecting → connected → ended`.
 *
 * Pure: takes inputs and the time, returns outputs. One call is active at a time. If both sides call each other at
 * once, the call with the lower id wins. A contact that rings too often is told so.
 */
import type { ContactId } from "./contact.js";
import { RingLimiter } from "./ring-limiter.js";
import type { CallId } from "./seal.js";

/** How long a call rings, in milliseconds. */
export const RINGING = 60_000;
/** How long candidates are gathered once the call is answered, in milliseconds. */
export const GATHERING = 10_000;
/** How long media may take to connect, and to reconnect after a loss, in milliseconds. */
export const RECONNECT = 30_000;
/** How often the other side may replace a call by a new one, and within which time in milliseconds. */
const MAX_REJOINS = 5;
const REJOIN_WINDOW = 60_000;

/** The state of the active call. `rejoining`: the other side's device has come back into it, and the app has to answer. */
export type CallState = "idle" | "outgoing" | "incoming" | "rejoining" | "connecting" | "connected" | "reconnecting";

/**
 * Why a call is over.
 *
 * - `hung-up`, `peer-hung-up`: this side or the other side has hung up.
 * - `declined`, `busy`: the callee declined, or is in another call.
 * - `too-often`: the callee's device does not ring for this caller again so soon.
 * - `no-answer`: nobody answered within a minute.
 * - `offline`: the contact is not reachable at any node.
 * - `not-connected`, `lost`: media did not connect, or was lost and did not come back, within half a minute.
 * - `glare`: both sides called at once, and the other side's call won.
 * - `rejoined`: the other side's device came back into the call with a new one.
 * - `shutdown`: the client was closed.
 */
export type EndReason =
  | "hung-up"
  | "peer-hung-up"
  | "declined"
  | "busy"
  | "too-often"
  | "no-answer"
  | "offline"
  | "not-connected"
  | "lost"
  | "glare"
  | "rejoined"
  | "shutdown";

/** An input of the state machine. */
export type CallInput =
  | { readonly type: "place"; readonly contact: ContactId; readonly rejoins?: CallId | undefined }
  | { readonly type: "offered"; readonly contact: ContactId; readonly rejoins?: CallId | undefined }
  | { readonly type: "rejected"; readonly isBusy: boolean; readonly isTooOften?: boolean }
  | {
      readonly type:
        | "accept"
        | "decline"
        | "answered"
        | "peer_hangup"
        | "hangup"
        | "undeliverable"
        | "media_up"
        | "media_down";
    };

/** What the driver has to do, in order. */
export type CallOutput =
  | {
      readonly type:
        | "send_offer"
        | "ring"
        | "rejoin"
        | "send_answer"
        | "report_answer"
        | "send_busy"
        | "send_too_often"
        | "send_reject"
        | "send_hangup"
        | "stop_gathering";
      readonly call: CallId;
    }
  | { readonly type: "end"; readonly call: CallId; readonly reason: EndReason };

/** The input is not valid in this state. Nothing has changed. */
export class CallStateError extends Error {
  override readonly name = "CallStateError";
  constructor(readonly code: "busy" | "out-of-turn") {
    super(code === "busy" ? "another call is active" : "the call is in another state");
  }
}

type Phase =
  | { readonly name: "outgoing"; readonly until: number }
  | { readonly name: "incoming"; readonly until: number }
  | { readonly name: "rejoining"; readonly until: number }
  | { readonly name: "connecting"; readonly gatheringUntil: number | undefined; readonly until: number }
  | { readonly name: "connected"; readonly lostUntil: number | undefined };

interface Active {
  readonly call: CallId;
  readonly contact: ContactId;
  /** The call that this one replaces. */
  readonly rejoins: CallId | undefined;
  phase: Phase;
}

/** The active call, if there is one. */
export class Calls {
  #active: Active | undefined;
  readonly #rings = new RingLimiter();
  /** When the other side has replaced a call lately. */
  #rejoined: number[] = [];

  /** The state of the active call. */
  get state(): CallState {
    const phase = this.#active?.phase;
    if (phase === undefined) return "idle";
    return phase.name === "connected" && phase.lostUntil !== undefined ? "reconnecting" : phase.name;
  }

  /** The active call and its contact. */
  get active(): { readonly call: CallId; readonly contact: ContactId } | undefined {
    return this.#active && { call: this.#active.call, contact: this.#active.contact };
  }

  /** Applies an input to `call` and returns the outputs. Throws {@link CallStateError}. */
  handle(call: CallId, input: CallInput, now: number): CallOutput[] {
    if (input.type === "place") return this.#place(call, input.contact, input.rejoins, now);
    if (input.type === "offered") return this.#offered(call, input.contact, input.rejoins, now);
    const active = this.#active;
    if (active?.call !== call) throw new CallStateError("out-of-turn");
    const { phase } = active;
    const connecting: Phase = { name: "connecting", gatheringUntil: now + GATHERING, until: now + RECONNECT };
    const isAnswered = phase.name === "connecting" || phase.name === "connected";
    const isRinging = phase.name === "incoming" || phase.name === "rejoining";
    switch (input.type) {
      case "accept":
        if (!isRinging) break;
        active.phase = connecting;
        if (phase.name === "incoming") this.#rings.answered(active.contact);
        return [{ type: "send_answer", call }];
      case "answered":
        // After a first delivery that may have failed, the answer comes again.
        if (isAnswered) return [];
        if (phase.name !== "outgoing") break;
        active.phase = connecting;
        return [{ type: "report_answer", call }];
      case "decline":
        if (!isRinging) break;
        return this.#end("declined", [{ type: "send_reject", call }], now);
      case "rejected":
        if (phase.name !== "outgoing") break;
        return this.#end(input.isTooOften ? "too-often" : input.isBusy ? "busy" : "declined", [], now);
      case "undeliverable":
        if (phase.name !== "outgoing") break;
        return this.#end("offline", [], now);
      case "hangup":
        if (phase.name === "incoming") return this.#end("declined", [{ type: "send_reject", call }], now);
        return this.#end("hung-up", [{ type: "send_hangup", call }], now);
      case "peer_hangup":
        return this.#end("peer-hung-up", [], now);
      case "media_up":
        if (!isAnswered) break;
        active.phase = { name: "connected", lostUntil: undefined };
        return [];
      case "media_down":
        if (!isAnswered) break;
        if (phase.name === "connected" && phase.lostUntil === undefined) {
          active.phase = { name: "connected", lostUntil: now + RECONNECT };
        }
        return [];
    }
    throw new CallStateError("out-of-turn");
  }

  /** When to call {@link handleTimeout}. */
  pollTimeout(): number | undefined {
    const phase = this.#active?.phase;
    switch (phase?.name) {
      case "outgoing":
      case "incoming":
      case "rejoining":
        return phase.until;
      case "connecting":
        return phase.gatheringUntil ?? phase.until;
      case "connected":
        return phase.lostUntil;
      default:
        return undefined;
    }
  }

  /** Applies the deadlines that have passed at `now`. */
  handleTimeout(now: number): CallOutput[] {
    const due = this.pollTimeout();
    const active = this.#active;
    if (active === undefined || due === undefined || due > now) return [];
    const { call, phase } = active;
    const hangup: CallOutput[] = [{ type: "send_hangup", call }];
    switch (phase.name) {
      case "outgoing":
        return this.#end("no-answer", hangup, now);
      case "incoming":
        // The caller has the same deadline and ends the call by itself.
        return this.#end("no-answer", [], now);
      case "rejoining":
        return this.#end("not-connected", hangup, now);
      case "connecting":
        if (phase.gatheringUntil === undefined) return this.#end("not-connected", hangup, now);
        active.phase = { ...phase, gatheringUntil: undefined };
        return [{ type: "stop_gathering", call }];
      case "connected":
        return this.#end("lost", hangup, now);
    }
  }

  /** Ends the active call because the client stops. */
  shutdown(now: number): CallOutput[] {
    const call = this.#active?.call;
    return call === undefined ? [] : this.#end("shutdown", [{ type: "send_hangup", call }], now);
  }

  #place(call: CallId, contact: ContactId, rejoins: CallId | undefined, now: number): CallOutput[] {
    const ringing = this.#active;
    const outputs: CallOutput[] = [];
    if (ringing?.phase.name === "incoming") {
      outputs.push(...this.#end("declined", [{ type: "send_reject", call: ringing.call }], now));
    } else if (ringing !== undefined) {
      throw new CallStateError("busy");
    }
    this.#active = { call, contact, rejoins, phase: { name: "outgoing", until: now + RINGING } };
    return [...outputs, { type: "send_offer", call }];
  }

  #offered(call: CallId, contact: ContactId, rejoins: CallId | undefined, now: number): CallOutput[] {
    const active = this.#active;
    // A repeated offer: the caller does not know whether the first one or the answer has arrived.
    if (active?.call === call) {
      const isAnswered = active.phase.name === "connecting" || active.phase.name === "connected";
      return isAnswered ? [{ type: "send_answer", call }] : [];
    }
    const isOwnRejoin = active !== undefined && rejoins !== undefined && active.call === rejoins;
    if (active?.contact === contact && active.phase.name === "outgoing" && !isOwnRejoin) {
      // Glare. The other side compares the same two ids and ends its own call. If both have lost the same call, the
      // winner does not ring.
      if (active.call < call) return [];
      const lost = rejoins === active.rejoins ? rejoins : undefined;
      return [{ type: "end", call: active.call, reason: "glare" }, this.#begin(call, contact, lost, now)];
    }
    if (rejoins !== undefined) {
      const isReplaceable = active?.contact === contact && isPastRinging(active.phase) && isNamed(active, rejoins);
      if (!isReplaceable || !this.#mayRejoin(now)) return [{ type: "send_hangup", call }];
      return [{ type: "end", call: active.call, reason: "rejoined" }, this.#begin(call, contact, rejoins, now)];
    }
    if (active !== undefined) return [{ type: "send_busy", call }];
    if (!this.#rings.tryRing(contact, now)) return [{ type: "send_too_often", call }];
    return [this.#begin(call, contact, undefined, now)];
  }

  #begin(call: CallId, contact: ContactId, rejoins: CallId | undefined, now: number): CallOutput {
    const phase: Phase = rejoins
      ? { name: "rejoining", until: now + RECONNECT }
      : { name: "incoming", until: now + RINGING };
    this.#active = { call, contact, rejoins, phase };
    return { type: rejoins ? "rejoin" : "ring", call };
  }

  /** Whether the other side may replace a call now. Records it if so. */
  #mayRejoin(now: number): boolean {
    this.#rejoined = this.#rejoined.filter((at) => now - at < REJOIN_WINDOW);
    if (this.#rejoined.length >= MAX_REJOINS) return false;
    this.#rejoined.push(now);
    return true;
  }

  #end(reason: EndReason, first: CallOutput[], now: number): CallOutput[] {
    const active = this.#active;
    if (active === undefined) throw new CallStateError("out-of-turn");
    this.#active = undefined;
    if (active.phase.name === "incoming") this.#rings.unanswered(active.contact, now);
    return [...first, { type: "end", call: active.call, reason }];
  }
}

/**
 * Whether a device that comes back into `lost` means the active call. Until media flows in a call that was itself placed to
 * come back, that device may have been loaded again before it knew that its offer had arrived.
 */
function isNamed({ call, rejoins, phase }: Active, lost: CallId): boolean {
  return call === lost || (rejoins === lost && phase.name !== "connected");
}

function isPastRinging({ name }: Phase): boolean {
  return name === "rejoining" || name === "connecting" || name === "connected";
}
