/** What there is to hear and to see of the other side. */
import type { MediaStates } from "../core/outbox.js";
import { MEDIA_LINES, type MediaLine, transceiverOf } from "./media-profile.js";

/** Whether there is something to hear and to see of the other side. A line that is off shows its last picture: hide it. */
export type RemoteMedia = Readonly<Record<MediaLine, boolean>>;

/** What the other side has told of its media, or what its packets tell if it has told nothing. */
export class RemoteState {
  #states: MediaStates = {};
  #media: RemoteMedia = { sound: false, camera: false, screen: false };

  get media(): RemoteMedia {
    return this.#media;
  }

  /** Whether the other side sends sound, also while it is muted. `undefined` if it has told nothing. */
  get sendsSound(): boolean | undefined {
    return this.#states.sound && this.#states.sound !== "off";
  }

  /** The other side has told this. */
  told(states: MediaStates): void {
    this.#states = { ...this.#states, ...states };
  }

  /** Compares with the tracks of a connection. Returns whether something has changed. */
  update(peer: RTCPeerConnection | undefined): boolean {
    const former = this.#media;
    this.#media = Object.fromEntries(MEDIA_LINES.map((line) => [line, this.#isOn(peer, line)])) as RemoteMedia;
    return MEDIA_LINES.some((line) => former[line] !== this.#media[line]);
  }

  /** What the other side has told counts. Of one that tells nothing, a track is muted until its first packet. */
  #isOn(peer: RTCPeerConnection | undefined, line: MediaLine): boolean {
    const told = this.#states[line];
    const track = peer && transceiverOf(peer, line)?.receiver.track;
    return told === undefined ? track !== undefined && !track.muted : told === "on";
  }
}
