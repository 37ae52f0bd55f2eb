/** Signs statements as roots, online keys and nodes do: for lists and records that no real one would make. */
import { type Bytes, concat, utf8 } from "../../src/core/bytes.js";
import { type Signer, signerOfSeed } from "../../src/core/ed25519.js";
import { Writer } from "../../src/core/postcard.js";

const DAY = 24 * 3600;

/** The key of 32 equal bytes. */
export function keyOf(seed: number): Promise<Signer> {
  return signerOfSeed(new Uint8Array(32).fill(seed));
}

async function sign(kind: string, body: Bytes, by: Signer): Promise<Bytes> {
  return concat(body, await by.sign(concat(utf8(`chappe/${kind}/v1\0`), body)));
}

/** A succession by which the old root ends `days` after `at`, in seconds since 1970. */
export async function succession(
  federation: Bytes,
  old: Signer,
  next: Signer,
  at: number,
  days: number,
): Promise<Bytes> {
  const successor = await sign("root-successor", concat(federation, old.publicKey, next.publicKey), old);
  const times = new Writer().varint(at).varint(at + days * DAY);
  return sign("root-succession", concat(successor, times.finish()), next);
}

/** A revocation of an online key. */
export function revocation(federation: Bytes, root: Signer, key: Uint8Array, at: number): Promise<Bytes> {
  const body = new Writer().bytes(federation).bytes(root.publicKey).bytes(key).varint(at);
  return sign("key-revocation", body.finish(), root);
}

/** What a node's record says, besides its key. */
export interface RecordFields {
  readonly federation: Bytes;
  readonly at: number;
  readonly urls: readonly string[];
  readonly lasts?: number;
  readonly abilities?: number;
}

/** A node's record. */
export function nodeRecord(
  node: Signer,
  { federation, at, urls, lasts = DAY, abilities = 0 }: RecordFields,
): Promise<Bytes> {
  const body = new Writer().bytes(federation).bytes(node.publicKey).varint(1).varint(1);
  body
    .varint(at)
    .varint(at + lasts)
    .varint(urls.length);
  for (const url of urls) body.text(url);
  body
    .varint(1)
    .varint(0)
    .bytes(new Uint8Array([127, 0, 0, 1]))
    .varint(1);
  return sign("node-record", body.text("").text("").varint(abilities).finish(), node);
}

/** A directory of these records with its delegation. */
export async function directory(
  federation: Bytes,
  root: Signer,
  online: Signer,
  at: number,
  records: readonly Bytes[],
): Promise<Bytes> {
  const terms = new Writer().bytes(federation).bytes(root.publicKey).bytes(online.publicKey);
  const delegation = await sign(
    "delegation",
    terms
      .varint(at)
      .varint(at + DAY)
      .finish(),
    root,
  );
  const list = new Writer()
    .bytes(federation)
    .bytes(online.publicKey)
    .varint(at * 1000);
  list
    .varint(at)
    .varint(at + DAY)
    .varint(0)
    .varint(1)
    .varint(records.length);
  for (const record of records) list.varint(record.length).bytes(record);
  const length = new Uint8Array([delegation.length & 0xff, delegation.length >> 8]);
  return concat(length, delegation, await sign("directory", list.finish(), online));
}
