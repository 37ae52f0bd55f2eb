/** A worker of the browser tests: the protocol as `@chappe/client/core` has it, without a page around it. */
import {
  Discovery,
  type DiscoveryOptions,
  MemoryProfileStore,
  SignallingClient,
  SystemClock,
  Timers,
} from "../../src/core.js";
import { pairByCode } from "../../src/pairing/pair.js";

/** What the page asks of the worker. */
export interface WorkerTask {
  readonly options: DiscoveryOptions;
  /** The code that the other side shows. */
  readonly code: string;
}

/** What has come of it. */
export interface WorkerReport {
  readonly hasDocument: boolean;
  readonly words: readonly string[];
  /** The events of the call, up to its end. */
  readonly events: readonly string[];
}

/** Connects, pairs by a code, and calls until the other side rings. */
async function run({ options, code }: WorkerTask): Promise<WorkerReport> {
  const clock = new SystemClock();
  const timers = new Timers(clock);
  const finder = new Discovery(options, clock, timers);
  const client = new SignallingClient({ store: new MemoryProfileStore(), finder, name: "Ada", clock, timers });
  await client.connect();
  const { contact, words } = await pairByCode(code, { client, finder, signal: new AbortController().signal });
  const call = await client.call(contact.id, "v=0");
  const events: string[] = [];
  await new Promise<void>((resolve) => {
    call.addEventListener("ringing", () => {
      events.push("ringing");
      call.hangUp();
    });
    call.addEventListener("ended", ({ detail }) => {
      events.push(detail.reason);
      resolve();
    });
  });
  await client.close();
  return { hasDocument: "document" in globalThis, words, events };
}

addEventListener("message", ({ data }: MessageEvent<WorkerTask>) => {
  run(data).then(
    (report) => postMessage(report),
    // The page is told of it as the worker's `error`.
    reportError,
  );
});
