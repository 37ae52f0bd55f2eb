/** One call, as the page shows it. */
import type { Call, CallEvents, ContactId, EndReason, Step } from "@chappe/client";
import { batch, type Signal, signal } from "@preact/signals-core";

export type Stage = "incoming" | "calling" | "ringing" | "connecting" | "connected" | "reconnecting" | "ended";

/** Why a call did not come about, apart from what the other side and the network did. */
export type CallFault = "no-relay" | "not-of-the-profile" | "busy-here" | "not-connected" | "refused" | "failed";

/** The last steps that are kept: a call has about twenty, and a contact can cause more. */
const MAX_STEPS = 100;

export class ActiveCall {
  readonly contact: ContactId;
  readonly isCaller: boolean;
  /** `Date.now()` of the click or the ring. */
  readonly startedAt = Date.now();
  readonly stage: Signal<Stage>;
  readonly end: Signal<EndReason | CallFault | undefined> = signal(undefined);
  /** An attempt to reach the contact has failed. It is tried again. */
  readonly isUnreached: Signal<boolean> = signal(false);
  /** Answering needs leave to show this device's address, as no relay is there. */
  readonly needsDirect: Signal<boolean> = signal(false);
  readonly steps: Signal<readonly Step[]> = signal([]);
  readonly quality: Signal<Call["quality"]> = signal(undefined);
  readonly route: Signal<Call["route"]> = signal(undefined);
  readonly remoteMedia: Signal<Call["remoteMedia"]> = signal({ sound: false, camera: false, screen: false });
  /** The network carries only sound for now. */
  readonly isVideoPaused: Signal<boolean> = signal(false);
  /** Each line of the other side by itself: an element waits for all tracks of its stream. */
  readonly sound: Signal<MediaStream | undefined> = signal(undefined);
  readonly camera: Signal<MediaStream | undefined> = signal(undefined);
  readonly screen: Signal<MediaStream | undefined> = signal(undefined);
  readonly connectedAt: Signal<number | undefined> = signal(undefined);
  readonly reconnectingSince: Signal<number | undefined> = signal(undefined);
  /** `undefined` until it is placed. */
  call: Call | undefined;
  /** `Date.now()` of the end. */
  endedAt: number | undefined;

  constructor(contact: ContactId, isCaller: boolean) {
    this.contact = contact;
    this.isCaller = isCaller;
    this.stage = signal(isCaller ? "calling" : "incoming");
  }

  get isOver(): boolean {
    return this.stage.value === "ended";
  }

  /** Milliseconds of the talk so far. */
  duration(now: number): number {
    return this.connectedAt.value === undefined ? 0 : Math.max(0, now - this.connectedAt.value);
  }

  /** Shows what happens to this call. */
  follow(call: Call): void {
    this.call = call;
    const on = <Name extends keyof CallEvents>(name: Name, handle: (detail: CallEvents[Name]) => void) =>
      call.addEventListener(name, ({ detail }) => batch(() => handle(detail)));
    on("ringing", () => {
      this.isUnreached.value = false;
      if (this.stage.value === "calling") this.stage.value = "ringing";
    });
    on("notreached", () => {
      this.isUnreached.value = true;
    });
    on("connected", () => {
      this.connectedAt.value ??= call.connectedAt ?? Date.now();
      this.reconnectingSince.value = undefined;
      this.stage.value = "connected";
    });
    on("reconnecting", () => {
      this.reconnectingSince.value ??= Date.now();
      this.stage.value = "reconnecting";
    });
    on("track", ({ line, track }) => {
      this[line].value = new MediaStream([track]);
    });
    on("step", (step) => {
      this.steps.value = [...this.steps.value, step].slice(-MAX_STEPS);
    });
    on("quality", () => {
      this.quality.value = call.quality;
    });
    on("remotemedia", () => {
      this.remoteMedia.value = call.remoteMedia;
    });
    on("videopaused", ({ isPaused }) => {
      this.isVideoPaused.value = isPaused;
    });
    on("route", () => {
      this.route.value = call.route;
    });
    on("ended", ({ reason }) => this.finish(reason));
  }

  /** Takes up the call in the page that answers. */
  accepting(): void {
    if (this.stage.value === "incoming") this.stage.value = "connecting";
  }

  finish(reason: EndReason | CallFault): void {
    if (this.isOver) return;
    this.endedAt = Date.now();
    batch(() => {
      this.end.value = reason;
      this.stage.value = "ended";
      this.reconnectingSince.value = undefined;
    });
  }
}
