/** The page of the browser tests: a client whose steps the test runs from outside. */

import { openDB } from "idb";
import { Database } from "../../src/browser/database.js";
import { Capture, CaptureError, type CaptureSource } from "../../src/capture.js";
import { readIceServers } from "../../src/core/ice-servers.js";
import { offerText } from "../../src/core/messages.js";
import { seal } from "../../src/core/seal.js";
import { generateX25519 } from "../../src/core/x25519.js";
import {
  type Call,
  type CallEvents,
  Client,
  type ClientOptions,
  keyProtection,
  type LocalTracks,
  type MediaLine,
  type MediaOptions,
} from "../../src/index.js";
import { addMediaLines, sendableSdp, transceiverOf } from "../../src/media/media-profile.js";
import { createPeer } from "../../src/media/peer.js";
import { sampleOf } from "../../src/media/statistics.js";
import { qrSvg, scanQr } from "../../src/qr.js";
import { failedVectors } from "../vector-checks.js";
import type { WorkerReport, WorkerTask } from "./worker.js";

/** The least level of a sound, in decibels, that counts as one. */
const AUDIBLE = -60;

/** What the test asks of the page. Everything it returns is JSON. */
const steps = {
  vectors: failedVectors,
  keyProtection,

  /** The ICE servers of each list, as a node names them, that a connection of this browser uses. */
  usedServers: async (lists: readonly unknown[]) => {
    const used: RTCIceServer[][] = [];
    for (const list of lists) {
      const peer = await createPeer(readIceServers(list, "wss://a.example", true), false);
      used.push(peer.getConfiguration().iceServers ?? []);
      peer.close();
    }
    return used;
  },

  async start(options: ClientOptions) {
    const client = new Client(options);
    client.addEventListener("incomingcall", ({ detail }) => {
      incoming.push(detail.call);
      follow(detail.call);
    });
    for (const name of ["disconnected", "searchfailed", "notattached", "nodechecked", "inboxrejected"] as const) {
      client.addEventListener(name, ({ detail }) => log.push({ event: name, ...describe(detail) }));
    }
    current = client;
    const began = performance.now();
    await client.connect();
    return { node: client.node, ms: performance.now() - began };
  },

  /** Makes this browser one whose WebCrypto has no X25519. Before anything else is done. */
  lackX25519() {
    const { generateKey } = crypto.subtle;
    crypto.subtle.generateKey = (...args: unknown[]) =>
      args[0] === "X25519"
        ? Promise.reject(new DOMException("", "NotSupportedError"))
        : Reflect.apply(generateKey, crypto.subtle, args);
  },

  /** From now on, the browser gives this page no lock. */
  refuseLocks() {
    LockManager.prototype.request = () => Promise.reject(new DOMException("refused", "SecurityError"));
  },

  setName: (name: string) => client().setName(name),

  /** Makes a client that is not connected. */
  make(options: ClientOptions) {
    current = new Client(options);
  },

  connectAgain: () => client().connect(),

  /** From now on no request of this page is answered. */
  blockRequests() {
    globalThis.fetch = () => Promise.reject(new TypeError("blocked"));
  },

  async showCode(isForLink: boolean) {
    const shown = await client().showCode({ isForLink, site: "https://calls.example" });
    shownPairing = shown.paired;
    shown.paired.catch(() => {});
    return { code: shown.code, link: shown.link, qrText: shown.qrText };
  },

  async paired() {
    const paired = await shownPairing;
    return paired && { contact: paired.contact.id, name: paired.contact.name, words: paired.words };
  },

  async pair(code: string) {
    const began = performance.now();
    const { contact, words } = await client().pair(code);
    return { contact: contact.id, name: contact.name, words, ms: performance.now() - began };
  },

  name: () => client().name,
  contacts: () => client().contacts.map(({ id, name, isConfirmed }) => ({ id, name, isConfirmed })),

  allowDirect: (contact: string, isAllowed: boolean) => client().allowDirect(contact, isAllowed),

  async call(contact: string, isRelayOnly = false) {
    const began = performance.now();
    const call = await client().call(contact, { ...(await sources()), isRelayOnly });
    follow(call, began);
    active = call;
    return { id: call.id, offer: (call.peerConnection?.localDescription?.sdp ?? "").length };
  },

  /** Connects in a worker, by the protocol alone, pairs by this code, and calls until it rings. */
  callFromWorker(task: WorkerTask) {
    const worker = new Worker("/worker.js", { type: "module" });
    return new Promise<WorkerReport>((resolve, reject) => {
      worker.onmessage = ({ data }: MessageEvent<WorkerReport>) => resolve(data);
      worker.onerror = ({ message }) => reject(new Error(message));
      worker.postMessage(task);
    }).finally(() => worker.terminate());
  },

  /** Accepts every call at once, as somebody who waits for it. */
  async acceptAll(isRelayOnly: boolean) {
    const sound = await tone();
    client().addEventListener("incomingcall", ({ detail }) => {
      void detail.call.accept({ tracks: { sound }, isRelayOnly });
    });
  },

  /** Calls somebody who accepts at once, and hangs up. Returns the times until it rang and until sound arrived. */
  async callUntilSound(contact: string, isRelayOnly: boolean) {
    const sound = await tone();
    const began = performance.now();
    const call = await client().call(contact, { tracks: { sound }, isRelayOnly });
    let rangAfter = Number.NaN;
    call.addEventListener("ringing", () => {
      rangAfter = performance.now() - began;
    });
    const hasSound = async () =>
      (sampleOf((await call.peerConnection?.getStats())?.values() ?? []).packetsReceived ?? 0) > 0;
    while (!(await hasSound())) await new Promise((resolve) => setTimeout(resolve, 5));
    const soundAfter = performance.now() - began;
    const ended = new Promise((resolve) => call.addEventListener("ended", resolve));
    call.hangUp();
    await ended;
    return { rangAfter, soundAfter };
  },

  /** Whether the database names the call that this page is in. */
  async recordsCall() {
    stored ??= new Database("chappe");
    return active !== undefined && (await stored.profile.load())?.activeCall?.call === active.id;
  },

  /** From now on, this page applies descriptions of the other side only once that is allowed again: no media flows. */
  holdMedia(isHeld: boolean) {
    if (!isHeld) return allowMedia();
    const isAllowed = new Promise<void>((resolve) => {
      allowMedia = resolve;
    });
    const { setRemoteDescription } = RTCPeerConnection.prototype;
    RTCPeerConnection.prototype.setRemoteDescription = async function (...args: unknown[]) {
      await isAllowed;
      return Reflect.apply(setRemoteDescription, this, args);
    };
  },

  async rejoin(isRelayOnly?: boolean) {
    const chosen = isRelayOnly === undefined ? {} : { isRelayOnly };
    const call = await client().rejoin({ ...(await sources()), ...chosen });
    if (call === undefined) return false;
    follow(call);
    active = call;
    return true;
  },

  async accept(isRelayOnly = false) {
    const [call] = incoming;
    if (call === undefined) throw new Error("nobody calls");
    active = call;
    await call.accept({ ...(await sources()), isRelayOnly });
    incoming.shift();
  },

  /** Opens a source, which later calls send. Returns the code of the fault, if there is one. */
  async open(source: CaptureSource, deviceId?: string) {
    capture ??= newCapture();
    try {
      if (source === "microphone") await capture.openMicrophone(deviceId);
      if (source === "camera") await capture.openCamera(deviceId);
      if (source === "screen") await capture.openScreen();
    } catch (error) {
      if (error instanceof CaptureError) return error.code;
      throw error;
    }
    return "open";
  },

  /** From now on, the browser refuses this kind of device with an error of this name, as if another program used it. */
  refuseDevice(kind: "audio" | "video", name: string) {
    const original = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = (constraints) =>
      constraints?.[kind] ? Promise.reject(new DOMException("refused", name)) : original(constraints);
  },

  /** The browser's permissions are such that it would ask the person. */
  askAgain(would: boolean) {
    navigator.permissions.query = async () => ({ state: would ? "prompt" : "denied" }) as PermissionStatus;
  },

  sentDescription: () => active?.peerConnection?.localDescription?.sdp,

  /** Unplugs a device, or all; with `false`, plugs it in again. */
  unplug(deviceId: string, isUnplugged: boolean) {
    if (isUnplugged) unplugged.add(deviceId);
    else unplugged.delete(deviceId);
    navigator.mediaDevices.enumerateDevices = async () => {
      const all = await MediaDevices.prototype.enumerateDevices.call(navigator.mediaDevices);
      return all.filter((device) => !unplugged.has(device.deviceId));
    };
    // The browser tells both of a device that goes: the end of its track, and the change.
    const track = capture?.track("microphone");
    if (isUnplugged && track?.getSettings().deviceId === deviceId) track.dispatchEvent(new Event("ended"));
    navigator.mediaDevices.dispatchEvent(new Event("devicechange"));
  },

  /** The system takes the microphone away, as a phone does for another call. Returns the track's id. */
  interruptMicrophone() {
    const track = capture?.track("microphone");
    if (track === undefined) throw new Error("no microphone");
    Object.defineProperty(track, "muted", { value: true });
    track.dispatchEvent(new Event("mute"));
    return track.id;
  },

  /** Plays the call, as every app does: a browser decodes no sound that is not played. */
  async play() {
    player.srcObject = active?.remoteStream ?? null;
    player.muted = true;
    await player.play();
  },

  microphoneTrack: () => capture?.track("microphone")?.id,
  deviceOf: (source: "microphone" | "camera") => capture?.track(source)?.getSettings().deviceId,

  closeSource: (source: CaptureSource) => capture?.close(source),
  mute: (isMuted: boolean) => capture?.setMuted(isMuted),
  microphoneLevel: () => capture?.level(),
  devices: () => capture?.devices(),
  labels: () => ({
    microphone: capture?.track("microphone")?.label,
    camera: capture?.track("camera")?.label,
    screen: capture?.track("screen")?.label,
  }),

  /** What the call says of itself. */
  callView: () => ({
    quality: active?.quality,
    route: active?.route,
    remoteMedia: active?.remoteMedia,
    isVideoPaused: active?.isVideoPaused,
  }),

  /** The statistics in one form, and the frames of each line of pictures. */
  async statistics() {
    const peer = active?.peerConnection;
    if (peer === undefined) return undefined;
    const framesOf = async (line: MediaLine) => {
      const report: Record<string, unknown>[] = [
        ...((await transceiverOf(peer, line)?.receiver.getStats())?.values() ?? []),
      ];
      return Number(report.find(({ type }) => type === "inbound-rtp")?.framesDecoded ?? 0);
    };
    const sample = sampleOf((await peer.getStats()).values());
    return { ...sample, camera: await framesOf("camera"), screen: await framesOf("screen") };
  },

  /** The statistics as the browser reports them. */
  rawStatistics: async () => [...((await active?.peerConnection?.getStats())?.values() ?? [])] as unknown[],

  ringing: () => incoming.length,
  hangUp: () => active?.hangUp(),
  restart: () => active?.restart(),
  state: () => active?.state,
  /** From now on, the descriptions of this call have the lines of the profile, and no browser can apply them. */
  corruptDescriptions() {
    const peer = active?.peerConnection;
    if (peer === undefined) throw new Error("no connection");
    const { get } = Object.getOwnPropertyDescriptor(RTCPeerConnection.prototype, "localDescription") ?? {};
    Object.defineProperty(peer, "localDescription", {
      get: () => {
        const description: RTCSessionDescription | null = get?.call(peer) ?? null;
        return description && { type: description.type, sdp: description.sdp.replace(/^a=fingerprint:.*\r\n/gm, "") };
      },
    });
  },
  /** What names the two ends of the connection, anew after each restart. */
  iceNames() {
    const { currentLocalDescription, currentRemoteDescription } = active?.peerConnection ?? {};
    return [currentLocalDescription, currentRemoteDescription].map(
      (description) => /a=ice-ufrag:(\S+)/.exec(description?.sdp ?? "")?.[1],
    );
  },
  log: () => log.splice(0),

  /** The loudest frequency of the sound that arrives, in hertz, and its level in decibels. Returns as soon as there is sound, or after 600 ms. */
  async hears() {
    const stream = active?.remoteStream;
    if (stream === undefined || stream.getAudioTracks().length === 0) return undefined;
    const context = await audio();
    // Chromium gives the sound of a call to an analyser only while an element plays it.
    const element = document.createElement("audio");
    element.srcObject = stream;
    element.muted = true;
    await element.play();
    const analyser = new AnalyserNode(context, { fftSize: 8192 });
    const source = context.createMediaStreamSource(stream);
    source.connect(analyser);
    const spectrum = new Float32Array(analyser.frequencyBinCount);
    const until = performance.now() + 600;
    let decibels: number;
    do {
      // Long enough for the frequency to be exact.
      await new Promise((resolve) => setTimeout(resolve, (1000 * analyser.fftSize) / context.sampleRate));
      analyser.getFloatFrequencyData(spectrum);
      decibels = Math.max(...spectrum);
    } while (decibels < AUDIBLE && performance.now() < until);
    source.disconnect();
    element.srcObject = null;
    return { hertz: (spectrum.indexOf(decibels) * context.sampleRate) / analyser.fftSize, decibels };
  },

  /** The types of the candidates of the path in use. */
  async path() {
    const report = await active?.peerConnection?.getStats();
    const all = [...(report?.values() ?? [])] as Record<string, unknown>[];
    const pair = all.find((item) => item.type === "candidate-pair" && item.state === "succeeded" && item.nominated);
    const type = (id: unknown) => all.find((item) => item.id === id)?.candidateType;
    return pair && [type(pair.localCandidateId), type(pair.remoteCandidateId)];
  },

  async close() {
    capture?.closeAll();
    await client().close();
  },
  wipe: () => client().wipe(),
  databases: async () => (await indexedDB.databases()).map(({ name }) => name),

  exportProfile: (passphrase: string) => client().exportProfile(passphrase),

  /** Imports a file into the profile of this page's client. */
  importHere: (file: string, passphrase: string) => client().importProfile(file, passphrase),

  /** Begins to import a file into the profile of this page's client. Its key is derived once that is allowed. */
  beginImport(file: string, passphrase: string) {
    const { deriveKey } = crypto.subtle;
    const isAllowed = new Promise<void>((resolve) => {
      allowKey = resolve;
    });
    crypto.subtle.deriveKey = async (...args: unknown[]) => {
      await isAllowed;
      return Reflect.apply(deriveKey, crypto.subtle, args);
    };
    importing = client()
      .importProfile(file, passphrase)
      .then(
        () => "imported",
        (error) => `${error}`,
      );
  },

  /** Lets the import go on. Returns what comes of it. */
  finishImport() {
    allowKey();
    return importing;
  },

  /** How many nodes the database has. */
  knownNodes: async () => (await new Database("chappe").cache.load())?.nodes.length,

  /** Imports a file into a profile that this page does not use. */
  async importProfile(profile: string, file: string, passphrase: string) {
    await new Client({ profile }).importProfile(file, passphrase);
  },

  /** Reads the known nodes while the browser fails to read this entry of the database. */
  async readsNodes(unreadable: string) {
    const { get } = IDBObjectStore.prototype;
    IDBObjectStore.prototype.get = function (this: IDBObjectStore, key: IDBValidKey) {
      if (key === unreadable) throw new DOMException("", "UnknownError");
      return get.call(this, key);
    };
    const read = await new Database("chappe").cache.load().then(
      (data) => (data === undefined ? "nothing" : "nodes"),
      () => "error",
    );
    IDBObjectStore.prototype.get = get;
    return read;
  },

  /** From now on, this page stores nothing. */
  ignoreWrites() {
    IDBObjectStore.prototype.put = function (this: IDBObjectStore) {
      return this.count() as IDBRequest<IDBValidKey>;
    };
  },

  /** Deletes the key that encrypts what is stored. */
  async loseStorageKey() {
    const database = await openDB("chappe");
    await database.delete("chappe", "key");
    database.close();
  },

  /** Whether a script can read any key that the browser stores. */
  async readableKeys(name: string) {
    const database = await new Promise<IDBDatabase>((resolve, reject) => {
      const request = indexedDB.open(name);
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    const values = await new Promise<unknown[]>((resolve) => {
      const request = database.transaction("chappe").objectStore("chappe").getAll();
      request.onsuccess = () => resolve(request.result);
    });
    database.close();
    const keys: CryptoKey[] = [];
    const visit = (value: unknown) => {
      if (value instanceof CryptoKey) keys.push(value);
      else if (typeof value === "object" && value !== null && !ArrayBuffer.isView(value))
        Object.values(value).forEach(visit);
    };
    values.forEach(visit);
    return { count: keys.length, readable: keys.filter((key) => key.extractable && key.type !== "public").length };
  },

  /** Shows this text as a QR code to a camera, and reads it. */
  async scan(text: string) {
    const image = new Image();
    image.src = `data:image/svg+xml,${encodeURIComponent(await qrSvg(text))}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [640, 640];
    const paint = () => {
      const context = canvas.getContext("2d");
      if (context === null) return;
      context.fillStyle = "white";
      context.fillRect(0, 0, 640, 640);
      context.drawImage(image, 40, 40, 560, 560);
    };
    paint();
    const painting = setInterval(paint, 50);
    const video = document.createElement("video");
    video.muted = true;
    video.srcObject = canvas.captureStream(20);
    await video.play();
    const read = await scanQr(video, AbortSignal.timeout(15_000));
    clearInterval(painting);
    return read;
  },

  /** The length of the sealed offer of each kind of call, in characters of its payload. */
  async offerLengths() {
    const canvas = document.createElement("canvas");
    canvas.getContext("2d")?.fillRect(0, 0, 1, 1);
    const picture = () => canvas.captureStream(1).getVideoTracks()[0] as MediaStreamTrack;
    const kinds: Record<string, LocalTracks> = {
      nothing: {},
      sound: { sound: await tone() },
      camera: { sound: await tone(), camera: picture() },
      screen: { sound: await tone(), camera: picture(), screen: picture() },
    };
    const key = await generateX25519();
    const lengths: Record<string, { json: number; payload: number }> = {};
    for (const [kind, tracks] of Object.entries(kinds)) {
      const peer = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
      addMediaLines(peer);
      for (const [line, track] of Object.entries(tracks)) {
        await transceiverOf(peer, line as MediaLine)?.sender.replaceTrack(track ?? null);
      }
      await peer.setLocalDescription();
      await new Promise<void>((resolve) => {
        if (peer.iceGatheringState === "complete") resolve();
        peer.addEventListener("icegatheringstatechange", () => peer.iceGatheringState === "complete" && resolve());
        setTimeout(resolve, 3_000);
      });
      const sdp = sendableSdp(peer.localDescription?.sdp ?? "");
      const nodes = Array<string>(3).fill(`wss://${"x".repeat(60)}:65535#${"x".repeat(43)}`);
      const text = offerText({ sdp, replyKey: key.publicKey, sentAt: 1_800_000_000, nodes, rejoins: undefined });
      const context = { call: crypto.randomUUID(), direction: "to-callee", kind: "call_offer", counter: 0 } as const;
      const payload = await seal(new Uint8Array(32), key, key.publicKey, context, text, true);
      lengths[kind] = { json: text.length, payload: payload.length };
      peer.close();
    }
    return lengths;
  },

  /** Makes and closes this many connections of calls, one after another. */
  async manyCalls(contact: string, count: number) {
    for (let made = 0; made < count; made++) {
      const call = await client().call(contact, { tracks: {}, isRelayOnly: false });
      const ended = new Promise((resolve) => call.addEventListener("ended", resolve));
      call.hangUp();
      await ended;
    }
    return count;
  },
};

/** The steps, for the test's types. */
export type Steps = typeof steps;

const incoming: Call[] = [];
const log: Record<string, unknown>[] = [];
let current: Client | undefined;
let active: Call | undefined;
let shownPairing: Promise<Awaited<ReturnType<Client["pair"]>>> | undefined;
let context: AudioContext | undefined;
const player = document.createElement("audio");
let capture: Capture | undefined;
let stored: Database | undefined;
let allowMedia = () => {};
let allowKey = () => {};
let importing: Promise<string> | undefined;
const unplugged = new Set<string>();

/** What a call sends: the sources that were opened, or a tone. */
async function sources(): Promise<MediaOptions> {
  return capture === undefined ? { tracks: { sound: await tone() } } : { capture };
}

function newCapture(): Capture {
  const made = new Capture();
  for (const name of ["devicelost", "devicereturned", "silent"] as const) {
    made.addEventListener(name, ({ detail }) => log.push({ event: name, ...describe(detail) }));
  }
  return made;
}

function client(): Client {
  if (current === undefined) throw new Error("the client was not started");
  return current;
}

async function audio(): Promise<AudioContext> {
  context ??= new AudioContext();
  await context.resume();
  return context;
}

/** A steady tone of 660 Hz. */
async function tone(): Promise<MediaStreamTrack> {
  const context = await audio();
  const oscillator = new OscillatorNode(context, { frequency: 660 });
  const output = new MediaStreamAudioDestinationNode(context);
  oscillator.connect(output);
  oscillator.start();
  return output.stream.getAudioTracks()[0] as MediaStreamTrack;
}

function follow(call: Call, began = performance.now()): void {
  const names: (keyof CallEvents)[] = [
    "ringing",
    "notreached",
    "connected",
    "reconnecting",
    "quality",
    "route",
    "videopaused",
    "ended",
  ];
  for (const name of names) {
    call.addEventListener(name, ({ detail }) => {
      log.push({ event: name, ms: performance.now() - began, ...describe(detail) });
    });
  }
}

function describe(detail: unknown): Record<string, unknown> {
  if (typeof detail !== "object" || detail === null) return {};
  const entries = Object.entries(detail).map(([key, value]) => [
    key,
    value instanceof Error && "reports" in value ? (value.reports as unknown) : value,
  ]);
  return Object.fromEntries(entries) as Record<string, unknown>;
}

Object.assign(globalThis, { steps });
