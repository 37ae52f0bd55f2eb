/** The call state machine: every transition, as in the tests of `client/src/call.rs`. */
import { describe, expect, test } from "vitest";
import {
  type CallInput,
  type CallOutput,
  type CallState,
  CallStateError,
  Calls,
  type EndReason,
  GATHERING,
  RECONNECT,
  RINGING,
} from "../src/core/call.js";
import { LONGEST_PAUSE, RING_EVERY, RingLimiter } from "../src/core/ring-limiter.js";

const CALL = "05";
const LOWER = "04";
const HIGHER = "06";
const ADA = "ada";
const BOB = "bob";
const NOW = 1_000;

/** The call that `CALL` has replaced in the state `rejoining`. */
const LOST = "09";

const STATES = ["idle", "outgoing", "incoming", "rejoining", "connecting", "connected", "reconnecting"] as const;

/** `CALL` with Ada, brought to a state. */
function at(state: CallState, now = NOW): Calls {
  const place: CallInput = { type: "place", contact: ADA };
  const offered: CallInput = { type: "offered", contact: ADA };
  const ways: Record<CallState, CallInput[]> = {
    idle: [],
    outgoing: [place],
    incoming: [offered],
    rejoining: [{ type: "offered", contact: ADA, rejoins: LOST }],
    connecting: [offered, { type: "accept" }],
    connected: [place, { type: "answered" }, { type: "media_up" }],
    reconnecting: [place, { type: "answered" }, { type: "media_up" }, { type: "media_down" }],
  };
  const calls = new Calls();
  if (state === "rejoining") {
    calls.handle(LOST, offered, now);
    calls.handle(LOST, { type: "accept" }, now);
  }
  for (const input of ways[state]) calls.handle(CALL, input, now);
  expect(calls.state).toBe(state);
  return calls;
}

type Expected = "out-of-turn" | "busy" | { state: CallState; outputs: CallOutput[] };

const to = (state: CallState, ...outputs: CallOutput[]): Expected => ({ state, outputs });
const send = (
  type: "send_offer" | "send_answer" | "send_reject" | "send_hangup" | "ring" | "report_answer",
  call = CALL,
): CallOutput => ({ type, call });
const end = (reason: EndReason, call = CALL): CallOutput => ({ type: "end", call, reason });
const no: Expected = "out-of-turn";
const ended = (reason: EndReason, ...before: CallOutput[]): Expected => to("idle", ...before, end(reason));
const hangup = ended("hung-up", send("send_hangup"));
const reject = ended("declined", send("send_reject"));
const peer = ended("peer-hung-up");
const again = send("send_answer");

const placed: Expected[] = [
  to("outgoing", send("send_offer")),
  "busy",
  to("outgoing", send("send_reject"), end("declined"), send("send_offer")),
  "busy",
  "busy",
  "busy",
  "busy",
];

/** For each state in the order of `STATES`: the next state and the outputs, or why not. */
const TABLE: [CallInput, Expected[]][] = [
  [{ type: "place", contact: ADA }, placed],
  [{ type: "place", contact: ADA, rejoins: LOST }, placed],
  [
    { type: "offered", contact: ADA },
    [
      to("incoming", send("ring")),
      to("outgoing"),
      to("incoming"),
      to("rejoining"),
      to("connecting", again),
      to("connected", again),
      to("reconnecting", again),
    ],
  ],
  [
    { type: "offered", contact: ADA, rejoins: LOST },
    [
      to("idle", send("send_hangup")),
      to("outgoing"),
      to("incoming"),
      to("rejoining"),
      to("connecting", again),
      to("connected", again),
      to("reconnecting", again),
    ],
  ],
  [{ type: "accept" }, [no, no, to("connecting", again), to("connecting", again), no, no, no]],
  [{ type: "decline" }, [no, no, reject, reject, no, no, no]],
  [
    { type: "answered" },
    [no, to("connecting", send("report_answer")), no, no, to("connecting"), to("connected"), to("reconnecting")],
  ],
  [{ type: "rejected", isBusy: false }, [no, ended("declined"), no, no, no, no, no]],
  [{ type: "rejected", isBusy: true }, [no, ended("busy"), no, no, no, no, no]],
  [{ type: "rejected", isBusy: true, isTooOften: true }, [no, ended("too-often"), no, no, no, no, no]],
  [{ type: "undeliverable" }, [no, ended("offline"), no, no, no, no, no]],
  [{ type: "hangup" }, [no, hangup, reject, hangup, hangup, hangup, hangup]],
  [{ type: "peer_hangup" }, [no, peer, peer, peer, peer, peer, peer]],
  [{ type: "media_up" }, [no, no, no, no, to("connected"), to("connected"), to("connected")]],
  [{ type: "media_down" }, [no, no, no, no, to("connecting"), to("reconnecting"), to("reconnecting")]],
];

