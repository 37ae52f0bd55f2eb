/** The page of the comparison: one side of a call, by each library in the same way. Both sides send sound and a picture. */

import { type MediaConnection, Peer } from "peerjs";
import SimplePeer from "simple-peer/simplepeer.min.js";
import { type Call, Client } from "../src/index.js";
import { sampleOf } from "../src/media/statistics.js";

/** A way to make a call. */
export interface Contender {
  /** Makes this side reachable. Returns what the other side needs to call it. */
  start(options: StartOptions): Promise<string>;
  /** Learns of the side to call. */
  meet(invitation: string): Promise<void>;
  call(): Promise<void>;
  /** Takes what the other side has sent by {@link send}, for contenders without signalling of their own. */
  receive?(text: string): Promise<void>;
  /** The connection of the call, while there is one. */
  readonly peer: RTCPeerConnection | undefined;
  /** What the contender says of the call. */
  readonly state: string;
  end(): void;
}

/** Where the contenders that need a server find it. */
export interface StartOptions {
  readonly name: string;
  readonly roots: readonly string[];
  readonly nodes: readonly string[];
  readonly peerServer: { readonly host: string; readonly port: number };
}

const outbox: string[] = [];
const player = document.createElement("video");
player.muted = true;
let media: MediaStream;

function send(message: unknown): void {
  outbox.push(JSON.stringify(message));
}

/** Plays what has arrived, as every app does: a browser decodes no sound that is not played. */
function play(stream: MediaStream): void {
  if (player.srcObject === stream) return;
  player.srcObject = stream;
  void player.play();
}

class Chappe implements Contender {
  #client: Client | undefined;
  #contact = "";
  #call: Call | undefined;
  #state = "new";

  async start({ name, roots, nodes }: StartOptions): Promise<string> {
    const client = new Client({ roots, nodes, name, isPrivate: true });
    this.#client = client;
    client.addEventListener("incomingcall", ({ detail }) => {
      this.#follow(detail.call);
      void detail.call.accept({ tracks: tracks(), isRelayOnly: false });
    });
    await client.connect();
    const { code, paired } = await client.showCode();
    paired.catch(() => {});
    return code;
  }

  async meet(code: string): Promise<void> {
    const { contact } = (await this.#client?.pair(code)) ?? {};
    this.#contact = contact?.id ?? "";
  }

  async call(): Promise<void> {
    const call = await this.#client?.call(this.#contact, { tracks: tracks(), isRelayOnly: false });
    if (call !== undefined) this.#follow(call);
  }

  #follow(call: Call): void {
    this.#call = call;
    call.addEventListener("connected", () => {
      this.#state = "connected";
      if (call.remoteStream !== undefined) play(call.remoteStream);
    });
    call.addEventListener("reconnecting", () => {
      this.#state = "reconnecting";
    });
    call.addEventListener("ended", () => {
      this.#state = "ended";
    });
  }

  get peer() {
    return this.#call?.peerConnection;
  }
  get state() {
    return this.#state;
  }
  end() {
    this.#call?.hangUp();
    void this.#client?.close();
  }
}

class PeerJs implements Contender {
  #peer: Peer | undefined;
  #callee = "";
  #connection: MediaConnection | undefined;
  #state = "new";

  async start({ peerServer }: StartOptions): Promise<string> {
    const peer = new Peer({ ...peerServer, path: "/", config: { iceServers: [] } });
    this.#peer = peer;
    peer.on("call", (connection) => {
      this.#follow(connection);
      connection.answer(media);
    });
    return new Promise((resolve, reject) => {
      peer.on("open", resolve);
      peer.on("error", reject);
    });
  }

  async meet(callee: string): Promise<void> {
    this.#callee = callee;
  }

  async call(): Promise<void> {
    if (this.#peer !== undefined) this.#follow(this.#peer.call(this.#callee, media));
  }

  #follow(connection: MediaConnection): void {
    this.#connection = connection;
    connection.on("stream", (stream) => {
      this.#state = "connected";
      play(stream);
    });
    connection.on("close", () => {
      this.#state = "ended";
    });
    connection.on("error", () => {
      this.#state = "failed";
    });
  }

