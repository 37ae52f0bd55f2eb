/**
 * The microphone, the camera and the screen of this device. Each is opened by itself, so that a camera that is in use does
 * not cost the sound. Follows devices that go and come back.
 */
import { TypedEventTarget } from "../core/events.js";
import { CaptureError, type CaptureSource, captureFault } from "./capture-error.js";
import { LevelMeter } from "./level-meter.js";
import type { LocalTracks } from "./media-profile.js";
import { SoundMixer } from "./sound-mixer.js";

/** How long a microphone may deliver nothing before it is opened again, in milliseconds. */
const SILENCE = 2_000;

/** The events of a {@link Capture}, with their `detail`. */
export interface CaptureEvents {
  /** A source was opened, replaced, muted or closed. */
  change: { readonly source: CaptureSource };
  /** The device in use has gone. `replacement` is the label of the one that is used now, if there is another. */
  devicelost: { readonly source: CaptureSource; readonly replacement: string | undefined };
  /** The device that was chosen is back, and is used again. */
  devicereturned: { readonly source: CaptureSource; readonly label: string };
  /** The microphone delivers nothing although it is open, also after it was opened again; or it does again. */
  silent: { readonly isSilent: boolean };
}

/** The devices of each kind. Labels are empty until a device of the kind was opened once. */
export interface Devices {
  readonly microphones: readonly MediaDeviceInfo[];
  readonly cameras: readonly MediaDeviceInfo[];
  /** For `HTMLMediaElement.setSinkId`. Empty where the browser lets the person choose in the system alone. */
  readonly outputs: readonly MediaDeviceInfo[];
}

type Device = "microphone" | "camera";

const KINDS: Record<Device, MediaDeviceKind> = { microphone: "audioinput", camera: "videoinput" };

/** A picture of up to 720 lines: more costs a phone's battery, and the other side's network. */
const CAMERA: MediaTrackConstraints = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { max: 30 } };
const MICROPHONE: MediaTrackConstraints = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
const SCREEN: MediaTrackConstraints = { frameRate: { max: 15 } };

/** What this device captures. Constructing it opens nothing. */
export class Capture extends TypedEventTarget<CaptureEvents> {
  readonly #tracks = new Map<CaptureSource, MediaStreamTrack>();
  /** The devices that the person chose, by id. */
  readonly #chosen = new Map<Device, string>();
  readonly #opening = new Map<CaptureSource, symbol>();
  #mixer: SoundMixer | undefined;
  #meter: LevelMeter | undefined;
  #isMuted = false;
  #isSilent = false;
  #isFollowing = false;

  /** Opens the microphone, or another one in place of the open one. Rejects with {@link CaptureError}. */
  async openMicrophone(deviceId?: string): Promise<void> {
    await this.#openDevice("microphone", deviceId);
  }

  /** Opens the camera, or another one in place of the open one. Rejects with {@link CaptureError}. */
  async openCamera(deviceId?: string): Promise<void> {
    await this.#openDevice("camera", deviceId);
  }

