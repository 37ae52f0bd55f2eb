/** Calls and is called: one call at a time, with the devices and the sound that it uses. */
import { type Call, CallStateError, type Client, ConnectError, type ContactId, MediaError } from "@chappe/client";
import { Capture, CaptureError, type CaptureFault, type CaptureSource } from "@chappe/client/capture";
import { type Signal, signal } from "@preact/signals-core";
import { ActiveCall, type CallFault } from "./active-call.js";
import type { Book } from "./book.js";
import type { CallLog } from "./log.js";
import type { SettingsStore } from "./settings.js";
import { RemoteSound } from "./sound.js";

/** Something about this device's microphone or camera that a person has to know. */
export type DeviceNotice =
  | { readonly kind: "refused"; readonly source: CaptureSource; readonly code: CaptureFault }
  | { readonly kind: "lost"; readonly source: CaptureSource; readonly replacement: string | undefined }
  | { readonly kind: "returned"; readonly source: CaptureSource; readonly label: string }
  | { readonly kind: "silent" };

/** Set in the session storage while this tab is muted: a reload in a call must not make it heard. */
const MUTED = "chappe-muted";

export class Desk {
  readonly active: Signal<ActiveCall | undefined> = signal(undefined);
  readonly capture = new Capture();
  readonly sound = new RemoteSound();
  /** What this device sends. */
  readonly isMuted: Signal<boolean> = signal(false);
  readonly sends: Signal<Readonly<Record<CaptureSource, boolean>>> = signal({
    microphone: false,
    camera: false,
    screen: false,
  });
  /** Counts the changes of devices, so that previews follow. */
  readonly changes: Signal<number> = signal(0);
  readonly notice: Signal<DeviceNotice | undefined> = signal(undefined);
  readonly #client: Client;
  readonly #book: Book;
  readonly #log: CallLog;
  readonly #settings: SettingsStore;

  constructor(client: Client, book: Book, log: CallLog, settings: SettingsStore) {
    this.#client = client;
    this.#book = book;
    this.#log = log;
    this.#settings = settings;
    client.addEventListener("incomingcall", ({ detail: { call } }) => this.#ring(call));
    this.#followDevices();
  }

  /** Calls a contact. Call it in the click itself. */
  async place(contact: ContactId, withCamera: boolean): Promise<void> {
    if (this.active.value !== undefined && !this.active.value.isOver) return;
    this.sound.prepare();
    this.#book.setMissed(contact, false);
    const active = this.#begin(new ActiveCall(contact, true));
    await this.#open("microphone");
    if (withCamera && !active.isOver) await this.#open("camera");
    if (active.isOver) return;
    try {
      const call = await this.#client.call(contact, { capture: this.capture });
      active.follow(call);
      // Hung up while it was being placed.
      if (active.isOver) call.hangUp();
    } catch (error) {
      this.#fail(active, error);
    }
  }

  /** Answers the incoming call. Call it in the click itself. */
  async accept(withCamera: boolean): Promise<void> {
    await this.#accept(withCamera, false);
  }

  /** Answers, and lets the caller see this device's address in this call. Call it in the click itself. */
  async acceptDirect(): Promise<void> {
    await this.#accept(false, true);
  }

  async #accept(withCamera: boolean, isDirect: boolean): Promise<void> {
    const active = this.active.value;
    const call = active?.call;
    if (active === undefined || call === undefined || active.stage.value !== "incoming") return;
    this.sound.prepare();
    // Ask before the microphone opens: without a relay, answering needs the person's permission.
    const isRelayOnly = !isDirect && this.#book.find(active.contact)?.isDirectAllowed !== true;
    if (isRelayOnly && !(await this.#hasRelay())) {
      active.needsDirect.value = true;
      return;
    }
    if (active.stage.value !== "incoming") return;
    active.accepting();
    await this.#open("microphone");
    if (withCamera && !active.isOver) await this.#open("camera");
    if (active.isOver) return;
    try {
      await call.accept({ capture: this.capture, isRelayOnly });
    } catch (error) {
      call.decline();
      this.#fail(active, error);
    }
  }

  /** Comes back into the call in which the page was loaded again. */
  async rejoin(): Promise<void> {
    this.capture.setMuted(sessionStorage.getItem(MUTED) !== null);
    const call = await this.#client.rejoin({ capture: this.capture });
    if (call === undefined) return this.mute(false);
    const active = this.#begin(new ActiveCall(call.contact, call.isCaller));
    active.follow(call);
    active.stage.value = "connecting";
    await this.#open("microphone");
  }

  /** Declines, cancels or ends the call. */
  hangUp(): void {
    const active = this.active.value;
    if (active === undefined) return;
    const { call } = active;
    if (active.stage.value === "incoming") call?.decline();
    else call?.hangUp();
    active.finish("hung-up");
    this.dismiss();
  }

  /** Takes the ended call from the screen. */
  dismiss(): void {
    if (this.active.value?.isOver) this.active.value = undefined;
  }

  mute(isMuted: boolean): void {
    this.capture.setMuted(isMuted);
    if (isMuted) sessionStorage.setItem(MUTED, "");
    else sessionStorage.removeItem(MUTED);
    this.#read();
  }

  /** Switches camera or screen on or off. */
  async toggle(source: "camera" | "screen"): Promise<void> {
    if (this.sends.value[source]) this.capture.close(source);
    else await this.#open(source);
  }

  /** Opens a source again, with another device if one is named. */
  async open(source: CaptureSource, deviceId?: string): Promise<void> {
    this.notice.value = undefined;
    await this.#open(source, deviceId);
  }

  async #hasRelay(): Promise<boolean> {
    try {
      const { iceServers } = await this.#client.iceServers();
      return iceServers.flatMap(({ urls }) => urls).some((url) => url.startsWith("turn"));
    } catch {
      // The connection to the node is just being made again. The call itself will tell.
      return true;
    }
  }

