/** The sound of an incoming call: two soft notes, made here, so that no file is needed. */
const NOTES = [523.25, 659.25];
const NOTE_SECONDS = 0.35;
const EVERY = 2_500;
const LOUDNESS = 0.12;

/** Rings until the returned function is called. Does nothing where the browser allows no sound yet. */
export function ring(): () => void {
  const context = new AudioContext();
  const play = () => {
    NOTES.forEach((frequency, index) => {
      const start = context.currentTime + index * NOTE_SECONDS;
      const oscillator = new OscillatorNode(context, { frequency });
      const gain = new GainNode(context, { gain: 0 });
      gain.gain.setValueAtTime(0, start);
      gain.gain.linearRampToValueAtTime(LOUDNESS, start + 0.03);
      gain.gain.exponentialRampToValueAtTime(0.001, start + NOTE_SECONDS);
      oscillator.connect(gain).connect(context.destination);
      oscillator.start(start);
      oscillator.stop(start + NOTE_SECONDS);
    });
  };
  play();
  const timer = setInterval(play, EVERY);
  return () => {
    clearInterval(timer);
    void context.close();
  };
}
