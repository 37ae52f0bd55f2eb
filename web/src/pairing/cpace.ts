/**
 * CPace: derives a key from a short shared secret. An attacker gets one guess for each exchange.
 *
 * The CFRG draft (draft-irtf-cfrg-cpace), group ristretto255 with SHA-512, with an initiator and a responder.
 */
import { ed25519, ristretto255, ristretto255_hasher } from "@noble/curves/ed25519.js";
import { sha512 } from "@noble/hashes/sha2.js";
import { type Bytes, concat, utf8 } from "../core/bytes.js";

/** SHA-512's block. The password and zeros fill the first one, so that hashing takes the same time for any length. */
const HASH_BLOCK = 128;
const DSI = utf8("CPaceRistretto255");
const DSI_ISK = utf8("CPaceRistretto255_ISK");
const ORDER = ed25519.Point.CURVE().n;

/** The other side's share is not a group element, or is the identity. The exchange must be abandoned. */
export class InvalidShareError extends Error {
  override readonly name = "InvalidShareError";
}

/** One side of one exchange. Used once. */
export class Exchange {
  /** This side's share, to send to the other side. */
  readonly share: Bytes;
  readonly #scalar: bigint;

  /** Both sides pass the same channel identifier and session id. `random` is 64 bytes that are used once. */
  constructor(secret: Uint8Array, channel: Uint8Array, session: Uint8Array, random: Uint8Array) {
    this.#scalar = littleEndian(random) % ORDER;
    this.share = new Uint8Array(generator(secret, channel, session).multiply(this.#scalar).toBytes());
  }

  /** The intermediate session key `ISK_IR`. Throws {@link InvalidShareError}. */
  finish(peerShare: Uint8Array, session: Uint8Array, transcript: Uint8Array): Bytes {
    const point = multiply(this.#scalar, peerShare);
    return new Uint8Array(sha512(concat(lvCat(DSI_ISK, session, point), transcript)));
  }
}

/** The initiator's share and data, then the responder's. */
export function transcriptOf(
  initiatorShare: Uint8Array,
  initiatorData: Uint8Array,
  responderShare: Uint8Array,
  responderData: Uint8Array,
): Bytes {
  return lvCat(initiatorShare, initiatorData, responderShare, responderData);
}

/** Joins parts, each with its length in LEB128 in front. */
export function lvCat(...parts: readonly Uint8Array[]): Bytes {
  return concat(...parts.flatMap((part) => [leb128(part.length), part]));
}

function leb128(value: number): Bytes {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest >>= 7) bytes.push((rest & 0x7f) | 0x80);
  return new Uint8Array([...bytes, rest]);
}

/** The draft's generator string. */
export function generatorString(secret: Uint8Array, channel: Uint8Array, session: Uint8Array): Bytes {
  const used = lvCat(DSI, secret).length + 1;
  return lvCat(DSI, secret, new Uint8Array(Math.max(HASH_BLOCK - used, 0)), channel, session);
}

/** The generator of a secret. */
export function generator(
  secret: Uint8Array,
  channel: Uint8Array,
  session: Uint8Array,
): typeof ristretto255.Point.BASE {
  const { deriveToCurve } = ristretto255_hasher;
  if (deriveToCurve === undefined) throw new Error("the library has no map to ristretto255");
  return deriveToCurve(sha512(generatorString(secret, channel, session))) as typeof ristretto255.Point.BASE;
}

/** The draft's `scalar_mult_vfy`. Throws {@link InvalidShareError}. */
export function multiply(scalar: bigint, share: Uint8Array): Bytes {
  try {
    const point = ristretto255.Point.fromBytes(share);
    if (!point.is0()) return new Uint8Array(point.multiply(scalar).toBytes());
  } catch {
    // Not a group element.
  }
  throw new InvalidShareError("the other side's share is not valid");
}

/** The number of little-endian bytes. */
export function littleEndian(bytes: Uint8Array): bigint {
  let value = 0n;
  for (let at = bytes.length - 1; at >= 0; at--) value = (value << 8n) | BigInt(bytes[at] as number);
  return value;
}
