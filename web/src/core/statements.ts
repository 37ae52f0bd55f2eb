/**
 * Signed statements: a value, followed by an Ed25519 signature of the kind's context and the value's bytes.
 * `docs/protocol/federation.md` lists the kinds. A decoder checks length and shape first, and the signature last.
 */
import { type Bytes, concat, equalBytes, sha256, toHex, utf8 } from "./bytes.js";
import { type Signer, verify } from "./ed25519.js";
import { type AddressPort, readAddress } from "./endpoint.js";
import { DecodeError, Reader, Writer } from "./postcard.js";

const SIGNATURE = 64;

/** A kind of statement: its name, its longest form, how to read its fields, and which of them is the signer's key. */
export interface Kind<T> {
  readonly name: string;
  readonly maxLength: number;
  read(reader: Reader): T;
  signer(value: T): Uint8Array;
}

/** Decodes a statement and verifies its signature. Throws {@link DecodeError} if it is not one. */
async function decode<T>(kind: Kind<T>, bytes: Uint8Array): Promise<T> {
  if (bytes.length > kind.maxLength || bytes.length < SIGNATURE) throw new DecodeError("the length is out of bounds");
  const body = bytes.subarray(0, bytes.length - SIGNATURE);
  const reader = new Reader(body);
  const value = kind.read(reader);
  reader.end();
  const isSigned = await verify(kind.signer(value), signingInput(kind.name, body), bytes.subarray(body.length));
  if (!isSigned) throw new DecodeError("the signature does not verify");
  return value;
}

/** Signs a statement of this kind. */
export async function sign(kind: string, body: Uint8Array, signer: Signer): Promise<Bytes> {
  return concat(body, await signer.sign(signingInput(kind, body)));
}

function signingInput(kind: string, body: Uint8Array): Bytes {
  return concat(utf8(`chappe/${kind}/v1\0`), body);
}

/** A statement's value, or `undefined` if the bytes are not a valid statement. */
export async function tryDecode<T>(kind: Kind<T>, bytes: Uint8Array): Promise<T | undefined> {
  try {
    return await decode(kind, bytes);
  } catch (error) {
    if (error instanceof DecodeError) return undefined;
    throw error;
  }
}

/** Where an inbox is attached, signed by the inbox. */
export interface Lease {
  readonly inbox: Bytes;
  readonly node: Bytes;
  /** The X25519 key that callers seal to. */
  readonly sessionKey: Bytes;
  /** The hash of the access token. */
  readonly access: Bytes;
  /** Milliseconds since 1970. The newest lease of an inbox counts. */
  readonly seq: number;
  /** Seconds since 1970. */
  readonly expiresAt: number;
}

const LEASE: Kind<Lease> = {
  name: "lease",
  maxLength: 192,
  read: (reader) => ({
    inbox: reader.bytes(32),
    node: reader.bytes(32),
    sessionKey: reader.bytes(32),
    access: reader.bytes(16),
    seq: reader.varint(),
    expiresAt: reader.varint(),
  }),
  signer: (lease) => lease.inbox,
};

/** Decodes a lease, or returns `undefined`. */
export function decodeLease(bytes: Uint8Array): Promise<Lease | undefined> {
  return tryDecode(LEASE, bytes);
}

/** Signs a lease with the inbox's key. */
export function signLease(lease: Omit<Lease, "inbox">, inbox: Signer): Promise<Bytes> {
  const body = new Writer()
    .bytes(inbox.publicKey)
    .bytes(lease.node)
    .bytes(lease.sessionKey)
    .bytes(lease.access)
    .varint(lease.seq)
    .varint(lease.expiresAt);
  return sign(LEASE.name, body.finish(), inbox);
}

/** The proof that attaches a signed lease in the session with this nonce. */
export async function proveAttach(inbox: Signer, nonce: Uint8Array, signedLease: Bytes): Promise<Bytes> {
  return inbox.sign(concat(utf8("chappe/attach/v1\0"), nonce, await sha256(signedLease)));
}

/** The hash of an access token, as a lease holds it. */
export async function accessHash(token: Uint8Array): Promise<Bytes> {
  return (await sha256(concat(utf8("chappe/access/v1\0"), token))).slice(0, 16);
}

/** Whether a node has signed this challenge for this nonce and URL. */
export function verifyNodeProof(
  node: Uint8Array,
  challenge: Uint8Array,
  nonce: Uint8Array,
  url: string,
  signature: Uint8Array,
): Promise<boolean> {
  return verify(node, concat(utf8("chappe/prove/v1\0"), challenge, nonce, utf8(url)), signature);
}

/** A node's own record: its addresses, and for how long they count. */
export interface NodeRecord {
  readonly federation: Bytes;
  readonly node: Bytes;
  readonly epoch: number;
  readonly seq: number;
  readonly issuedAt: number;
  readonly expiresAt: number;
  readonly clientUrls: readonly string[];
  readonly quicAddresses: readonly AddressPort[];
  readonly region: string;
  readonly version: string;
  readonly abilities: number;
}

