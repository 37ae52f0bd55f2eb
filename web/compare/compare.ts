/**
 * What a call does when its network fails, by `@chappe/client`, PeerJS, simple-peer and the browser alone, in one harness: two
 * Chromiums in networks of their own. Not a test of anything: it prints a table, and runs with `npm run compare` alone, on a
 * machine that does nothing else.
 *
 * What simple-peer and the browser alone have to signal is carried by the runner, so it always arrives.
 */
import { spawn } from "node:child_process";
import { afterAll, beforeAll, describe, test } from "vitest";
import { type Browser, launchInNetwork, type Page, servePage, until } from "../test/support/browsers.js";
import { binary, eventually, type Federation, startFederation, WITHOUT_RATES } from "../test/support/federation.js";
import { canMakeNetworks, type Faults, type Network, startNetwork } from "../test/support/network.js";
import type { CompareSteps, ContenderName, StartOptions } from "./page.js";

const CONTENDERS: readonly ContenderName[] = ["chappe", "peerjs", "simple-peer", "plain"];
const canRun = canMakeNetworks();
const SERVER = "203.0.113.3";
const PEER_SERVER_PORT = 9_000;
/** How long a call has to come back after a fault, in milliseconds. Chappe itself gives up after 30 s. */
const PATIENCE = 40_000;
/** From when on, and for how long, a fault that lasts is measured, in milliseconds. */
const SETTLING = 6_000;
const WINDOW = 10_000;
/** Samples of sound in a second. */
const RATE = 48_000;

/** A page of the comparison. */
interface Side {
  run<Name extends keyof CompareSteps>(
    name: Name,
    ...args: Parameters<CompareSteps[Name]>
  ): Promise<Awaited<ReturnType<CompareSteps[Name]>>>;
}

let network: Network;
let federation: Federation;
let page: Page;
let browsers: Browser[] = [];
let here: string;
let peerServer: ReturnType<typeof spawn>;
let address = "203.0.113.1";
const rows: string[][] = [];

