// Pairs two people from Node, and prints their words:
//   node pair.mjs REGISTRY ROOT          shows a code
//   node pair.mjs REGISTRY ROOT CODE     pairs with whoever shows this code
import { Discovery, MemoryProfileStore, SignallingClient, SystemClock, Timers } from "@chappe/client/core";
import { pairByCode, showCode } from "@chappe/client/pairing";
import { WebSocket } from "ws";

const [registry, root, code] = process.argv.slice(2);
if (registry === undefined || root === undefined) {
  console.error("usage: node pair.mjs REGISTRY ROOT [CODE]");
  process.exit(2);
}

const clock = new SystemClock();
const timers = new Timers(clock);
// Node has no `WebSocket` before version 22. `isPrivate` admits nodes of 127.0.0.1.
const webSocket = /** @type {any} */ (WebSocket);
const finder = new Discovery({ registries: [registry], roots: [root], isPrivate: true, webSocket }, clock, timers);
const client = new SignallingClient({ store: new MemoryProfileStore(), finder, name: "Node", clock, timers });
await client.connect();

const parts = { client, finder, signal: AbortSignal.timeout(600_000) };
if (code === undefined) {
  const shown = await showCode(false, parts);
  console.log(`code: ${shown.code}`);
  console.log(`words: ${(await shown.paired).words.join(" ")}`);
} else {
  console.log(`words: ${(await pairByCode(code, parts)).words.join(" ")}`);
}
await client.close();
