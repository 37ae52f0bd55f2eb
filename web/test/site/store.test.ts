/** The parts of the page without a browser: what addresses mean, the path of a call, and the texts. */
import { expect, test } from "vitest";
import { faultOf, isSameFederation, NO_FEDERATION, parseFragment } from "../../page/src/store/federation.js";
import { pathOf } from "../../page/src/store/path.js";
import { transportOf } from "../../page/src/store/relay-check.js";
import { ar } from "../../page/src/texts/ar.js";
import { de } from "../../page/src/texts/de.js";
import { en } from "../../page/src/texts/en.js";
import type { Step } from "../../src/index.js";

const ROOT = "A".repeat(43);

test("a fragment names a federation, a link or a profile", () => {
  const { federation, profile } = parseFragment(`#registry=https://a.example&root=${ROOT}&private&profile=2`);
  expect(federation).toEqual({
    ...NO_FEDERATION,
    registries: ["https://a.example"],
    roots: [ROOT],
    isPrivate: true,
  });
  expect(profile).toBe("2");
  const link = "ab2c".repeat(10);
  expect(parseFragment(`#${link}`)).toEqual({
    federation: undefined,
    link: `CHAPPE:${link.toUpperCase()}`,
    profile: "",
  });
  for (const nothing of ["", "#", "#private", "#profile=../x", "#short"]) {
    expect(parseFragment(nothing)).toEqual({ federation: undefined, link: undefined, profile: "" });
  }
});

test.each([
  ["nothing", {}],
  ["registry", { registries: ["ftp://a.example"], roots: [ROOT] }],
  ["root", { registries: ["https://a.example"], roots: ["short"] }],
  ["root-missing", { registries: ["https://a.example"] }],
  ["node", { nodes: ["a.example"] }],
  [undefined, { nodes: ["ws://127.0.0.1:1#key"] }],
  [undefined, { registries: ["https://a.example"], roots: [ROOT] }],
])("a federation's fault is found before it is used: %s", (fault, part) => {
  expect(faultOf({ ...NO_FEDERATION, ...part })).toBe(fault);
});

test("federations are compared by their contents", () => {
  expect(isSameFederation(NO_FEDERATION, { ...NO_FEDERATION })).toBe(true);
  expect(isSameFederation(NO_FEDERATION, { ...NO_FEDERATION, isPrivate: true })).toBe(false);
});

test("the path of a call follows its steps", () => {
  const step = (at: number, kind: Step["kind"], part: Partial<Step> = {}): Step => ({
    at,
    node: "own",
    kind,
    message: undefined,
    peerNode: undefined,
    ...part,
  });
  const steps = [step(0, "resolving")];
  expect(pathOf(steps)).toMatchObject({ ownNode: "own", peerNode: undefined, isLookingUp: true });
  steps.push(step(30, "resolved", { peerNode: "peer" }));
  expect(pathOf(steps)).toMatchObject({ peerNode: "peer", lookUpMs: 30, isLookingUp: false, deliveryMs: undefined });
  const offer = { message: "call_offer", peerNode: "peer" } as const;
  steps.push(step(31, "sent", offer), step(43, "delivered", offer), step(90, "received", { message: "call_answer" }));
  expect(pathOf(steps)).toMatchObject({ deliveryMs: 12, sent: 1, received: 1 });
  // Its node has gone: the path is that of the new one.
  steps.push({ ...step(100, "sent", { message: "call_ice" }), node: "other" });
  expect(pathOf(steps)).toMatchObject({ ownNode: "other", peerNode: "peer", sent: 2 });
});

test.each([
  ["turn:a.example:3478", "udp"],
  ["turn:a.example?transport=udp", "udp"],
  ["turn:a.example?transport=tcp", "tcp"],
  ["turns:a.example:443?transport=tcp", "tls"],
  ["stun:a.example", undefined],
])("the transport of %s is %s", (url, transport) => {
  expect(transportOf(url)).toBe(transport);
});

test("each language has the same placeholders", () => {
  const placeholders = (text: string) => [...text.matchAll(/\{\w+\}/g)].map(String).sort();
  for (const texts of [de, ar]) {
    for (const [key, text] of Object.entries(texts)) {
      expect([key, placeholders(text)]).toEqual([key, placeholders(en[key as keyof typeof en])]);
    }
  }
});
