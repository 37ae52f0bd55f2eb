/** The sources of nodes, and the candidates that they name. */
import type { Bytes } from "../core/bytes.js";
import { networkOf } from "../core/special.js";

/** The kind of a source, the least trusted first. */
export const SOURCE_KINDS = ["registry", "snapshot", "dns", "link", "referral", "cache", "manual"] as const;

/** The kind of a source. */
export type SourceKind = (typeof SOURCE_KINDS)[number];

/** The weight of a node that was never dialled, and the highest. */
export const UNKNOWN_WEIGHT = 4;
export const MAX_WEIGHT = 9 * UNKNOWN_WEIGHT;

/** An address at which a node may be found. */
export interface Candidate {
  readonly url: string;
  /** The key that the node has to prove. `undefined` only for a URL that a person entered without a key. */
  readonly node: Bytes | undefined;
  /** The base64url text of the key. */
  readonly nodeId: string | undefined;
  readonly source: SourceKind;
  /** The sources that have ever named it, without the cache itself. */
  readonly origins: ReadonlySet<SourceKind>;
  /** By this client's own experience, from 1 to {@link MAX_WEIGHT}. */
  readonly weight: number;
  readonly network: string;
}

/** A candidate without any history. */
export function newCandidate(
  url: string,
  node: Bytes | undefined,
  nodeId: string | undefined,
  source: SourceKind,
): Candidate {
  const origins = new Set<SourceKind>(source === "cache" ? [] : [source]);
  return { url, node, nodeId, source, origins, weight: UNKNOWN_WEIGHT, network: networkOf(url) };
}

/** Whether a source is a list of one operator, as opposed to own experience or the word of a person. */
export function isBulk(kind: SourceKind): boolean {
  return kind === "registry" || kind === "dns" || kind === "snapshot";
}

/** Whether a query of a source uses the network. Other sources answer at once. */
export function isRemote(kind: SourceKind): boolean {
  return kind === "registry" || kind === "dns";
}

/**
 * The source whose share of the dials a candidate counts towards. A cached node that only one list has named, and that has
 * never worked, still counts as that list's.
 */
export function attributedSource(candidate: Candidate): SourceKind {
  const [only, another] = candidate.origins;
  const isOfOneList = only !== undefined && another === undefined && isBulk(only);
  return candidate.source === "cache" && isOfOneList && candidate.weight <= UNKNOWN_WEIGHT ? only : candidate.source;
}

/** Whether a candidate's URL uses TLS. */
export function hasTls(candidate: Candidate): boolean {
  return candidate.url.startsWith("wss://");
}

/** A signed list, to compare with earlier lists of its key. */
export interface SeenList {
  readonly form: "directory" | "shard";
  /** The base64url text of the key that has signed it. */
  readonly key: string;
  readonly seq: number;
  /** The part, as `index/count`. */
  readonly part: string;
  /** What the key has signed. */
  readonly bytes: Bytes;
  readonly issuedAt: number;
}

/** What a source has named. */
export interface SourceResponse {
  readonly candidates: readonly Candidate[];
  readonly lists: readonly SeenList[];
}

/** A source named no usable node. The message says why, for people. */
export class SourceError extends Error {
  override readonly name = "SourceError";
}

/** A source of nodes. */
export interface Source {
  readonly kind: SourceKind;
  /** A host that distinguishes sources of one kind. */
  readonly label?: string;
  /** Rejects with {@link SourceError}. `now` is in seconds since 1970. */
  list(now: number, signal: AbortSignal): Promise<SourceResponse>;
}
