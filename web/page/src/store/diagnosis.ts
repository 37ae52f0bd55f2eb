/** «Why doesn't it work»: one line for each thing that a call needs, with what was found. */
import type { Client, SourceReport } from "@chappe/client";
import { Capture, CaptureError, type CaptureFault } from "@chappe/client/capture";
import { type Signal, signal } from "@preact/signals-core";
import type { Network } from "./network.js";
import { triesRelay } from "./relay-check.js";

export type CheckId =
  | "device"
  | "registry"
  | "dns"
  | "node"
  | "proof"
  | "clock"
  | "turnUdp"
  | "turnTcp"
  | "turnTls"
  | "microphone"
  | "camera"
  | "localNetwork";

/** `skipped`: not in use here, or the browser does not say. */
export type Verdict = "good" | "warning" | "bad" | "skipped";

/** A line of the diagnosis. */
export interface Check {
  readonly id: CheckId;
  /** `undefined` while it is being found out. */
  readonly verdict: Verdict | undefined;
  /** Which cause, if there are several. */
  readonly cause: "silent" | CaptureFault | "equivocation" | "unconfirmed" | undefined;
  /** As the library and the browser report it. */
  readonly details: readonly string[];
}

const ORDER: readonly CheckId[] = [
  "device",
  "registry",
  "dns",
  "node",
  "proof",
  "clock",
  "turnUdp",
  "turnTcp",
  "turnTls",
  "microphone",
  "camera",
  "localNetwork",
];

/** How long the microphone is listened to, and what counts as sound: a quiet room is above it. */
const LISTEN = 2_500;
const SOUND = 0.002;

type Found = Partial<Omit<Check, "id">> & Pick<Check, "verdict">;

export class Diagnosis {
  readonly checks: Signal<readonly Check[]> = signal(ORDER.map((id) => line(id, { verdict: undefined })));
  readonly isRunning: Signal<boolean> = signal(false);
  /** The loudness of the microphone while it is checked, 0 to 1. */
  readonly level: Signal<number> = signal(0);
  readonly #client: Client;
  readonly #network: Network;

  constructor({ client, network }: { client: Client; network: Network }) {
    this.#client = client;
    this.#network = network;
  }

  /** Checks everything again. */
  async run(): Promise<void> {
    if (this.isRunning.value) return;
    this.isRunning.value = true;
    this.checks.value = ORDER.map((id) => line(id, { verdict: undefined }));
    try {
      this.#set("device", { verdict: navigator.onLine ? "good" : "bad" });
      this.readNetwork();
      await Promise.all([this.#checkRelays(), this.#checkDevices(), this.#checkLocalNetwork()]);
    } finally {
      this.isRunning.value = false;
    }
  }

  /** Takes what the client has reported about its way to a node. */
  readNetwork(): void {
    const reports = this.#network.reports.value;
    const { value: node } = this.#network.node;
    this.#set("registry", sourceVerdict(reports, "registry"));
    this.#set("dns", sourceVerdict(reports, "dns"));
    const dials = reports.filter(({ source }) => /^wss?:/.test(source)).map(detailOf);
    this.#set("node", {
      verdict: node === undefined ? "bad" : "good",
      details: node === undefined ? dials : [[node.url, node.region].filter(Boolean).join(" · ")],
    });
    this.#set("proof", this.#proof());
    const isRefused = this.#network.isRefused.value || this.#network.rejection.value !== undefined;
    const isOff = reports.some(({ result }) => result.includes("clock"));
    this.#set("clock", { verdict: isRefused || isOff ? "bad" : node === undefined ? "skipped" : "good" });
  }

  #proof(): Found {
    switch (this.#network.confirmation.value) {
      case "confirmed":
      case "vouched":
        return { verdict: "good" };
      case "equivocation":
        return { verdict: "bad", cause: "equivocation" };
      case undefined:
        return this.#network.node.value === undefined ? { verdict: "skipped" } : { verdict: "good" };
      default:
        return { verdict: "warning", cause: "unconfirmed" };
    }
  }

  async #checkRelays(): Promise<void> {
    const transports = { turnUdp: "udp", turnTcp: "tcp", turnTls: "tls" } as const;
    const servers = await this.#client.iceServers().then(
      ({ iceServers }) => iceServers,
      () => [],
    );
    const checks = Object.entries(transports).map(async ([id, transport]) => {
      const outcome = await triesRelay(servers, transport);
      const verdict = outcome === "none" ? "skipped" : outcome === "relayed" ? "good" : "bad";
      this.#set(id as CheckId, { verdict });
    });
    await Promise.all(checks);
  }

  async #checkDevices(): Promise<void> {
    // Not the devices of calls: what is tried here must not be sent to anybody.
    const capture = new Capture();
    try {
      this.#set("microphone", await tried(() => this.#listen(capture)));
      this.#set("camera", await tried(() => look(capture)));
    } finally {
      capture.closeAll();
    }
  }

  /** Whether the microphone delivers any sound. */
  async #listen(capture: Capture): Promise<Found> {
    await capture.openMicrophone();
    let loudest = 0;
    const until = Date.now() + LISTEN;
    while (Date.now() < until) {
      this.level.value = capture.level();
      loudest = Math.max(loudest, this.level.value);
      await new Promise((resolve) => setTimeout(resolve, 60));
    }
    this.level.value = 0;
    const details = [capture.track("microphone")?.label ?? ""];
    return loudest > SOUND ? { verdict: "good", details } : { verdict: "bad", cause: "silent", details };
  }

  async #checkLocalNetwork(): Promise<void> {
    // The last is the name of both in earlier versions of Chromium.
    const names = ["local-network", "loopback-network", "local-network-access"];
    const stateOf = async (name: string) => (await navigator.permissions.query({ name: name as PermissionName })).state;
    const states = await Promise.all(names.map((name) => stateOf(name).catch(() => "unknown")));
    const isKnown = states.some((state) => state !== "unknown");
    this.#set("localNetwork", { verdict: states.includes("denied") ? "warning" : isKnown ? "good" : "skipped" });
  }

  #set(id: CheckId, found: Found): void {
    this.checks.value = this.checks.peek().map((check) => (check.id === id ? line(id, found) : check));
  }
}

function line(id: CheckId, { verdict, cause, details = [] }: Found): Check {
  return { id, verdict, cause, details: details.filter((text) => text !== "") };
}

async function look(capture: Capture): Promise<Found> {
  await capture.openCamera();
  return { verdict: "good", details: [capture.track("camera")?.label ?? ""] };
}

async function tried(check: () => Promise<Found>): Promise<Found> {
  try {
    return await check();
  } catch (error) {
    if (!(error instanceof CaptureError)) throw error;
    return { verdict: "bad", cause: error.code };
  }
}

function sourceVerdict(reports: readonly SourceReport[], kind: string): Found {
  const own = reports.filter(({ source }) => source === kind || source.startsWith(`${kind} `));
  if (own.length === 0) return { verdict: "skipped" };
  const isUsable = own.some(({ result }) => /addresses of nodes$/.test(result));
  return { verdict: isUsable ? "good" : "bad", details: own.map(detailOf) };
}

function detailOf({ source, result }: SourceReport): string {
  return `${source}: ${result}`;
}
