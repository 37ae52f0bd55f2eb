/** Clients in this process that talk to real nodes. */
import { WebSocket as NodeWebSocket } from "ws";
import { SignallingClient, type SignallingEvents } from "../../src/core/client.js";
import { SystemClock, Timers } from "../../src/core/clock.js";
import { MemoryProfileStore } from "../../src/core/profile.js";
import { Discovery, type DiscoveryOptions } from "../../src/discovery/discovery.js";
import { type PairingParts, pairByCode, showCode } from "../../src/pairing/pair.js";
import type { Federation } from "./federation.js";

/** A client with its parts, and what it has reported. */
export interface Person {
  readonly client: SignallingClient;
  readonly finder: Discovery;
  readonly pairing: PairingParts;
  readonly incoming: SignallingEvents["incomingcall"][];
}

/** Creates a client of this federation. */
export function person(
  name: string,
  federation: Federation,
  options: Partial<DiscoveryOptions> = {},
  avoid: readonly string[] = [],
): Person {
  const clock = new SystemClock();
  const timers = new Timers(clock);
  const webSocket = NodeWebSocket as unknown as typeof WebSocket;
  const base = { registries: [federation.registry], roots: [federation.root], isPrivate: true, webSocket };
  const finder = new Discovery({ ...base, ...options }, clock, timers);
  const client = new SignallingClient({ store: new MemoryProfileStore(), finder, name, clock, timers, avoid });
  const incoming: SignallingEvents["incomingcall"][] = [];
  client.addEventListener("incomingcall", ({ detail }) => incoming.push(detail));
  return { client, finder, incoming, pairing: { client, finder, signal: new AbortController().signal } };
}

/** Pairs two connected clients. Returns each one's contact. */
export async function pair(a: Person, b: Person) {
  const shown = await showCode(false, b.pairing);
  const [atA, atB] = await Promise.all([pairByCode(shown.code, a.pairing), shown.paired]);
  return { atA, atB };
}
