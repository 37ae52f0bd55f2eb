/** Leases of a session by a clock of the test, and timers that missed their ticks. */
import { describe, expect, test, vi } from "vitest";
import { withPairing } from "../src/core/added-contact.js";
import { randomBytes, toBase64url } from "../src/core/bytes.js";
import { type Clock, SystemClock, Timers } from "../src/core/clock.js";
import { type Contact, confirmed, isConfirmed, newPairing, type Pairing } from "../src/core/contact.js";
import { signerOfSeed } from "../src/core/ed25519.js";
import { type Attachment, Leases, type Seqs } from "../src/core/leases.js";
import { MemoryProfileStore, Profile, ProfileError } from "../src/core/profile.js";
import { decodeLease } from "../src/core/statements.js";
import { hkdfKey } from "../src/core/x25519.js";

const DAY = 24 * 3_600_000;
/** Noon of a day. */
const NOON = 20_000 * DAY + DAY / 2;
const NODE = new Uint8Array(32).fill(1);

async function pairing(): Promise<Pairing> {
  const peerRoot = (await signerOfSeed(randomBytes(32))).publicKey;
  return newPairing({ role: "a", secret: await hkdfKey(randomBytes(32)), ownRoot: randomBytes(32), peerRoot });
}

async function contact(name = "Bob"): Promise<Contact> {
  const identity = randomBytes(32);
  const pairings = [await pairing()];
  return { id: toBase64url(identity), name, identity, pairings, inUse: 0, isProved: true, isBlocked: false, nodes: [] };
}

function leases(seqs: Seqs = new Map()): Leases {
  return new Leases(NODE, new Uint8Array(32), seqs);
}

