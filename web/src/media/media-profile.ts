/**
 * The media profile: the same media lines in every description, so that neither turning on a camera nor sharing a screen
 * is a renegotiation, and the size of an offer does not tell what kind of call it is. `docs/protocol/media.md`.
 */

/** What the media lines carry, in their order. */
export const MEDIA_LINES = ["sound", "camera", "screen"] as const;

/** What a media line carries. */
export type MediaLine = (typeof MEDIA_LINES)[number];

/** The tracks that this side sends, each optional. */
export type LocalTracks = Partial<Record<MediaLine, MediaStreamTrack | null>>;

/** The codecs that are offered, in their order. More would not fit the padded length of a description. */
const AUDIO_CODECS = ["audio/opus", "audio/pcmu"];
const VIDEO_CODECS = ["video/vp8", "video/h264", "video/rtx"];
/** H.264 in the one form that all browsers have: constrained baseline, single packets not forced. */
const H264_BASELINE = /profile-level-id=42e01f/i;

/** Adds the media lines of the profile to a connection that makes an offer. */
export function addMediaLines(peer: RTCPeerConnection): void {
  for (const line of MEDIA_LINES) {
    const transceiver = peer.addTransceiver(line === "sound" ? "audio" : "video", { direction: "sendrecv" });
    limitCodecs(transceiver);
  }
}

/** Whether a description has only lines of the profile, in its order: a contact could add others, or a data channel. */
export function isOfProfile(sdp: string): boolean {
  const kinds = Array.from(sdp.matchAll(/^m=(\S+)/gm), ([, kind]) => kind);
  return /^audio(,video){0,2}$/.test(kinds.join());
}

/** Prepares the media lines of a received offer for the answer: all of them both ways, with the profile's codecs. */
export function answerMediaLines(peer: RTCPeerConnection): void {
  for (const transceiver of peer.getTransceivers()) {
    transceiver.direction = "sendrecv";
    limitCodecs(transceiver);
  }
}

/** The transceiver of a media line, or `undefined` if the other side has not taken the line. */
export function transceiverOf(peer: RTCPeerConnection, line: MediaLine): RTCRtpTransceiver | undefined {
  return peer.getTransceivers()[MEDIA_LINES.indexOf(line)];
}

function limitCodecs(transceiver: RTCRtpTransceiver): void {
  const { kind } = transceiver.receiver.track;
  const wanted = kind === "audio" ? AUDIO_CODECS : VIDEO_CODECS;
  const codecs = RTCRtpReceiver.getCapabilities(kind)?.codecs ?? [];
  const usable = codecs.filter(({ mimeType, sdpFmtpLine = "" }) => {
    const name = mimeType.toLowerCase();
    const isOtherH264 =
      name === "video/h264" && !(H264_BASELINE.test(sdpFmtpLine) && sdpFmtpLine.includes("packetization-mode=1"));
    return wanted.includes(name) && !isOtherH264;
  });
  const rank = ({ mimeType }: { mimeType: string }) => wanted.indexOf(mimeType.toLowerCase());
  usable.sort((a, b) => rank(a) - rank(b));
  // A browser that lacks the method offers all its codecs, which costs size and no call.
  if (usable.length > 0) transceiver.setCodecPreferences?.(usable);
}

/**
 * The description as it is sent: without feedback lines of payload types that its media line does not list. Firefox 153
 * leaves those behind after `setCodecPreferences`, and Chromium refuses a description with them.
 */
export function sendableSdp(sdp: string): string {
  let listed: string[] = [];
  return sdp.replace(/^(?:m=|a=rtcp-fb:(\d+) ).*\r\n/gm, (line, payload) => {
    if (payload === undefined) listed = line.trim().split(" ").slice(3);
    else if (!listed.includes(payload)) return "";
    return line;
  });
}
