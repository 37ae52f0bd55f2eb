/** What one side of a call sends: the tracks of a capture or of the app, without pictures while those are paused. */
import type { MediaStates } from "../core/outbox.js";
import type { MediaOptions } from "./call-events.js";
import type { Capture } from "./capture.js";
import { type LocalTracks, MEDIA_LINES, type MediaLine, transceiverOf } from "./media-profile.js";
import { limitLine, preferSound } from "./peer.js";

/** The bit rate of the sound while the network carries nothing else: Opus is clear from 16 kbit/s on. */
const LOW_SOUND_BITRATE = 16_000;

/** The media that a call sends, whichever connection it has. */
export class SentMedia {
  /** Called when something has changed that the other side wants to know. */
  onChange: () => void = () => {};
  #peer: RTCPeerConnection | undefined;
  #tracks: LocalTracks = {};
  #capture: Capture | undefined;
  #isVideoPaused = false;

  /** Whether there is a picture to send, were it not paused. */
  get hasPicture(): boolean {
    return this.#tracks.camera != null || this.#tracks.screen != null;
  }

  get isVideoPaused(): boolean {
    return this.#isVideoPaused;
  }

  /** What the other side can hear and see. */
  get states(): MediaStates {
    const { sound, camera, screen } = this.#sent;
    const isMuted = this.#capture?.isAudible === false;
    const state = (track: MediaStreamTrack | null | undefined) => (track == null ? "off" : "on");
    return { sound: sound && isMuted ? "muted" : state(sound), camera: state(camera), screen: state(screen) };
  }

  /** Sends what this captures until {@link close}, or these tracks. */
  use({ capture, tracks = {} }: MediaOptions): void {
    this.#capture?.removeEventListener("change", this.#followCapture);
    this.#tracks = capture?.tracks ?? tracks;
    this.#capture = capture;
    capture?.addEventListener("change", this.#followCapture);
  }

  /** Sends on this connection from now on, with pictures. */
  async attach(peer: RTCPeerConnection): Promise<void> {
    this.#peer = peer;
    this.#isVideoPaused = false;
    for (const line of MEDIA_LINES) if (this.#sent[line] != null) await this.#replace(line);
  }

  /** Sends this track on a line, or nothing. */
  async setTrack(line: MediaLine, track: MediaStreamTrack | null): Promise<void> {
    this.#tracks = { ...this.#tracks, [line]: track };
    await this.#replace(line);
    this.onChange();
  }

  /**
   * Sends each picture with at most this bit rate. 0 leaves the pictures out, `Infinity` leaves the rate to the browser. Returns
   * whether they have begun or ended to be left out.
   */
  limitVideo(maxBitrate: number): boolean {
    const wasPaused = this.#isVideoPaused;
    this.#isVideoPaused = maxBitrate === 0;
    for (const line of ["camera", "screen"] as const) {
      this.#replace(line).catch(reportError);
      if (this.#peer !== undefined) void limitLine(this.#peer, line, maxBitrate);
    }
    if (this.#isVideoPaused === wasPaused) return false;
    this.preferSound();
    this.onChange();
    return true;
  }

  /** Sends the sound before the pictures. Needs a connection that has been negotiated. */
  preferSound(): void {
    if (this.#peer !== undefined) {
      void preferSound(this.#peer, this.#isVideoPaused ? LOW_SOUND_BITRATE : Number.POSITIVE_INFINITY);
    }
  }

  /** The call is over. */
  close(): void {
    this.#capture?.removeEventListener("change", this.#followCapture);
    this.#peer = undefined;
  }

  get #sent(): LocalTracks {
    return this.#isVideoPaused ? { sound: this.#tracks.sound ?? null } : this.#tracks;
  }

  readonly #followCapture = () => {
    const former = this.#tracks;
    this.#tracks = this.#capture?.tracks ?? {};
    for (const line of MEDIA_LINES) {
      if (former[line] !== this.#tracks[line]) this.#replace(line).catch(reportError);
    }
    this.onChange();
  };

  async #replace(line: MediaLine): Promise<void> {
    const sender = this.#peer && transceiverOf(this.#peer, line)?.sender;
    await sender?.replaceTrack(this.#sent[line] ?? null);
  }
}
