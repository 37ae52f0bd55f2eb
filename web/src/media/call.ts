/** A call with its media: one `RTCPeerConnection` over the signalling of one call. */
import type { CallState, EndReason } from "../core/call.js";
import { CallActionError } from "../core/call-driver.js";
import type { ContactId } from "../core/contact.js";
import { TypedEventTarget } from "../core/events.js";
import type { ErrorCode } from "../core/messages.js";
import { NegotiationError } from "../core/negotiation.js";
import type { Description } from "../core/outbox.js";
import type { CallId } from "../core/seal.js";
import type { SignalledCall, Step } from "../core/signalled-call.js";
import {
  addMediaLines,
  answerMediaLines,
  isOfProfile,
  MEDIA_LINES,
  type MediaLine,
  sendableSdp,
  transceiverOf,
} from "./media-profile.js";

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
  /** A track of the other side. */
  track: { readonly line: MediaLine; readonly track: MediaStreamTrack };
  /** A message of this call has taken a step on its way. */
  step: Step;
  /** The call is over. */
  ended: { readonly reason: EndReason };
}

/** The tracks that this side sends, each optional. */
export type LocalTracks = Partial<Record<MediaLine, MediaStreamTrack | null>>;

/** How a call uses the network. */
export interface MediaOptions {
  readonly tracks?: LocalTracks;
  /** Uses relays alone, so that the other side does not see this device's address. On by default. */
  readonly isRelayOnly?: boolean;
}

/** A call, placed or received. It stays the same object when the other side's device comes back after a reload. */
export class Call extends TypedEventTarget<CallEvents> {
  readonly contact: ContactId;
  readonly isCaller: boolean;
  /** The tracks of the other side. */
  readonly remoteStream = new MediaStream();
  readonly #iceServers: () => Promise<RTCIceServer[]>;
  #signalling: SignalledCall;
  #peer: RTCPeerConnection | undefined;
  #tracks: LocalTracks = {};
  #isRelayOnly = true;
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
  #wasConnected = false;
  #isOver = false;

  /** @internal */
  constructor(signalling: SignalledCall, iceServers: () => Promise<RTCIceServer[]>, isRejoin = false) {
    super();
    this.#isRejoin = isRejoin;
    this.contact = signalling.contact;
    this.isCaller = signalling.isCaller;
    this.#signalling = signalling;
    this.#iceServers = iceServers;
    this.#follow(signalling);
  }