  /**
   * Asks the person for a screen or window, and shares it with its sound where the browser captures that. Has to be called
   * in a click. Rejects with {@link CaptureError}.
   */
  async openScreen(): Promise<void> {
    const turn = this.#begin("screen");
    const stream = await request("screen", () =>
      navigator.mediaDevices.getDisplayMedia({ video: SCREEN, audio: true }),
    );
    const [video] = stream.getVideoTracks();
    const [sound] = stream.getAudioTracks();
    if (video === undefined || this.#opening.get("screen") !== turn) {
      for (const track of stream.getTracks()) track.stop();
      return;
    }
    this.#mixer?.close();
    this.#mixer = sound && new SoundMixer(sound);
    this.#mixer?.setMicrophone(this.#tracks.get("microphone"));
    sound?.addEventListener("ended", () => this.#unmix(), { once: true });
    // The person can end it in the browser's own window.
    video.addEventListener("ended", () => this.close("screen"), { once: true });
    video.contentHint = "detail";
    this.#use("screen", video);
  }

  /** Stops a source. Its lamp goes out. */
  close(source: CaptureSource): void {
    this.#opening.delete(source);
    const track = this.#tracks.get(source);
    if (track === undefined) return;
    this.#tracks.delete(source);
    track.stop();
    if (source === "screen") this.#unmix();
    if (source === "microphone") {
      this.#mixer?.setMicrophone(undefined);
      this.#closeMeter();
    }
    this.emit("change", { source });
  }

  /** Stops all sources, and no longer follows the devices. */
  closeAll(): void {
    for (const source of ["microphone", "camera", "screen"] as const) this.close(source);
    this.#chosen.clear();
    if (this.#isFollowing) navigator.mediaDevices.removeEventListener("devicechange", this.#devicesChanged);
    this.#isFollowing = false;
  }

  /** Whether the microphone is muted. It may be, too, while none is open. */
  get isMuted(): boolean {
    return this.#isMuted;
  }

  /** Mutes the microphone: silence is sent. The sound of a shared screen goes on. */
  setMuted(isMuted: boolean): void {
    this.#isMuted = isMuted;
    const track = this.#tracks.get("microphone");
    if (track !== undefined) track.enabled = !isMuted;
    this.emit("change", { source: "microphone" });
  }

  /** The track of a source, for a preview. `undefined` while it is closed. */
  track(source: CaptureSource): MediaStreamTrack | undefined {
    return this.#tracks.get(source);
  }

  /** The tracks for a call. The sound is the microphone, mixed with that of a shared screen. */
  get tracks(): LocalTracks {
    return {
      sound: this.#mixer?.track ?? this.#tracks.get("microphone") ?? null,
      camera: this.#tracks.get("camera") ?? null,
      screen: this.#tracks.get("screen") ?? null,
    };
  }

  /** Whether a call has something to hear from this device. */
  get isAudible(): boolean {
    return this.#mixer !== undefined || (this.#tracks.has("microphone") && !this.#isMuted);
  }

  /** The devices that can be chosen. Rejects with {@link CaptureError} if the page is no secure context. */
  async devices(): Promise<Devices> {
    const all = await request("microphone", () => navigator.mediaDevices.enumerateDevices());
    const ofKind = (kind: MediaDeviceKind) => all.filter((device) => device.kind === kind && device.deviceId !== "");
    return {
      microphones: ofKind("audioinput"),
      cameras: ofKind("videoinput"),
      outputs: ofKind("audiooutput"),
    };
  }

  /** The loudness of the open microphone, from 0 to 1. */
  level(): number {
    const track = this.#tracks.get("microphone");
    if (track === undefined) return 0;
    if (this.#meter?.track !== track) {
      this.#closeMeter();
      this.#meter = new LevelMeter(track);
    }
    return this.#meter.read();
  }

  /** Returns whether the device is in use now: a later choice, or a `close`, comes first. */
  async #openDevice(source: Device, deviceId: string | undefined): Promise<boolean> {
    const turn = this.#begin(source);
    const track = await openTrack(source, deviceId);
    // It was closed, or another device was chosen, while the person was asked.
    if (this.#opening.get(source) !== turn) {
      track.stop();
      return false;
    }
    if (deviceId !== undefined) this.#chosen.set(source, deviceId);
    this.#use(source, track);
    return true;
  }

  #begin(source: CaptureSource): symbol {
    const turn = Symbol(source);
    this.#opening.set(source, turn);
    return turn;
  }

