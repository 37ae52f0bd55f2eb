/** The chain of roots and the revocations, as in the tests of `common/src/roots.rs` and `root_statements.rs`. */
import { expect, test, vi } from "vitest";
import { type Bytes, concat, toBase64url, toHex, utf8 } from "../src/core/bytes.js";
import type { Signer } from "../src/core/ed25519.js";
import { federationId } from "../src/core/statements.js";
import { framed, Trust } from "../src/discovery/trust.js";
import { keyOf, revocation as signRevocation, succession } from "./support/statements.js";

const NOW = 1_800_000_000;
const DAY = 24 * 3600;

const text = async (seed: number) => toBase64url((await keyOf(seed)).publicKey);
const pinned = async (...seeds: number[]) => new Trust(await Promise.all(seeds.map(text)));

async function idOf(...founding: number[]): Promise<Bytes> {
  return federationId(await Promise.all(founding.map(async (seed) => (await keyOf(seed)).publicKey)));
}

/** A succession, by default in the federation that root 1 has founded. By it the old root ends after `days`. */
async function step(old: number, next: number, at: number, days: number, founding = [1]): Promise<Bytes> {
  return succession(await idOf(...founding), await keyOf(old), await keyOf(next), at, days);
}

/** A root whose signatures are those of another key. */
async function signedByAnother(root: number, other: number): Promise<Signer> {
  const by = await keyOf(other);
  return { publicKey: (await keyOf(root)).publicKey, sign: (bytes) => by.sign(bytes) };
}

async function revocation(root: number, of: number, at = NOW, founding = 1): Promise<Bytes> {
  return signRevocation(await idOf(founding), await keyOf(root), new Uint8Array(32).fill(of), at);
}

const learn = (trust: Trust, statements: readonly Bytes[], now?: number) =>
  trust.learn(concat(...statements.map(framed)), now);

/** The seeds of the roots that are accepted. */
async function accepted(trust: Trust, now: number): Promise<number[]> {
  const seeds = Array.from({ length: 20 }, (_, seed) => seed);
  const keys = await Promise.all(seeds.map(keyOf));
  return seeds.filter((seed) => trust.accepts((keys[seed] as Signer).publicKey, now));
}

const revokes = (trust: Trust, of: number) => trust.revokes(new Uint8Array(32).fill(of));

test("an old root counts until its end, and the first of two depends on the second", async () => {
  const trust = await pinned(1);
  expect(await accepted(trust, NOW)).toEqual([1]);
  await learn(trust, [await step(1, 2, NOW, 30)], NOW);
  expect(await accepted(trust, NOW)).toEqual([1, 2]);
  expect(await accepted(trust, NOW + 30 * DAY)).toEqual([2]);
  const later = NOW + 10 * DAY;
  await learn(trust, [await step(2, 3, later, 5)], later);
  expect(await accepted(trust, later)).toEqual([1, 2, 3]);
  expect(await accepted(trust, later + 5 * DAY)).toEqual([3]);
  expect(trust.current.map(toBase64url)).toEqual([await text(3)]);
});

test("the new root ends a stolen one at once, and a replay changes nothing", async () => {
  const trust = await pinned(1);
  const first = await step(1, 2, NOW, 30);
  await learn(trust, [first], NOW);
  await learn(trust, [await step(1, 2, NOW + DAY, 0)], NOW + DAY);
  await learn(trust, [first], NOW + DAY);
  expect(await accepted(trust, NOW + DAY)).toEqual([2]);
});

test("the first successor stays, no root comes back, and strangers have none", async () => {
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  const trust = await pinned(1);
  await learn(trust, [await step(7, 3, NOW, 1), await step(2, 3, NOW, 1)], NOW);
  expect(await accepted(trust, NOW)).toEqual([1]);
  await learn(trust, [await step(1, 2, NOW, 30)], NOW);
  const refused = [
    await step(1, 9, NOW + DAY, 1),
    await step(1, 9, NOW + DAY, 1),
    await step(2, 1, NOW, 1),
    await step(2, 8, NOW, 1, [7]),
    await succession(await idOf(1), await signedByAnother(2, 9), await keyOf(8), NOW, 1),
    await step(2, 8, NOW, 367),
    await step(2, 8, NOW, -1),
  ];
  await learn(trust, refused, NOW);
  expect(await accepted(trust, NOW)).toEqual([1, 2]);
  expect(warn).toHaveBeenCalledOnce();
  warn.mockRestore();
});