describe("leases", () => {
  test("have nothing in common: key, number, end and time of renewal", async () => {
    const contacts = await Promise.all(Array.from({ length: 20 }, () => contact()));
    const session = leases();
    session.update(contacts, 0, NOON);
    const due = await session.due(0, NOON);
    expect(due).toHaveLength(20);
    const decoded = await Promise.all(due.map(({ lease }) => decodeLease(lease)));
    for (const field of ["inbox", "sessionKey", "access", "seq"] as const) {
      expect(new Set(decoded.map((lease) => String(lease?.[field]))).size, field).toBe(20);
    }
    for (const lease of decoded) {
      expect(lease?.seq).toBeGreaterThan(NOON - 30_000);
      expect(lease?.seq).toBeLessThanOrEqual(NOON);
      expect((lease?.expiresAt ?? 0) - NOON / 1_000).toBeGreaterThanOrEqual(899);
      expect((lease?.expiresAt ?? 0) - NOON / 1_000).toBeLessThan(1_200);
    }
    for (const { slot } of due) session.attached(slot, 3_600_000, 0);
    expect(session.attachedCount).toBe(20);
    expect(session.nextDeadline(NOON)).toBeGreaterThanOrEqual(150_000);
    expect(await session.due(149_000 - 2_000, NOON + 147_000)).toEqual([]);
    expect(await session.due(300_000, NOON + 300_000)).toHaveLength(20);
  });

  test("are served while the last one was attached: a node may refuse to renew them one after another", async () => {
    const session = leases();
    session.update(await Promise.all([contact("Bob"), contact("Cy"), contact("Di")]), 0, NOON);
    const due = await session.due(0, NOON);
    for (const { slot } of due) session.attached(slot, 3_600_000, 0);
    const served = due.map(({ slot }) => {
      session.rejected(slot, { type: "busy" }, 0, NOON);
      return session.isAnyServed(NOON);
    });
    expect(served).toEqual([true, true, false]);
    expect(session.attachedCount).toBe(3);
    session.attached((due[0] as Attachment).slot, 3_600_000, 0);
    expect(session.isAnyServed(NOON)).toBe(true);
    expect(session.isAnyServed(NOON + 1_200_000)).toBe(false);
  });

  test("are newer than those of the session before", async () => {
    const seqs: Seqs = new Map();
    const bob = await contact();
    let last = 0;
    for (let session = 0; session < 20; session++) {
      const next = leases(seqs);
      next.update([bob], 0, NOON);
      const [attachment] = await next.due(0, NOON);
      const seq = (await decodeLease(attachment?.lease ?? new Uint8Array(0)))?.seq ?? 0;
      expect(seq).toBeGreaterThan(last);
      last = seq;
    }
  });

  test("are attached around their day, and detached after it", async () => {
    const bob = await contact();
    const session = leases();
    const attach = async (unixMs: number) => {
      const detached = session.update([bob], 0, unixMs);
      const due = await session.due(0, unixMs);
      for (const { slot } of due) session.attached(slot, 3_600_000, 0);
      return [due.filter(({ isRenewal }) => !isRenewal).length, detached.length];
    };
    const midnight = NOON + DAY / 2;
    expect(await attach(NOON)).toEqual([1, 0]);
    expect(await attach(midnight - 2 * 3_600_000 - 1_000)).toEqual([0, 0]);
    expect(await attach(midnight - 3_500_000)).toEqual([1, 0]);
    expect(session.attachedCount).toBe(2);
    expect(await attach(midnight + 3_500_000)).toEqual([0, 0]);
    expect(await attach(midnight + 2 * 3_600_000 + 1_000)).toEqual([0, 1]);
  });

  test("of a removed or blocked contact are detached, and those of a new pairing wait", async () => {
    const bob = await contact();
    const session = leases();
    session.delay((bob.pairings[0] as Pairing).id, 2_000);
    session.update([bob], 0, NOON);
    expect(await session.due(1_999, NOON)).toEqual([]);
    session.attachNow(bob.id, 1_000);
    const [attachment] = await session.due(1_000, NOON);
    expect(session.attached(attachment?.slot ?? "", 1_000, 1_000)).toBe(bob.id);
    expect(session.update([{ ...bob, isBlocked: true }], 2_000, NOON)).toHaveLength(1);
    expect(session.attachedCount).toBe(0);
  });

  test("of a contact that is blocked while they are signed are not attached", async () => {
    const bob = await contact();
    const session = leases();
    session.update([bob], 0, NOON);
    const due = session.due(0, NOON);
    session.update([{ ...bob, isBlocked: true }], 0, NOON);
    expect(await due).toEqual([]);
    // Blocked for a moment: the lease that was being signed is replaced by one whose keys are known.
    session.update([bob], 0, NOON);
    const again = session.due(0, NOON);
    session.update([{ ...bob, isBlocked: true }], 0, NOON);
    session.update([bob], 0, NOON);
    expect(await again).toHaveLength(1);
  });

  test("outbid a newer one three times, and none that is ahead of the clock", async () => {
    const bob = await contact();
    const session = leases();
    session.update([bob], 0, NOON);
    for (let outbid = 0; outbid < 3; outbid++) {
      const [attachment] = await session.due(0, NOON);
      expect(
        session.rejected(attachment?.slot ?? "", { type: "outdated", seq: NOON + outbid }, 0, NOON),
      ).toBeUndefined();
    }
    const [last] = await session.due(0, NOON);
    expect((await decodeLease(last?.lease ?? new Uint8Array(0)))?.seq).toBeGreaterThan(NOON + 2);
    expect(session.rejected(last?.slot ?? "", { type: "outdated", seq: NOON }, 0, NOON)).toBe(bob.id);
    expect(await session.due(59_000, NOON)).toEqual([]);
    const [again] = await session.due(75_000, NOON);
    expect(session.rejected(again?.slot ?? "", { type: "outdated", seq: NOON + 6_000 }, 75_000, NOON)).toBe(bob.id);
  });

  test("that the node cannot renew now stay attached", async () => {
    const bob = await contact();
    const session = leases();
    session.update([bob], 0, NOON);
    const [attachment] = await session.due(0, NOON);
    const slot = attachment?.slot ?? "";
    session.attached(slot, 3_600_000, 0);
    await session.due(300_000, NOON);
    expect(session.rejected(slot, { type: "busy" }, 300_000, NOON)).toBeUndefined();
    expect(session.attachedCount).toBe(1);
    await session.due(400_000, NOON);
    expect(session.rejected(slot, { type: "invalid" }, 400_000, NOON)).toBe(bob.id);
    expect(session.attachedCount).toBe(0);
  });
});

