/** A call with its media: one `RTCPeerConnection` over the signalling of one call. */
import { type CallState, CallStateError, type EndReason } from "../core/call.js";
import { CallActionError } from "../core/call-driver.js";
import type { IceConfiguration } from "../core/client.js";
import type { Clock, Timers } from "../core/clock.js";
import type { ContactId } from "../core/contact.js";
import { TypedEventTarget } from "../core/events.js";
import type { ErrorCode } from "../core/messages.js";
import { NegotiationError } from "../core/negotiation.js";
import type { Description, MediaStates } from "../core/outbox.js";
import type { CallId } from "../core/seal.js";
import type { SignalledCall, Step } from "../core/signalled-call.js";
import type { Capture } from "./capture.js";
import { MediaError } from "./media-error.js";
import {
  addMediaLines,
  answerMediaLines,
  isOfProfile,
  type LocalTracks,
  MEDIA_LINES,
  type MediaLine,
  transceiverOf,
} from "./media-profile.js";
import { Monitor } from "./monitor.js";
import { createPeer, localSdp, peerConfiguration } from "./peer.js";
import type { Quality, QualityThresholds } from "./quality.js";
import { Recovery } from "./recovery.js";
import { Renewal } from "./renewal.js";
import { SentMedia } from "./sent-media.js";
import type { Route } from "./statistics.js";

/** The events of a {@link Call}, with their `detail`. */
export interface CallEvents {
  /** The contact's device rings. */
  ringing: undefined;
  /** The contact was not reached at the first attempt. It is tried for ten seconds. */
  notreached: { readonly code: ErrorCode | undefined };
  /** Media flows, for the first time or again. */
  connected: undefined;
  /** Media has stopped; the call ends after half a minute without it. */
  reconnecting: undefined;
  /** How good the call is has changed. Judged every three seconds; two of three windows have to agree. */
  quality: { readonly quality: Quality };
  /** The path of the media has changed. */
  route: Route;
  /** The other side has turned its sound, camera or screen on or off. */
  remotemedia: RemoteMedia;
  /** The pictures of this side are left out because the network carries only sound, or are sent again. */
  picturespaused: { readonly isPaused: boolean };
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

/** Whether there is something to hear and to see of the other side. A line that is off shows its last picture: hide it. */
export type RemoteMedia = Readonly<Record<MediaLine, boolean>>;

/** What a call needs of its client. */
export interface CallParts {
  readonly iceServers: () => Promise<IceConfiguration>;
  /** Checks the session with the node: a new path is negotiated on it. */
  readonly hurry: () => void;
  readonly clock: Clock;
  readonly timers: Timers;
  /** Whether calls with the contact use relays alone, unless the app says otherwise. */
  readonly isRelayOnly: boolean;
  readonly quality: QualityThresholds | undefined;
}

/** A call, placed or received. It stays the same object when the other side's device comes back after a reload. */
export class Call extends TypedEventTarget<CallEvents> {
  readonly contact: ContactId;
  readonly isCaller: boolean;
  /** The tracks of the other side. */
  readonly remoteStream = new MediaStream();
  readonly #parts: CallParts;
  readonly #recovery: Recovery;
  readonly #sent: SentMedia;
  #signalling: SignalledCall;
  #peer: RTCPeerConnection | undefined;
  #monitor: Monitor | undefined;
  #isRelayOnly: boolean;
  #renewal: Renewal | undefined;
  /** What each side has told the other about its media. */
  #told = "";
  #remoteStates: MediaStates = {};
  #remoteMedia: RemoteMedia = { sound: false, camera: false, screen: false };
  #quality: Quality | undefined;
  #route: Route | undefined;
  #connectedAt: number | undefined;
  #round = 0;
  #candidates: string[] = [];
  /** Candidates of the other side whose description is not applied yet, and the round of the one that is. */
  #early: { readonly round: number; readonly candidate: string }[] = [];
  #remoteRound = -1;
  #accepting: Promise<void> | undefined;
  /** The call that this one was placed to come back into. */
  readonly #isRejoin: boolean;
  #isAdopted = false;
  /** The negotiation runs one step at a time. */
  #steps: Promise<unknown> = Promise.resolve();
  #isFlowing = false;
  #isOver = false;

