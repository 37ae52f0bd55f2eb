/**
 * The schedule of a search: when each source is queried, and when each candidate is dialled. Pure: it has no sockets and
 * no clock. Points in time are milliseconds since the search began. `docs/protocol/discovery.md` has the rules.
 */
import { CandidateSelector, type Random } from "./choice.js";
import { attributedSource, type Candidate, isRemote, type SourceKind } from "./source.js";

/** The most dials at a time. */
export const MAX_DIALS = 4;
/** The most dials to cached nodes in the first {@link STAGGER}. */
const FIRST_CACHED = 2;
/** The delay of the registry if the cache has nodes. */
export const WARM_DELAY = 250;
/** The delay of each DNS provider after the previous source. */
export const STAGGER = 250;
/** How long a dial may make no progress while others wait. */
export const STALL_TIMEOUT = 1_000;
/** How long the registry's nodes wait for DNS if no other source has nodes. */
export const DNS_HOLD = 350;
/** The head start of other sources' nodes over the registry's. */
export const HEAD_START = 400;
/** From then on, avoided nodes are dialled although a source has not answered or a dial has not failed. */
export const AVOIDED_AFTER = 5_000;
/** The time limit of a search. */
export const SEARCH_TIMEOUT = 9_500;

/** The next step of the driver. */
export type Action =
  | { readonly type: "query"; readonly source: number }
  | { readonly type: "dial"; readonly id: number; readonly candidate: Candidate }
  | { readonly type: "abandon"; readonly id: number }
  | { readonly type: "done" };

/** The sources that have named a node: in this search, and ever. */
export interface Endorsement {
  readonly now: Set<SourceKind>;
  readonly ever: Set<SourceKind>;
}

/** A number is the time at which the query is due. */
type QueryState = number | "running" | "answered";

interface Dial {
  readonly id: number;
  readonly candidate: Candidate;
  readonly source: SourceKind;
  progressAt: number;
  readonly isSecondTurn: boolean;
}

/** The state of one search. */
export class Race {
  readonly #slots: { readonly kind: SourceKind; query: QueryState }[];
  readonly #avoid: readonly string[];
  readonly #random: Random;
  readonly #seen = new Set<string>();
  readonly #selector = new CandidateSelector();
  /** The sources that have named each node, by its id. */
  readonly endorsements = new Map<string, Endorsement>();
  #untried: Candidate[] = [];
  #toRetry: Candidate[] = [];
  #avoided: Candidate[] = [];
  #dials: Dial[] = [];
  #abandoned: number[] = [];
  #nextDial = 0;
  #cachedDials = 0;
  #othersDialledAt: number | undefined;
  #holdUntil: number | undefined;
  #winner: Candidate | undefined;

