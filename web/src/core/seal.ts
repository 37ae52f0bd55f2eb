/**
 * Sealing: end-to-end encryption and authentication of the messages between two paired clients.
 *
 * Each message is one single-shot HPKE seal (RFC 9180, mode AuthPSK), so messages may arrive in any order. Owns the
 * envelope, the padding, and the rejection of replays. `docs/protocol/sealing-and-pairing.md` has the form.
 */
import { type Bytes, concat, fromBase64url, fromHex, toBase64url, toHex, u32, utf8 } from "./bytes.js";
import { ENCAPSULATED, openAuthPsk, sealAuthPsk } from "./hpke.js";
import type { X25519KeyPair } from "./x25519.js";

/** The kinds of messages of a call. */
export type CallKind = "call_offer" | "call_answer" | "call_ice" | "call_reject" | "call_hangup";

/** All kinds of messages of a call. */
export const CALL_KINDS: readonly CallKind[] = ["call_offer", "call_answer", "call_ice", "call_reject", "call_hangup"];

/** The direction of a message within its call. */
export type Direction = "to-callee" | "to-caller";

/** Identifies a call: 16 bytes as a UUID in lower case. Where both sides call at once, the lower text wins. */
export type CallId = string;

/** What a message's ciphertext is bound to. */
export interface MessageContext {
  readonly call: CallId;
  readonly direction: Direction;
  readonly kind: CallKind;
  /** Sequence number of the message within its call and direction. */
  readonly counter: number;
}

/** A payload whose envelope was parsed and whose seal is not checked yet. */
export interface Envelope {
  readonly call: CallId;
  readonly counter: number;
  readonly bytes: Bytes;
}

const VERSION = 1;
const HEADER = 21;
const TAG = 16;
const PSK_ID = utf8("chappe/pairing/v1");
const PADDED = [512, 2048, 8192, 16384, 32768];
/** Messages with a session description are padded to this length at least, so that none tells what it describes. */
const DESCRIPTION_PADDED = 8192;
const MAX_PAYLOAD = 48 * 1024;

/** The 16 bytes of a call id. */
export function callIdBytes(call: CallId): Bytes {
  return fromHex(call.replaceAll("-", ""));
}

/** The call id of 16 bytes. */
export function callIdOf(bytes: Uint8Array): CallId {
  const hex = toHex(bytes);
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** Parses a payload, or returns `undefined` if it is not an envelope of this version. */
export function parseEnvelope(payload: unknown): Envelope | undefined {
  if (typeof payload !== "string" || payload.length > MAX_PAYLOAD) return undefined;
  const bytes = fromBase64url(payload);
  if (bytes?.[0] !== VERSION || !PADDED.includes(bytes.length - HEADER - ENCAPSULATED - TAG)) return undefined;
  const counter = new DataView(bytes.buffer).getUint32(17);
  return { call: callIdOf(bytes.subarray(1, 17)), counter, bytes };
}

/**
 * Seals `text` from `sender` to the public key `recipient`. Returns the payload. `ephemeral` is for vectors.
 * Throws `RangeError` if the text is longer than 32,764 bytes or the key is not usable.
 */
export async function seal(
  secret: Bytes,
  sender: X25519KeyPair,
  recipient: Bytes,
  context: MessageContext,
  text: string,
  hasDescription: boolean,
  ephemeral?: X25519KeyPair,
): Promise<string> {
  const header = concat(new Uint8Array([VERSION]), callIdBytes(context.call), u32(context.counter));
  const plain = pad(utf8(text), hasDescription ? DESCRIPTION_PADDED : 0);
  const hpke = hpkeContext(header, secret, context.direction, context.kind);
  return toBase64url(concat(header, await sealAuthPsk(sender, recipient, hpke, plain, ephemeral)));
}

/** Opens a payload as a message from `sender` to `recipient`. Returns the text, or `undefined` if it does not open. */
export async function open(
  envelope: Envelope,
  secret: Bytes,
  sender: Bytes,
  recipient: X25519KeyPair,
  direction: Direction,
  kind: CallKind,
): Promise<string | undefined> {
  const header = envelope.bytes.slice(0, HEADER);
  const context = hpkeContext(header, secret, direction, kind);
  const plain = await openAuthPsk(sender, recipient, context, envelope.bytes.slice(HEADER));
  return plain && unpad(plain);
}

function hpkeContext(header: Bytes, psk: Bytes, direction: Direction, kind: CallKind) {
  return { info: info(direction, kind), aad: header, psk, pskId: PSK_ID };
}

function info(direction: Direction, kind: CallKind): Bytes {
  return concat(
    utf8("chappe/seal/v1\0"),
    new Uint8Array([direction === "to-callee" ? 0 : 1, CALL_KINDS.indexOf(kind) + 1]),
  );
}

/** The padded length of a text, or `undefined` if it is too long. */
export function paddedLength(text: string, hasDescription: boolean): number | undefined {
  const least = Math.max(utf8(text).length + 4, hasDescription ? DESCRIPTION_PADDED : 0);
  return PADDED.find((padded) => padded >= least);
}

function pad(text: Bytes, least: number): Bytes {
  const length = PADDED.find((padded) => padded >= Math.max(text.length + 4, least));
  if (length === undefined) throw new RangeError("the message is too long to be sealed");
  const padded = new Uint8Array(length);
  padded.set(u32(text.length));
  padded.set(text, 4);
  return padded;
}

function unpad(padded: Bytes): string | undefined {
  const end = 4 + new DataView(padded.buffer).getUint32(0);
  if (end > padded.length || padded.subarray(end).some((byte) => byte !== 0)) return undefined;
  return new TextDecoder().decode(padded.subarray(4, end));
}

/**
 * The counters that were received in one direction of a call: the newest and the 127 before it. A counter older than
 * that counts as a replay.
 */
export class ReplayWindow {
  #newest = -1;
  #seen = new Set<number>();

  /** Records the counter of an opened message. Returns `false` if it was seen before or is too old. */
  insert(counter: number): boolean {
    if (counter <= this.#newest - 128 || this.#seen.has(counter)) return false;
    this.#seen.add(counter);
    if (counter > this.#newest) {
      this.#newest = counter;
      this.#seen = new Set([...this.#seen].filter((seen) => seen > counter - 128));
    }
    return true;
  }
}
