/** Links and QR codes: one to three nodes with their keys, and for pairing also a code. `docs/protocol/links.md`. */
import { sha256 } from "@noble/hashes/sha2.js";
import { base32nopad } from "@scure/base";
import { type Bytes, equalBytes } from "../core/bytes.js";
import { type Endpoint, isWellFormed, readEndpoint, urlOf } from "../core/endpoint.js";
import { DecodeError, Reader } from "../core/postcard.js";
import { isPublicUrl } from "../core/special.js";
import { LinkError, type LinkFault } from "./link-error.js";

/** The most nodes in a link. */
export const MAX_LINK_NODES = 3;
const MAX_LIFETIME = 90 * 24 * 3600;
/** What a QR code of version 10 at level M holds after `CHAPPE:`. */
export const MAX_BYTES = 190;
/** Six characters, a dash, and a secret of 128 bits. */
const MAX_CODE = 33;
const MAX_TEXT = 1024;
export const VERSION = 2;
const CHECKSUM = 4;
export const PREFIX = "CHAPPE:";

const FAULTS: Record<LinkFault, string> = {
  "not-a-link": "not a link: CHAPPE:… or https://…/i#… is expected",
  "too-long": "the link is too long",
  checksum: "a character of the link is missing or wrong",
  "newer-version": "the link needs a newer version of this software",
  malformed: "the link is damaged",
  expired: "the link has expired: ask for a new one",
  private: "the link contains an address in a private network",
};

function linkError(fault: LinkFault): LinkError {
  return new LinkError(fault, FAULTS[fault]);
}

/** A link with nodes and pinned keys, and for pairing also a code. */
export interface Link {
  /** Seconds since 1970. */
  readonly expiresAt: number;
  /** The whole pairing code. */
  readonly code: string | undefined;
  readonly nodes: readonly Endpoint[];
  /** The id of the nodes' federation, which commits to its root keys. */
  readonly federation: Bytes | undefined;
}

/** Parses what a person has pasted or a camera has read. `now` is in seconds since 1970. Throws {@link LinkError}. */
export function parseLink(text: string, now: number, isPrivate = false): Link {
  const trimmed = text.trim();
  if (trimmed.length > MAX_TEXT) throw linkError("too-long");
  const encoded = /^https:\/\/[^#]*\/i#(.*)$/s.exec(trimmed)?.[1] ?? /^chappe:.*$/is.exec(trimmed)?.[0];
  if (encoded === undefined) throw linkError("not-a-link");
  const capitals = encoded.toUpperCase();
  const link = decode(fromBase32(capitals.startsWith(PREFIX) ? capitals.slice(PREFIX.length) : capitals));
  if (link.expiresAt <= now || link.expiresAt > now + MAX_LIFETIME) throw linkError("expired");
  if (!isPrivate && !link.nodes.every((node) => isPublicUrl(urlOf(node)))) throw linkError("private");
  return link;
}

function fromBase32(text: string): Bytes {
  try {
    return new Uint8Array(base32nopad.decode(text));
  } catch {
    throw linkError("not-a-link");
  }
}

function decode(bytes: Bytes): Link {
  if (bytes.length > MAX_BYTES) throw linkError("too-long");
  const body = bytes.subarray(0, -CHECKSUM);
  if (bytes.length <= CHECKSUM || !equalBytes(checksum(body), bytes.subarray(-CHECKSUM))) throw linkError("checksum");
  if (body[0] !== VERSION) throw linkError("newer-version");
  try {
    const reader = new Reader(body.subarray(1));
    const link = {
      expiresAt: reader.varint(),
      code: reader.option((part) => part.text(MAX_CODE)),
      nodes: reader.sequence(MAX_LINK_NODES, readEndpoint),
      federation: reader.option((part) => part.bytes(16)),
    };
    reader.end();
    const isAscii = link.code === undefined || /^[\0-\x7f]*$/.test(link.code);
    if (isAscii && link.nodes.length > 0 && link.nodes.every(isWellFormed)) return link;
  } catch (error) {
    if (!(error instanceof DecodeError)) throw error;
  }
  throw linkError("malformed");
}

/** The first four bytes of SHA-256: it detects typos. */
export function checksum(bytes: Uint8Array): Uint8Array {
  return sha256(bytes).subarray(0, CHECKSUM);
}