  get peer() {
    return this.#connection?.peerConnection ?? undefined;
  }
  get state() {
    return this.#state;
  }
  end() {
    this.#connection?.close();
    this.#peer?.destroy();
  }
}

class Simple implements Contender {
  #peer: SimplePeer.Instance | undefined;
  #state = "new";

  async start(): Promise<string> {
    return "";
  }
  async meet(): Promise<void> {}

  async call(): Promise<void> {
    this.#make(true);
  }

  async receive(text: string): Promise<void> {
    if (this.#peer === undefined) this.#make(false);
    this.#peer?.signal(JSON.parse(text));
  }

  #make(isInitiator: boolean): void {
    const peer = new SimplePeer({ initiator: isInitiator, stream: media, config: { iceServers: [] } });
    this.#peer = peer;
    peer.on("signal", send);
    peer.on("stream", play);
    peer.on("connect", () => {
      this.#state = "connected";
    });
    peer.on("close", () => {
      this.#state = "ended";
    });
    peer.on("error", () => {
      this.#state = "failed";
    });
  }

  get peer() {
    // The only way to the statistics: its own are in a form of another time.
    return (this.#peer as unknown as { _pc?: RTCPeerConnection | null } | undefined)?._pc ?? undefined;
  }
  get state() {
    return this.#state;
  }
  end() {
    this.#peer?.destroy();
  }
}

/** The browser alone, as the usual example uses it. */
class Plain implements Contender {
  #peer: RTCPeerConnection | undefined;

  async start(): Promise<string> {
    return "";
  }
  async meet(): Promise<void> {}

  async call(): Promise<void> {
    await this.#make().setLocalDescription();
    send(this.#peer?.localDescription);
  }

  async receive(text: string): Promise<void> {
    const message = JSON.parse(text) as RTCSessionDescriptionInit & RTCIceCandidateInit;
    const peer = this.#peer ?? this.#make();
    if (message.type === undefined) return peer.addIceCandidate(message);
    await peer.setRemoteDescription(message);
    if (message.type !== "offer") return;
    await peer.setLocalDescription();
    send(peer.localDescription);
  }

  #make(): RTCPeerConnection {
    const peer = new RTCPeerConnection();
    this.#peer = peer;
    for (const track of media.getTracks()) peer.addTrack(track, media);
    peer.addEventListener("icecandidate", ({ candidate }) => {
      if (candidate !== null) send(candidate);
    });
    peer.addEventListener("track", ({ streams: [stream] }) => {
      if (stream !== undefined) play(stream);
    });
    return peer;
  }

  get peer() {
    return this.#peer;
  }
  get state() {
    return this.#peer?.connectionState ?? "new";
  }
  end() {
    this.#peer?.close();
  }
}

const CONTENDERS = { chappe: Chappe, peerjs: PeerJs, "simple-peer": Simple, plain: Plain };
export type ContenderName = keyof typeof CONTENDERS;
let contender: Contender;

function tracks() {
  const [sound, camera] = [media.getAudioTracks()[0], media.getVideoTracks()[0]];
  return { ...(sound && { sound }), ...(camera && { camera }) };
}

/** What the runner asks of the page. Everything it returns is JSON. */
const steps = {
  async start(name: ContenderName, options: StartOptions): Promise<string> {
    media = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 640, height: 480 } });
    contender = new CONTENDERS[name]();
    return contender.start(options);
  },
  meet: (invitation: string) => contender.meet(invitation),
  call: () => contender.call(),
  takeSent: () => outbox.splice(0),
  async receive(texts: string[]) {
    for (const text of texts) await contender.receive?.(text);
  },
  state: () => contender.state,

  /** Ends the call, and lets go of all that costs the machine something. */
  end() {
    contender.end();
    player.srcObject = null;
    for (const track of media.getTracks()) track.stop();
  },

  /** What has arrived up to now. */
  async received() {
    const report = [...((await contender.peer?.getStats())?.values() ?? [])] as Record<string, unknown>[];
    const frames = report.filter(({ type, kind }) => type === "inbound-rtp" && kind === "video");
    return {
      ...sampleOf(report),
      framesDecoded: frames.reduce((sum, { framesDecoded }) => sum + Number(framesDecoded ?? 0), 0),
      at: performance.now(),
    };
  },
};

export type CompareSteps = typeof steps;

Object.assign(globalThis, { steps });