const MAX_ADDRESSES = 4;
const MAX_URL = 128;
const MAX_LABEL = 32;

const NODE_RECORD: Kind<NodeRecord> = {
  name: "node-record",
  maxLength: 512,
  read: (reader) => {
    const record = {
      federation: reader.bytes(16),
      node: reader.bytes(32),
      epoch: reader.varint(),
      seq: reader.varint(),
      issuedAt: reader.varint(),
      expiresAt: reader.varint(),
      clientUrls: reader.sequence(MAX_ADDRESSES, (item) => item.text(MAX_URL)),
      quicAddresses: reader.sequence(MAX_ADDRESSES, readAddress),
      region: reader.text(MAX_LABEL),
      version: reader.text(MAX_LABEL),
      abilities: reader.varint(0xffff_ffff),
    };
    const isWellFormedRecord =
      record.clientUrls.every((url) => /^wss?:\/\/[!-~]+$/.test(url)) &&
      record.quicAddresses.length > 0 &&
      record.quicAddresses.every((address) => address.port !== 0) &&
      [record.region, record.version].every(isLabel);
    if (!isWellFormedRecord) throw new DecodeError("a field of the record is out of bounds");
    return record;
  },
  signer: (record) => record.node,
};

/** Whether a text can be a region or a version: printable ASCII without spaces, at most 32 characters. */
export function isLabel(text: string): boolean {
  return text.length <= MAX_LABEL && /^[!-~]*$/.test(text);
}

/** Decodes a node record, or returns `undefined`. */
export function decodeNodeRecord(bytes: Uint8Array): Promise<NodeRecord | undefined> {
  return tryDecode(NODE_RECORD, bytes);
}

/** A root's statement that an online key may sign directories and shards. */
export interface Delegation {
  readonly federation: Bytes;
  readonly root: Bytes;
  readonly key: Bytes;
  readonly notBefore: number;
  readonly expiresAt: number;
}

const MAX_DELEGATION = 90 * 24 * 3600;

const DELEGATION: Kind<Delegation> = {
  name: "delegation",
  maxLength: 192,
  read: (reader) => {
    const delegation = {
      federation: reader.bytes(16),
      root: reader.bytes(32),
      key: reader.bytes(32),
      notBefore: reader.varint(),
      expiresAt: reader.varint(),
    };
    if (delegation.expiresAt > delegation.notBefore + MAX_DELEGATION) {
      throw new DecodeError("the delegation lasts too long");
    }
    return delegation;
  },
  signer: (delegation) => delegation.root,
};

/** The fields that all lists of an online key share. */
export interface NodeList {
  readonly federation: Bytes;
  readonly keyId: Bytes;
  /** Milliseconds since 1970. Never decreases. */
  readonly seq: number;
  readonly issuedAt: number;
  readonly expiresAt: number;
  /** The part: index and count. */
  readonly shard: readonly [number, number];
}

/** A list of signed records. */
export interface Directory extends NodeList {
  readonly nodes: readonly Bytes[];
}

const MAX_RECORDS = 1000;

/** The longest directory with its delegation, in bytes. */
export const MAX_DIRECTORY = 520 * 1024;

/** Reads the fields of a list, with at most `max` nodes. Throws {@link DecodeError}. */
export function readList<T>(reader: Reader, max: number, read: (reader: Reader) => T): NodeList & { nodes: T[] } {
  const list = {
    federation: reader.bytes(16),
    keyId: reader.bytes(32),
    seq: reader.varint(),
    issuedAt: reader.varint(),
    expiresAt: reader.varint(),
    shard: [reader.varint(0xffff), reader.varint(0xffff)] as const,
    nodes: reader.sequence(max, read),
  };
  if (list.shard[0] >= list.shard[1]) throw new DecodeError("the part is out of bounds");
  return list;
}

const DIRECTORY: Kind<Directory> = {
  name: "directory",
  maxLength: MAX_DIRECTORY - 256,
  read: (reader) => readList(reader, MAX_RECORDS, (item) => item.bytes(item.varint(512))),
  signer: (directory) => directory.keyId,
};

/** The federation's id: a hash of its founding root keys. */
export async function federationId(roots: readonly Uint8Array[]): Promise<Bytes> {
  const byText = new Map(roots.map((root) => [toHex(root), root]));
  const sorted = [...byText.keys()].sort().map((text) => byText.get(text) as Uint8Array);
  return (await sha256(concat(utf8("chappe/federation/v1\0"), ...sorted))).slice(0, 16);
}

/** Why a list of nodes was refused. */
export type ListFault =
  | "malformed"
  | "other-federation"
  | "not-by-a-root"
  | "not-by-the-delegate"
  | "expired"
  | "from-the-future"
  | "empty"
  | "revoked-key";

