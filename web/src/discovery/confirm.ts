/** Confirmation of a search's result: a second node, of another source and network, and a look at the lists. Pure. */
import type { Confirmation } from "../core/node-finder.js";
import type { Endorsement } from "./race.js";
import type { Candidate, SourceKind } from "./source.js";

/** How long after the start of a search the confirmation is given up, in milliseconds. */
export const CONFIRM_TIMEOUT = 30_000;
/** The most nodes that are dialled for a confirmation, and how many of them at a time. */
export const MAX_CONFIRMING_DIALS = 6;
export const CONFIRMING_AT_A_TIME = 2;
/** Shorter lists may be disjoint by chance. */
const SEVERAL = 3;

/** The sources that have named each node, by its id. */
export type Endorsements = ReadonlyMap<string, Endorsement>;

/** The source that a candidate depends on. */
export function sourceOf(candidate: Candidate): SourceKind {
  const [origin] = candidate.origins;
  return candidate.source === "cache" ? (origin ?? "cache") : candidate.source;
}

/** The candidates that may confirm `first`, in the order in which to dial them. */
export function confirmingCandidates(
  first: Candidate,
  firstId: string,
  all: readonly Candidate[],
  endorsements: Endorsements,
  random: () => number,
): Candidate[] {
  const via = sourceOf(first);
  const originsOf = (candidate: Candidate) => {
    const ever = candidate.nodeId === undefined ? undefined : endorsements.get(candidate.nodeId)?.ever;
    return [...candidate.origins, ...(ever ?? [])];
  };
  const independent = all.filter(
    (candidate) =>
      candidate.nodeId !== undefined &&
      candidate.nodeId !== firstId &&
      candidate.network !== first.network &&
      originsOf(candidate).some((origin) => origin !== via),
  );
  const seen = new Set<string>();
  const ranked = shuffled(independent, random).map((candidate) => {
    // Nodes that only a registry names come last: it can answer each client differently. Before that, one node of each
    // network before a second of any.
    const isByRegistryAlone = originsOf(candidate).every((origin) => origin === "registry");
    const rank = (isByRegistryAlone ? 2 : 0) + (seen.has(candidate.network) ? 1 : 0);
    seen.add(candidate.network);
    return { candidate, rank };
  });
  ranked.sort((a, b) => a.rank - b.rank);
  return ranked.slice(0, MAX_CONFIRMING_DIALS).map(({ candidate }) => candidate);
}

/** The outcome for `first`, after `dialled` dials. `second` says whether a second node has proved its key. */
export function evaluate(
  first: Candidate,
  firstId: string,
  hasSecond: boolean,
  dialled: number,
  endorsements: Endorsements,
  hasEquivocation: boolean,
): Confirmation {
  if (hasEquivocation) return "equivocation";
  if (areListsDisjoint(endorsements)) return "strangers";
  if (!hasSecond) return dialled === 0 ? "no-other" : "no-answer";
  const others = [...(endorsements.get(firstId)?.ever ?? [])].filter((origin) => origin !== sourceOf(first));
  return others.length > 0 ? "vouched" : "confirmed";
}

/** Whether the registry and DNS list several nodes each and have none in common. */
function areListsDisjoint(endorsements: Endorsements): boolean {
  const named = [...endorsements.values()].map(({ now }) => [now.has("registry"), now.has("dns")] as const);
  const byRegistry = named.filter(([registry]) => registry).length;
  const byDns = named.filter(([, dns]) => dns).length;
  return byRegistry >= SEVERAL && byDns >= SEVERAL && !named.some(([registry, dns]) => registry && dns);
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  const order = items.map((item) => ({ item, at: random() }));
  return order.sort((a, b) => a.at - b.at).map(({ item }) => item);
}
