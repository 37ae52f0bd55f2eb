/** The nodes that this client knows, with its own experience, and what it remembers of signed lists. */
import { fromBase64url, toBase64url } from "../core/bytes.js";
import type { Purpose } from "../core/node-finder.js";
import { networkOf } from "../core/special.js";
import {
  type Candidate,
  MAX_WEIGHT,
  newCandidate,
  type SeenList,
  SOURCE_KINDS,
  type SourceKind,
  UNKNOWN_WEIGHT,
} from "./source.js";
import type { Trust } from "./trust.js";

/** The most nodes. */
const MAX_NODES = 256;
/** A node is kept for this long after it was last listed or last proved its key. In seconds. */
const KEEP = 30 * 24 * 3600;
/** The nodes that proved their keys last are always kept: so many. */
const PINNED = 8;
/** The most URLs of a node. */
const MAX_URLS = 4;
/** The number of failures halves in this time, in seconds. A node that is most likely gone is dialled as often. */
const FORGIVE = 6 * 3600;
/** A node that no list has named, and that has not proved its key, for this long is most likely gone. In seconds. */
const LONG_SILENT = 7 * 24 * 3600;
/** The most failures of a node that count. */
const MAX_FAILURES = 1_000;
/** A list is fresh for this long, in seconds. */
const FRESH = 24 * 3600;
/** How long the client remembers what it used a node for, in seconds. A node knows the inboxes of at most a day. */
const SEPARATION = 24 * 3600;
/** The most keys and lists that are remembered. */
const MAX_KEYS = 16;
const MAX_LISTS = 64;

/** A remembered node. Times are seconds since 1970. `seenAt` is when it was last listed or proved its key. */
export interface CachedNode {
  readonly id: string;
  readonly urls: readonly string[];
  readonly origins: readonly SourceKind[];
  readonly seenAt: number;
  readonly provedAt?: number | undefined;
  readonly successes: number;
  readonly failures: number;
  readonly failedAt: number;
  /** When the client last used the node for its inboxes, and for pairing. */
  readonly inboxes?: number;
  readonly pairing?: number;
}

/** What a cache stores. */
export interface CacheData {
  readonly nodes: readonly CachedNode[];
  /** The newest `seq` of each key and form, and when that list was issued. */
  readonly newest: readonly { readonly key: string; readonly seq: number; readonly issuedAt: number }[];
  /** The base64url text of the list of what the roots have stated. Earlier versions have not stored it. */
  readonly statements?: string;
}

/** Where a cache is stored. A failed write loses what was learned since the last one. */
export interface CacheStore {
  /** What was saved, or `undefined`, also if it is damaged. Rejects if it cannot be read now: it is then not replaced. */
  load(): Promise<CacheData | undefined>;
  /** Replaces what is stored. */
  save(data: CacheData): Promise<void>;
}

/** What a list has come to. */
export type ListVerdict = "new" | "older" | "equivocation";

/** The cache of one client. */
export class NodeCache {
  #store: CacheStore | undefined;
  readonly #trust: Trust;
  #nodes = new Map<string, CachedNode>();
  #newest = new Map<string, { seq: number; issuedAt: number }>();
  /** The signed bytes of each list of this run, to detect two different ones. */
  readonly #lists = new Map<string, string>();

  constructor(store: CacheStore | undefined, trust: Trust) {
    this.#store = store;
    this.#trust = trust;
  }

