/**
 * X25519 keys and HKDF by WebCrypto, so that private keys need not be readable by scripts.
 *
 * Where a platform has no X25519, the keys are those of a library and lie in memory as bytes. {@link keyProtection}
 * tells the two apart.
 */
import { type Bytes, fromBase64url, randomBytes, utf8 } from "./bytes.js";

/** A private key of WebCrypto, or the bytes of one where WebCrypto has no X25519. */
export type X25519PrivateKey = CryptoKey | Bytes;

/** A private X25519 key, and its public key. */
export interface X25519KeyPair {
  readonly privateKey: X25519PrivateKey;
  readonly publicKey: Bytes;
}

/** How private keys are kept: scripts cannot read a `non-extractable` one, and could read a `script-readable` one. */
export type KeyProtection = "non-extractable" | "script-readable";

let probed: Promise<KeyProtection> | undefined;

/** How this platform keeps private keys. */
export function keyProtection(): Promise<KeyProtection> {
  probed ??= crypto.subtle.generateKey("X25519", false, ["deriveBits"]).then(
    () => "non-extractable",
    () => "script-readable",
  );
  return probed;
}

/** Generates a key pair. */
export async function generateX25519(): Promise<X25519KeyPair> {
  if ((await keyProtection()) === "script-readable") return x25519OfBytes(randomBytes(32));
  const pair = (await crypto.subtle.generateKey("X25519", false, ["deriveBits"])) as CryptoKeyPair;
  const publicKey = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
  return { privateKey: pair.privateKey, publicKey };
}

/** The key pair of 32 secret bytes. */
export async function x25519OfBytes(secret: Bytes): Promise<X25519KeyPair> {
  if ((await keyProtection()) === "script-readable") {
    const { x25519 } = await import("./x25519-library.js");
    return { privateKey: secret, publicKey: new Uint8Array(x25519.getPublicKey(secret)) };
  }
  // RFC 8410: a PKCS #8 document of 16 fixed bytes and the key. A JWK would have to hold the public key already.
  const document = new Uint8Array(48);
  document.set([0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 4, 0x22, 4, 0x20]);
  document.set(secret, 16);
  const readable = await crypto.subtle.importKey("pkcs8", document, "X25519", true, ["deriveBits"]);
  const publicKey = fromBase64url((await crypto.subtle.exportKey("jwk", readable)).x, 32);
  if (publicKey === undefined) throw new Error("WebCrypto exports no public key");
  return { privateKey: await crypto.subtle.importKey("pkcs8", document, "X25519", false, ["deriveBits"]), publicKey };
}

/** What X25519 yields for a private and a public key, or `undefined` for a public key of small order. */
export async function agree(privateKey: X25519PrivateKey, publicKey: Bytes): Promise<Bytes | undefined> {
  try {
    const shared = await sharedBytes(privateKey, publicKey);
    return shared.every((byte) => byte === 0) ? undefined : shared;
  } catch {
    // Some platforms refuse such a key, others yield zeros.
    return undefined;
  }
}

async function sharedBytes(privateKey: X25519PrivateKey, publicKey: Bytes): Promise<Bytes> {
  if (privateKey instanceof Uint8Array) {
    const { x25519 } = await import("./x25519-library.js");
    return new Uint8Array(x25519.getSharedSecret(privateKey, publicKey));
  }
  const peer = await crypto.subtle.importKey("raw", publicKey, "X25519", true, []);
  return new Uint8Array(await crypto.subtle.deriveBits({ name: "X25519", public: peer }, privateKey, 256));
}

/** A secret as a key for {@link expand}. Scripts cannot read it back. */
export function hkdfKey(secret: Bytes): Promise<CryptoKey> {
  return crypto.subtle.importKey("raw", secret, "HKDF", false, ["deriveBits"]);
}

/** HKDF-SHA256 without a salt: `length` bytes for `info`, a text or bytes. */
export async function expand(key: CryptoKey, info: string | Bytes, length = 32): Promise<Bytes> {
  const infoBytes = typeof info === "string" ? utf8(info) : info;
  const params = { name: "HKDF", hash: "SHA-256", salt: new Uint8Array(), info: infoBytes };
  return new Uint8Array(await crypto.subtle.deriveBits(params, key, length * 8));
}
