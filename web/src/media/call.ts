/** A call with its media: one `RTCPeerConnection` over the signalling of one call. */
import type { CallState, EndReason } from "../core/call.js";
import { CallActionError } from "../core/call-driver.js";
import type { ContactId } from "../core/contact.js";
import { TypedEventTarget } from "../core/events.js";
import { NegotiationError } from "../core/negotiation.js";
import type { Description } from "../core/outbox.js";
import type { CallId } from "../core/seal.js";
import type { SignalledCall } from "../core/signalled-call.js";
import type { CallEvents, CallParts, MediaOptions } from "./call-events.js";
import { LocalCandidates, RemoteCandidates } from "./candidates.js";
import { MediaError } from "./media-error.js";
import { addMediaLines, answerMediaLines, isOfProfile, MEDIA_LINES, type MediaLine } from "./media-profile.js";
import { Monitor } from "./monitor.js";
import { createPeer, localSdp, setServers } from "./peer.js";
import type { Quality } from "./quality.js";
import { Recovery } from "./recovery.js";
import { type RemoteMedia, RemoteState } from "./remote-media.js";
import { Renewal } from "./renewal.js";
import { SentMedia } from "./sent-media.js";
import type { Route } from "./statistics.js";

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
  /** What this side has told the other about its media. */
  #told = "";
  #remote = new RemoteState();
  #quality: Quality | undefined;
  #route: Route | undefined;
  #connectedAt: number | undefined;
  #round = 0;
  readonly #candidates = new LocalCandidates((candidates) => this.#sendCandidates(candidates));
  #remoteCandidates = new RemoteCandidates();
  #accepting: Promise<void> | undefined;
  /** @internal Whether this one was placed to come back into a call. */
  readonly isRejoin: boolean;
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
    this.isRejoin = isRejoin;
    this.contact = signalling.contact;
    this.isCaller = signalling.isCaller;
    this.#signalling = signalling;
    this.#parts = parts;
    this.#isRelayOnly = parts.isRelayOnly;
    this.#recovery = new Recovery(parts.clock, parts.timers, () => {
      parts.checkSession();
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
    const { iceServers, ttl } = await parts.iceServers(isRelayOnly);
    const peer = await createPeer(iceServers, isRelayOnly);
    const sent = new SentMedia();
    const early: string[] = [];
    const keepEarly = ({ candidate }: RTCPeerConnectionIceEvent) => early.push(candidate?.candidate ?? "");
    peer.addEventListener("icecandidate", keepEarly);
    try {
      addMediaLines(peer);
      sent.use(options);
      await sent.attach(peer);
      await peer.setLocalDescription();
      const call = new Call(await place(localSdp(peer)), parts, sent, isRejoin);
      peer.removeEventListener("icecandidate", keepEarly);
      call.#isRelayOnly = isRelayOnly;
      call.#use(peer, ttl);
      for (const candidate of early) call.#candidates.push(candidate);
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

  /** Whether the call uses relays alone, so that the other side does not see this device's address. */
  get isRelayOnly(): boolean {
    return this.#isRelayOnly;
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
    return this.#remote.media;
  }

  /** Whether this side's camera and screen are paused because the bandwidth suffices only for sound. */
  get isVideoPaused(): boolean {
    return this.#sent.isVideoPaused;
  }

  /**
   * Accepts an incoming call. Called again, it returns the same promise; after `no-relay`, the call still rings and can be
   * accepted with other options. Rejects with `CallStateError` if it no longer rings, and with {@link MediaError}.
   */
  accept(options: MediaOptions = {}): Promise<void> {
    this.#accepting ??= this.#accept(options).catch((error) => {
      this.#accepting = undefined;
      throw error;
    });
    return this.#accepting;
  }

  async #accept(options: MediaOptions): Promise<void> {
    this.#isRelayOnly = options.isRelayOnly ?? this.#parts.isRelayOnly;
    this.#sent.use(options);
    await this.#answer(this.#signalling);
  }

  async #answer(signalling: SignalledCall): Promise<void> {
    const sdp = signalling.offer ?? "";
    if (!isOfProfile(sdp)) {
      signalling.decline();
      throw new MediaError("not-of-the-profile");
    }
    const { iceServers, ttl } = await this.#parts.iceServers(this.#isRelayOnly);
    const peer = await createPeer(iceServers, this.#isRelayOnly);
    // The other side's device may have been loaded again meanwhile: the newer call has a connection of its own.
    if (this.#signalling !== signalling) return peer.close();
    this.#use(peer, ttl);
    try {
      await peer.setRemoteDescription({ type: "offer", sdp });
      answerMediaLines(peer);
      await this.#sent.attach(peer);
      await peer.setLocalDescription();
      signalling.accept(localSdp(peer));
    } catch (error) {
      // A newer call has closed this one's connection.
      if (this.#signalling !== signalling) return;
      this.#release(peer);
      signalling.hangUp();
      throw error;
    }
    this.#candidates.flush();
    await this.#remoteCandidates.applied(0, peer);
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
    // If the queue is full, the next change sends the full state.
    if (text !== this.#told && this.#signalling.tellMedia(states)) this.#told = text;
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
        if (this.#signalling.isAnswerDue) throw new NegotiationError();
        const sdp = localSdp(peer);
        // The callee was the client of the DTLS handshake. Firefox, left the choice, would answer that it is the client now.
        this.#signalling.renegotiate(this.#signalling.isCaller ? sdp : sdp.replaceAll("actpass", "active"));
      } catch (error) {
        this.#round = former;
        this.#candidates.clear();
        await peer.setLocalDescription({ type: "rollback" });
        if (!(error instanceof NegotiationError)) throw error;
      }
      this.#candidates.flush();
    });
  }

  /** @internal The other side's device was loaded again and comes back with a new call. */
  async adopt(signalling: SignalledCall): Promise<void> {
    this.#release(this.#peer);
    this.#signalling = signalling;
    this.#round = 0;
    this.#remoteCandidates = new RemoteCandidates();
    this.#candidates.clear();
    this.#isAdopted = true;
    this.#remote = new RemoteState();
    this.#follow(signalling);
    const wasPaused = this.isVideoPaused;
    await this.#answer(signalling);
    if (wasPaused) this.emit("videopaused", { isPaused: false });
  }

  #follow(signalling: SignalledCall): void {
    for (const name of ["ringing", "notreached", "step"] as const) {
      signalling.addEventListener(name, ({ detail }) => this.emit(name, detail as never));
    }
    signalling.addEventListener("answered", ({ detail }) =>
      this.#step(async (peer) => {
        await peer.setRemoteDescription({ type: "answer", sdp: detail.sdp });
        this.#candidates.flush();
        await this.#remoteCandidates.applied(0, peer);
      }),
    );
    signalling.addEventListener("candidates", ({ detail }) => {
      this.#remoteCandidates.take(detail.candidates, detail.round);
      this.#step((peer) => this.#remoteCandidates.addTo(peer));
    });
    signalling.addEventListener("description", ({ detail }) =>
      this.#step((peer) => this.#renegotiated(peer, detail.description, detail.round)),
    );
    signalling.addEventListener("media", ({ detail }) => {
      this.#remote.told(detail);
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
      const isReplaced = detail.reason === "rejoined" || (detail.reason === "glare" && this.isRejoin);
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
    if (description.type === "offer" && !isOfProfile(description.sdp)) return this.hangUp();
    await peer.setRemoteDescription(description);
    if (description.type === "offer") {
      this.#round = round;
      await peer.setLocalDescription();
      if (round !== this.#signalling.round) return;
      this.#signalling.answerRenegotiation(localSdp(peer), round);
      this.#candidates.flush();
    }
    await this.#remoteCandidates.applied(round, peer);
  }

  #use(peer: RTCPeerConnection, ttl: number): void {
    this.#peer = peer;
    this.#told = "";
    const { clock, timers, quality, iceServers } = this.#parts;
    // Relays that are in use are not given up for none.
    this.#renewal = new Renewal(
      clock,
      timers,
      () => iceServers(true),
      (servers) => {
        setServers(peer, servers);
        this.restart();
      },
    );
    this.#renewal.schedule(ttl);
    this.#monitor = new Monitor(peer, clock, timers, quality, {
      expectsSound: () => this.#remote.sendsSound,
      hasPicture: () => this.#sent.hasPicture,
      onSound: (change) => {
        if (change === "quiet") this.#parts.checkSession();
        else if (change === "lost") this.#lost();
        else this.#flows();
      },
      onQuality: (level) => {
        this.#quality = level;
        this.emit("quality", { quality: level });
      },
      onRoute: (route) => {
        this.#route = route;
        this.emit("route", route);
      },
      onVideoLimit: (maxBitrate) => this.#limitVideo(maxBitrate),
    });
    peer.addEventListener("icecandidate", ({ candidate }) => {
      if (this.#peer === peer) this.#candidates.push(candidate?.candidate ?? "");
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
        if (!this.#monitor?.isLost) this.#flows();
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
    this.#sent.preferSound();
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
    this.#parts.checkSession();
    if (this.#isFlowing) this.restart();
    else this.#recovery.restartNow();
  }

  #limitVideo(maxBitrate: number): void {
    if (this.#sent.limitVideo(maxBitrate)) this.emit("videopaused", { isPaused: this.isVideoPaused });
  }

  #remoteMediaChanged(): void {
    if (this.#remote.update(this.#peer)) this.emit("remotemedia", this.#remote.media);
  }

  #sendCandidates(candidates: readonly string[]): boolean {
    // The callee's candidates follow its answer.
    if (["incoming", "rejoining", "ended"].includes(this.state)) return false;
    try {
      this.#signalling.sendCandidates(candidates, this.#round);
      return true;
    } catch (error) {
      // The queue is full.
      if (error instanceof CallActionError) return false;
      throw error;
    }
  }

  /** Runs a step of the negotiation after the earlier ones. One that fails because the call has ended is of no interest. */
  #step(run: (peer: RTCPeerConnection) => Promise<void>): void {
    const peer = this.#peer;
    if (peer === undefined) return;
    this.#steps = this.#steps
      .then(() => (this.#peer === peer ? run(peer) : undefined))
      .catch((error: unknown) => {
        if (this.#peer !== peer || peer.signalingState === "closed") return;
        reportError(error);
        // No round can follow one that cannot be applied, so nothing could recover the call.
        this.hangUp();
      });
  }

  #release(peer: RTCPeerConnection | undefined): void {
    if (peer === undefined) return;
    // The browser allows 500 connections, and counts closed ones until they are collected: nothing may refer to one.
    peer.close();
    if (this.#peer !== peer) return;
    this.#peer = undefined;
    this.#monitor?.stop();
    this.#recovery.stop();
    this.#renewal?.stop();
    for (const track of this.remoteStream.getTracks()) this.remoteStream.removeTrack(track);
  }
}