test("a federation has at most twelve successions", async () => {
  const steps = await Promise.all(Array.from({ length: 13 }, (_, at) => step(at + 1, at + 2, NOW, 1)));
  const trust = await pinned(1);
  for (const one of steps) await learn(trust, [one], NOW);
  expect(await accepted(trust, NOW + DAY)).toEqual([13]);
});

test("the records of DNS may come in any order", async () => {
  const trust = await pinned(1);
  await learn(trust, [await step(3, 4, NOW, 9), await step(2, 3, NOW, 9), await step(1, 2, NOW, 9)], NOW);
  expect(await accepted(trust, NOW)).toEqual([1, 2, 3, 4]);
});

test("later roots are pinned with the id, and accept only the chain to them", async () => {
  const id = toHex(await idOf(1));
  const chain = [await step(1, 2, NOW, 30), await step(2, 3, NOW + DAY, 30), await step(3, 4, NOW + DAY, 30)];
  const trust = new Trust([await text(3)], id);
  expect(await accepted(trust, NOW)).toEqual([3]);
  // The thief of an old root invents a beginning, or another end.
  await learn(trust, [await step(9, 2, NOW, 30), chain[1] as Bytes], NOW);
  await learn(trust, [await step(1, 9, NOW, 30)], NOW);
  expect(await accepted(trust, NOW)).toEqual([3]);
  await learn(trust, chain, NOW);
  expect(trust.current.map(toBase64url)).toEqual([await text(4)]);
  expect(await accepted(trust, NOW)).toEqual([1, 2, 3, 4]);
  expect(toHex(await trust.federation)).toBe(id);
  for (const wrong of ["x", id.slice(1), `${id}00`]) expect(() => new Trust([], wrong)).toThrow(SyntaxError);
});

test("one of several roots is replaced", async () => {
  const trust = await pinned(1, 5);
  await learn(trust, [await step(5, 6, NOW, 1, [1, 5])], NOW);
  expect(await accepted(trust, NOW + DAY)).toEqual([1, 6]);
  expect(trust.current.map(toBase64url)).toEqual([await text(1), await text(6)]);
});

test("an ended root revokes nothing new, and what it has revoked stays", async () => {
  const trust = await pinned(1);
  await learn(trust, [await revocation(1, 50), await step(1, 2, NOW, 1)], NOW);
  await learn(trust, [await revocation(1, 51), await revocation(2, 52)], NOW + DAY);
  const revoked = (one: Trust) => [50, 51, 52].map((of) => revokes(one, of));
  expect(revoked(trust)).toEqual([true, false, true]);
  // As it is stored.
  const stored = await pinned(1);
  await stored.learn(trust.statements);
  expect(revoked(stored)).toEqual([true, false, true]);
  expect(stored.statements).toEqual(trust.statements);
  // Somebody else's list of the same bytes counts less.
  const other = await pinned(1);
  await other.learn(trust.statements, NOW + DAY);
  expect(revoked(other)).toEqual([false, false, true]);
});

test("revocations of others, or dated ahead, do not count, and the oldest make room", async () => {
  const trust = await pinned(1);
  const refused = [
    await revocation(9, 50),
    await revocation(1, 50, NOW + 121),
    await revocation(1, 50, NOW, 9),
    utf8("another kind of statement"),
  ];
  await learn(trust, refused, NOW);
  expect([trust.statements.length, revokes(trust, 50)]).toEqual([0, false]);
  const all = await Promise.all(Array.from({ length: 70 }, (_, of) => revocation(1, of + 100, NOW - 100 + of)));
  await learn(trust, all, NOW);
  expect([100, 105, 106, 169].map((of) => revokes(trust, of))).toEqual([false, false, true, true]);
  // An older one finds no room, and none is there twice.
  const before = trust.statements;
  await learn(trust, all, NOW);
  expect(trust.statements).toEqual(before);
});

test("a list that is cut off has no statements, and one after another is learned", async () => {
  const trust = await pinned(1);
  const list = framed(await step(1, 2, NOW, 1));
  await trust.learn(list.slice(0, -1), NOW);
  await trust.learn(concat(list, new Uint8Array([1])), NOW);
  expect(await accepted(trust, NOW)).toEqual([1]);
  await Promise.all([trust.learn(framed(await step(2, 3, NOW, 1)), NOW), trust.learn(list, NOW)]);
  await trust.learn(framed(await step(2, 3, NOW, 1)), NOW);
  expect(await accepted(trust, NOW)).toEqual([1, 2, 3]);
});