describe.each(TABLE)("$type", (input, row) => {
  test.each(STATES.map((state, index) => ({ state, expected: row[index] as Expected })))(
    "in $state",
    ({ state, expected }) => {
      const calls = at(state);
      if (typeof expected === "string") {
        expect(() => calls.handle(CALL, input, NOW)).toThrow(new CallStateError(expected));
        expect(calls.state).toBe(state);
      } else {
        expect(calls.handle(CALL, input, NOW)).toEqual(expected.outputs);
        expect(calls.state).toBe(expected.state);
      }
    },
  );
});

test("a contact that rings again at once is told that it is too soon, and others ring", () => {
  const calls = at("incoming");
  calls.handle(CALL, { type: "decline" }, NOW);
  expect(calls.handle(LOWER, { type: "offered", contact: ADA }, NOW)).toEqual([
    { type: "send_too_often", call: LOWER },
  ]);
  expect(calls.handle(HIGHER, { type: "offered", contact: BOB }, NOW)).toEqual([send("ring", HIGHER)]);
  expect(calls.handle(CALL, { type: "place", contact: ADA }, NOW)).toEqual([
    send("send_reject", HIGHER),
    end("declined", HIGHER),
    send("send_offer"),
  ]);
});

test("messages of another call do not affect the active one", () => {
  for (const [input] of TABLE.filter(([{ type }]) => type !== "place" && type !== "offered")) {
    for (const state of STATES) {
      const calls = at(state);
      expect(() => calls.handle(LOWER, input, NOW)).toThrow(CallStateError);
      expect(calls.state).toBe(state);
    }
  }
});

test.each([
  ["outgoing", RINGING, [send("send_hangup"), end("no-answer")]],
  ["incoming", RINGING, [end("no-answer")]],
  ["rejoining", RECONNECT, [send("send_hangup"), end("not-connected")]],
  ["reconnecting", RECONNECT, [send("send_hangup"), end("lost")]],
] as const)("a call that is %s ends at its deadline and not before", (state, after, outputs) => {
  const calls = at(state);
  expect(calls.pollTimeout()).toBe(NOW + after);
  expect(calls.handleTimeout(NOW + after - 1)).toEqual([]);
  expect(calls.handleTimeout(NOW + after)).toEqual(outputs);
  expect([calls.state, calls.pollTimeout()]).toEqual(["idle", undefined]);
});

test("a connecting call first stops gathering and then ends", () => {
  const calls = at("connecting");
  expect(calls.handleTimeout(NOW + GATHERING)).toEqual([{ type: "stop_gathering", call: CALL }]);
  expect(calls.pollTimeout()).toBe(NOW + RECONNECT);
  expect(calls.handleTimeout(NOW + RECONNECT)).toEqual([send("send_hangup"), end("not-connected")]);
});

test("where both call at once, the lower call id wins on both sides", () => {
  const winner = at("outgoing");
  expect(winner.handle(HIGHER, { type: "offered", contact: ADA }, NOW)).toEqual([]);
  expect(winner.active).toEqual({ call: CALL, contact: ADA });
  const loser = at("outgoing");
  expect(loser.handle(LOWER, { type: "offered", contact: ADA }, NOW)).toEqual([end("glare"), send("ring", LOWER)]);
  expect([loser.state, loser.active]).toEqual(["incoming", { call: LOWER, contact: ADA }]);
});

test("a second call gets busy", () => {
  for (const state of STATES.slice(1)) {
    const calls = at(state);
    const busy = calls.handle(LOWER, { type: "offered", contact: BOB }, NOW);
    expect(busy).toEqual([{ type: "send_busy", call: LOWER }]);
    expect(calls.active).toEqual({ call: CALL, contact: ADA });
  }
});

test("a shutdown hangs up", () => {
  expect(at("idle").shutdown(NOW)).toEqual([]);
  expect(at("connected").shutdown(NOW)).toEqual([send("send_hangup"), end("shutdown")]);
});

