/** The keys of one pairing: confirmations, proofs of possession, and sealed identities. */
import { chacha20poly1305 } from "@noble/ciphers/chacha.js";
import { hkdf } from "@noble/hashes/hkdf.js";
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { type Bytes, concat, equalBytes, utf8, utf8Text } from "../core/bytes.js";
import { cleanName, MAX_NAME } from "../core/clean-name.js";
import type { Role } from "../core/contact.js";
import { agree, type X25519KeyPair } from "../core/x25519.js";
import { lvCat } from "./cpace.js";
import { wordsOf } from "./words.js";

/** The context of everything in a pairing. */
export const LABEL = utf8("chappe/pair/v2\0");
/** ML-KEM-768 (FIPS 203, table 3). */
export const ENCAPSULATION_KEY = 1184;
export const CIPHERTEXT = 1088;
/** Nonce, identity, inbox root key, length of the name, and the name, padded. */
const IDENTITY = 32 + 32 + 32 + 1 + MAX_NAME;
const TAG = 16;
/** The length of a sealed identity of each role. */
export const SEALED = { a: IDENTITY + ENCAPSULATION_KEY + TAG, b: IDENTITY + CIPHERTEXT + TAG } as const;

/** What a side seals for the other. */
export interface Identity {
  /** A's nonce; zeros from B. */
  readonly nonce: Bytes;
  readonly identity: Bytes;
  readonly root: Bytes;
  readonly name: string;
  /** A's encapsulation key, or B's ciphertext. */
  readonly kem: Bytes;
}

/** The keys derived from CPace's session key. */
export class PairingKeys {
  readonly #isk: Bytes;

  constructor(isk: Bytes) {
    this.#isk = isk;
  }

  #expand(label: string, context: Uint8Array = new Uint8Array(), length = 32): Bytes {
    return new Uint8Array(hkdf(sha256, this.#isk, undefined, concat(LABEL, utf8(label), context), length));
  }

  /** A side's confirmation that it knows the secret. */
  confirm(role: Role, share: Uint8Array, data: Uint8Array): Bytes {
    return new Uint8Array(hmac(sha256, this.#expand(`confirm-${role}`), lvCat(share, data)));
  }

  /** Whether the other side's confirmation is right. Compares in constant time. */
  isConfirmed(role: Role, share: Uint8Array, data: Uint8Array, tag: Uint8Array): boolean {
    return equalBytes(this.confirm(role, share, data), tag);
  }

  /** A proof that only the holder of `identity` can make; `undefined` if the challenge is not usable. */
  async possession(role: Role, identity: X25519KeyPair, challenge: Bytes): Promise<Bytes | undefined> {
    const shared = await agree(identity.privateKey, challenge);
    return shared && this.#possessionTag(role, shared, identity.publicKey);
  }

  /** Whether the other side has proved that it holds `identity`. */
  async isPossessed(role: Role, challenge: X25519KeyPair, identity: Bytes, tag: Bytes): Promise<boolean> {
    const shared = await agree(challenge.privateKey, identity);
    return shared !== undefined && equalBytes(this.#possessionTag(role, shared, identity), tag);
  }

  #possessionTag(role: Role, shared: Uint8Array, identity: Uint8Array): Bytes {
    return new Uint8Array(hmac(sha256, this.#expand(`possess-${role}`, shared), identity));
  }

  /** Seals an identity. Each of the two keys seals one message, so the nonce can be zeros. */
  seal(role: Role, own: Identity): Bytes {
    const name = utf8(cleanName(own.name));
    const plain = new Uint8Array(IDENTITY);
    plain.set(own.nonce);
    plain.set(own.identity, 32);
    plain.set(own.root, 64);
    plain[96] = name.length;
    plain.set(name, 97);
    return new Uint8Array(this.#cipher(role).encrypt(concat(plain, own.kem)));
  }

  /** Opens the other side's identity, or returns `undefined`. */
  open(role: Role, sealed: Bytes): Identity | undefined {
    try {
      const plain = new Uint8Array(this.#cipher(role).decrypt(sealed));
      const part = (at: number) => plain.slice(at, at + 32);
      const nameLength = plain[96] as number;
      if (nameLength > MAX_NAME) return undefined;
      const name = utf8Text(plain.subarray(97, 97 + nameLength));
      return { nonce: part(0), identity: part(32), root: part(64), name, kem: plain.slice(IDENTITY) };
    } catch {
      return undefined;
    }
  }

  #cipher(role: Role) {
    return chacha20poly1305(this.#expand(`seal-${role}`), new Uint8Array(12));
  }

  /** The pairing secret, from CPace's key and what ML-KEM shares. An attacker must break both to get it. */
  pairingSecret(
    identityA: Bytes,
    identityB: Bytes,
    shared: Uint8Array,
    encapsulationKey: Bytes,
    ciphertext: Bytes,
  ): Bytes {
    const classical = this.#expand("pairing-secret", concat(identityA, identityB));
    const info = concat(LABEL, utf8("hybrid"), sha256(encapsulationKey), sha256(ciphertext));
    return new Uint8Array(hkdf(sha256, shared, classical, info, 32));
  }

  /** The words that both people compare. */
  words(nonceA: Bytes, nonceB: Bytes): string[] {
    return wordsOf(this.#expand("words", concat(nonceA, nonceB), 4));
  }
}