describe("a contact that was paired again", () => {
  test("is called by the old pairing until it has stored the new one", async () => {
    const bob = await contact();
    const newer = await pairing();
    const again = withPairing(bob, newer, false);
    expect([again.inUse, again.pairings.length, isConfirmed(again)]).toEqual([0, 2, false]);
    const stored = confirmed(again, newer.id) as Contact;
    expect([stored.inUse, stored.pairings.length, isConfirmed(stored)]).toEqual([0, 1, true]);
    expect(confirmed(stored, newer.id)).toBeUndefined();
  });

  test("keeps six pairings: the first, and the newest", async () => {
    const bob = await contact();
    const first = bob.pairings[0] as Pairing;
    let again = bob;
    let last = first;
    for (let round = 0; round < 10; round++) {
      last = await pairing();
      again = withPairing(again, last, false);
    }
    expect(again.pairings).toHaveLength(6);
    expect([again.pairings[0], again.pairings.at(-1)]).toEqual([first, last]);
  });
});

describe("a profile", () => {
  test("is as before if it cannot be stored", async () => {
    const store = new MemoryProfileStore();
    const profile = await Profile.open(store, " Ada\u202e ");
    expect(profile.name).toBe("Ada");
    await profile.add(await contact(), true);
    vi.spyOn(store, "save").mockRejectedValueOnce(new Error("the disk is full"));
    const other = await contact();
    await expect(profile.add(other, true)).rejects.toThrow("the disk is full");
    expect(profile.contacts).toHaveLength(1);
    expect((await profile.add(other, true)).name).toBe("Bob 2");
    await expect(profile.remove("nobody")).rejects.toThrow(ProfileError);
  });

  test("has 200 contacts at most", async () => {
    const profile = await Profile.open(new MemoryProfileStore(), "Ada");
    const base = await contact();
    for (let n = 0; n < 200; n++) await profile.add({ ...base, id: `${n}`, name: `Bob ${n}x` }, true);
    await expect(profile.add({ ...base, id: "200" }, true)).rejects.toThrow(ProfileError);
  });
});

describe("timers", () => {
  test("run everything that is due after ticks were missed, in order", () => {
    vi.useFakeTimers();
    let now = 0;
    const clock: Clock = { now: () => now, unixMs: () => now };
    const timers = new Timers(clock);
    const ran: number[] = [];
    for (const at of [30, 10, 20, 5_000]) timers.at(at, () => ran.push(at));
    const cancel = timers.at(15, () => ran.push(15));
    cancel();
    now = 1_000;
    timers.wake();
    expect(ran).toEqual([10, 20, 30]);
    now = 60_000;
    vi.advanceTimersByTime(5_000);
    expect(ran).toEqual([10, 20, 30, 5_000]);
    vi.useRealTimers();
  });

  test("follow a clock that neither goes back nor stops while the device sleeps", () => {
    const wall = vi.spyOn(Date, "now");
    const monotonic = vi.spyOn(performance, "now");
    const set = (wallMs: number, monotonicMs: number) => {
      wall.mockReturnValue(wallMs);
      monotonic.mockReturnValue(monotonicMs);
    };
    set(1_000_000, 0);
    const clock = new SystemClock();
    set(1_001_000, 1_000);
    expect(clock.now()).toBe(1_000);
    set(1_001_001, 1_000);
    expect(clock.now(), "two clocks tick apart").toBe(1_000);
    set(501_000, 2_000);
    expect(clock.now(), "the user sets the clock back").toBe(2_000);
    set(3_501_000, 2_500);
    expect(clock.now(), "the device sleeps").toBe(3_002_000);
    vi.restoreAllMocks();
  });
});
