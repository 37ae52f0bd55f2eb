/** Parts of the code that are loaded when they are needed, and cannot be loaded. */
import { expect, test, vi } from "vitest";
import { toBase64url } from "../src/core/bytes.js";
import { Trust } from "../src/discovery/trust.js";

// As if the host of the page did not answer any more.
vi.mock("../src/discovery/root-statements.js", () => new Promise(() => {}));

test("a list of statements that cannot be read is refused after a while", async () => {
  const trust = new Trust([toBase64url(new Uint8Array(32).fill(7))]);
  await expect(trust.learn(new Uint8Array([1]), 1)).rejects.toThrow("no answer in time");
});
