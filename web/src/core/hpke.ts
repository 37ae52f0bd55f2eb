/**
 * HPKE (RFC 9180): single-shot seal and open in mode AuthPSK, with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and
 * ChaCha20Poly1305. The private keys stay in WebCrypto. The libraries for HPKE take three times the size of all other
 * cryptography of a call; the vectors of sealing, which another implementation has made, check this one.
 */
import { chacha20poly1305 } from "@noble/ciphers/chacha.js";
import { type Bytes, concat, utf8 } from "./bytes.js";
import { agree, generateX25519, type X25519KeyPair, type X25519PrivateKey } from "./x25519.js";

const MODE_AUTH_PSK = 3;
/** `I2OSP(n, 2)` of RFC 9180 for the KEM, the KDF and the AEAD. */
const KEM = new Uint8Array([0, 0x20]);
const KEM_SUITE = concat(utf8("KEM"), KEM);
const SUITE = concat(utf8("HPKE"), KEM, new Uint8Array([0, 1, 0, 3]));
const VERSION = utf8("HPKE-v1");
const EMPTY = new Uint8Array();
const KEY = 32;
const NONCE = 12;

/** The length of an encapsulated key. */
export const ENCAPSULATED = 32;

/** What both sides of a message know besides the keys. */
export interface HpkeContext {
  readonly info: Bytes;
  readonly aad: Bytes;
  readonly psk: Bytes;
  readonly pskId: Bytes;
}

/**
 * Seals `plain` from `sender` to the public key `recipient`. Returns the encapsulated key and the ciphertext, joined.
 * `ephemeral` is for vectors. Throws `RangeError` if the recipient's key is of small order.
 */
export async function sealAuthPsk(
  sender: X25519KeyPair,
  recipient: Bytes,
  context: HpkeContext,
  plain: Bytes,
  ephemeral?: X25519KeyPair,
): Promise<Bytes> {
  const { privateKey, publicKey: encapsulated } = ephemeral ?? (await generateX25519());
  const shared = await sharedSecret(
    [privateKey, sender.privateKey],
    [recipient, recipient],
    concat(encapsulated, recipient, sender.publicKey),
  );
  if (shared === undefined) throw new RangeError("the recipient's key is not usable");
  const { key, nonce } = await keySchedule(shared, context);
  return concat(encapsulated, chacha20poly1305(key, nonce, context.aad).encrypt(plain));
}

/** Opens what {@link sealAuthPsk} has returned, or returns `undefined`. */
export async function openAuthPsk(
  sender: Bytes,
  recipient: X25519KeyPair,
  context: HpkeContext,
  sealed: Bytes,
): Promise<Bytes | undefined> {
  const encapsulated = sealed.slice(0, ENCAPSULATED);
  const shared = await sharedSecret(
    [recipient.privateKey, recipient.privateKey],
    [encapsulated, sender],
    concat(encapsulated, recipient.publicKey, sender),
  );
  if (shared === undefined) return undefined;
  const { key, nonce } = await keySchedule(shared, context);
  try {
    return new Uint8Array(chacha20poly1305(key, nonce, context.aad).decrypt(sealed.subarray(ENCAPSULATED)));
  } catch {
    return undefined;
  }
}

/** `AuthEncap` and `AuthDecap` of RFC 9180, 4.1: from the ephemeral and the static key agreement. */
async function sharedSecret(
  privateKeys: readonly [X25519PrivateKey, X25519PrivateKey],
  publicKeys: readonly [Bytes, Bytes],
  kemContext: Bytes,
): Promise<Bytes | undefined> {
  const [ephemeral, authenticated] = await Promise.all([
    agree(privateKeys[0], publicKeys[0]),
    agree(privateKeys[1], publicKeys[1]),
  ]);
  if (ephemeral === undefined || authenticated === undefined) return undefined;
  const prk = await labeledExtract(KEM_SUITE, EMPTY, "eae_prk", concat(ephemeral, authenticated));
  return labeledExpand(KEM_SUITE, prk, "shared_secret", kemContext, KEY);
}

/** RFC 9180, 5.1. */
async function keySchedule(shared: Bytes, { info, psk, pskId }: HpkeContext): Promise<{ key: Bytes; nonce: Bytes }> {
  const [pskIdHash, infoHash, secret] = await Promise.all([
    labeledExtract(SUITE, EMPTY, "psk_id_hash", pskId),
    labeledExtract(SUITE, EMPTY, "info_hash", info),
    labeledExtract(SUITE, shared, "secret", psk),
  ]);
  const context = concat(new Uint8Array([MODE_AUTH_PSK]), pskIdHash, infoHash);
  const key = await labeledExpand(SUITE, secret, "key", context, KEY);
  return { key, nonce: await labeledExpand(SUITE, secret, "base_nonce", context, NONCE) };
}

function labeledExtract(suite: Bytes, salt: Bytes, label: string, ikm: Bytes): Promise<Bytes> {
  return hmac(salt, concat(VERSION, suite, utf8(label), ikm));
}

/** HKDF-Expand of at most one block, which is all that is needed here. */
async function labeledExpand(suite: Bytes, prk: Bytes, label: string, info: Bytes, length: number): Promise<Bytes> {
  const labeled = concat(new Uint8Array([0, length]), VERSION, suite, utf8(label), info, new Uint8Array([1]));
  return (await hmac(prk, labeled)).slice(0, length);
}

async function hmac(key: Bytes, message: Bytes): Promise<Bytes> {
  // HMAC pads its key with zeros, and WebCrypto takes no empty one.
  const bytes = key.length === 0 ? new Uint8Array(KEY) : key;
  const imported = await crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", imported, message));
}

/** `DeriveKeyPair` of RFC 9180, 7.1.3, for vectors: the secret bytes. */
export async function deriveSecretKey(ikm: Bytes): Promise<Bytes> {
  return labeledExpand(KEM_SUITE, await labeledExtract(KEM_SUITE, EMPTY, "dkp_prk", ikm), "sk", EMPTY, KEY);
}
