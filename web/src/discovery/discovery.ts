/** Finds nodes: queries the sources, races the dials, and has the result confirmed by a second source. */
import { toBase64url } from "../core/bytes.js";
import { type Clock, pause, type Timers } from "../core/clock.js";
import { type Connection, type DialContext, DialError, type DialFault, dial } from "../core/connection.js";
import { type Endpoint, endpointText, parseEndpointText, urlOf } from "../core/endpoint.js";
import {
  type Confirmation,
  DiscoverError,
  type FoundNode,
  type NodeCheck,
  type NodeFinder,
  type Purpose,
  type SourceReport,
} from "../core/node-finder.js";
import { isPublicUrl, isThisMachine } from "../core/special.js";
import { type CacheStore, NodeCache } from "./cache.js";
import { type Fetch, isDeniedLocally, LOCAL_NETWORK_DENIED, MIXED_CONTENT } from "./http.js";
import type { Link } from "./link.js";
import { parseManualNode } from "./manual.js";
import { Race } from "./race.js";
import { registrySource } from "./registry.js";
import {
  type Candidate,
  hasTls,
  newCandidate,
  type Source,
  SourceError,
  type SourceKind,
  type SourceResponse,
} from "./source.js";
import { LOAD_TIME, Trust } from "./trust.js";

/** The most nodes of a contact. */
const MAX_REFERRALS = 3;

/** Where to look for nodes. */
export interface DiscoveryOptions {
  /** URLs of the federation's registries, or of files that are a directory. */
  readonly registries?: readonly string[];
  /** The federation's root keys, as base64url. Lists of nodes have to be signed under one of them, or one that follows it. */
  readonly roots?: readonly string[];
  /** The federation's id in 32 hexadecimal digits, if `roots` are not its founding ones. */
  readonly federation?: string;
  /** DNS names whose TXT records list nodes, and the URLs of the providers of DNS over HTTPS that are asked. */
  readonly dns?: { readonly names: readonly string[]; readonly providers: readonly string[] };
  /** Nodes that the person or the app names: `wss://host:port#KEY`. */
  readonly nodes?: readonly string[];
  /** Links of contacts: `https://…/i#…` or `CHAPPE:…`. */
  readonly links?: readonly string[];
  /** Connects only to nodes with TLS, and to nodes of this machine. */
  readonly wssOnly?: boolean;
  /** Accepts nodes in private networks from contacts and lists, for a federation in a private network. */
  readonly isPrivate?: boolean;
  /** Where the known nodes are stored. Without it they are kept in memory. */
  readonly cache?: CacheStore;
  /** The platform's `fetch`, if it is not the global one. */
  readonly fetch?: Fetch;
  /** The platform's `WebSocket`, if it is not the global one. */
  readonly webSocket?: DialContext["webSocket"];
}

/** What a dial came to, in words. */
const DIAL_FAULTS: Record<Exclude<DialFault, "aborted">, string> = {
  timeout: "no answer in time",
  unreachable: "no connection",
  "mixed-content": MIXED_CONTENT,
  "not-a-node": "the server is not a Chappe node",
  "other-version": "it speaks another version of the protocol",
  "other-node": "another node is at this address",
  "other-url": "the node does not use this URL",
  "bad-proof": "its proof of the key is invalid: the connection may be intercepted",
  leaving: "the node is shutting down",
};

/** The discovery of one client. Constructing it does nothing. */
export class Discovery implements NodeFinder {
  readonly #options: DiscoveryOptions;
  readonly #context: DialContext;
  readonly #manual: Candidate[];
  #cache!: NodeCache;
  #trust!: Trust;
  #links!: Link[];
  #linkFaults!: string[];
  #referrals!: readonly string[];
  #alternatives: Promise<readonly Endpoint[]> | undefined;
  #loaded: Promise<void> | undefined;

  /** Throws `SyntaxError` if an option is not valid. */
  constructor(options: DiscoveryOptions, clock: Clock, timers: Timers) {
    const webSocket = options.webSocket ?? globalThis.WebSocket;
    if (webSocket === undefined) throw new TypeError("no WebSocket: pass the option webSocket");
    this.#options = options;
    this.#context = { webSocket, clock, timers };
    this.forget();
    this.#manual = (options.nodes ?? []).map(parseManualNode);
    for (const url of [...(options.registries ?? []), ...(options.dns?.providers ?? [])]) {
      if (!/^https?:/.test(url) || !URL.canParse(url)) throw new SyntaxError(`not a URL with https://: ${url}`);
    }
  }