  /** Loads what is stored. What cannot be read counts as empty. Rejects if the roots' statements in it cannot be read now. */
  async load(): Promise<void> {
    let data: CacheData | undefined;
    try {
      data = await this.#store?.load().catch(() => {
        // Nor is anything saved then: the roots' statements that are stored would be lost.
        this.#store = undefined;
        return undefined;
      });
      if (data === undefined) return;
      this.#nodes = new Map(data.nodes.map((node) => [node.id, node]));
      this.#newest = new Map(data.newest.map(({ key, seq, issuedAt }) => [key, { seq, issuedAt }]));
    } catch {
      // Of another version.
    }
    await this.#trust.learn(fromBase64url(data?.statements) ?? new Uint8Array());
  }

  /** Stores the cache. */
  async save(): Promise<void> {
    const newest = [...this.#newest].map(([key, value]) => ({ key, ...value }));
    const statements = toBase64url(this.#trust.statements);
    const data = { nodes: [...this.#nodes.values()], newest, statements };
    await this.#store?.save(data).catch(() => {});
  }

  /** Whether a list of the last day is known. */
  isFresh(now: number): boolean {
    return [...this.#newest.values()].some(({ issuedAt }) => issuedAt + FRESH > now);
  }

  /** Compares a list with earlier ones of its key. */
  judge(list: SeenList): ListVerdict {
    const key = `${list.form} ${list.key}`;
    const known = this.#newest.get(key);
    if (known !== undefined && list.seq < known.seq) return "older";
    const id = `${key} ${list.seq} ${list.part}`;
    const bytes = toBase64url(list.bytes);
    const before = this.#lists.get(id);
    if (before !== undefined && before !== bytes) return "equivocation";
    if (this.#lists.size < MAX_LISTS) this.#lists.set(id, bytes);
    if (known !== undefined || this.#newest.size < MAX_KEYS) {
      this.#newest.set(key, { seq: list.seq, issuedAt: list.issuedAt });
    }
    return "new";
  }

  /** Remembers nodes that a source has named. */
  learn(candidates: readonly Candidate[], now: number): void {
    for (const candidate of candidates) {
      if (candidate.nodeId === undefined) continue;
      const known = this.#nodes.get(candidate.nodeId) ?? NEW;
      const origins = [...new Set([...known.origins, ...candidate.origins])];
      this.#put(candidate.nodeId, candidate.url, { ...known, origins, seenAt: now });
    }
    this.#prune(now);
  }

  /** Records that a node has proved its key. */
  recordProof(nodeId: string, candidate: Candidate, now: number): void {
    const known = this.#nodes.get(nodeId) ?? { ...NEW, origins: [...candidate.origins] };
    const successes = Math.min(known.successes + 1, MAX_WEIGHT);
    this.#put(nodeId, candidate.url, { ...known, seenAt: now, provedAt: now, successes, failures: 0 });
    this.#prune(now);
  }

  /**
   * Whether a candidate of any source may be dialled now. A node that has been silent for a week may be only every six hours,
   * at one URL. It then counts as failed until it proves its key: most dials of a machine that is gone are abandoned.
   */
  retry(candidate: Candidate, now: number): boolean {
    const known = this.#nodes.get(candidate.nodeId ?? "");
    if (known === undefined || known.seenAt + LONG_SILENT > now) return true;
    // The clock may have been ahead.
    const isDue = Math.abs(now - known.failedAt) >= FORGIVE;
    if (isDue) this.recordFailure(candidate, now);
    return isDue;
  }

  /** Records a failed dial. */
  recordFailure(candidate: Candidate, now: number): void {
    const known = this.#nodes.get(candidate.nodeId ?? "");
    if (known === undefined) return;
    this.#nodes.set(known.id, { ...known, failures: Math.min(decayed(known, now) + 1, MAX_FAILURES), failedAt: now });
  }

  /** Records that the client begins or ends to use a node. */
  recordUse(id: string, purpose: Purpose, now: number): void {
    // It may have been evicted meanwhile.
    const known = this.#nodes.get(id) ?? { ...NEW, id, urls: [], seenAt: now };
    this.#nodes.set(id, { ...known, [purpose]: now });
  }

  /** The ids of the nodes that the client has used within a day, by a clock that may have been ahead. */
  recentlyUsed(purpose: Purpose, now: number): string[] {
    // Without a use, the difference is no number, which is not less than anything.
    return [...this.#nodes.values()].flatMap((node) =>
      Math.abs(now - (node[purpose] as number)) < SEPARATION ? node.id : [],
    );
  }

  #put(id: string, url: string, node: Omit<CachedNode, "id" | "urls">): void {
    const urls = new Set([url, ...(this.#nodes.get(id)?.urls ?? [])]);
    this.#nodes.set(id, { ...node, id, urls: [...urls].slice(0, MAX_URLS) });
  }

  #prune(now: number): void {
    // A clock that was ahead must not keep nodes, and their failures, for too long.
    const past = (time: number) => Math.min(time, now);
    const pinned = this.#pinned();
    for (const [id, node] of this.#nodes) {
      const provedAt = node.provedAt && past(node.provedAt);
      if (!pinned.has(id) && node.seenAt + KEEP <= now) this.#nodes.delete(id);
      else this.#nodes.set(id, { ...node, seenAt: past(node.seenAt), failedAt: past(node.failedAt), provedAt });
    }
    this.#evictExcess(pinned);
  }

  /** The nodes that proved their keys last. */
  #pinned(): ReadonlySet<string> {
    const proved = [...this.#nodes.values()].filter((node) => node.provedAt !== undefined);
    proved.sort((a, b) => (b.provedAt as number) - (a.provedAt as number));
    return new Set(proved.slice(0, PINNED).map((node) => node.id));
  }

  /** Evicts nodes of the largest network, so that nobody can drive out others by listing thousands of nodes. */
  #evictExcess(pinned: ReadonlySet<string>): void {
    const networks = new Map<string, CachedNode[]>();
    for (const node of this.#nodes.values()) {
      const network = networkOf(node.urls[0] ?? "");
      if (!pinned.has(node.id)) networks.set(network, [...(networks.get(network) ?? []), node]);
    }
    // Within a network, nodes that never proved a key go first, then those that were listed longest ago.
    const isProved = (node: CachedNode) => (node.provedAt === undefined ? 0 : 1);
    for (const nodes of networks.values()) nodes.sort((a, b) => isProved(b) - isProved(a) || b.seenAt - a.seenAt);
    while (this.#nodes.size > MAX_NODES) {
      const evicted = [...networks.values()].sort((a, b) => b.length - a.length)[0]?.pop();
      if (evicted === undefined) return;
      this.#nodes.delete(evicted.id);
    }
  }

  /** The remembered nodes as candidates. */
  candidates(now: number): Candidate[] {
    return [...this.#nodes.values()].flatMap((node) => {
      const origins = new Set(node.origins.filter((origin) => SOURCE_KINDS.includes(origin)));
      const weight = (UNKNOWN_WEIGHT * (1 + node.successes)) / (1 + decayed(node, now));
      const clamped = Math.max(1, Math.min(MAX_WEIGHT, Math.floor(weight)));
      const key = fromBase64url(node.id, 32);
      if (key === undefined) return [];
      return node.urls.map((url) => ({ ...newCandidate(url, key, node.id, "cache"), origins, weight: clamped }));
    });
  }

  /** The nodes that proved their keys within a day, as `wss://host:port#NODE-ID`: listed ones would only be claims. */
  recentlyProved(now: number): string[] {
    const proved = [...this.#nodes.values()].filter(
      (node) =>
        (node.provedAt ?? 0) + FRESH > now &&
        // A contact may have passed on a node in confidence, so it is not passed on to others.
        node.origins.some((origin) => origin !== "referral"),
    );
    return proved.map((node) => `${node.urls[0]}#${node.id}`);
  }
}

const NEW = { origins: [], seenAt: 0, successes: 0, failures: 0, failedAt: 0 } as const;

function decayed(node: { failures: number; failedAt: number }, now: number): number {
  return Math.floor(node.failures / 2 ** Math.max(0, Math.floor((now - node.failedAt) / FORGIVE)));
}
