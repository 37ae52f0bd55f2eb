/** The schedule of a search, and the choice of the next node: as `docs/protocol/discovery.md` has them. */
import { describe, expect, test } from "vitest";
import { type CacheData, NodeCache } from "../src/discovery/cache.js";
import { CandidateSelector } from "../src/discovery/choice.js";
import { confirmingCandidates, evaluate } from "../src/discovery/confirm.js";
import {
  type Action,
  AVOIDED_AFTER,
  DNS_HOLD,
  HEAD_START,
  MAX_DIALS,
  Race,
  SEARCH_TIMEOUT,
  STALL_TIMEOUT,
} from "../src/discovery/race.js";
import { attributedSource, type Candidate, newCandidate, type SourceKind } from "../src/discovery/source.js";
import { Trust } from "../src/discovery/trust.js";

const NONE: readonly string[] = [];

/** A generator of the same numbers for the same seed. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 2 ** 32;
    return state / 2 ** 32;
  };
}

/** A node in a network of its own. */
function node(n: number, source: SourceKind, url = `wss://${n}.0.0.1:1`): Candidate {
  return newCandidate(url, new Uint8Array(32).fill(n), `node-${n}`, source);
}

function actions(race: Race, now: number): Action[] {
  const all: Action[] = [];
  for (let action = race.pollAction(now); action !== undefined; action = race.pollAction(now)) {
    all.push(action);
    if (action.type === "done") break;
  }
  return all;
}

const dialsOf = (all: readonly Action[]) => all.flatMap((action) => (action.type === "dial" ? [action] : []));
const queriesOf = (all: readonly Action[]) => all.flatMap((action) => (action.type === "query" ? [action.source] : []));