  /** `isWarm`: the cache has nodes. Nodes in `avoid` are dialled only if no other is left. */
  constructor(kinds: readonly SourceKind[], avoid: readonly string[], isWarm: boolean, random: Random = Math.random) {
    let dns = 0;
    this.#slots = kinds.map((kind) => {
      const query = kind === "registry" && isWarm ? WARM_DELAY : kind === "dns" ? STAGGER * ++dns : 0;
      return { kind, query };
    });
    this.#avoid = avoid;
    this.#random = random;
  }

  /** The candidate whose node has proved its key first. */
  get winner(): Candidate | undefined {
    return this.#winner;
  }

  /** Handles the response of a source. */
  handleCandidates(source: number, candidates: readonly Candidate[], now: number): void {
    const slot = this.#slots[source];
    if (slot === undefined) return;
    slot.query = "answered";
    for (const candidate of candidates) this.#add(candidate);
    if (slot.kind === "registry") {
      const sources = [...this.#untried.map(attributedSource), ...this.#dials.map((dial) => dial.source)];
      const isAlone = sources.every((other) => other === "registry");
      this.#holdUntil = isAlone ? now + DNS_HOLD : undefined;
    } else if (this.#untried.length > 0) {
      this.#holdUntil = undefined;
    }
  }

  #add(candidate: Candidate): void {
    const { nodeId } = candidate;
    if (nodeId !== undefined) {
      const endorsement = this.endorsements.get(nodeId) ?? { now: new Set(), ever: new Set() };
      this.endorsements.set(nodeId, endorsement);
      endorsement.now.add(candidate.source);
      for (const origin of candidate.origins) endorsement.ever.add(origin);
    }
    // The key is compared too: an old record must not hide a new node at the same address.
    const key = `${candidate.url} ${nodeId}`;
    if (this.#seen.has(key)) return;
    this.#seen.add(key);
    this.#selector.addSource(attributedSource(candidate));
    const isAvoided = nodeId !== undefined && this.#avoid.includes(nodeId);
    (isAvoided ? this.#avoided : this.#untried).push(candidate);
  }

  /** Handles a source that has failed, or has named no usable candidate. */
  handleSourceFailed(source: number, now: number): void {
    const slot = this.#slots[source];
    if (slot === undefined) return;
    slot.query = "answered";
    if (isRemote(slot.kind)) this.#queryNextSource(now);
  }

  /** Handles progress of a dial, such as an established connection. */
  handleProgress(id: number, now: number): void {
    const dial = this.#dials.find((running) => running.id === id);
    if (dial !== undefined) dial.progressAt = now;
  }

  /** Handles a failed dial. */
  handleDialFailed(id: number): void {
    this.#dials = this.#dials.filter((dial) => dial.id !== id);
  }

  /** Handles a dial whose node has proved its key. */
  handleProof(id: number): void {
    this.#winner ??= this.#dials.find((dial) => dial.id === id)?.candidate;
  }

  /** The next action, which the state already takes as done. Call it until it returns `undefined`. */
  pollAction(now: number): Action | undefined {
    if (this.#abandoned.length === 0 && this.#winner === undefined && now < SEARCH_TIMEOUT) {
      if (this.#isStarving()) this.#queryNextSource(now);
      const due = this.#slots.findIndex(({ query }) => typeof query === "number" && query <= now);
      const slot = this.#slots[due];
      if (slot !== undefined) {
        slot.query = "running";
        return { type: "query", source: due };
      }
      this.#dropStalledDial(now);
    }
    const abandoned = this.#abandoned.pop();
    if (abandoned !== undefined) return { type: "abandon", id: abandoned };
    if (this.#winner !== undefined || now >= SEARCH_TIMEOUT) return { type: "done" };
    const next = this.#nextCandidate(now);
    if (next !== undefined) return this.#startDial(next.candidate, next.isSecondTurn, now);
    const isOver = this.#isIdle && this.#avoided.length === 0 && this.#areAllAnswered;
    return isOver ? { type: "done" } : undefined;
  }

  #startDial(candidate: Candidate, isSecondTurn: boolean, now: number): Action {
    const id = this.#nextDial++;
    const source = attributedSource(candidate);
    if (source !== "registry") this.#othersDialledAt ??= now;
    if (candidate.source === "cache") this.#cachedDials += 1;
    this.#dials.push({ id, candidate, source, progressAt: now, isSecondTurn });
    return { type: "dial", id, candidate };
  }

  /** When to poll again if no event happens before. */
  pollTimeout(now: number): number {
    const due = this.#slots.flatMap(({ query }) => (typeof query === "number" ? [query] : []));
    const silent = this.#dials.flatMap((dial) => [dial.progressAt + STAGGER, dial.progressAt + STALL_TIMEOUT]);
    const ahead = (this.#othersDialledAt ?? 0) + HEAD_START;
    return Math.min(
      ...[...due, ...silent, this.#holdUntil ?? 0, ahead, STAGGER, AVOIDED_AFTER, SEARCH_TIMEOUT].filter(
        (at) => at > now,
      ),
    );
  }

  get #areAllAnswered(): boolean {
    return this.#slots.every(({ query }) => query === "answered");
  }

  /** Whether no candidate is being dialled or waits for it. */
  get #isIdle(): boolean {
    return this.#dials.length + this.#untried.length + this.#toRetry.length === 0;
  }

  /** Whether nothing is under way that could lead to a node. */
  #isStarving(): boolean {
    return this.#isIdle && !this.#slots.some(({ query }) => query === "running" || query === 0);
  }

  #queryNextSource(now: number): void {
    const waiting = this.#slots.filter((slot) => typeof slot.query === "number") as { query: number }[];
    const next = waiting.sort((a, b) => a.query - b.query)[0];
    if (next !== undefined) next.query = Math.min(next.query, now);
  }

  /** Drops a dial without progress if other candidates wait for its slot. */
  #dropStalledDial(now: number): void {
    if (this.#dials.length < MAX_DIALS || this.#isHeldForDns(now)) return;
    const first = this.#dials.filter((dial) => !dial.isSecondTurn).sort((a, b) => a.progressAt - b.progressAt)[0];
    if (first === undefined) return;
    const isSilentFor = (time: number) => now >= first.progressAt + time;
    const isAbsent = (candidate: Candidate) => this.#dials.every((dial) => dial.source !== attributedSource(candidate));
    const hasNewcomer = this.#untried.some((one) => isAbsent(one) && !this.#yieldsToOthers(one, now));
    const isDropped = (hasNewcomer && isSilentFor(STAGGER)) || (isSilentFor(STALL_TIMEOUT) && this.#untried.length > 0);
    if (!isDropped) return;
    this.#dials = this.#dials.filter((dial) => dial !== first);
    this.#toRetry.push(first.candidate);
    this.#abandoned.push(first.id);
  }

  #isHeldForDns(now: number): boolean {
    const isHeld = this.#holdUntil !== undefined && now < this.#holdUntil;
    return isHeld && this.#slots.some((slot) => slot.kind === "dns" && slot.query !== "answered");
  }

  /** Whether a candidate of the registry waits for other sources' dials. */
  #yieldsToOthers(candidate: Candidate, now: number): boolean {
    return (
      attributedSource(candidate) === "registry" &&
      this.#othersDialledAt !== undefined &&
      now < this.#othersDialledAt + HEAD_START &&
      this.#dials.some((dial) => dial.source !== "registry")
    );
  }

  #nextCandidate(now: number): { candidate: Candidate; isSecondTurn: boolean } | undefined {
    if (this.#dials.length >= MAX_DIALS || this.#isHeldForDns(now)) return undefined;
    const hasCachedEnough = now < STAGGER && this.#cachedDials >= FIRST_CACHED;
    const isEligible = (index: number) => {
      const candidate = this.#untried[index] as Candidate;
      return !this.#yieldsToOthers(candidate, now) && (!hasCachedEnough || candidate.source !== "cache");
    };
    const first = this.#take(this.#untried, isEligible);
    if (first === "none-eligible") return undefined;
    if (first !== undefined) return { candidate: first, isSecondTurn: false };
    const again = this.#take(this.#toRetry, () => true);
    if (typeof again === "object") return { candidate: again, isSecondTurn: true };
    // Avoided nodes wait until all sources have answered and all other dials have failed, or for five seconds.
    const areOthersLeft = now < AVOIDED_AFTER && (this.#dials.length > 0 || !this.#areAllAnswered);
    const avoided = this.#take(this.#avoided, () => !areOthersLeft);
    return typeof avoided === "object" ? { candidate: avoided, isSecondTurn: true } : undefined;
  }

  #take(from: Candidate[], isEligible: (index: number) => boolean): Candidate | "none-eligible" | undefined {
    const choice = this.#selector.choose(from, isEligible, this.#random);
    if (choice === "empty") return undefined;
    return choice === "none-eligible" ? choice : from.splice(choice, 1)[0];
  }
}