describe("a device that comes back", () => {
  const rejoin = (rejoins: string, contact = ADA): CallInput => ({ type: "offered", contact, rejoins });
  const gone = [{ type: "send_hangup", call: HIGHER }];

  test.each(STATES)("into a call that is %s", (state) => {
    const isAnswered = ["rejoining", "connecting", "connected", "reconnecting"].includes(state);
    const calls = at(state);
    const outputs = calls.handle(HIGHER, rejoin(CALL), NOW);
    expect(outputs).toEqual(isAnswered ? [end("rejoined"), { type: "rejoin", call: HIGHER }] : gone);
    expect(calls.state).toBe(isAnswered ? "rejoining" : state);
    expect(at(state).handle(HIGHER, rejoin(CALL, BOB), NOW)).toEqual(gone);
    if (state === "outgoing" || state === "rejoining") return;
    expect(at(state).handle(HIGHER, rejoin(LOST), NOW)).toEqual(gone);
  });

  test("and is loaded again before it knows that it was heard: until media flows, it may name the call of before", () => {
    const replaced = [end("rejoined"), { type: "rejoin", call: HIGHER }];
    const inputs = [{ type: "accept" }, { type: "media_up" }, { type: "media_down" }] as const;
    for (const [count, expected] of [replaced, replaced, gone, gone].entries()) {
      const calls = at("rejoining");
      for (const input of inputs.slice(0, count)) calls.handle(CALL, input, NOW);
      expect(calls.handle(HIGHER, rejoin(LOST, BOB), NOW)).toEqual(gone);
      expect(calls.handle(HIGHER, rejoin(LOST), NOW)).toEqual(expected);
    }
    // Again and again, and also by the side that was called.
    const calls = at("rejoining");
    expect(calls.handle(HIGHER, rejoin(LOST), NOW)).toEqual(replaced);
    expect(calls.handle(LOWER, rejoin(LOST), NOW)).toEqual([end("rejoined", HIGHER), { type: "rejoin", call: LOWER }]);
    const own = new Calls();
    own.handle(CALL, { type: "place", contact: ADA, rejoins: LOST }, NOW);
    own.handle(CALL, { type: "answered" }, NOW);
    expect(own.handle(HIGHER, rejoin(LOST), NOW)).toEqual(replaced);
  });

  test("meets the other side's device that comes back, too: the lower id wins without ringing", () => {
    const outgoing = () => {
      const calls = new Calls();
      calls.handle(CALL, { type: "place", contact: ADA, rejoins: LOST }, NOW);
      return calls;
    };
    expect(outgoing().handle(HIGHER, rejoin(LOST), NOW)).toEqual([]);
    expect(outgoing().handle(LOWER, rejoin(LOST), NOW)).toEqual([end("glare"), { type: "rejoin", call: LOWER }]);
    // If this side has called without such a call, its user knows of no lost one.
    expect(at("outgoing").handle(LOWER, rejoin(LOST), NOW)).toEqual([end("glare"), send("ring", LOWER)]);
  });

  test("does so five times a minute at most, and without a ring", () => {
    const calls = new Calls();
    calls.handle("0", { type: "offered", contact: ADA }, NOW);
    calls.handle("0", { type: "accept" }, NOW);
    for (let n = 1; n <= 5; n++) {
      expect(calls.handle(`${n}`, rejoin(`${n - 1}`), NOW)).toHaveLength(2);
      calls.handle(`${n}`, { type: "accept" }, NOW);
    }
    expect(calls.handle("6", rejoin("5"), NOW)).toEqual([{ type: "send_hangup", call: "6" }]);
    expect(calls.handle("6", rejoin("5"), NOW + 60_000)).toHaveLength(2);
    calls.handle("6", { type: "peer_hangup" }, NOW);
    expect(calls.handle("7", { type: "offered", contact: ADA }, NOW)).toEqual([send("ring", "7")]);
  });
});

test("each unanswered ring in a row doubles the pause, up to the longest, and an answer resets it", () => {
  const rings = new RingLimiter();
  let now = 0;
  for (const pause of [30, 60, 120, 240, 480, 960, 1920, 3600, 3600].map((seconds) => seconds * 1_000)) {
    expect(rings.tryRing(ADA, now)).toBe(true);
    rings.unanswered(ADA, now);
    expect(rings.tryRing(ADA, now + pause - 1)).toBe(false);
    now += pause;
  }
  expect([RING_EVERY, LONGEST_PAUSE]).toEqual([30_000, 3_600_000]);
  expect(rings.tryRing(ADA, now)).toBe(true);
  rings.answered(ADA);
  expect(rings.tryRing(ADA, now)).toBe(true);
});