beforeAll(async () => {
  if (!canRun) return;
  [network, page] = await Promise.all([startNetwork(3), servePage("compare/page.ts")]);
  const [ofA, ofB, ofServers] = network.namespaces as [string, string, string];
  here = ofA;
  const sets = [`client.listen="${SERVER}:0"`, ...WITHOUT_RATES];
  federation = await startFederation(2, sets, network.programIn(ofServers, binary()));
  const node = network.programIn(ofServers, process.execPath);
  peerServer = spawn(node, ["compare/peer-server.mjs", SERVER, String(PEER_SERVER_PORT)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let isReady = false;
  peerServer.stdout?.once("data", () => {
    isReady = true;
  });
  await eventually("PeerJS's server is up", () => isReady);
  browsers = await Promise.all([ofA, ofB].map((namespace) => launchInNetwork(network, namespace, page)));
}, 120_000);

afterAll(async () => {
  if (!canRun) return;
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  for (const row of rows) console.info(row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  "));
  for (const browser of browsers) await browser.close();
  peerServer.kill();
  page.close();
  await federation.stop();
  await network.stop();
}, 60_000);

/** Carries what each side sends to the other, until `stop`. */
function carry(a: Side, b: Side): { stop(): Promise<void> } {
  let isOver = false;
  const done = (async () => {
    while (!isOver) {
      for (const [from, to] of [
        [a, b],
        [b, a],
      ] as const) {
        const texts = await from.run("takeSent");
        if (texts.length > 0) await to.run("receive", texts);
      }
      await pause(20);
    }
  })();
  return {
    stop: () => {
      isOver = true;
      return done;
    },
  };
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Makes a call by a contender over a network without faults, runs `run` in it, and ends it. */
async function inCall(contender: ContenderName, run: (a: Side, b: Side) => Promise<string>): Promise<string> {
  const [a, b] = (await Promise.all(browsers.map((browser) => browser.open()))) as unknown as [Side, Side];
  const options: StartOptions = {
    name: "Ada",
    roots: [federation.root],
    nodes: federation.nodes.map(({ id, clientUrl }) => `${clientUrl}#${id}`),
    peerServer: { host: SERVER, port: PEER_SERVER_PORT },
  };
  const carrier = carry(a, b);
  try {
    const invitation = await b.run("start", contender, { ...options, name: "Bob" });
    await a.run("start", contender, options);
    await a.run("meet", invitation);
    await a.run("call");
    for (const side of [a, b]) await hears(side, PATIENCE);
    return await run(a, b);
  } finally {
    await network.change(here, {});
    if (address !== "203.0.113.1") network.move(here, address, "203.0.113.1");
    address = "203.0.113.1";
    for (const side of [a, b]) await side.run("end");
    await carrier.stop();
  }
}

/** How long it takes until sound arrives at a side. */
async function hears(side: Side, patience: number): Promise<number> {
  const began = Date.now();
  const before = (await side.run("received")).soundPacketsReceived ?? 0;
  await until(
    "sound",
    async () => (await side.run("received")).soundPacketsReceived ?? 0,
    (now) => now > before + 5 || (now < before && now > 5),
    patience,
  );
  return Date.now() - began;
}

/** How long it takes until both hear each other again, or what the two say of the call if they never do. */
async function untilBothHear(a: Side, b: Side): Promise<string> {
  try {
    const times = await Promise.all([a, b].map((side) => hears(side, PATIENCE)));
    return `${(Math.max(...times) / 1_000).toFixed(1)} s`;
  } catch {
    return `never (${await a.run("state")}, ${await b.run("state")})`;
  }
}

/** What the side beyond the bad link receives, for so long and after that time, in milliseconds. */
async function quality(b: Side, settling = SETTLING, window = WINDOW): Promise<string> {
  await pause(settling);
  const before = await b.run("received");
  await pause(window);
  const after = await b.run("received");
  const increase = (field: "samplesConcealed" | "samplesReceived" | "packetsLost" | "packetsReceived") =>
    (after[field] ?? 0) - (before[field] ?? 0);
  const missing = (100 * increase("samplesConcealed")) / Math.max(increase("samplesReceived"), (window * RATE) / 2_000);
  const lost = (100 * increase("packetsLost")) / Math.max(1, increase("packetsLost") + increase("packetsReceived"));
  const frames = (1_000 * (after.framesDecoded - before.framesDecoded)) / (after.at - before.at);
  return [
    `${missing.toFixed(0)} % of sound missing`,
    `${frames.toFixed(1)} frames/s`,
    `${lost.toFixed(0)} % lost`,
    `${after.roundTripMs?.toFixed(0) ?? "?"} ms`,
  ].join(", ");
}

const SCENES: readonly [string, (a: Side, b: Side) => Promise<string>][] = [
  ["no fault", (_, b) => quality(b)],
  [
    "the address changes",
    async (a, b) => {
      network.move(here, address, "203.0.113.11");
      address = "203.0.113.11";
      return untilBothHear(a, b);
    },
  ],
  ...[5, 25].map((seconds): (typeof SCENES)[number] => [
    `${seconds} s without a network`,
    async (a, b) => {
      await network.change(here, { down: 1 });
      await pause(seconds * 1_000);
      await network.change(here, {});
      return untilBothHear(a, b);
    },
  ]),
  ...(
    [
      ["4 % loss", { loss: 4 }],
      ["15 % loss", { loss: 15 }],
      ["100 ms each way", { delay: 100 }],
      ["300 kbit/s", { rate: 300 }],
      ["60 kbit/s", { rate: 60 }],
    ] as [string, Faults][]
  ).map(([name, faults]): (typeof SCENES)[number] => [
    name,
    async (_, b) => {
      await network.change(here, faults);
      return quality(b);
    },
  ]),
  [
    "300 kbit/s, for longer",
    async (_, b) => {
      await network.change(here, { rate: 300 });
      return quality(b, SETTLING, 45_000);
    },
  ],
  [
    "60 kbit/s, after half a minute",
    async (_, b) => {
      await network.change(here, { rate: 60 });
      return quality(b, 30_000, 30_000);
    },
  ],
];

describe.runIf(canRun).each(SCENES)("%s", (scene, run) => {
  test.each(CONTENDERS)(
    "%s",
    async (contender) => {
      const result = await inCall(contender, run);
      rows.push([scene, contender, result]);
      console.info(`${scene}, ${contender}: ${result}`);
    },
    180_000,
  );
});
