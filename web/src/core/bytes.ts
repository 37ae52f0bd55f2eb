/** Bytes, and their texts: base64url without padding is the form of the protocol. */
/** Bytes in a buffer of their own, as WebCrypto takes them. */
export type Bytes = Uint8Array<ArrayBuffer>;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The UTF-8 bytes of a text. */
export function utf8(text: string): Bytes {
  return encoder.encode(text);
}

/** The text of UTF-8 bytes. Throws if they are not UTF-8. */
export function utf8Text(bytes: Uint8Array): string {
  return decoder.decode(bytes);
}

/** Joins parts. */
export function concat(...parts: readonly Uint8Array[]): Bytes {
  const joined = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** A number of four bytes, big endian. */
export function u32(value: number): Bytes {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
}

/** SHA-256, by the platform. */
export async function sha256(bytes: Bytes): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

/** SHA-512, by the platform. */
export async function sha512(bytes: Bytes): Promise<Bytes> {
  return new Uint8Array(await crypto.subtle.digest("SHA-512", bytes));
}

/** Fresh random bytes. */
export function randomBytes(length: number): Bytes {
  return crypto.getRandomValues(new Uint8Array(length));
}

/** Whether two byte strings are equal. Takes the same time wherever they differ. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  let difference = 0;
  for (let at = 0; at < a.length; at++) difference |= (a[at] as number) ^ (b[at] as number);
  return difference === 0;
}

/** The hexadecimal text, in lower case. */
export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The bytes of a hexadecimal text. */
export function fromHex(text: string): Bytes {
  return Uint8Array.from(text.match(/../g) ?? [], (byte) => Number.parseInt(byte, 16));
}

/** The standard base64 text, with padding. */
export function toBase64(bytes: Uint8Array): string {
  /** As many arguments as every engine takes. */
  const CHUNK = 0x2000;
  let text = "";
  for (let at = 0; at < bytes.length; at += CHUNK) text += String.fromCharCode(...bytes.subarray(at, at + CHUNK));
  return btoa(text);
}

/**
 * The bytes of a standard base64 text, or `undefined` if it is not one, or not of `length` bytes. Only the one text that
 * {@link toBase64} makes of the bytes is accepted.
 */
export function fromBase64(text: unknown, length?: number): Bytes | undefined {
  if (typeof text !== "string") return undefined;
  try {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const isCanonical = toBase64(bytes) === text;
    return isCanonical && (length === undefined || bytes.length === length) ? bytes : undefined;
  } catch {
    return undefined;
  }
}

/** The base64url text, without padding. */
export function toBase64url(bytes: Uint8Array): string {
  return toBase64(bytes).replace(/[+/=]/g, (character) => ({ "+": "-", "/": "_" })[character] ?? "");
}

/** The bytes of a base64url text without padding, or `undefined` if it is not one, or not of `length` bytes. */
export function fromBase64url(text: unknown, length?: number): Bytes | undefined {
  if (typeof text !== "string" || /[+/=]/.test(text)) return undefined;
  const padding = "=".repeat(-text.length & 3);
  return fromBase64(text.replaceAll("-", "+").replaceAll("_", "/") + padding, length);
}