/** A list of nodes is not valid. The message is for people. */
export class ListError extends Error {
  override readonly name = "ListError";
  constructor(readonly fault: ListFault) {
    super(
      {
        malformed: "what it sends is not a signed list",
        "other-federation": "its list is of another federation",
        "not-by-a-root": "its list is not signed under a pinned root key",
        "not-by-the-delegate": "its list is not signed by the key that the root has named",
        expired: "its list has expired; is this device's clock right?",
        "from-the-future": "its list is from the future; is this device's clock right?",
        empty: "its list has no node",
        "revoked-key": "its list is signed by a key that was revoked",
      }[fault],
    );
  }
}

/** By what a reader judges lists. */
export interface ListTrust {
  /** The federation's id. */
  readonly federation: Promise<Bytes>;
  /** Whether statements of a root key count at `now`, in seconds since 1970. */
  accepts(root: Uint8Array, now: number): boolean;
  /** Whether a root has revoked an online key. */
  revokes(key: Uint8Array): boolean;
}

/** How far a statement's time may be ahead of this clock, in seconds. */
export const MAX_CLOCK_SKEW = 120;
/** The longest life of a list or a record, in seconds. */
export const MAX_LIFETIME = 7 * 24 * 3600;

/** A list with what vouches for it. */
export type Vouched<T> = T & {
  /** The root that has delegated to the list's key. */
  readonly root: Bytes;
  /** What the key has signed. */
  readonly signed: Bytes;
};

/** Decodes a directory with its delegation at `now`, in seconds since 1970. Rejects with {@link ListError}. */
export function decodeDirectory(bytes: Bytes, trust: ListTrust, now: number): Promise<Vouched<Directory>> {
  return decodeList(DIRECTORY, bytes, trust, now);
}

/** Whether the root of a list does not count at `now`, or its key was revoked. */
export function signerFault(
  { root, keyId }: Pick<Vouched<NodeList>, "root" | "keyId">,
  trust: ListTrust,
  now: number,
): ListFault | undefined {
  if (!trust.accepts(root, now)) return "not-by-a-root";
  return trust.revokes(keyId) ? "revoked-key" : undefined;
}

/** Decodes a list of a kind with its delegation at `now`, in seconds since 1970. Rejects with {@link ListError}. */
export async function decodeList<T extends NodeList & { nodes: readonly unknown[] }>(
  kind: Kind<T>,
  bytes: Bytes,
  trust: ListTrust,
  now: number,
): Promise<Vouched<T>> {
  const at = 2 + (bytes[0] ?? 0) + (bytes[1] ?? 0) * 256;
  const delegation = await tryDecode(DELEGATION, bytes.subarray(2, at));
  if (delegation === undefined) throw new ListError("malformed");
  const { root, key } = delegation;
  const fault = signerFault({ root, keyId: key }, trust, now);
  if (fault !== undefined) throw new ListError(fault);
  const signed = bytes.slice(at);
  const list = await tryDecode(kind, signed);
  if (list === undefined) throw new ListError("malformed");
  const federation = await trust.federation;
  if (!equalBytes(federation, delegation.federation) || !equalBytes(federation, list.federation)) {
    throw new ListError("other-federation");
  }
  if (!equalBytes(list.keyId, key)) throw new ListError("not-by-the-delegate");
  const latest = now + MAX_CLOCK_SKEW;
  if (delegation.notBefore > latest || list.issuedAt > latest || list.seq / 1000 > latest) {
    throw new ListError("from-the-future");
  }
  const isOver = delegation.expiresAt <= now || list.expiresAt <= now;
  if (isOver || list.expiresAt > list.issuedAt + MAX_LIFETIME) throw new ListError("expired");
  if (list.nodes.length === 0) throw new ListError("empty");
  return { ...list, root, signed };
}

/** The most records of a directory whose signatures are verified. Each takes milliseconds on a slow device. */
const MAX_VERIFIED = 128;

function shuffled<T>(items: readonly T[]): T[] {
  const order = items.map((item) => ({ item, at: Math.random() }));
  return order.sort((a, b) => a.at - b.at).map(({ item }) => item);
}

/** The records of a directory, expired ones included: a node proves its key when it is dialled. */
export async function recordsOf(directory: Directory, now: number): Promise<NodeRecord[]> {
  // A search dials far fewer. Which ones is left to chance, as the order is the registry's choice.
  const chosen =
    directory.nodes.length > MAX_VERIFIED ? shuffled(directory.nodes).slice(0, MAX_VERIFIED) : directory.nodes;
  const decoded = await Promise.all(chosen.map(decodeNodeRecord));
  const records = decoded.filter((record) => record !== undefined);
  return records.filter(
    (record) =>
      equalBytes(record.federation, directory.federation) &&
      record.issuedAt <= now + MAX_CLOCK_SKEW &&
      record.expiresAt <= record.issuedAt + MAX_LIFETIME,
  );
}
