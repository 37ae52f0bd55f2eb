/**
 * The sound of the other side: one `<audio>` element for all calls. It is played in the click that calls or answers, since
 * browsers let a page sound only after one, and some only that element.
 */
import { type Signal, signal } from "@preact/signals-core";

export class RemoteSound {
  /** The browser refuses to play until somebody taps. */
  readonly needsTap: Signal<boolean> = signal(false);
  readonly #audio: HTMLAudioElement;

  constructor(audio: HTMLAudioElement = new Audio()) {
    this.#audio = audio;
    audio.autoplay = true;
  }

  /** Call it in the click itself, before anything is awaited. */
  prepare(): void {
    this.#audio.srcObject = new MediaStream();
    // Without a track it waits until there is one.
    this.#audio.play().catch(() => undefined);
  }

  async play(stream: MediaStream): Promise<void> {
    if (this.#audio.srcObject !== stream) this.#audio.srcObject = stream;
    try {
      await this.#audio.play();
      this.needsTap.value = false;
    } catch (error) {
      // An `AbortError` only says that another stream took its place.
      if (error instanceof DOMException && error.name === "NotAllowedError") this.needsTap.value = true;
    }
  }

  /** Plays again, in a click. */
  async tap(): Promise<void> {
    const { srcObject } = this.#audio;
    if (srcObject instanceof MediaStream) await this.play(srcObject);
  }

  /** Whether the browser lets a page choose where sound goes. */
  get canChooseOutput(): boolean {
    return "setSinkId" in this.#audio;
  }

  async setOutput(deviceId: string): Promise<void> {
    await this.#audio.setSinkId(deviceId);
  }

  stop(): void {
    this.#audio.pause();
    this.#audio.srcObject = null;
    this.needsTap.value = false;
  }
}
