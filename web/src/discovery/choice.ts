/**
 * Chooses the next candidate to dial: first a source, then a network, then a node, each at random by weight. Listing many
 * nodes, or praising them, gives a source no advantage. Pure.
 */
import { attributedSource, type Candidate, hasTls, SOURCE_KINDS, type SourceKind } from "./source.js";

/** A random number from 0 to 1. */
export type Random = () => number;

/** The index of the chosen candidate; or there are some, and none may be dialled now; or there are none. */
export type Choice = number | "none-eligible" | "empty";

/** A source's share of the choices in sixtieths, by the number of sources. */
const SHARES = [60, 60, 20, 20, 15, 12, 10];
const LEAST_SHARE = 9;

/** The sources that have named candidates, and how often each was chosen. */
export class CandidateSelector {
  readonly #chosen = new Map<SourceKind, number>();
  readonly #named = new Set<SourceKind>();
  readonly #networks = new Set<string>();
  #total = 0;

  /** Records that a source has named a candidate. */
  addSource(source: SourceKind): void {
    this.#named.add(source);
  }

  /** An equal share, and at most a third. With two sources, the more trusted one gets two thirds. */
  #share(source: SourceKind): number {
    const rank = (kind: SourceKind) => SOURCE_KINDS.indexOf(kind);
    const isHighest = [...this.#named].every((other) => rank(other) <= rank(source));
    if (this.#named.size === 2 && isHighest) return 40;
    return SHARES[this.#named.size] ?? LEAST_SHARE;
  }

  /** Chooses among the candidates whose index is eligible, and counts the choice. */
  choose(candidates: readonly Candidate[], isEligible: (index: number) => boolean, random: Random): Choice {
    if (candidates.length === 0) return "empty";
    const all = candidates.map((candidate, index) => ({ candidate, index, source: attributedSource(candidate) }));
    const eligible = all.filter(({ index }) => isEligible(index));
    const sources = [...new Set(eligible.map(({ source }) => source))];
    // A source that has used up its share waits while another one has eligible candidates.
    const isWithinShare = (source: SourceKind) => {
      const most = Math.ceil((this.#share(source) * (this.#total + 1)) / 60);
      return (this.#chosen.get(source) ?? 0) + 1 <= most;
    };
    const within = sources.filter(isWithinShare);
    const open = within.length > 0 ? within : sources;
    const source = weighted(open, (kind) => this.#share(kind), random);
    if (source === undefined) return "none-eligible";
    const ofSource = eligible.filter((item) => item.source === source);
    // Without TLS, everybody on the path sees what the node sees. So such candidates wait, except for manual entries.
    const secure = ofSource.filter(({ candidate }) => source === "manual" || hasTls(candidate));
    const mine = secure.length > 0 ? secure : ofSource;
    // A network has the weight of its best node. Networks that were already dialled wait for the others.
    const networks = new Map<string, number>();
    for (const { candidate } of mine) {
      networks.set(candidate.network, Math.max(networks.get(candidate.network) ?? 0, candidate.weight));
    }
    const fresh = [...networks.keys()].filter((network) => !this.#networks.has(network));
    const network = weighted(
      fresh.length > 0 ? fresh : [...networks.keys()],
      (name) => networks.get(name) as number,
      random,
    );
    const there = mine.filter(({ candidate }) => candidate.network === network);
    const chosen = weighted(there, ({ candidate }) => candidate.weight, random);
    if (chosen === undefined || network === undefined) return "none-eligible";
    this.#networks.add(network);
    this.#chosen.set(source, (this.#chosen.get(source) ?? 0) + 1);
    this.#total += 1;
    return chosen.index;
  }
}

/** A random item by weight, or `undefined` if there is none. */
function weighted<T>(items: readonly T[], weight: (item: T) => number, random: Random): T | undefined {
  let at = random() * items.reduce((sum, item) => sum + weight(item), 0);
  for (const item of items) {
    at -= weight(item);
    if (at < 0) return item;
  }
  return items.at(-1);
}
