/**
 * The pairing code that people read to each other: `LOCATOR-SECRET`. A link or QR code has a longer secret. Only the
 * locator is sent to a node. The secret is the password of CPace: an attacker gets one guess at its 20 bits.
 */
import { type Bytes, randomBytes, utf8 } from "../core/bytes.js";

/** Without I, O, 0 and 1, which are easily misread. */
const ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
const LOCATOR = 6;
/** The length of the secret that people read: 20 bits. */
const SECRET = 4;
/** The length of the secret in a link or QR code: 128 bits. */
const LINK_SECRET = 26;
const MAX_SECRET = 52;

/** A random code of `length` characters. 256 is a multiple of 32, so all are equally likely. */
export function randomCode(length = LOCATOR): string {
  return Array.from(randomBytes(length), (byte) => ALPHABET[byte & 31]).join("");
}

/** Whether a text is a code that nodes see. */
export function isCode(text: unknown): text is string {
  return typeof text === "string" && text.length === LOCATOR && hasOnlyCodeCharacters(text);
}

function hasOnlyCodeCharacters(text: string): boolean {
  return [...text].every((character) => ALPHABET.includes(character));
}

/** A code as people see it. */
export class Phrase {
  /** The part that nodes see. */
  readonly locator: string;
  readonly #secret: string;

  private constructor(locator: string, secret: string) {
    this.locator = locator;
    this.#secret = secret;
  }

  /** Generates a code to be read aloud, or one for a link or QR code. */
  static generate(isForLink: boolean): Phrase {
    return new Phrase(randomCode(), randomCode(isForLink ? LINK_SECRET : SECRET));
  }

  /** Parses what a person typed: in any case, with spaces around it, or a space for the dash. */
  static parse(text: string): Phrase | undefined {
    const match = /^(\S{6})\s*[- ]\s*(\S+)$/.exec(text.trim().toUpperCase());
    const [, locator, secret] = match ?? [];
    if (!isCode(locator) || secret === undefined || !hasOnlyCodeCharacters(secret)) return undefined;
    return secret.length >= SECRET && secret.length <= MAX_SECRET ? new Phrase(locator, secret) : undefined;
  }

  /** The same secret with a new locator, for when the locator is taken. */
  relocated(): Phrase {
    return new Phrase(randomCode(), this.#secret);
  }

  /** The part that only the two people know. */
  get secret(): Bytes {
    return utf8(this.#secret);
  }

  /** The whole code, to be shown. */
  reveal(): string {
    return `${this.locator}-${this.#secret}`;
  }
}
