/** What a call reports, and what it is given. */
import type { EndReason } from "../core/call.js";
import type { IceConfiguration } from "../core/client.js";
import type { Clock, Timers } from "../core/clock.js";
import type { ErrorCode } from "../core/messages.js";
import type { Step } from "../core/signalled-call.js";
import type { Capture } from "./capture.js";
import type { LocalTracks, MediaLine } from "./media-profile.js";
import type { Quality, QualityThresholds } from "./quality.js";
import type { RemoteMedia } from "./remote-media.js";
import type { Route } from "./statistics.js";

/** The events of a `Call`, with their `detail`. */
export interface CallEvents {
  /** The contact's device rings. */
  ringing: undefined;
  /** The contact was not reached at the first attempt. It is tried for ten seconds. */
  notreached: { readonly code: ErrorCode | undefined };
  /** Media flows, for the first time or again. */
  connected: undefined;
  /** Media has stopped; the call ends after half a minute without it. */
  reconnecting: undefined;
  /** The quality has changed. It is judged every three seconds; two of the last three windows have to agree. */
  quality: { readonly quality: Quality };
  /** The path of the media has changed. */
  route: Route;
  /** The other side has turned its sound, camera or screen on or off. */
  remotemedia: RemoteMedia;
  /** This side's camera and screen are paused because the bandwidth suffices only for sound, or are sent again. */
  videopaused: { readonly isPaused: boolean };
  /** A track of the other side. */
  track: { readonly line: MediaLine; readonly track: MediaStreamTrack };
  /** A message of this call has taken a step on its way. */
  step: Step;
  /** The call is over. */
  ended: { readonly reason: EndReason };
}

/** What a call sends, and how it uses the network. */
export interface MediaOptions {
  /** The call sends what this captures, until it ends. */
  readonly capture?: Capture;
  /** The tracks to send, if there is no `capture`. */
  readonly tracks?: LocalTracks;
  /**
   * Uses relays alone, so that the other side does not see this device's address. On by default, unless
   * `Client.allowDirect` has allowed this contact other paths.
   */
  readonly isRelayOnly?: boolean;
}

/** What a call needs of its client. */
export interface CallParts {
  /** Rejects if the node gives none now and only relays may be used. */
  readonly iceServers: (isRelayOnly: boolean) => Promise<IceConfiguration>;
  /** Checks the session with the node: a new path is negotiated on it. */
  readonly checkSession: () => void;
  readonly clock: Clock;
  readonly timers: Timers;
  /** Whether calls with the contact use relays alone, unless the app says otherwise. */
  readonly isRelayOnly: boolean;
  readonly quality: QualityThresholds | undefined;
}
