/** The messages of a node, and the plaintexts of sealed messages: JSON of others, checked field by field. */
import { type Bytes, fromBase64url, toBase64url } from "./bytes.js";
import type { Description, MediaStates } from "./outbox.js";
import { type CallId, callIdBytes, callIdOf } from "./seal.js";

/** The error codes of the protocol. A code that this client does not know is `undefined` where it is read. */
export const ERROR_CODES = [
  "bad_message",
  "unknown_type",
  "too_large",
  "not_registered",
  "not_paired",
  "peer_offline",
  "unreachable",
  "congested",
  "rate_limited",
  "bad_lease",
  "too_many",
  "internal",
] as const;

/** A node's word for why it refused a request. `docs/protocol/client.md` explains each. */
export type ErrorCode = (typeof ERROR_CODES)[number];

/** Reads an error code. */
export function errorCode(code: unknown): ErrorCode | undefined {
  return ERROR_CODES.find((known) => known === code);
}

/** A JSON object of the other side. */
export type Json = Readonly<Record<string, unknown>>;

/** Parses a JSON object, or returns `undefined`. */
export function parseObject(text: string): Json | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : undefined;
  } catch {
    return undefined;
  }
}

/** A sealed offer. */
export interface Offer {
  readonly sdp: string;
  /** The key that the callee seals its messages to. */
  readonly replyKey: Bytes;
  /** Seconds since 1970. */
  readonly sentAt: number;
  readonly nodes: readonly string[];
  /** The call that the caller's device was in before it was loaded again. */
  readonly rejoins: CallId | undefined;
}

/** A sealed answer. */
export interface Answer {
  readonly sdp: string;
  readonly replyKey: Bytes;
  readonly nodes: readonly string[];
}

/** Sealed candidates, the description of a renegotiation, and what the sender's media is. */
export interface Ice {
  readonly candidates: readonly string[];
  readonly round: number;
  readonly description: Description | undefined;
  readonly media?: MediaStates | undefined;
}

/** How far an offer's time may be from this clock, in seconds. */
export const FRESH = 15 * 60;

/** The longest session description in characters. With its JSON around it, it fits the largest sealed message. */
export const MAX_SDP = 24 * 1024;

/** The text of an offer. */
export function offerText(offer: Offer): string {
  const { sdp, sentAt } = offer;
  const rejoins = offer.rejoins === undefined ? {} : { rejoins: toBase64url(callIdBytes(offer.rejoins)) };
  return JSON.stringify({ sdp, replyKey: toBase64url(offer.replyKey), sentAt, ...nodesField(offer.nodes), ...rejoins });
}

/** The text of an answer. */
export function answerText(answer: Answer): string {
  return JSON.stringify({ sdp: answer.sdp, replyKey: toBase64url(answer.replyKey), ...nodesField(answer.nodes) });
}

/** The text of candidates. A field with its default is left out. */
export function iceText({ candidates, round, description, media }: Ice): string {
  return JSON.stringify({ candidates, ...(round === 0 ? {} : { round }), description, media });
}

function nodesField(nodes: readonly string[]): { nodes?: readonly string[] } {
  return nodes.length === 0 ? {} : { nodes };
}

/** Reads an offer, or returns `undefined`. */
export function readOffer(text: string): Offer | undefined {
  const json = parseObject(text);
  const replyKey = fromBase64url(json?.replyKey, 32);
  if (typeof json?.sdp !== "string" || replyKey === undefined || !isCount(json.sentAt)) return undefined;
  const rejoins = fromBase64url(json.rejoins, 16);
  return {
    sdp: json.sdp,
    replyKey,
    sentAt: json.sentAt,
    nodes: texts(json.nodes),
    rejoins: rejoins && callIdOf(rejoins),
  };
}

/** Reads an answer, or returns `undefined`. */
export function readAnswer(text: string): Answer | undefined {
  const json = parseObject(text);
  const replyKey = fromBase64url(json?.replyKey, 32);
  if (typeof json?.sdp !== "string" || replyKey === undefined) return undefined;
  return { sdp: json.sdp, replyKey, nodes: texts(json.nodes) };
}

/** Reads candidates, or returns `undefined`. */
export function readIce(text: string): Ice | undefined {
  const json = parseObject(text);
  if (json === undefined || !Array.isArray(json.candidates)) return undefined;
  const round = json.round ?? 0;
  if (!isCount(round)) return undefined;
  const description = readDescription(json.description);
  return { candidates: texts(json.candidates), round, description, media: readMedia(json.media) };
}

function readMedia(value: unknown): MediaStates | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { sound, camera, screen } = value as Json;
  const isSwitch = (state: unknown) => state === "on" || state === "off";
  return {
    ...(isSwitch(sound) || sound === "muted" ? { sound: sound as "on" | "muted" | "off" } : {}),
    ...(isSwitch(camera) ? { camera: camera as "on" | "off" } : {}),
    ...(isSwitch(screen) ? { screen: screen as "on" | "off" } : {}),
  };
}

function readDescription(value: unknown): Description | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { type, sdp } = value as Json;
  return (type === "offer" || type === "answer") && typeof sdp === "string" ? { type, sdp } : undefined;
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
