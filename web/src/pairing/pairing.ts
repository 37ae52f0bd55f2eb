/**
 * Pairing: derives keys that only two people have, from a code that they share. `docs/protocol/sealing-and-pairing.md`
 * has the messages.
 *
 * Each step consumes the state before it, so a code answers exactly one request. Knows no clock and no network.
 */
import { sha256 } from "@noble/hashes/sha2.js";
import { ml_kem768 } from "@noble/post-quantum/ml-kem.js";
import { type Bytes, concat, equalBytes, fromBase64url, randomBytes, toBase64url, utf8 } from "../core/bytes.js";
import { cleanName } from "../core/clean-name.js";
import { type Contact, isUsableRoot, newPairing, type Role } from "../core/contact.js";
import { signerOfSeed } from "../core/ed25519.js";
import type { Json } from "../core/messages.js";
import { generateX25519, hkdfKey, type X25519KeyPair } from "../core/x25519.js";
import { Exchange, InvalidShareError, lvCat, transcriptOf } from "./cpace.js";
import { CIPHERTEXT, ENCAPSULATION_KEY, type Identity, LABEL, PairingKeys, SEALED } from "./keys.js";
import type { Phrase } from "./phrase.js";

/**
 * Why a pairing failed. The code is used up, and nothing was stored.
 *
 * - `wrong-secret`: the code was not the same on both sides, or an attacker guessed.
 * - `invalid-share`, `invalid-identity`, `not-possessed`: the other side is faulty, or an attacker.
 */
export type PairingFault = "wrong-secret" | "invalid-share" | "invalid-identity" | "not-possessed";

/** A step of the pairing failed. */
export class PairingFaultError extends Error {
  override readonly name = "PairingFaultError";
  constructor(readonly fault: PairingFault) {
    super(`the pairing failed: ${fault}`);
  }
}

/** This side's identity key, and the name that the other side sees first. */
export interface LocalIdentity {
  readonly identity: X25519KeyPair;
  readonly name: string;
  /** Whether the pairing's secret is kept readable, so that the profile can be exported. */
  readonly isExportable?: boolean;
}

/** The result of a pairing. */
export interface Agreed {
  /** The other side, with this pairing. */
  readonly contact: Contact;
  /** The words that both people compare. */
  readonly words: readonly string[];
}

/** The random values of one side; vectors fix them. */
export interface PairingRandom {
  readonly scalar: Bytes;
  readonly nonce: Bytes;
  readonly challenge: X25519KeyPair;
  readonly root: Bytes;
  readonly kem: Bytes;
}

async function freshRandom(): Promise<PairingRandom> {
  const challenge = await generateX25519();
  return { scalar: randomBytes(64), nonce: randomBytes(32), challenge, root: randomBytes(32), kem: randomBytes(64) };
}

/** A, who has typed the code, after its request. */
export class Requester {
  readonly request: Json;
  readonly #exchange: Exchange;
  readonly #session: Bytes;
  readonly #commitment: Bytes;
  readonly #random: PairingRandom;

