/** Whether media can be relayed over one transport: asks the relay for an address, as a call does. */
export type Transport = "udp" | "tcp" | "tls";

const TIMEOUT = 6_000;

/** `none`: no relay with this transport is named. */
export async function triesRelay(
  servers: readonly RTCIceServer[],
  transport: Transport,
): Promise<"relayed" | "refused" | "none"> {
  const usable = servers.flatMap((server) => {
    const urls = [server.urls].flat().filter((url) => transportOf(url) === transport);
    return urls.length === 0 ? [] : [{ ...server, urls }];
  });
  if (usable.length === 0) return "none";
  const peer = new RTCPeerConnection({ iceServers: usable, iceTransportPolicy: "relay" });
  try {
    const hasCandidate = new Promise<"relayed">((resolve) =>
      peer.addEventListener("icecandidate", ({ candidate }) => {
        if (candidate?.type === "relay") resolve("relayed");
      }),
    );
    peer.createDataChannel("check");
    await peer.setLocalDescription();
    const timeout = new Promise<"refused">((resolve) => setTimeout(resolve, TIMEOUT, "refused"));
    return await Promise.race([hasCandidate, timeout]);
  } finally {
    peer.close();
  }
}

/** The transport of a TURN URL (RFC 7065). `undefined` for a STUN server. */
export function transportOf(url: string): Transport | undefined {
  if (url.startsWith("turns:")) return "tls";
  if (!url.startsWith("turn:")) return undefined;
  return /[?&]transport=tcp/.test(url) ? "tcp" : "udp";
}
