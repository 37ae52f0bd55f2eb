/** Mixes the microphone with the sound of a shared screen: the media profile has one line for both. */

/** A mix of two tracks. Its own track stays the same while the microphone changes. */
export class SoundMixer {
  readonly track: MediaStreamTrack;
  readonly #context = new AudioContext();
  readonly #output = new MediaStreamAudioDestinationNode(this.#context);
  #microphone: MediaStreamAudioSourceNode | undefined;

  constructor(screen: MediaStreamTrack) {
    this.#connect(screen);
    this.track = this.#output.stream.getAudioTracks()[0] as MediaStreamTrack;
    // A screen is shared by a click, so the browser lets the context run.
    void this.#context.resume();
  }

  /** Mixes in this microphone in place of the last one. */
  setMicrophone(track: MediaStreamTrack | undefined): void {
    this.#microphone?.disconnect();
    this.#microphone = track && this.#connect(track);
  }

  close(): void {
    this.track.stop();
    void this.#context.close();
  }

  #connect(track: MediaStreamTrack): MediaStreamAudioSourceNode {
    const source = this.#context.createMediaStreamSource(new MediaStream([track]));
    source.connect(this.#output);
    return source;
  }
}