  #use(source: CaptureSource, track: MediaStreamTrack): void {
    const former = this.#tracks.get(source);
    this.#tracks.set(source, track);
    if (source === "microphone") {
      track.enabled = !this.#isMuted;
      this.#mixer?.setMicrophone(track);
      this.#watchSilence(track);
    }
    if (source !== "screen") {
      track.addEventListener("ended", this.#devicesChanged, { once: true });
      if (!this.#isFollowing) navigator.mediaDevices.addEventListener("devicechange", this.#devicesChanged);
      this.#isFollowing = true;
    }
    // Listeners send the new track before the old one stops, so that nothing is missed.
    this.emit("change", { source });
    former?.stop();
  }

  #unmix(): void {
    if (this.#mixer === undefined) return;
    this.#mixer.close();
    this.#mixer = undefined;
    this.emit("change", { source: "microphone" });
  }

  /** Opens the microphone again if the system has taken it away, as phones do for another call. */
  #watchSilence(track: MediaStreamTrack): void {
    const isInUse = () => this.#tracks.get("microphone") === track;
    track.addEventListener("mute", () =>
      setTimeout(() => {
        if (isInUse() && track.muted) void this.#retake(track);
      }, SILENCE),
    );
    track.addEventListener("unmute", () => {
      if (isInUse()) this.#setSilent(false);
    });
    if (!track.muted) this.#setSilent(false);
  }

  async #retake(former: MediaStreamTrack): Promise<void> {
    try {
      await this.#openDevice("microphone", former.getSettings().deviceId);
    } catch (error) {
      if (!(error instanceof CaptureError)) throw error;
    }
    if (this.#tracks.get("microphone")?.muted) this.#setSilent(true);
  }

  #setSilent(isSilent: boolean): void {
    if (this.#isSilent === isSilent) return;
    this.#isSilent = isSilent;
    this.emit("silent", { isSilent });
  }

  readonly #devicesChanged = () => {
    for (const source of ["microphone", "camera"] as const) void this.#followDevice(source);
  };

  /** Changes to the default device if the one in use has gone, and back to the chosen one when it returns. */
  async #followDevice(source: Device): Promise<void> {
    const track = this.#tracks.get(source);
    if (track === undefined) return;
    const present = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === KINDS[source]);
    if (this.#tracks.get(source) !== track) return;
    const has = (id: string | undefined) => present.some(({ deviceId }) => deviceId === id);
    const used = track.getSettings().deviceId;
    const chosen = this.#chosen.get(source);
    try {
      if (track.readyState === "ended" || (used !== undefined && !has(used))) {
        // The end of the track and the change of the devices are told apart: only one of them reports it.
        if (present.length === 0) this.close(source);
        else if (!(await this.#openDevice(source, undefined))) return;
        this.emit("devicelost", { source, replacement: this.#tracks.get(source)?.label });
      } else if (chosen !== undefined && chosen !== used && has(chosen)) {
        if (!(await this.#openDevice(source, chosen))) return;
        this.emit("devicereturned", { source, label: this.#tracks.get(source)?.label ?? "" });
      }
    } catch (error) {
      if (!(error instanceof CaptureError)) throw error;
      this.close(source);
      this.emit("devicelost", { source, replacement: undefined });
    }
  }

  #closeMeter(): void {
    this.#meter?.close();
    this.#meter = undefined;
  }
}

async function openTrack(source: Device, deviceId: string | undefined): Promise<MediaStreamTrack> {
  const device: MediaTrackConstraints = deviceId === undefined ? {} : { deviceId: { exact: deviceId } };
  const constraints: MediaStreamConstraints =
    source === "microphone" ? { audio: { ...MICROPHONE, ...device } } : { video: { ...CAMERA, ...device } };
  const stream = await request(source, () => navigator.mediaDevices.getUserMedia(constraints));
  const [track] = stream.getTracks();
  if (track === undefined) throw new CaptureError(source, "none");
  return track;
}

/** Runs a request to the browser, and turns its error into a {@link CaptureError}. */
async function request<T>(source: CaptureSource, run: () => Promise<T>): Promise<T> {
  if (globalThis.navigator?.mediaDevices === undefined) throw new CaptureError(source, "insecure");
  try {
    return await run();
  } catch (error) {
    throw new CaptureError(source, await captureFault(source, error), { cause: error });
  }
}
