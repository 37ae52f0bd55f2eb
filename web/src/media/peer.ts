/** Makes and sets up the `RTCPeerConnection` of a call. */
import { pause } from "../core/clock.js";
import { MediaError } from "./media-error.js";
import { type MediaLine, sendableSdp, transceiverOf } from "./media-profile.js";

/** Attempts to create a connection, the pause between them in milliseconds, and the bytes allocated in each to make the browser collect garbage. */
const PEER_ATTEMPTS = 10;
const ATTEMPT_PAUSE = 50;
const PRESSURE = 64 * 1024 * 1024;

/** Creates a connection that uses these servers. Throws {@link MediaError} if it needs a relay and has none. */
export async function createPeer(iceServers: RTCIceServer[], isRelayOnly: boolean): Promise<RTCPeerConnection> {
  const peer = await newPeer({
    bundlePolicy: "max-bundle",
    rtcpMuxPolicy: "require",
    iceTransportPolicy: isRelayOnly ? "relay" : "all",
  });
  try {
    setServers(peer, iceServers);
    return peer;
  } catch (error) {
    peer.close();
    throw error;
  }
}

/**
 * Sets the servers of a connection. A browser that refuses one, such as Firefox for port 22, would refuse all others with it, so
 * each is tried by itself. Throws {@link MediaError} if the connection needs a relay and would have none.
 */
export function setServers(peer: RTCPeerConnection, servers: RTCIceServer[]): void {
  const former = peer.getConfiguration();
  const set = (iceServers: RTCIceServer[]) => peer.setConfiguration({ ...former, iceServers });
  const single = servers.flatMap((server) => [server.urls].flat().map((urls) => ({ ...server, urls })));
  const usable = single.filter((server) => {
    try {
      set([server]);
      return true;
    } catch {
      return false;
    }
  });
  if (former.iceTransportPolicy === "relay" && !usable.some(({ urls }) => urls.startsWith("turn"))) {
    peer.setConfiguration(former);
    throw new MediaError("no-relay");
  }
  set(usable);
}

/**
 * Creates a connection. Chromium allows 500, and counts closed ones until they are collected, which may take minutes. Memory
 * that is asked for makes it collect them.
 */
async function newPeer(configuration: RTCConfiguration): Promise<RTCPeerConnection> {
  for (let attempt = 1; ; attempt++) {
    try {
      return new RTCPeerConnection(configuration);
    } catch (error) {
      if (attempt === PEER_ATTEMPTS) throw error;
      void new ArrayBuffer(PRESSURE);
      await pause(ATTEMPT_PAUSE);
    }
  }
}

/** The local description, as it is sent. */
export function localSdp(peer: RTCPeerConnection): string {
  return sendableSdp(peer.localDescription?.sdp ?? "");
}

/** Sends the sound before the pictures, and with at most this bit rate; `Infinity` leaves the rate to the browser. */
export function preferSound(peer: RTCPeerConnection, maxBitrate: number): Promise<void> {
  return changeEncoding(peer, "sound", (encoding) => {
    encoding.priority = "high";
    encoding.networkPriority = "high";
    setMaxBitrate(encoding, maxBitrate);
  });
}

/**
 * Sends a line with at most this bit rate; `Infinity` leaves it to the browser. 0 stops the line at once: without a track alone,
 * lost packets are sent again for many seconds.
 */
export function limitLine(peer: RTCPeerConnection, line: MediaLine, maxBitrate: number): Promise<void> {
  return changeEncoding(peer, line, (encoding) => {
    encoding.active = maxBitrate > 0;
    setMaxBitrate(encoding, maxBitrate);
  });
}

function setMaxBitrate(encoding: RTCRtpEncodingParameters, maxBitrate: number): void {
  // A browser refuses 0.
  if (maxBitrate === 0 || maxBitrate === Number.POSITIVE_INFINITY) delete encoding.maxBitrate;
  else encoding.maxBitrate = maxBitrate;
}

async function changeEncoding(
  peer: RTCPeerConnection,
  line: MediaLine,
  change: (encoding: RTCRtpEncodingParameters) => void,
): Promise<void> {
  const sender = transceiverOf(peer, line)?.sender;
  const parameters = sender?.getParameters();
  const [encoding] = parameters?.encodings ?? [];
  if (sender === undefined || parameters === undefined || encoding === undefined) return;
  change(encoding);
  // A browser that refuses these parameters sends as it does by default.
  await sender.setParameters(parameters).catch(() => undefined);
}