describe("a search", () => {
  test("queries local sources at once, the registry at once without a cache, and providers every 250 ms", () => {
    const race = new Race(["manual", "registry", "dns", "dns"], NONE, false, random(1));
    expect(queriesOf(actions(race, 0))).toEqual([0, 1]);
    expect(queriesOf(actions(race, 249))).toEqual([]);
    expect(queriesOf(actions(race, 250))).toEqual([2]);
    expect(queriesOf(actions(race, 500))).toEqual([3]);
    const warm = new Race(["cache", "registry"], NONE, true, random(1));
    expect(queriesOf(actions(warm, 0))).toEqual([0]);
    expect(queriesOf(actions(warm, 250))).toEqual([1]);
  });

  test("queries the next source as soon as one fails", () => {
    const race = new Race(["registry", "dns", "dns"], NONE, false, random(1));
    expect(queriesOf(actions(race, 0))).toEqual([0]);
    race.handleSourceFailed(0, 20);
    expect(queriesOf(actions(race, 20))).toEqual([1]);
  });

  test("runs four dials at most, and two to cached nodes at first", () => {
    const race = new Race(["cache", "dns"], NONE, true, random(1));
    actions(race, 0);
    race.handleCandidates(
      0,
      [1, 2, 3, 4, 5].map((n) => node(n, "cache")),
      0,
    );
    expect(dialsOf(actions(race, 0))).toHaveLength(2);
    expect(dialsOf(actions(race, 250))).toHaveLength(2);
    expect(dialsOf(actions(race, 300))).toHaveLength(0);
    expect(MAX_DIALS).toBe(4);
  });

  test("drops a dial that is silent for a second while others wait, and tries it again after them", () => {
    const race = new Race(["manual"], NONE, false, random(1));
    actions(race, 0);
    race.handleCandidates(
      0,
      [1, 2, 3, 4, 5].map((n) => node(n, "manual")),
      0,
    );
    const first = dialsOf(actions(race, 0));
    expect(first).toHaveLength(4);
    race.handleProgress(first[1]?.id as number, 900);
    const later = actions(race, STALL_TIMEOUT);
    expect(later.filter(({ type }) => type === "abandon")).toHaveLength(1);
    expect(dialsOf(later)).toHaveLength(1);
    for (const dial of [...first, ...dialsOf(later)]) race.handleDialFailed(dial.id);
    expect(dialsOf(actions(race, 1_100))).toHaveLength(1);
  });

  test("ends with the first node that proves its key, or after 9.5 s, or when nothing is left", () => {
    const won = new Race(["manual"], NONE, false, random(1));
    actions(won, 0);
    won.handleCandidates(0, [node(1, "manual")], 0);
    const [dial] = dialsOf(actions(won, 0));
    won.handleProof(dial?.id as number);
    expect(actions(won, 1)).toEqual([{ type: "done" }]);
    expect(won.winner?.nodeId).toBe("node-1");
    const slow = new Race(["registry"], NONE, false, random(1));
    actions(slow, 0);
    expect(actions(slow, SEARCH_TIMEOUT - 1)).toEqual([]);
    expect(actions(slow, SEARCH_TIMEOUT)).toEqual([{ type: "done" }]);
    const empty = new Race(["manual"], NONE, false, random(1));
    actions(empty, 0);
    empty.handleSourceFailed(0, 1);
    expect(actions(empty, 1)).toEqual([{ type: "done" }]);
  });

  test("lets the registry's nodes wait for those of DNS", () => {
    const race = new Race(["registry", "dns"], NONE, false, random(1));
    actions(race, 0);
    race.handleCandidates(0, [node(1, "registry")], 10);
    expect(dialsOf(actions(race, 10))).toEqual([]);
    actions(race, 250);
    expect(dialsOf(actions(race, 10 + DNS_HOLD - 1))).toEqual([]);
    expect(dialsOf(actions(race, 10 + DNS_HOLD))).toHaveLength(1);
  });

  test("gives other sources' nodes a head start over the registry's", () => {
    const race = new Race(["link", "registry"], NONE, false, random(1));
    actions(race, 0);
    race.handleCandidates(0, [node(1, "link")], 0);
    expect(dialsOf(actions(race, 0))).toHaveLength(1);
    race.handleCandidates(1, [node(2, "registry")], 10);
    expect(dialsOf(actions(race, 10))).toEqual([]);
    expect(dialsOf(actions(race, HEAD_START))).toHaveLength(1);
  });

  test("dials avoided nodes only when nothing else is left", () => {
    const race = new Race(["manual"], ["node-1"], false, random(1));
    actions(race, 0);
    race.handleCandidates(0, [node(1, "manual"), node(2, "manual")], 0);
    const [first] = dialsOf(actions(race, 0));
    expect(first?.candidate.nodeId).toBe("node-2");
    race.handleDialFailed(first?.id as number);
    expect(dialsOf(actions(race, 1))[0]?.candidate.nodeId).toBe("node-1");
  });

  test("dials an avoided node although a source stays silent", () => {
    const race = new Race(["manual", "registry"], ["node-1"], false, random(1));
    actions(race, 0);
    race.handleCandidates(0, [node(1, "manual")], 0);
    expect(dialsOf(actions(race, AVOIDED_AFTER - 1))).toEqual([]);
    expect(race.pollTimeout(AVOIDED_AFTER - 1)).toBe(AVOIDED_AFTER);
    expect(dialsOf(actions(race, AVOIDED_AFTER))).toHaveLength(1);
  });
});

