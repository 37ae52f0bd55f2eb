/**
 * How long things take, in Chromium and Firefox over real nodes on loopback. Not a test of anything: it prints medians and
 * 95th percentiles, and runs with `npm run figures` alone, on a machine that does nothing else.
 */
import { afterAll, beforeAll, describe, test } from "vitest";
import {
  type Browser,
  installedBrowsers,
  launch,
  servePage,
  type Tab,
  until,
  untilRinging,
  untilState,
} from "./support/browsers.js";
import { type Federation, startFederation, WITHOUT_RATES } from "./support/federation.js";

const ROUNDS = Number(process.env.FIGURES ?? 0);
const installed = ROUNDS > 0 ? installedBrowsers() : [];

let federation: Federation;
let page: Awaited<ReturnType<typeof servePage>>;
const browsers: Browser[] = [];

beforeAll(async () => {
  if (ROUNDS === 0) return;
  const relay = ['turn.listen=["127.0.0.1:0"]', 'turn.allowed_peers=["127.0.0.0/8"]'];
  [federation, page] = await Promise.all([startFederation(3, [...relay, ...WITHOUT_RATES]), servePage()]);
  for (const name of installed) browsers.push(await launch(name, page.url));
}, 120_000);

afterAll(async () => {
  for (const browser of browsers) await browser.close();
  page?.close();
  await federation?.stop();
});

function report(what: string, times: readonly number[]): void {
  const sorted = [...times].sort((a, b) => a - b);
  const at = (share: number) =>
    (sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0).toFixed(0);
  console.info(
    `${what.padEnd(60)} median ${at(0.5).padStart(5)} ms, p95 ${at(0.95).padStart(5)} ms (${sorted.length} runs)`,
  );
}

async function ringingAfter(caller: Tab, callee: Tab, contact: string): Promise<number> {
  await caller.run("log");
  await caller.run("call", contact);
  const isRinging = (log: Record<string, unknown>[]) => log.find(({ event }) => event === "ringing");
  let found: Record<string, unknown> | undefined;
  await until(
    "ringing",
    async () => (found ??= isRinging(await caller.run("log"))),
    (event) => event !== undefined,
  );
  await untilRinging(callee);
  await callee.run("accept");
  await caller.run("hangUp");
  await untilState(callee, "ended");
  return Number(found?.ms);
}

describe.each(installed.map((name, index) => ({ name, index })))("$name", ({ name, index }) => {
  const open = () => (browsers[index] as Browser).open();

  test.each(["same node", "two nodes"])(
    "%s",
    async (where) => {
      const [first, second] = federation.nodes;
      const at = (node: typeof first) => ({ nodes: [`${node?.clientUrl}#${node?.id}`], isPrivate: true });
      const [optionsA, optionsB] = [at(first), at(where === "same node" ? first : second)];
      const [a, b] = [await open(), await open()];
      const [connects, pairings, rings]: [number[], number[], number[]] = [[], [], []];
      await b.run("start", { ...optionsB, name: "Bob" });
      for (let round = 0; round < ROUNDS; round++) {
        connects.push((await a.run("start", { ...optionsA, name: "Ada", profile: `ada-${round}` })).ms);
        const { code } = await b.run("showCode", false);
        const paired = await a.run("pair", code);
        pairings.push(paired.ms);
        await b.run("paired");
        rings.push(await ringingAfter(a, b, paired.contact));
        await a.run("close");
      }
      report(`${name}, ${where}: connect() to a proven node`, connects);
      report(`${name}, ${where}: the code typed to the words`, pairings);
      report(`${name}, ${where}: first call() after a pairing to ringing`, rings);
      const { contact } = await (async () => {
        await a.run("start", { ...optionsA, name: "Ada", profile: "ada-calls" });
        const { code } = await b.run("showCode", false);
        const paired = await a.run("pair", code);
        await b.run("paired");
        return paired;
      })();
      await new Promise((resolve) => setTimeout(resolve, 4_000));
      const again: number[] = [];
      for (let round = 0; round < ROUNDS; round++) again.push(await ringingAfter(a, b, contact));
      report(`${name}, ${where}: call() to ringing`, again);
      await Promise.all([a.run("close"), b.run("close")]);
    },
    600_000,
  );

  // A relay does not relay to other ports of its own address, and all nodes here have one.
  test.each([
    ["same node", "direct"],
    ["two nodes", "direct"],
    ["same node", "relayed"],
  ])(
    "%s, %s: from the click to sound",
    async (where, way) => {
      const [first, second] = federation.nodes;
      const at = (node: typeof first) => ({ nodes: [`${node?.clientUrl}#${node?.id}`], isPrivate: true });
      const [a, b] = [await open(), await open()];
      await a.run("start", { ...at(first), name: "Ada" });
      await b.run("start", { ...at(where === "same node" ? first : second), name: "Bob" });
      const { code } = await b.run("showCode", false);
      const { contact } = await a.run("pair", code);
      await b.run("acceptAll", way === "relayed");
      await new Promise((resolve) => setTimeout(resolve, 4_000));
      const [rings, sounds]: [number[], number[]] = [[], []];
      for (let round = 0; round < ROUNDS; round++) {
        const { rangAfter, soundAfter } = await a.run("callUntilSound", contact, way === "relayed");
        rings.push(rangAfter);
        sounds.push(soundAfter);
        // The other side's end of the call. A node gives a session passwords for relays ten times a minute.
        await new Promise((resolve) => setTimeout(resolve, way === "relayed" ? 6_300 : 300));
      }
      report(`${name}, ${where}, ${way}: the click to ringing`, rings);
      report(`${name}, ${where}, ${way}: the click to the first sound`, sounds);
      await Promise.all([a.run("close"), b.run("close")]);
    },
    600_000,
  );
});
