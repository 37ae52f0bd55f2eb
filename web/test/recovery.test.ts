/** New paths for lost media, and renewed credentials of relays, by a clock that the test moves. */
import { describe, expect, test, vi } from "vitest";
import { type Clock, Timers } from "../src/core/clock.js";
import { Recovery } from "../src/media/recovery.js";
import { Renewal } from "../src/media/renewal.js";

/** A clock, and timers that run when the test moves it. */
function time() {
  let now = 0;
  const clock: Clock = { now: () => now, unixMs: () => now };
  const timers = new Timers(clock);
  const pass = async (ms: number) => {
    for (const until = now + ms; now < until; ) {
      now += 100;
      timers.wake();
      // What the timers have begun.
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  return { clock, timers, pass };
}

describe("a new path", () => {
  /** After which times the path is made, in milliseconds. */
  async function restarts(run: (recovery: Recovery, pass: (ms: number) => Promise<void>) => Promise<void>) {
    const { clock, timers, pass } = time();
    const at: number[] = [];
    const recovery = new Recovery(clock, timers, () => at.push(clock.now()));
    await run(recovery, pass);
    recovery.stop();
    await pass(10_000);
    return at;
  }

  test("is made by the caller at once, and again every two seconds", async () => {
    const at = await restarts(async (recovery, pass) => {
      recovery.start(true);
      await pass(5_000);
    });
    expect(at).toEqual([100, 2_100, 4_100]);
  });

  test("is left to the caller for a second by the callee", async () => {
    const at = await restarts(async (recovery, pass) => {
      recovery.start(false);
      await pass(2_000);
    });
    expect(at).toEqual([1_000]);
  });

  test("is made at once when the network changes, but only for media that is lost", async () => {
    const at = await restarts(async (recovery, pass) => {
      recovery.restartNow();
      await pass(1_000);
      recovery.start(false);
      await pass(500);
      recovery.restartNow();
      await pass(500);
    });
    expect(at).toEqual([1_600]);
  });
});

describe("credentials of relays", () => {
  const servers = [{ urls: "turn:192.0.2.1", username: "u", credential: "c" }];

  /** When they are renewed, by a node whose answers have these times to live. */
  async function renewals(ttls: readonly (number | Error)[], ms: number) {
    const { clock, timers, pass } = time();
    const requested: number[] = [];
    const used = vi.fn();
    const renewal = new Renewal(
      clock,
      timers,
      async () => {
        const ttl = ttls[requested.push(clock.now())] ?? 3_600;
        if (ttl instanceof Error) throw ttl;
        return { iceServers: ttl === 0 ? [] : servers, ttl };
      },
      (usable) => {
        if (usable.length === 0) throw new Error("no relay");
        used();
      },
    );
    renewal.schedule(ttls[0] as number);
    await pass(ms);
    renewal.stop();
    await pass(600_000);
    return { requested, used: used.mock.calls.length };
  }

  test("are renewed after 80 % of their life", async () => {
    expect(await renewals([600, 600], 1_000_000)).toEqual({ requested: [480_000, 960_000], used: 2 });
  });

  test("are requested once a minute at most, whatever the node says", async () => {
    expect((await renewals([1, 1, 1], 150_000)).requested).toEqual([60_000, 120_000]);
  });

  test("stay in use when no node answers, and are requested again", async () => {
    const { requested, used } = await renewals([600, new Error("no node"), 0, 600], 700_000);
    expect(requested).toEqual([480_000, 540_000, 600_000]);
    expect(used).toBe(1);
  });

  test("stay in use when the node names none, though for a time", async () => {
    const { clock, timers, pass } = time();
    const used = vi.fn();
    const answers = [[], servers];
    const request = async () => ({ iceServers: answers.shift() ?? [], ttl: 600 });
    const renewal = new Renewal(clock, timers, request, used);
    renewal.schedule(600);
    await pass(480_000);
    expect(used).not.toHaveBeenCalled();
    await pass(60_000);
    expect(used.mock.calls).toEqual([[servers]]);
    renewal.stop();
  });

  test("that do not expire are not renewed", async () => {
    expect(await renewals([0], 1_000_000)).toEqual({ requested: [], used: 0 });
  });
});
