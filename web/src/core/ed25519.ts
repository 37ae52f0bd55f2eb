/**
 * Ed25519: verification by the strict rules, signing, and key blinding per day.
 *
 * WebCrypto cannot blind a key, so the arithmetic is that of `@noble/ed25519`. Browsers also differ in which malformed
 * keys and signatures they accept, and nodes compare by one set of rules.
 */
import { getPublicKeyAsync, Point, signAsync, utils, verifyAsync } from "@noble/ed25519";
import { type Bytes, concat, sha512, utf8 } from "./bytes.js";

const ORDER = Point.CURVE().n;
const BLINDED_PREFIX = utf8("chappe/blinded-prefix/v1\0");

/** Signs, and has a public key. */
export interface Signer {
  readonly publicKey: Bytes;
  sign(message: Bytes): Promise<Bytes>;
}

/** Whether `signature` is valid. Refuses keys of small order and non-canonical encodings. */
export function verify(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): Promise<boolean> {
  return verifyAsync(signature, message, publicKey, { zip215: false }).catch(() => false);
}

/** The key pair of a seed of 32 bytes. */
export async function signerOfSeed(seed: Uint8Array): Promise<Signer> {
  return {
    publicKey: new Uint8Array(await getPublicKeyAsync(seed)),
    sign: async (message) => new Uint8Array(await signAsync(message, seed)),
  };
}

/** SHA-512 of a context, as a little-endian number modulo the group's order. */
export async function blindingFactor(context: Bytes): Promise<bigint> {
  return littleEndian(await sha512(context)) % ORDER;
}

/** The blinded public key, or `undefined` if the key is not a point of the prime-order group. */
export function blindPublicKey(publicKey: Uint8Array, factor: bigint): Bytes | undefined {
  try {
    const point = Point.fromBytes(publicKey, false);
    if (point.isSmallOrder() || !point.isTorsionFree()) return undefined;
    return new Uint8Array(point.multiply(factor).toBytes());
  } catch {
    return undefined;
  }
}

/** The blinded key pair of a seed. Its public key is `blindPublicKey` of the seed's public key. */
export async function blindSeed(seed: Uint8Array, factor: bigint): Promise<Signer> {
  const expanded = await utils.getExtendedPublicKeyAsync(seed);
  const scalar = (expanded.scalar * factor) % ORDER;
  const prefix = (await sha512(concat(BLINDED_PREFIX, expanded.prefix, scalarBytes(factor)))).subarray(0, 32);
  const publicKey = new Uint8Array(Point.BASE.multiply(scalar).toBytes());
  return { publicKey, sign: (message) => signExpanded(scalar, prefix, publicKey, message) };
}

/** RFC 8032, 5.1.6, from step 2: the scalar and the prefix are given. */
async function signExpanded(scalar: bigint, prefix: Bytes, publicKey: Bytes, message: Bytes): Promise<Bytes> {
  const r = littleEndian(await sha512(concat(prefix, message))) % ORDER;
  const commitment = Point.BASE.multiply(r).toBytes();
  const k = littleEndian(await sha512(concat(commitment, publicKey, message))) % ORDER;
  return concat(commitment, scalarBytes((r + k * scalar) % ORDER));
}

function scalarBytes(scalar: bigint): Bytes {
  const bytes = new Uint8Array(32);
  for (let at = 0, rest = scalar; at < bytes.length; at++, rest >>= 8n) bytes[at] = Number(rest & 0xffn);
  return bytes;
}

function littleEndian(bytes: Uint8Array): bigint {
  let value = 0n;
  for (let at = bytes.length - 1; at >= 0; at--) value = (value << 8n) | BigInt(bytes[at] as number);
  return value;
}