  /** Forgets all but the options: known nodes and lists, statements of roots, and what contacts and links have named. */
  forget(): void {
    const { roots, federation, cache } = this.#options;
    // New ones, as a search that is just ending still writes to the old.
    this.#trust = new Trust(roots, federation);
    this.#cache = new NodeCache(cache, this.#trust);
    this.#links = [];
    this.#linkFaults = [];
    this.#referrals = [];
    this.#alternatives = undefined;
    this.#loaded = undefined;
  }

  /** Adds the nodes of a link. Returns the link, whose code may be for pairing. Rejects with `LinkError`. */
  async addLink(text: string): Promise<Link> {
    const links = this.#links;
    const { parseLink } = await import("./link.js");
    const link = parseLink(text, this.#unix(), this.#options.isPrivate);
    links.push(link);
    return link;
  }

  /**
   * The root keys that are pinned, and what they have stated.
   *
   * @internal
   */
  get trust(): Trust {
    return this.#trust;
  }

  setReferrals(nodes: readonly string[]): void {
    this.#referrals = nodes;
  }

  setAlternatives(records?: unknown): void {
    // Loaded now, as the node that stops may be the one that serves the page. The other sources may do without them.
    this.#alternatives = records
      ? import("./alternatives.js")
          .then((module) => module.readAlternatives(records, this.#trust, this.#unix(), this.#options.isPrivate))
          .catch(() => [])
      : undefined;
  }

  usableReferrals(nodes: readonly string[]): readonly string[] {
    const endpoints = nodes.map(parseEndpointText).filter((endpoint) => endpoint !== undefined);
    const usable = endpoints.filter((endpoint) => this.#options.isPrivate || isPublicUrl(urlOf(endpoint)));
    return usable.slice(0, MAX_REFERRALS).map(endpointText);
  }

  remembered(): readonly string[] {
    return this.#cache.recentlyProved(this.#unix());
  }

  async search(purpose: Purpose, avoid: readonly string[], signal: AbortSignal): Promise<FoundNode> {
    this.#loaded ??= this.#load().catch((error) => {
      // The next search tries it again.
      this.#loaded = undefined;
      throw error;
    });
    await this.#loaded;
    const sources = this.#sources(await Promise.race([this.#alternatives, pause(LOAD_TIME)]));
    // After a wipe, nothing of this search may come into the next cache.
    const cache = this.#cache;
    const ofOther = () => cache.recentlyUsed(purpose === "pairing" ? "inboxes" : "pairing", this.#unix());
    const all = [...avoid, ...ofOther()];
    const found = await new Search(this.#context, cache, sources, all, this.#options, this.#trust, signal).run();
    const { connection } = found;
    const { nodeId } = connection;
    if (!all.includes(nodeId) && ofOther().includes(nodeId)) {
      // It came into use for the other purpose during the search.
      connection.close();
      return this.search(purpose, avoid, signal);
    }
    const recordUse = () => cache.recordUse(nodeId, purpose, this.#unix());
    recordUse();
    void connection.closed.then(recordUse);
    return found;
  }

  async #load(): Promise<void> {
    await this.#cache.load();
    for (const link of this.#options.links ?? []) {
      // The other sources may name nodes, too.
      await this.addLink(link).catch((error: Error) => this.#linkFaults.push(error.message));
    }
  }

  #sources(alternatives: readonly Endpoint[] = []): Source[] {
    const { registries = [], dns, isPrivate = false } = this.#options;
    const fetcher = fetcherOf(this.#options);
    const now = this.#unix();
    const links = this.#links.filter((link) => link.expiresAt > now).flatMap((link) => link.nodes);
    const shared = this.#referrals.map(parseEndpointText).filter((endpoint) => endpoint !== undefined);
    const named = (kind: SourceKind, endpoints: readonly Endpoint[]) =>
      endpoints.map((one) => newCandidate(urlOf(one), one.node, toBase64url(one.node), kind));
    const sources: Source[] = this.#linkFaults.map((fault) => ({
      kind: "link",
      list: () => Promise.reject(new SourceError(fault)),
    }));
    // These answer at once.
    for (const [kind, candidates] of Object.entries({
      cache: this.#cache.candidates(now),
      manual: this.#manual,
      link: named("link", links),
      referral: named("referral", [...alternatives, ...shared]),
    })) {
      if (candidates.length > 0)
        sources.push({ kind: kind as SourceKind, list: async () => ({ candidates, lists: [] }) });
    }
    if (registries.length > 0) sources.push(registrySource(registries, this.#trust, isPrivate, fetcher));
    for (const provider of dns?.names.length ? dns.providers : []) {
      sources.push({
        kind: "dns",
        label: new URL(provider).host,
        list: async (at, signal) => {
          const { queryShards } = await import("./doh.js");
          return queryShards(fetcher, provider, dns?.names ?? [], this.#trust, isPrivate, at, signal);
        },
      });
    }
    return sources;
  }

  #unix(): number {
    return Math.floor(this.#context.clock.unixMs() / 1000);
  }
}

function fetcherOf(options: DiscoveryOptions): Fetch {
  return options.fetch ?? ((url, init) => globalThis.fetch(url, init));
}

/** One search, and the confirmation of its result. */
class Search {
  readonly #context: DialContext;
  readonly #cache: NodeCache;
  readonly #sources: readonly Source[];
  readonly #race: Race;
  readonly #options: DiscoveryOptions;
  readonly #trust: Trust;
  readonly #signal: AbortSignal;
  readonly #began: number;
  readonly #reports: SourceReport[] = [];
  readonly #dialReports: SourceReport[] = [];
  readonly #dials = new Map<number, AbortController>();
  readonly #candidates: Candidate[] = [];
  readonly #queries = new Map<number, Promise<void>>();
  readonly #queried = new Set<number>();
  readonly #overAt = new AbortController();
  #hasEquivocation = false;
  #wake: () => void = () => {};
  #found: { connection: Connection; candidate: Candidate } | undefined;

  constructor(
    context: DialContext,
    cache: NodeCache,
    sources: readonly Source[],
    avoid: readonly string[],
    options: DiscoveryOptions,
    trust: Trust,
    signal: AbortSignal,
  ) {
    this.#context = context;
    this.#cache = cache;
    this.#sources = sources;
    this.#options = options;
    this.#trust = trust;
    this.#signal = AbortSignal.any([signal, this.#overAt.signal]);
    this.#began = context.clock.now();
    const kinds = sources.map((source) => source.kind);
    this.#race = new Race(kinds, avoid, kinds.includes("cache"));
    this.#signal.addEventListener("abort", () => this.#wake());
  }

  get #now(): number {
    return this.#context.clock.now() - this.#began;
  }

  get #unix(): number {
    return Math.floor(this.#context.clock.unixMs() / 1000);
  }

  async run(): Promise<FoundNode> {
    while (!this.#signal.aborted && !this.#performActions() && this.#found === undefined) await this.#nextEvent();
    for (const abort of this.#dials.values()) abort.abort();
    if (this.#found !== undefined) {
      const { connection, candidate } = this.#found;
      return { connection, check: this.#check(candidate, connection) };
    }
    this.#overAt.abort();
    await this.#cache.save();
    throw new DiscoverError(this.#allReports());
  }

  /** Performs what is due. Returns whether the search is over. */
  #performActions(): boolean {
    for (;;) {
      const action = this.#race.pollAction(this.#now);
      if (action === undefined) return false;
      switch (action.type) {
        case "query":
          this.#query(action.source);
          break;
        case "dial":
          this.#dial(action.id, action.candidate);
          break;
        case "abandon":
          this.#dials.get(action.id)?.abort();
          this.#dials.delete(action.id);
          break;
        case "done":
          return true;
      }
    }
  }

  /** Waits for a response, a dial, or the next deadline. */
  #nextEvent(): Promise<void> {
    return new Promise((resolve) => {
      const at = this.#began + this.#race.pollTimeout(this.#now);
      const cancel = this.#context.timers.at(at, resolve);
      this.#wake = () => {
        cancel();
        resolve();
      };
    });
  }

  #query(index: number): void {
    const source = this.#sources[index] as Source;
    this.#queried.add(index);
    const query = source
      .list(this.#unix, this.#signal)
      .then((response) => this.#handleResponse(index, source, response))
      .catch((error: unknown) => this.#handleSourceFailed(index, source, error));
    this.#queries.set(
      index,
      query.finally(() => {
        this.#queries.delete(index);
        this.#wake();
      }),
    );
  }

  #handleResponse(index: number, source: Source, response: SourceResponse): void {
    const verdicts = response.lists.map((list) => this.#cache.judge(list));
    if (verdicts.includes("equivocation")) this.#hasEquivocation = true;
    if (verdicts.length > 0 && verdicts.every((verdict) => verdict === "older")) {
      throw new SourceError("its list is older than a known one");
    }
    const { wssOnly } = this.#options;
    const isListed = verdicts.length > 0;
    const usable = response.candidates.filter(
      (candidate) =>
        (!wssOnly || hasTls(candidate) || isThisMachine(candidate.url)) &&
        // What a person entered is always tried.
        (isListed || candidate.source === "manual" || this.#cache.retry(candidate, this.#unix)),
    );
    if (usable.length === 0) {
      throw new SourceError("it names no node that may be used");
    }
    if (isListed) this.#cache.learn(usable, this.#unix);
    this.#candidates.push(...usable);
    this.#reports.push({ source: nameOf(source), result: `${usable.length} addresses of nodes` });
    this.#race.handleCandidates(index, usable, this.#now);
  }

  #handleSourceFailed(index: number, source: Source, error: unknown): void {
    // Anything else is a fault, such as a part of the page that could not be loaded. The other sources go on.
    if (!(error instanceof SourceError)) console.error(error);
    this.#reports.push({ source: nameOf(source), result: error instanceof Error ? error.message : `${error}` });
    this.#race.handleSourceFailed(index, this.#now);
  }

  #allReports(): SourceReport[] {
    const unanswered = [...this.#queries.keys()].map((index) => ({
      source: nameOf(this.#sources[index] as Source),
      result: "no answer in time",
    }));
    return [...unanswered, ...this.#reports, ...this.#dialReports];
  }

  #dial(id: number, candidate: Candidate): void {
    const abort = new AbortController();
    this.#dials.set(id, abort);
    const signal = AbortSignal.any([this.#signal, abort.signal]);
    dial(candidate, this.#context, signal, () => this.#race.handleProgress(id, this.#now))
      .then(
        (connection) => {
          if (this.#found !== undefined || this.#signal.aborted) return connection.close();
          this.#dials.delete(id);
          this.#cache.recordProof(connection.nodeId, candidate, this.#unix);
          this.#race.handleProof(id);
          this.#found = { connection, candidate };
        },
        (error: unknown) => this.#handleDialFailed(id, candidate, error),
      )
      .finally(() => this.#wake());
  }

  async #handleDialFailed(id: number, candidate: Candidate, error: unknown): Promise<void> {
    if (!(error instanceof DialError)) console.error(error);
    const fault = error instanceof DialError ? error.fault : "unreachable";
    if (fault === "aborted") return;
    this.#dials.delete(id);
    const isDenied = fault === "unreachable" && (await isDeniedLocally(candidate.url));
    this.#dialReports.push({ source: candidate.url, result: isDenied ? LOCAL_NETWORK_DENIED : DIAL_FAULTS[fault] });
    this.#cache.recordFailure(candidate, this.#unix);
    this.#race.handleDialFailed(id);
  }

  /** Confirms the choice in the background. What that needs is loaded only then. */
  async #check(first: Candidate, connection: Connection): Promise<NodeCheck> {
    let confirmation: Confirmation = "no-answer";
    try {
      const { confirm } = await import("./confirmation.js");
      confirmation = await confirm({
        first,
        connection,
        context: this.#context,
        cache: this.#cache,
        candidates: this.#candidates,
        endorsements: this.#race.endorsements,
        hasEquivocation: () => this.#hasEquivocation,
        began: this.#began,
        signal: this.#signal,
        running: () => [...this.#queries.values()],
        queryUnasked: () => this.#queryUnasked(),
        trust: this.#trust,
        fetcher: fetcherOf(this.#options),
      });
    } catch (error) {
      // A fault, such as a part of the page that could not be loaded. Nothing was confirmed.
      console.error(error);
    }
    this.#overAt.abort();
    return { confirmation, reports: this.#allReports() };
  }

  /** Queries the sources that the search did not come to. Returns whether there are any. */
  #queryUnasked(): boolean {
    const unasked = this.#sources.map((_, index) => index).filter((index) => !this.#queried.has(index));
    for (const index of unasked) this.#query(index);
    return unasked.length > 0;
  }
}

function nameOf(source: Source): string {
  return source.label === undefined ? source.kind : `${source.kind} (${source.label})`;
}