  /** @internal */
  constructor(signalling: SignalledCall, parts: CallParts, sent = new SentMedia(), isRejoin = false) {
    super();
    this.#sent = sent;
    sent.onChange = () => this.#tell();
    this.#isRejoin = isRejoin;
    this.contact = signalling.contact;
    this.isCaller = signalling.isCaller;
    this.#signalling = signalling;
    this.#parts = parts;
    this.#isRelayOnly = parts.isRelayOnly;
    this.#recovery = new Recovery(parts.clock, parts.timers, () => {
      parts.hurry();
      this.restart();
    });
    this.#follow(signalling);
  }

  /** @internal Places a call: makes the offer, and hands it to `place`. */
  static async place(
    place: (offer: string) => Promise<SignalledCall>,
    parts: CallParts,
    options: MediaOptions,
    isRejoin: boolean,
  ): Promise<Call> {
    const isRelayOnly = options.isRelayOnly ?? parts.isRelayOnly;
    const { iceServers, ttl } = await parts.iceServers();
    const peer = await createPeer(peerConfiguration(iceServers, isRelayOnly));
    addMediaLines(peer);
    const sent = new SentMedia();
    sent.use(options.capture, options.tracks ?? {});
    await sent.attach(peer);
    const early: string[] = [];
    const keepEarly = ({ candidate }: RTCPeerConnectionIceEvent) => early.push(candidate?.candidate ?? "");
    peer.addEventListener("icecandidate", keepEarly);
    try {
      await peer.setLocalDescription();
      const call = new Call(await place(localSdp(peer)), parts, sent, isRejoin);
      peer.removeEventListener("icecandidate", keepEarly);
      call.#isRelayOnly = isRelayOnly;
      call.#use(peer, ttl);
      for (const candidate of early) call.#sendCandidate(candidate);
      return call;
    } catch (error) {
      sent.close();
      peer.close();
      throw error;
    }
  }

  /** The id of the call. It changes when a side comes back after a reload. */
  get id(): CallId {
    return this.#signalling.id;
  }

  /** The state of the call. */
  get state(): CallState | "ended" {
    return this.#isOver ? "ended" : this.#signalling.state;
  }

  /** The connection, for statistics. `undefined` before an incoming call is accepted. */
  get peerConnection(): RTCPeerConnection | undefined {
    return this.#peer;
  }

  /** When media flowed for the first time, in milliseconds since 1970. */
  get connectedAt(): number | undefined {
    return this.#connectedAt;
  }

  /** How good the call is. `undefined` in its first seconds. */
  get quality(): Quality | undefined {
    return this.#quality;
  }

  /** The path of the media, and what the other side can see of this device. `undefined` until there is one. */
  get route(): Route | undefined {
    return this.#route;
  }

  /** What there is to hear and to see of the other side. */
  get remoteMedia(): RemoteMedia {
    return this.#remoteMedia;
  }

  /** Whether this side's pictures are left out because the network carries only sound. */
  get arePicturesPaused(): boolean {
    return this.#sent.arePicturesPaused;
  }

  /**
   * Accepts an incoming call. Called again, it returns the same promise. Rejects with `CallStateError` if it no longer
   * rings, and with {@link MediaError}.
   */
  accept(options: MediaOptions = {}): Promise<void> {
    this.#accepting ??= this.#accept(options);
    return this.#accepting;
  }

  async #accept(options: MediaOptions): Promise<void> {
    this.#isRelayOnly = options.isRelayOnly ?? this.#parts.isRelayOnly;
    this.#sent.use(options.capture, options.tracks ?? {});
    await this.#answer(this.#signalling);
  }

  async #answer(signalling: SignalledCall): Promise<void> {
    const sdp = signalling.offer ?? "";
    if (!isOfProfile(sdp)) {
      signalling.decline();
      throw new MediaError("not-of-the-profile");
    }
    const { iceServers, ttl } = await this.#parts.iceServers();
    const peer = await createPeer(peerConfiguration(iceServers, this.#isRelayOnly));
    this.#use(peer, ttl);
    try {
      await peer.setRemoteDescription({ type: "offer", sdp });
      this.#remoteRound = 0;
      answerMediaLines(peer);
      await this.#sent.attach(peer);
      await peer.setLocalDescription();
      signalling.accept(localSdp(peer));
    } catch (error) {
      this.#release(peer);
      signalling.hangUp();
      throw error;
    }
    this.#flushCandidates();
    await this.#addEarly(peer);
  }

  /** Declines an incoming call. */
  decline(): void {
    this.#signalling.decline();
  }

  /** Ends the call. */
  hangUp(): void {
    this.#signalling.hangUp();
  }

  /** Sends this track on a line, or nothing. Needs no renegotiation. */
  setTrack(line: MediaLine, track: MediaStreamTrack | null): Promise<void> {
    return this.#sent.setTrack(line, track);
  }

  /** Tells the other side what this one sends, if that has changed. */
  #tell(): void {
    if (!this.#isFlowing) return;
    const { states } = this.#sent;
    const text = JSON.stringify(states);
    if (text === this.#told) return;
    try {
      this.#signalling.tellMedia(states);
      this.#told = text;
    } catch (error) {
      // The queue is full, or the call has just ended. The next change tells both.
      if (!(error instanceof CallActionError || error instanceof CallStateError)) throw error;
    }
  }

  /** Makes a new path for the media, for example after a change of the network. Does nothing while one is being made. */
  restart(): void {
    this.#step(async (peer) => {
      const isAnswered = this.state === "connecting" || this.state === "connected" || this.state === "reconnecting";
      if (!isAnswered || peer.signalingState !== "stable" || this.#signalling.isAnswerDue) return;
      const former = this.#round;
      this.#round = this.#signalling.round + 1;
      peer.restartIce();
      await peer.setLocalDescription();
      try {
        // The other side may have begun a round meanwhile: then that one counts.
        if (this.#signalling.isAnswerDue) throw new NegotiationError("the other side was faster");
        this.#signalling.renegotiate(localSdp(peer));
      } catch (error) {
        this.#round = former;
        this.#candidates = [];
        await peer.setLocalDescription({ type: "rollback" });
        if (!(error instanceof NegotiationError)) throw error;
      }
      this.#flushCandidates();
    });
  }

  /** @internal The other side's device was loaded again and comes back with a new call. */
  async adopt(signalling: SignalledCall): Promise<void> {
    this.#release(this.#peer);
    this.#signalling = signalling;
    this.#round = 0;
    this.#remoteRound = -1;
    this.#early = [];
    this.#candidates = [];
    this.#isAdopted = true;
    this.#remoteStates = {};
    this.#follow(signalling);
    await this.#answer(signalling);
  }

  #follow(signalling: SignalledCall): void {
    signalling.addEventListener("ringing", () => this.emit("ringing", undefined));
    signalling.addEventListener("notreached", ({ detail }) => this.emit("notreached", detail));
    signalling.addEventListener("step", ({ detail }) => this.emit("step", detail));
    signalling.addEventListener("answered", ({ detail }) =>
      this.#step(async (peer) => {
        await peer.setRemoteDescription({ type: "answer", sdp: detail.sdp });
        this.#remoteRound = 0;
        this.#flushCandidates();
        await this.#addEarly(peer);
      }),
    );
    signalling.addEventListener("candidates", ({ detail }) => this.#addCandidates(detail.candidates, detail.round));
    signalling.addEventListener("description", ({ detail }) =>
      this.#step((peer) => this.#renegotiated(peer, detail.description, detail.round)),
    );
    signalling.addEventListener("media", ({ detail }) => {
      this.#remoteStates = { ...this.#remoteStates, ...detail };
      this.#remoteMediaChanged();
    });
    signalling.addEventListener("unanswered", () =>
      this.#step(async (peer) => {
        if (peer.signalingState === "have-local-offer") await peer.setLocalDescription({ type: "rollback" });
      }),
    );
    signalling.addEventListener("ended", ({ detail }) => {
      this.#release(this.#peer);
      // The new call of the other side's device takes this one's place: `adopt` follows at once.
      const isReplaced = detail.reason === "rejoined" || (detail.reason === "glare" && this.#isRejoin);
      if (!isReplaced) {
        this.#over(detail.reason);
        return;
      }
      this.#isAdopted = false;
      this.#isFlowing = false;
      this.emit("reconnecting", undefined);
      queueMicrotask(() => {
        if (!this.#isAdopted) this.#over(detail.reason);
      });
    });
  }

  #over(reason: EndReason): void {
    this.#isOver = true;
    this.#sent.close();
    this.emit("ended", { reason });
  }

  /** Applies a description of the other side. An own offer that is pending is rolled back by the browser. */
  async #renegotiated(peer: RTCPeerConnection, description: Description, round: number): Promise<void> {
    // A newer round has begun while this one waited for its turn.
    if (round !== this.#signalling.round) return;
    if (description.type === "offer" && !isOfProfile(description.sdp)) return;
    await peer.setRemoteDescription({ type: description.type, sdp: description.sdp });
    this.#remoteRound = round;
    if (description.type === "offer") {
      this.#round = round;
      await peer.setLocalDescription();
      if (round !== this.#signalling.round) return;
      this.#signalling.answerRenegotiation(localSdp(peer), round);
      this.#flushCandidates();
    }
    await this.#addEarly(peer);
  }

  #use(peer: RTCPeerConnection, ttl: number): void {
    this.#peer = peer;
    this.#told = "";
    const { clock, timers, quality, iceServers } = this.#parts;
    this.#renewal = new Renewal(clock, timers, iceServers, (servers) => {
      peer.setConfiguration(peerConfiguration(servers, this.#isRelayOnly));
      this.restart();
    });
    this.#renewal.schedule(ttl);
    this.#monitor = new Monitor(peer, clock, timers, quality, {
      expectsSound: () => this.#remoteStates.sound && this.#remoteStates.sound !== "off",
      hasPicture: () => this.#sent.hasPicture,
      onQuiet: () => this.#parts.hurry(),
      onLost: () => this.#lost(),
      onBack: () => this.#flows(),
      onQuality: (level) => {
        this.#quality = level;
        this.emit("quality", { quality: level });
      },
      onRoute: (route) => {
        this.#route = route;
        this.emit("route", route);
      },
      onGate: (isOpen) => this.#pausePictures(!isOpen),
    });
    peer.addEventListener("icecandidate", ({ candidate }) => {
      if (this.#peer !== peer) return;
      this.#sendCandidate(candidate?.candidate ?? "");
    });
    peer.addEventListener("track", ({ transceiver, track }) => {
      const line = MEDIA_LINES[peer.getTransceivers().indexOf(transceiver)];
      for (const old of this.remoteStream.getTracks()) {
        if (old.readyState === "ended") this.remoteStream.removeTrack(old);
      }
      this.remoteStream.addTrack(track);
      for (const event of ["mute", "unmute"]) track.addEventListener(event, () => this.#remoteMediaChanged());
      if (line !== undefined) this.emit("track", { line, track });
    });
    peer.addEventListener("connectionstatechange", () => {
      if (this.#peer === peer) this.#connectionChanged(peer);
    });
  }

  /** The browser notices late that media has stopped, but also where there is no sound to judge by. */
  #connectionChanged(peer: RTCPeerConnection): void {
    switch (peer.connectionState) {
      case "connected":
        if (this.#monitor?.isLost !== true) this.#flows();
        break;
      case "disconnected":
      case "failed":
        if (this.#connectedAt !== undefined) this.#lost();
        break;
    }
  }

  #flows(): void {
    this.#recovery.stop();
    if (this.#isFlowing || this.#peer === undefined) return;
    this.#isFlowing = true;
    this.#connectedAt ??= this.#parts.clock.unixMs();
    this.#signalling.reportMedia(true);
    void this.#sent.preferSound();
    this.emit("connected", undefined);
    this.#tell();
    this.#remoteMediaChanged();
  }

  #lost(): void {
    if (!this.#isFlowing) return;
    this.#isFlowing = false;
    this.#signalling.reportMedia(false);
    this.emit("reconnecting", undefined);
    this.#recovery.start(this.#signalling.isCaller);
  }

  /** @internal The device is online again, or its network has changed: makes a new path, whether or not media is lost yet. */
  networkChanged(): void {
    if (this.#connectedAt === undefined) return;
    this.#parts.hurry();
    if (this.#isFlowing) this.restart();
    else this.#recovery.hasten();
  }

  #pausePictures(isPaused: boolean): void {
    this.#sent.pausePictures(isPaused);
    this.emit("picturespaused", { isPaused });
  }

  #remoteMediaChanged(): void {
    const media = Object.fromEntries(MEDIA_LINES.map((line) => [line, this.#isRemoteOn(line)])) as RemoteMedia;
    if (MEDIA_LINES.every((line) => media[line] === this.#remoteMedia[line])) return;
    this.#remoteMedia = media;
    this.emit("remotemedia", media);
  }

  /** What the other side has told counts. Of one that tells nothing, a track is muted until its first packet. */
  #isRemoteOn(line: MediaLine): boolean {
    const told = this.#remoteStates[line];
    const track = this.#peer && transceiverOf(this.#peer, line)?.receiver.track;
    return told === undefined ? track !== undefined && !track.muted : told === "on";
  }

  #sendCandidate(candidate: string): void {
    this.#candidates.push(candidate);
    // Those of one turn of the event loop go in one message.
    queueMicrotask(() => this.#flushCandidates());
  }

  #flushCandidates(): void {
    // The callee's candidates follow its answer.
    if (this.#candidates.length === 0 || ["incoming", "rejoining", "ended"].includes(this.state)) return;
    try {
      this.#signalling.sendCandidates(this.#candidates, this.#round);
      this.#candidates = [];
    } catch (error) {
      // The queue is full: they go with the next ones.
      if (!(error instanceof CallActionError)) throw error;
    }
  }

  #addCandidates(candidates: readonly string[], round: number): void {
    this.#early.push(...candidates.map((candidate) => ({ round, candidate })));
    this.#step((peer) => this.#addEarly(peer));
  }

  /** Adds the candidates of the description that is applied, keeps later ones, and drops earlier ones. */
  async #addEarly(peer: RTCPeerConnection): Promise<void> {
    const due = this.#early.filter(({ round }) => round === this.#remoteRound);
    this.#early = this.#early.filter(({ round }) => round > this.#remoteRound);
    for (const { candidate } of due) {
      // A candidate that this browser cannot read is no reason to end a call: another may work.
      await peer.addIceCandidate({ candidate, sdpMLineIndex: 0 }).catch(() => undefined);
    }
  }

  /** Runs a step of the negotiation after the earlier ones. One that fails because the call has ended is of no interest. */
  #step(run: (peer: RTCPeerConnection) => Promise<void>): void {
    const peer = this.#peer;
    if (peer === undefined) return;
    this.#steps = this.#steps
      .then(() => (this.#peer === peer ? run(peer) : undefined))
      .catch((error: unknown) => {
        if (this.#peer === peer && peer.signalingState !== "closed") reportError(error);
      });
  }

  #release(peer: RTCPeerConnection | undefined): void {
    if (peer === undefined) return;
    if (this.#peer === peer) this.#peer = undefined;
    this.#monitor?.stop();
    this.#recovery.stop();
    this.#renewal?.stop();
    // The browser allows 500 connections, and counts closed ones until they are collected: nothing may refer to one.
    peer.close();
    for (const track of this.remoteStream.getTracks()) this.remoteStream.removeTrack(track);
  }
}
