/** The signalling client without a node: what it stores, and when. */
import { expect, test } from "vitest";
import { SignallingClient } from "../src/core/client.js";
import { MemoryProfileStore } from "../src/core/profile.js";

test("a client that is closed while it waits for its profile creates none", async () => {
  const store = new MemoryProfileStore();
  const release = await store.acquire();
  let letIn: ((release: () => void) => void) | undefined;
  store.acquire = () =>
    new Promise((resolve) => {
      letIn = resolve;
    });
  const finder = { setReferrals: () => {}, search: () => new Promise<never>(() => {}) };
  const client = new SignallingClient({ store, finder: finder as never, name: "Ada" });
  const connecting = client.connect();
  await expect.poll(() => letIn).toBeDefined();
  const refused = expect(connecting).rejects.toMatchObject({ name: "ConnectError", code: "closed" });
  const closed = client.close();
  // The browser gives the lock in a task of its own.
  await new Promise(setImmediate);
  let isReleased = false;
  letIn?.(() => {
    isReleased = true;
    release();
  });
  await Promise.all([refused, closed]);
  expect(isReleased).toBe(true);
  expect(await store.load()).toBeUndefined();
});