describe("the choice", () => {
  test("gives a source with a thousand nodes no more than a third beside two others", () => {
    const many = Array.from({ length: 1_000 }, (_, n) =>
      node(n % 250, "registry", `wss://10.${n % 250}.${n >> 8}.1:1`),
    );
    const few = (source: SourceKind, base: number) =>
      Array.from({ length: 30 }, (_, n) => node(base + n, source, `wss://${base + n}.1.1.1:1`));
    const selector = new CandidateSelector();
    for (const source of ["registry", "dns", "link"] as const) selector.addSource(source);
    const left = [...many, ...few("dns", 60), ...few("link", 120)];
    const next = random(7);
    const chosen: SourceKind[] = [];
    for (let turn = 0; turn < 60; turn++) {
      const choice = selector.choose(left, () => true, next);
      if (typeof choice === "number") chosen.push(attributedSource(left.splice(choice, 1)[0] as Candidate));
    }
    expect(chosen.filter((source) => source === "registry").length).toBeLessThanOrEqual(21);
  });

  test("takes nodes with TLS before those without, except for manual entries", () => {
    const candidates = [node(1, "dns", "ws://1.1.1.1:1"), node(2, "dns", "wss://2.2.2.2:1")];
    for (let seed = 0; seed < 50; seed++) {
      const selector = new CandidateSelector();
      selector.addSource("dns");
      expect(selector.choose(candidates, () => true, random(seed))).toBe(1);
    }
  });

  test("takes another network before a second node of one", () => {
    const candidates = [1, 2, 3]
      .map((n) => node(n, "dns", `wss://1.1.${n}.1:1`))
      .concat(node(9, "dns", "wss://9.9.9.9:1"));
    for (let seed = 0; seed < 50; seed++) {
      const selector = new CandidateSelector();
      selector.addSource("dns");
      const next = random(seed);
      const left = [...candidates];
      const networks = [0, 1].map(() => left.splice(selector.choose(left, () => true, next) as number, 1)[0]?.network);
      expect(new Set(networks).size).toBe(2);
    }
  });

  test("counts a cached node of one list that never worked as that list's", () => {
    const cached = { ...node(1, "cache"), origins: new Set<SourceKind>(["registry"]) };
    expect(attributedSource(cached)).toBe("registry");
    expect(attributedSource({ ...cached, weight: 8 })).toBe("cache");
  });
});

describe("the confirmation", () => {
  const first = node(1, "registry");
  const endorsed = (...names: [Candidate, ...SourceKind[]][]) =>
    new Map(
      names.map(([candidate, ...sources]) => [
        candidate.nodeId as string,
        { now: new Set(sources), ever: new Set(sources) },
      ]),
    );

  test("needs a node of another source and another network", () => {
    const other = node(2, "dns");
    const near = node(3, "dns", "wss://1.0.9.9:1");
    const same = node(4, "registry");
    const endorsements = endorsed([first, "registry"], [other, "dns"], [near, "dns"], [same, "registry"]);
    expect(confirmingCandidates(first, "node-1", [first, other, near, same], endorsements, random(1))).toEqual([other]);
  });

  test("says what it has come to", () => {
    const endorsements = endorsed([first, "registry"]);
    const evaluated = (hasSecond: boolean, dialled: number, hasEquivocation = false) =>
      evaluate(first, "node-1", hasSecond, dialled, endorsements, hasEquivocation);
    expect([evaluated(true, 1), evaluated(false, 2), evaluated(false, 0), evaluated(true, 1, true)]).toEqual([
      "confirmed",
      "no-answer",
      "no-other",
      "equivocation",
    ]);
    const vouched = endorsed([first, "registry", "dns"]);
    expect(evaluate(first, "node-1", true, 1, vouched, false)).toBe("vouched");
  });

  test("reports two lists that have no node in common", () => {
    const names = [1, 2, 3].map((n): [Candidate, SourceKind] => [node(n, "registry"), "registry"]);
    const others = [4, 5, 6].map((n): [Candidate, SourceKind] => [node(n, "dns"), "dns"]);
    expect(evaluate(first, "node-1", true, 1, endorsed(...names, ...others), false)).toBe("strangers");
    const overlapping = endorsed(...names, ...others, [node(1, "dns"), "registry", "dns"]);
    expect(evaluate(first, "node-1", true, 1, overlapping, false)).toBe("vouched");
  });
});

