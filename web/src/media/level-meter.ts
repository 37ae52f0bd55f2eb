/** Measures how loud a track is. */

/** The length of a measurement in samples: 43 ms at 48 kHz. */
const SAMPLES = 2048;

/** A meter of one track. */
export class LevelMeter {
  readonly #context = new AudioContext();
  readonly #analyser = new AnalyserNode(this.#context, { fftSize: SAMPLES });
  readonly #samples = new Float32Array(SAMPLES);

  constructor(readonly track: MediaStreamTrack) {
    this.#context.createMediaStreamSource(new MediaStream([track])).connect(this.#analyser);
    void this.#context.resume();
  }

  /** The loudness of the last moments (root mean square), from 0 to 1. */
  read(): number {
    this.#analyser.getFloatTimeDomainData(this.#samples);
    return Math.sqrt(this.#samples.reduce((sum, sample) => sum + sample * sample, 0) / SAMPLES);
  }

  close(): void {
    void this.#context.close();
  }
}