  private constructor(phrase: Phrase, own: string, random: PairingRandom) {
    this.#random = random;
    this.#session = utf8(own + phrase.locator);
    this.#exchange = new Exchange(phrase.secret, channel(phrase.locator), this.#session, random.scalar);
    this.#commitment = commitment(random.nonce);
    this.request = {
      share: toBase64url(this.#exchange.share),
      commitment: toBase64url(this.#commitment),
      challenge: toBase64url(random.challenge.publicKey),
    };
  }

  /** Starts the pairing. A is registered under `own`, a random code. */
  static async start(phrase: Phrase, own: string, random?: PairingRandom): Promise<Requester> {
    return new Requester(phrase, own, random ?? (await freshRandom()));
  }

  /** Checks that B knows the secret, and returns A's proof of the same. Throws {@link PairingFaultError}. */
  async handleResponse(response: unknown, local: LocalIdentity): Promise<{ confirmed: Confirmed; proof: Json }> {
    const { share, nonce, challenge, confirmation } = fields(response, {
      share: 32,
      nonce: 32,
      challenge: 32,
      confirmation: 32,
    });
    const ours = concat(this.#commitment, this.#random.challenge.publicKey);
    const theirs = concat(nonce, challenge);
    const transcript = transcriptOf(this.#exchange.share, ours, share, theirs);
    const keys = new PairingKeys(finish(this.#exchange, share, this.#session, transcript));
    if (!keys.isConfirmed("b", share, theirs, confirmation)) throw new PairingFaultError("wrong-secret");
    const { publicKey } = ml_kem768.keygen(this.#random.kem);
    const possession = await keys.possession("a", local.identity, challenge);
    if (possession === undefined) throw new PairingFaultError("not-possessed");
    const sealed = keys.seal(
      "a",
      await ownIdentity(local, this.#random.root, this.#random.nonce, new Uint8Array(publicKey)),
    );
    const proof = {
      confirmation: toBase64url(keys.confirm("a", this.#exchange.share, ours)),
      sealed: toBase64url(sealed),
      possession: toBase64url(possession),
    };
    return { confirmed: new Confirmed(keys, local, this.#random, keys.words(this.#random.nonce, nonce)), proof };
  }
}

/** A after its proof. */
export class Confirmed {
  readonly #keys: PairingKeys;
  readonly #local: LocalIdentity;
  readonly #random: PairingRandom;
  readonly #words: readonly string[];

  /** @internal */
  constructor(keys: PairingKeys, local: LocalIdentity, random: PairingRandom, words: readonly string[]) {
    this.#keys = keys;
    this.#local = local;
    this.#random = random;
    this.#words = words;
  }

  /** Checks B's identity and completes the pairing. Throws {@link PairingFaultError}. */
  async handleReply(reply: unknown): Promise<Agreed> {
    const { sealed, possession } = fields(reply, { sealed: SEALED.b, possession: 32 });
    const theirs = checkedIdentity(this.#keys.open("b", sealed), CIPHERTEXT, this.#local);
    if (!(await this.#keys.isPossessed("b", this.#random.challenge, theirs.identity, possession))) {
      throw new PairingFaultError("not-possessed");
    }
    const { publicKey, secretKey } = ml_kem768.keygen(this.#random.kem);
    const shared = ml_kem768.decapsulate(theirs.kem, secretKey);
    const own = this.#local.identity.publicKey;
    const secret = this.#keys.pairingSecret(own, theirs.identity, shared, new Uint8Array(publicKey), theirs.kem);
    return { contact: await contactOf("a", theirs, secret, this.#random.root, this.#local), words: this.#words };
  }
}

/** B, who shows the code, after its response. A code answers only one request. */
export class Responder {
  readonly response: Json;
  readonly #keys: PairingKeys;
  readonly #request: { readonly share: Bytes; readonly commitment: Bytes; readonly challenge: Bytes };
  readonly #random: PairingRandom;

  private constructor(phrase: Phrase, requester: string, request: unknown, random: PairingRandom) {
    this.#random = random;
    this.#request = fields(request, { share: 32, commitment: 32, challenge: 32 });
    const { share, commitment: committed, challenge } = this.#request;
    const session = utf8(requester + phrase.locator);
    const exchange = new Exchange(phrase.secret, channel(phrase.locator), session, random.scalar);
    const ours = concat(random.nonce, random.challenge.publicKey);
    const transcript = transcriptOf(share, concat(committed, challenge), exchange.share, ours);
    this.#keys = new PairingKeys(finish(exchange, share, session, transcript));
    this.response = {
      share: toBase64url(exchange.share),
      nonce: toBase64url(random.nonce),
      challenge: toBase64url(random.challenge.publicKey),
      confirmation: toBase64url(this.#keys.confirm("b", exchange.share, ours)),
    };
  }

  /** Answers the request of `requester`. Throws {@link PairingFaultError}; the code is used up in any case. */
  static async answer(phrase: Phrase, requester: string, request: unknown, random?: PairingRandom): Promise<Responder> {
    return new Responder(phrase, requester, request, random ?? (await freshRandom()));
  }

  /**
   * Checks that A knows the secret, and only then reveals B's identity. `encapsulation` is for vectors: 32 bytes.
   * Throws {@link PairingFaultError}.
   */
  async handleProof(
    proof: unknown,
    local: LocalIdentity,
    encapsulation?: Bytes,
  ): Promise<{ agreed: Agreed; reply: Json }> {
    const { confirmation, sealed, possession } = fields(proof, { confirmation: 32, sealed: SEALED.a, possession: 32 });
    const { share, commitment: committed, challenge } = this.#request;
    if (!this.#keys.isConfirmed("a", share, concat(committed, challenge), confirmation)) {
      throw new PairingFaultError("wrong-secret");
    }
    const theirs = checkedIdentity(this.#keys.open("a", sealed), ENCAPSULATION_KEY, local);
    if (!equalBytes(commitment(theirs.nonce), committed)) throw new PairingFaultError("invalid-identity");
    if (!(await this.#keys.isPossessed("a", this.#random.challenge, theirs.identity, possession))) {
      throw new PairingFaultError("not-possessed");
    }
    const ownPossession = await this.#keys.possession("b", local.identity, challenge);
    if (ownPossession === undefined) throw new PairingFaultError("not-possessed");
    const { cipherText, sharedSecret } = encapsulate(theirs.kem, encapsulation);
    const own = local.identity.publicKey;
    const secret = this.#keys.pairingSecret(theirs.identity, own, sharedSecret, theirs.kem, cipherText);
    const reply = {
      sealed: toBase64url(
        this.#keys.seal("b", await ownIdentity(local, this.#random.root, new Uint8Array(32), cipherText)),
      ),
      possession: toBase64url(ownPossession),
    };
    const contact = await contactOf("b", theirs, secret, this.#random.root, local);
    return { agreed: { contact, words: this.#keys.words(theirs.nonce, this.#random.nonce) }, reply };
  }
}

function encapsulate(key: Bytes, message?: Bytes): { cipherText: Bytes; sharedSecret: Uint8Array } {
  try {
    const { cipherText, sharedSecret } = ml_kem768.encapsulate(key, message);
    return { cipherText: new Uint8Array(cipherText), sharedSecret };
  } catch {
    // FIPS 203, 7.2: the key fails the modulus check.
    throw new PairingFaultError("invalid-identity");
  }
}

function finish(exchange: Exchange, share: Bytes, session: Bytes, transcript: Bytes): Bytes {
  try {
    return exchange.finish(share, session, transcript);
  } catch (error) {
    throw error instanceof InvalidShareError ? new PairingFaultError("invalid-share") : error;
  }
}

function checkedIdentity(identity: Identity | undefined, kem: number, local: LocalIdentity): Identity {
  const isValid =
    identity !== undefined &&
    identity.kem.length === kem &&
    !equalBytes(identity.identity, local.identity.publicKey) &&
    isUsableRoot(identity.root);
  if (!isValid) throw new PairingFaultError("invalid-identity");
  return identity;
}

async function ownIdentity(local: LocalIdentity, root: Bytes, nonce: Bytes, kem: Bytes): Promise<Identity> {
  const { publicKey } = await signerOfSeed(root);
  return { nonce, identity: local.identity.publicKey, root: publicKey, name: local.name, kem };
}

async function contactOf(
  role: Role,
  theirs: Identity,
  secret: Bytes,
  ownRoot: Bytes,
  local: LocalIdentity,
): Promise<Contact> {
  const secretBytes = local.isExportable ? secret : undefined;
  const key = await hkdfKey(secret);
  const pairing = await newPairing({ role, secret: key, secretBytes, ownRoot, peerRoot: theirs.root });
  return {
    id: toBase64url(theirs.identity),
    name: cleanName(theirs.name),
    identity: theirs.identity,
    pairings: [pairing],
    inUse: 0,
    isProved: false,
    isBlocked: false,
    nodes: [],
  };
}

/** The fields of a message, each the base64url of so many bytes. A message without them proves nothing. */
function fields<Name extends string>(message: unknown, lengths: Record<Name, number>): Record<Name, Bytes> {
  const read = Object.entries<number>(lengths).map(([name, length]) => {
    const bytes = fromBase64url((message as Json | null | undefined)?.[name], length);
    if (bytes === undefined) throw new PairingFaultError("wrong-secret");
    return [name, bytes];
  });
  return Object.fromEntries(read) as Record<Name, Bytes>;
}

/** CPace's channel identifier: the purpose and the locator. */
function channel(locator: string): Bytes {
  return lvCat(LABEL, utf8(locator));
}

function commitment(nonce: Bytes): Bytes {
  return new Uint8Array(sha256(concat(LABEL, utf8("commit"), nonce)));
}
