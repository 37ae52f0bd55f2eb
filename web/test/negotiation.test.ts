/** The rounds of a call: the bounds, and two sides that always come to the same descriptions. */
import { expect, test } from "vitest";
import { Negotiation, NegotiationError, type NegotiationOutput } from "../src/core/negotiation.js";
import type { IceMessage } from "../src/core/outbox.js";

const offer = (round: number, sdp = `o${round}`): IceMessage => ({
  type: "ice",
  round,
  candidates: [],
  description: { type: "offer", sdp },
});

test("an offer without an answer is sent after 3, 9 and 21 s again, and taken back after 30", () => {
  const side = new Negotiation(true);
  side.renegotiate("o1", 1_000);
  const sent: number[] = [];
  let outputs: NegotiationOutput[] = [];
  for (let now = 1_000; now < 40_000; now += 100) {
    const last = side.handleTimeout(now);
    if (last.length > 0) sent.push(now - 1_000);
    outputs = last.length > 0 ? last : outputs;
  }
  expect(sent).toEqual([3_000, 9_000, 21_000, 30_000]);
  expect(outputs).toEqual([{ type: "unanswered", round: 1 }]);
  expect(side.pollTimeout()).toBeUndefined();
  expect(side.renegotiate("o2", 50_000)).toHaveLength(1);
});

test("twenty offers within a minute are accepted, and no more", () => {
  const side = new Negotiation(true);
  const types = Array.from({ length: 21 }, (_, index) => side.receive(offer(index + 1), 1_000)[0]?.type);
  expect(types).toEqual([...Array(20).fill("offer"), "refused"]);
  expect(side.receive(offer(21), 61_001)[0]?.type).toBe("offer");
});

test("early candidates are bounded", () => {
  const side = new Negotiation(true);
  const candidates = Array.from({ length: 70 }, (_, index) => `c${index}`);
  side.receive({ round: 1, candidates, description: undefined }, 0);
  const [, released] = side.receive(offer(1), 0);
  expect(released).toEqual({ type: "candidates", round: 1, candidates: candidates.slice(0, 64) });
});

/** A generator of the same numbers for the same seed. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 2 ** 32;
    return state / 2 ** 32;
  };
}

test("two sides come to the same offer and answer, whatever is lost, repeated or late", () => {
  for (let seed = 1; seed <= 500; seed++) {
    const next = random(seed);
    const sides = [new Negotiation(false), new Negotiation(true)] as const;
    const queues: [IceMessage[], IceMessage[]] = [[], []];
    const last: [string, string] = ["", ""];
    let made = 0;
    const perform = (at: 0 | 1, outputs: readonly NegotiationOutput[]) => {
      for (const output of outputs) {
        if (output.type === "send") queues[at === 0 ? 1 : 0].push(output.message);
        if (output.type === "answer") last[at] = `${last[at].split(" ")[0]} ${output.sdp}`;
        if (output.type === "offer") {
          const answer = `a${++made}`;
          last[at] = `${output.sdp} ${answer}`;
          perform(at, sides[at].answer(output.round, answer));
        }
      }
    };
    const deliver = (to: 0 | 1) => {
      const index = Math.floor(next() * Math.min(queues[to].length, 3));
      const [message] = queues[to].splice(index, 1);
      if (message !== undefined) perform(to, sides[to].receive(message, 0));
    };
    for (let turn = 0; turn < 60; turn++) {
      const at = next() < 0.5 ? 0 : 1;
      const choice = next();
      if (choice < 0.1 && made < 15) {
        const sdp = `o${++made}`;
        try {
          perform(at, sides[at].renegotiate(sdp, 0));
          last[at] = sdp;
        } catch (error) {
          expect(error).toBeInstanceOf(NegotiationError);
        }
      } else if (choice < 0.2 && queues[at].length > 0) {
        queues[at].push(queues[at][0] as IceMessage);
      } else {
        deliver(at);
      }
    }
    // The retries of the sides that have no answer.
    for (const now of [3_000, 9_000, 21_000]) {
      for (const at of [0, 1] as const) perform(at, sides[at].handleTimeout(now));
      while (queues[0].length + queues[1].length > 0) deliver(queues[0].length > 0 ? 0 : 1);
    }
    expect(sides[0].round, `seed ${seed}`).toBe(sides[1].round);
    expect(last[0], `seed ${seed}`).toBe(last[1]);
  }
});