  #begin(active: ActiveCall): ActiveCall {
    this.notice.value = undefined;
    this.active.value = active;
    active.sound.subscribe((stream) => {
      if (stream !== undefined) void this.sound.play(stream);
    });
    const stop = active.stage.subscribe((stage) => {
      if (stage !== "ended") return;
      // The subscription does not exist yet if it has ended at once.
      queueMicrotask(() => stop());
      this.#ended(active);
    });
    return active;
  }

  #ring(call: Call): void {
    const former = this.active.value;
    if (former !== undefined && !former.isOver) {
      // A call is being placed, which the library does not know yet. Of the same contact, this one takes its place.
      if (former.contact !== call.contact) {
        call.decline();
        return;
      }
      former.finish("glare");
    }
    const active = this.#begin(new ActiveCall(call.contact, false));
    active.follow(call);
    // Both have called at once, so this side has already agreed to talk.
    if (former?.end.value === "glare" && former.contact === call.contact) void this.accept(false);
  }

  #ended(active: ActiveCall): void {
    // Another call may use them by now.
    if (this.active.value === active) {
      this.capture.closeAll();
      this.mute(false);
      this.sound.stop();
    }
    const isMissed = !active.isCaller && active.connectedAt.value === undefined && active.end.value !== "hung-up";
    if (isMissed) this.#book.setMissed(active.contact, true);
    if (!this.#settings.value.value.keepsLog) return;
    const kind = isMissed ? "missed" : active.isCaller ? "outgoing" : "incoming";
    const entry = {
      contact: active.contact,
      kind,
      at: active.startedAt,
      duration: active.duration(Date.now()),
    } as const;
    void this.#log.add(entry);
  }

  #fail(active: ActiveCall, error: unknown): void {
    active.finish(faultOf(error));
    if (faultOf(error) === "failed") reportError(error);
  }

  /** Opens a device. Without it the call goes on: the other side can still be heard. */
  async #open(source: CaptureSource, deviceId?: string): Promise<void> {
    try {
      if (source === "microphone") await this.capture.openMicrophone(deviceId);
      else if (source === "camera") await this.capture.openCamera(deviceId);
      else await this.capture.openScreen();
    } catch (error) {
      if (!(error instanceof CaptureError)) throw error;
      // Closing the browser's choice of screens is an answer.
      if (source === "screen" && error.code !== "insecure") return;
      this.notice.value = { kind: "refused", source, code: error.code };
    }
  }

  #followDevices(): void {
    const { capture } = this;
    capture.addEventListener("change", () => this.#read());
    capture.addEventListener("devicelost", ({ detail: { source, replacement } }) => {
      this.notice.value = { kind: "lost", source, replacement };
    });
    capture.addEventListener("devicereturned", ({ detail: { source, label } }) => {
      this.notice.value = { kind: "returned", source, label };
    });
    capture.addEventListener("silent", ({ detail: { isSilent } }) => {
      if (isSilent) this.notice.value = { kind: "silent" };
      else if (this.notice.value?.kind === "silent") this.notice.value = undefined;
    });
  }

  #read(): void {
    const has = (source: CaptureSource) => this.capture.track(source) !== undefined;
    this.isMuted.value = this.capture.isMuted;
    this.sends.value = { microphone: has("microphone"), camera: has("camera"), screen: has("screen") };
    this.changes.value += 1;
  }
}

function faultOf(error: unknown): CallFault {
  if (error instanceof MediaError) return error.code;
  if (error instanceof CallStateError && error.code === "busy") return "busy-here";
  if (error instanceof ConnectError) return error.code === "refused" ? "refused" : "not-connected";
  return "failed";
}
