/** The rest of a search after a node was found: late sources, statements of roots, and a second node that proves its key. */
import type { Timers } from "../core/clock.js";
import { type Connection, type DialContext, DialError, dial } from "../core/connection.js";
import type { Confirmation } from "../core/node-finder.js";
import type { NodeCache } from "./cache.js";
import { CONFIRM_TIMEOUT, CONFIRMING_AT_A_TIME, confirmingCandidates, type Endorsements, evaluate } from "./confirm.js";
import { type Fetch, originOf } from "./http.js";
import type { Candidate } from "./source.js";
import { fetchStatements, type Trust } from "./trust.js";

/** A search that has found a node. */
export interface FinishedSearch {
  readonly first: Candidate;
  readonly connection: Connection;
  readonly context: DialContext & { readonly timers: Timers };
  readonly cache: NodeCache;
  readonly endorsements: Endorsements;
  /** When the search began, in milliseconds of the clock. */
  readonly began: number;
  readonly signal: AbortSignal;
  /** Grows while late sources answer. */
  readonly candidates: readonly Candidate[];
  hasEquivocation(): boolean;
  /** The queries that have not been answered yet. */
  running(): readonly Promise<void>[];
  queryUnasked(): boolean;
  readonly trust: Trust;
  readonly fetcher: Fetch;
}

/** Confirms the node that was found. Ends {@link CONFIRM_TIMEOUT} after the start of the search at most. */
export async function confirm(search: FinishedSearch): Promise<Confirmation> {
  const { first, connection, context, cache, endorsements, began } = search;
  const deadline = new AbortController();
  const cancel = context.timers.at(began + CONFIRM_TIMEOUT, () => deadline.abort());
  const signal = AbortSignal.any([search.signal, deadline.signal]);
  const over = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
  const unix = () => Math.floor(context.clock.unixMs() / 1000);
  const dialled = new Set<string>();
  try {
    // At once: the next client has to know what this node is used for, even if the page is closed soon.
    await cache.save();
    await Promise.race([Promise.all([...search.running(), learnStatements(search, signal)]), over]);
    let hasSecond = cache.isFresh(unix()) && (await proveSecond(search, dialled, signal));
    if (!hasSecond && !signal.aborted && search.queryUnasked()) {
      await Promise.race([Promise.all(search.running()), over]);
    }
    hasSecond ||= await proveSecond(search, dialled, signal);
    await cache.save();
    return evaluate(first, connection.nodeId, hasSecond, dialled.size, endorsements, search.hasEquivocation());
  } finally {
    cancel();
  }
}

/** Asks the node that was found for what the roots have stated: a thief of an online key may control the registry, too. */
async function learnStatements(search: FinishedSearch, signal: AbortSignal): Promise<void> {
  const { trust, fetcher, connection, context } = search;
  if (trust.pinned.length === 0) return;
  const list = await fetchStatements(fetcher, originOf(connection.url), signal);
  // If it cannot be read, the second node is asked all the same.
  await trust.learn(list, Math.floor(context.clock.unixMs() / 1000)).catch(console.error);
}

async function proveSecond(search: FinishedSearch, dialled: Set<string>, signal: AbortSignal): Promise<boolean> {
  const { first, connection, endorsements } = search;
  const fresh = search.candidates.filter((candidate) => !dialled.has(candidate.url));
  const seconds = confirmingCandidates(first, connection.nodeId, fresh, endorsements, Math.random);
  for (const { url } of seconds) dialled.add(url);
  let isProved = false;
  const work = async () => {
    for (let next = seconds.shift(); next !== undefined && !isProved && !signal.aborted; next = seconds.shift()) {
      if (await proves(search, next, signal)) isProved = true;
    }
  };
  await Promise.all(Array.from({ length: CONFIRMING_AT_A_TIME }, work));
  return isProved;
}

async function proves({ cache, context }: FinishedSearch, candidate: Candidate, signal: AbortSignal): Promise<boolean> {
  const now = Math.floor(context.clock.unixMs() / 1000);
  try {
    const connection = await dial(candidate, context, signal);
    connection.close();
    cache.recordProof(connection.nodeId, candidate, now);
    return true;
  } catch (error) {
    if (!(error instanceof DialError)) throw error;
    if (error.fault !== "aborted") cache.recordFailure(candidate, now);
    return false;
  }
}