  /** @internal Places a call: makes the offer, and hands it to `place`. */
  static async place(
    place: (offer: string) => Promise<SignalledCall>,
    iceServers: () => Promise<RTCIceServer[]>,
    options: MediaOptions,
    isRejoin: boolean,
  ): Promise<Call> {
    const isRelayOnly = options.isRelayOnly ?? true;
    const peer = await createPeer(await iceServers(), isRelayOnly);
    addMediaLines(peer);
    await setTracks(peer, options.tracks ?? {});
    const early: string[] = [];
    const keepEarly = ({ candidate }: RTCPeerConnectionIceEvent) => early.push(candidate?.candidate ?? "");
    peer.addEventListener("icecandidate", keepEarly);
    try {
      await peer.setLocalDescription();
      const call = new Call(await place(localSdp(peer)), iceServers, isRejoin);
      peer.removeEventListener("icecandidate", keepEarly);
      call.#tracks = options.tracks ?? {};
      call.#isRelayOnly = isRelayOnly;
      call.#use(peer);
      for (const candidate of early) call.#sendCandidate(candidate);
      return call;
    } catch (error) {
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

  /**
   * Accepts an incoming call. Called again, it returns the same promise. Rejects with `CallStateError` if it no longer
   * rings, and with {@link MediaError}.
   */
  accept(options: MediaOptions = {}): Promise<void> {
    this.#accepting ??= this.#accept(options);
    return this.#accepting;
  }

  async #accept(options: MediaOptions): Promise<void> {
    this.#tracks = options.tracks ?? {};
    this.#isRelayOnly = options.isRelayOnly ?? true;
    await this.#answer(this.#signalling);
  }

  async #answer(signalling: SignalledCall): Promise<void> {
    const sdp = signalling.offer ?? "";
    if (!isOfProfile(sdp)) {
      signalling.decline();
      throw new MediaError("not-of-the-profile");
    }
    const peer = await createPeer(await this.#iceServers(), this.#isRelayOnly);
    this.#use(peer);
    try {
      await peer.setRemoteDescription({ type: "offer", sdp });
      this.#remoteRound = 0;
      answerMediaLines(peer);
      await setTracks(peer, this.#tracks);
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
  async setTrack(line: MediaLine, track: MediaStreamTrack | null): Promise<void> {
    this.#tracks = { ...this.#tracks, [line]: track };
    if (this.#peer !== undefined) await transceiverOf(this.#peer, line)?.sender.replaceTrack(track);
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
      this.emit("reconnecting", undefined);
      queueMicrotask(() => {
        if (!this.#isAdopted) this.#over(detail.reason);
      });
    });
  }

  #over(reason: EndReason): void {
    this.#isOver = true;
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

  #use(peer: RTCPeerConnection): void {
    this.#peer = peer;
    peer.addEventListener("icecandidate", ({ candidate }) => {
      if (this.#peer === peer) this.#sendCandidate(candidate?.candidate ?? "");
    });
    peer.addEventListener("track", ({ transceiver, track }) => {
      const line = MEDIA_LINES[peer.getTransceivers().indexOf(transceiver)];
      for (const old of this.remoteStream.getTracks()) {
        if (old.readyState === "ended") this.remoteStream.removeTrack(old);
      }
      this.remoteStream.addTrack(track);
      if (line !== undefined) this.emit("track", { line, track });
    });
    peer.addEventListener("connectionstatechange", () => {
      if (this.#peer === peer) this.#connectionChanged(peer);
    });
  }

  #connectionChanged(peer: RTCPeerConnection): void {
    switch (peer.connectionState) {
      case "connected":
        this.#wasConnected = true;
        this.#signalling.reportMedia(true);
        this.emit("connected", undefined);
        break;
      case "disconnected":
      case "failed":
        if (!this.#wasConnected) break;
        this.#signalling.reportMedia(false);
        this.emit("reconnecting", undefined);
        // Both sides lose the media at once. One restart is enough.
        if (this.#signalling.isCaller) this.restart();
        break;
    }
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
    // The browser allows 500 connections, and counts closed ones until they are collected: nothing may refer to one.
    peer.close();
    for (const track of this.remoteStream.getTracks()) this.remoteStream.removeTrack(track);
  }
}

/**
 * A call cannot have media.
 *
 * - `no-relay`: only relays may be used, and the node names none. Ask the person whether the contact may see this device's
 *   address (`isRelayOnly: false`).
 * - `not-of-the-profile`: the contact's description has other lines than sound, camera and screen.
 */
export class MediaError extends Error {
  override readonly name = "MediaError";
  constructor(readonly code: "no-relay" | "not-of-the-profile") {
    super(code === "no-relay" ? "the node names no relay for media" : "the description is not of the media profile");
  }
}

/** How often a connection is tried to be made, and how much memory is asked for in between. */
const PEER_ATTEMPTS = 10;
const PRESSURE = 64 * 1024 * 1024;

/**
 * Creates a connection. Chromium allows 500, and counts closed ones until they are collected, which may take minutes. Memory
 * that is asked for makes it collect them.
 */
async function createPeer(iceServers: RTCIceServer[], isRelayOnly: boolean): Promise<RTCPeerConnection> {
  const urls = iceServers.flatMap((server) => server.urls);
  if (isRelayOnly && !urls.some((url) => url.startsWith("turn"))) throw new MediaError("no-relay");
  const configuration: RTCConfiguration = {
    iceServers,
    bundlePolicy: "max-bundle",
    rtcpMuxPolicy: "require",
    iceTransportPolicy: isRelayOnly ? "relay" : "all",
  };
  for (let attempt = 1; ; attempt++) {
    try {
      return new RTCPeerConnection(configuration);
    } catch (error) {
      if (attempt === PEER_ATTEMPTS) throw error;
      void new ArrayBuffer(PRESSURE);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

function localSdp(peer: RTCPeerConnection): string {
  return sendableSdp(peer.localDescription?.sdp ?? "");
}

async function setTracks(peer: RTCPeerConnection, tracks: LocalTracks): Promise<void> {
  for (const line of MEDIA_LINES) {
    const track = tracks[line];
    if (track != null) await transceiverOf(peer, line)?.sender.replaceTrack(track);
  }
}