describe("the cache", () => {
  const NOW = 1_800_000_000;
  const id = (n: number) => Buffer.alloc(32, n).toString("base64url");
  const named = (n: number, source: SourceKind = "registry") =>
    newCandidate(`wss://${n}.0.0.1:1`, new Uint8Array(32).fill(n), id(n), source);
  const weightOf = (cache: NodeCache, n: number, now: number) =>
    cache.candidates(now).find((candidate) => candidate.nodeId === id(n))?.weight;

  test("weighs own successes, and forgives failures with time", () => {
    const cache = new NodeCache(undefined, new Trust());
    cache.learn([named(1), named(2)], NOW);
    cache.recordProof(id(1), named(1), NOW);
    expect([weightOf(cache, 1, NOW), weightOf(cache, 2, NOW)]).toEqual([8, 4]);
    for (let failure = 0; failure < 3; failure++) cache.recordFailure(named(2), NOW);
    expect([weightOf(cache, 2, NOW), weightOf(cache, 2, NOW + 24 * 3_600)]).toEqual([1, 4]);
    for (let success = 0; success < 100; success++) cache.recordProof(id(1), named(1), NOW);
    expect(weightOf(cache, 1, NOW)).toBe(36);
  });

  test("keeps 256 nodes: those that proved their key last, and no more of a network than others leave", () => {
    const cache = new NodeCache(undefined, new Trust());
    for (let n = 1; n <= 30; n++) {
      cache.learn([named(n)], NOW);
      cache.recordProof(id(n), named(n), NOW);
    }
    const flood = Array.from({ length: 256 }, (_, n) => {
      const key = new Uint8Array(32).fill(200);
      key[1] = n;
      return newCandidate(`wss://200.1.0.${n}:1`, key, Buffer.from(key).toString("base64url"), "registry");
    });
    cache.learn(flood, NOW + 1);
    const kept = cache.candidates(NOW + 1);
    expect(kept).toHaveLength(256);
    expect(kept.filter(({ network }) => network !== "200.1")).toHaveLength(30);
  });

  test("keeps a node for 30 days, but the eight that proved their key last always", () => {
    const cache = new NodeCache(undefined, new Trust());
    for (let n = 1; n <= 20; n++) cache.learn([named(n)], NOW);
    for (let n = 1; n <= 10; n++) cache.recordProof(id(n), named(n), NOW + n);
    const later = NOW + 31 * 24 * 3_600;
    cache.learn([named(30)], later);
    expect(cache.candidates(later).map(({ nodeId }) => nodeId)).toHaveLength(9);
  });

  test("dials a node that left at most four times a day after a week, also after a reload", async () => {
    for (const isProved of [false, true]) {
      let stored: unknown;
      const store = {
        load: () => Promise.resolve(stored as never),
        save: (data: unknown) =>
          Promise.resolve().then(() => {
            stored = data;
          }),
      };
      let cache = new NodeCache(store, new Trust());
      cache.learn([named(1)], NOW);
      if (isProved) cache.recordProof(id(1), named(1), NOW);
      const shared = named(1, "referral");
      const days = Array.from({ length: 10 }, () => 0);
      // A search every five minutes, in vain, and a reload every hour.
      for (let minute = 0; minute < 10 * 24 * 60; minute += 5) {
        const now = NOW + minute * 60;
        const due = [...cache.candidates(now), shared].filter((candidate) => cache.retry(candidate, now));
        // The race dials a URL once, whoever has named it.
        const day = Math.floor(minute / (24 * 60));
        days[day] = (days[day] as number) + Math.min(due.length, 1);
        for (const candidate of due) if (minute % 2 === 0) cache.recordFailure(candidate, now);
        if (minute % 60 === 55) {
          await cache.save();
          cache = new NodeCache(store, new Trust());
          await cache.load();
        }
      }
      expect(days).toEqual([288, 288, 288, 288, 288, 288, 288, 4, 4, 4]);
      // A list that names it again counts at once.
      cache.learn([named(1)], NOW + 10 * 24 * 3_600);
      expect(cache.retry(shared, NOW + 10 * 24 * 3_600)).toBe(true);
    }
  });

  test("is empty if its store has another shape", async () => {
    const store = { load: () => Promise.resolve({ nodes: 5 } as never), save: () => Promise.resolve() };
    const cache = new NodeCache(store, new Trust());
    await cache.load();
    expect(cache.candidates(NOW)).toEqual([]);
  });

  test("shares nodes that proved their key within a day, and none that only a contact has named", () => {
    const cache = new NodeCache(undefined, new Trust());
    cache.learn([named(1), named(2, "referral"), named(3)], NOW);
    for (const n of [1, 2]) cache.recordProof(id(n), named(n), NOW);
    cache.recordProof(id(4), named(4, "referral"), NOW);
    expect(cache.recentlyProved(NOW)).toEqual([1, 2].map((n) => `wss://${n}.0.0.1:1#${id(n)}`).slice(0, 1));
    expect(cache.recentlyProved(NOW + 25 * 3_600)).toEqual([]);
  });

  test("remembers for a day, also in another run, what a node was used for", async () => {
    let data: CacheData | undefined;
    const store = {
      load: () => Promise.resolve(data),
      save: async (saved: CacheData) => {
        data = structuredClone(saved);
      },
    };
    const first = new NodeCache(store, new Trust());
    for (const n of [1, 2]) first.recordProof(id(n), named(n), NOW);
    first.recordUse(id(1), "inboxes", NOW);
    first.recordUse(id(2), "pairing", NOW);
    await first.save();
    const cache = new NodeCache(store, new Trust());
    await cache.load();
    cache.recordProof(id(1), named(1), NOW + 3_600);
    const DAY = 24 * 3_600;
    expect([cache.recentlyUsed("inboxes", NOW + DAY - 1), cache.recentlyUsed("pairing", NOW)]).toEqual([
      [id(1)],
      [id(2)],
    ]);
    expect(cache.recentlyUsed("inboxes", NOW + DAY)).toEqual([]);
    // A node that the cache does not know, as after its eviction.
    cache.recordUse(id(3), "inboxes", NOW);
    cache.learn([named(4)], NOW + 1);
    expect(cache.recentlyUsed("inboxes", NOW + 1)).toContain(id(3));
    expect(cache.candidates(NOW).map(({ nodeId }) => nodeId)).not.toContain(id(3));
  });

  test("tells an older list, and two different ones of one number", () => {
    const cache = new NodeCache(undefined, new Trust());
    const list = (seq: number, byte: number) =>
      ({ form: "directory", key: "k", seq, part: "0/1", bytes: new Uint8Array([byte]), issuedAt: NOW }) as const;
    expect(cache.judge(list(5, 1))).toBe("new");
    expect(cache.judge(list(5, 1))).toBe("new");
    expect(cache.judge(list(5, 2))).toBe("equivocation");
    expect(cache.judge(list(4, 1))).toBe("older");
    expect(cache.isFresh(NOW + 23 * 3_600)).toBe(true);
    expect(cache.isFresh(NOW + 25 * 3_600)).toBe(false);
  });

  test("is empty if its store is of another version or full, and works all the same", async () => {
    let saves = 0;
    const store = {
      load: () => Promise.resolve({} as CacheData),
      save: () => {
        saves += 1;
        return Promise.reject(new Error("full"));
      },
    };
    const cache = new NodeCache(store, new Trust());
    await cache.load();
    cache.learn([named(1)], NOW);
    await cache.save();
    expect([cache.candidates(NOW).length, saves]).toEqual([1, 1]);
  });

  test("does not replace what it could not read", async () => {
    const saved: CacheData[] = [];
    const store = {
      load: () => Promise.reject(new Error("the disk fails")),
      save: (data: CacheData) => Promise.resolve(void saved.push(data)),
    };
    const cache = new NodeCache(store, new Trust());
    await cache.load();
    cache.learn([named(1)], NOW);
    await cache.save();
    expect(cache.candidates(NOW)).toHaveLength(1);
    expect(saved).toEqual([]);
  });
});
