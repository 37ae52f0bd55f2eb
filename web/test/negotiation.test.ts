/** The rounds of a call: the table of verdicts, and two sides that always come to the same round. */
import { expect, test } from "vitest";
import { Negotiation } from "../src/core/negotiation.js";

test("a side opens a round after the former one is answered", () => {
  const side = new Negotiation(false);
  expect(side.open()).toBe(1);
  expect(side.open()).toBeUndefined();
  expect(side.handleAnswer(2)).toBe(false);
  expect(side.handleAnswer(1)).toBe(true);
  expect(side.handleAnswer(1)).toBe(false);
  expect(side.open()).toBe(2);
});

test.each([
  { isPolite: true, verdict: "roll-back-and-accept" },
  { isPolite: false, verdict: "ignore" },
])("where both open a round at once, the callee gives way (callee: $isPolite)", ({ isPolite, verdict }) => {
  const side = new Negotiation(isPolite);
  side.open();
  expect(side.handleOffer(1)).toBe(verdict);
  expect(side.isPending).toBe(!isPolite);
});

test("an offer that comes again is answered again, and one of a former or far round is ignored", () => {
  const side = new Negotiation(true);
  expect(side.handleOffer(0)).toBe("ignore");
  expect(side.handleOffer(2)).toBe("ignore");
  expect(side.handleOffer(1)).toBe("accept");
  expect(side.handleOffer(1)).toBe("ignore");
  expect(side.answer(1)).toBe(true);
  expect(side.handleOffer(1)).toBe("repeat");
  expect(side.handleOffer(2)).toBe("accept");
  expect(side.answer(1)).toBe(false);
});

test("candidates wait for the description of their round, and those of a former one are dropped", () => {
  const side = new Negotiation(true);
  expect([0, 1, 2].map((round) => side.handleCandidates(round))).toEqual(["take", "hold", "drop"]);
  side.handleOffer(1);
  expect([0, 1, 2].map((round) => side.handleCandidates(round))).toEqual(["drop", "take", "hold"]);
});

/** A generator of the same numbers for the same seed. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_664_525 + 1_013_904_223) % 2 ** 32;
    return state / 2 ** 32;
  };
}

interface Message {
  readonly type: "offer" | "answer";
  readonly round: number;
}

test("two sides that lose nothing for ever come to the same round, whatever is repeated or late", () => {
  for (let seed = 1; seed <= 500; seed++) {
    const next = random(seed);
    const sides = [new Negotiation(false), new Negotiation(true)] as const;
    const queues: [Message[], Message[]] = [[], []];
    const pending: (Message | undefined)[] = [undefined, undefined];
    const deliver = (to: 0 | 1) => {
      const message = queues[to].shift();
      if (message === undefined) return;
      const side = sides[to];
      const from = to === 0 ? 1 : 0;
      if (message.type === "answer") {
        if (side.handleAnswer(message.round)) pending[to] = undefined;
        return;
      }
      const verdict = side.handleOffer(message.round);
      if (verdict === "ignore") return;
      if (verdict !== "repeat") {
        pending[to] = undefined;
        expect(side.answer(message.round), `seed ${seed}`).toBe(true);
      }
      queues[from].push({ type: "answer", round: message.round });
    };
    for (let turn = 0; turn < 200; turn++) {
      const at = next() < 0.5 ? 0 : 1;
      const other = at === 0 ? 1 : 0;
      const choice = next();
      if (choice < 0.2 && turn < 150) {
        const round = sides[at].open();
        if (round !== undefined) {
          pending[at] = { type: "offer", round };
          queues[other].push(pending[at] as Message);
        }
      } else if (choice < 0.3) {
        // What is lost is the newest: the channel keeps the order.
        queues[at].pop();
      } else if (choice < 0.4 && pending[at] !== undefined) {
        queues[other].push(pending[at] as Message);
      } else {
        deliver(at);
      }
    }
    for (let turn = 0; turn < 50; turn++) {
      for (const at of [0, 1] as const) {
        if (pending[at] !== undefined) queues[at === 0 ? 1 : 0].push(pending[at] as Message);
        deliver(at === 0 ? 1 : 0);
        while (queues[at].length > 0) deliver(at);
      }
    }
    expect([sides[0].round, sides[0].isPending, sides[1].isPending], `seed ${seed}`).toEqual([
      sides[1].round,
      false,
      false,
    ]);
  }
});
