/** Network namespaces on a switch whose links lose, delay, limit or stop packets: see `network.py`. */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const SWITCH = fileURLToPath(new URL("network.py", import.meta.url));

/** Faults of a link, in both directions. */
export interface Faults {
  /** Packets that are lost, in percent. */
  readonly loss?: number;
  /** Milliseconds each way. */
  readonly delay?: number;
  /** In kbit/s. */
  readonly rate?: number;
  /** 1: nothing passes. */
  readonly down?: 1;
}

/** A running network. */
export interface Network {
  /** The names of the namespaces. The one at index n has the address 203.0.113.(n + 1). */
  readonly namespaces: readonly string[];
  /** Gives the link of a namespace these faults, and takes those that it had. */
  change(namespace: string, faults: Faults): Promise<void>;
  /** Gives a namespace another address: the former one is gone. */
  move(namespace: string, from: string, to: string): void;
  /** A program that starts another one in a namespace. */
  programIn(namespace: string, path: string): string;
  stop(): Promise<void>;
}

/** Whether namespaces can be made here. If not, says why. */
export function canMakeNetworks(): boolean {
  const missing = [
    ["python3", "python3"],
    ["ip", "iproute2"],
  ].filter(([program]) => spawnSync(program as string, ["-V"]).error !== undefined);
  const reason =
    missing.length > 0
      ? `not installed (Debian: apt install ${missing.map(([, name]) => name).join(" ")})`
      : process.getuid?.() !== 0 || !existsSync("/dev/net/tun")
        ? "only root can make network namespaces, with /dev/net/tun"
        : undefined;
  if (reason !== undefined) console.warn(`skipped: ${reason}`);
  return reason === undefined;
}

/** Makes a network of this many namespaces. */
export async function startNetwork(count: number): Promise<Network> {
  const namespaces = Array.from({ length: count }, (_, index) => `chappe-test-${process.pid}-${index + 1}`);
  const process_ = spawn("python3", [SWITCH, ...namespaces], { stdio: ["pipe", "pipe", "inherit"] });
  const exited = new Promise((resolve) => process_.on("exit", resolve));
  const waiting: (() => void)[] = [];
  createInterface(process_.stdout).on("line", () => waiting.shift()?.());
  const nextLine = () => new Promise<void>((resolve) => waiting.push(resolve));
  const folder = mkdtempSync(join(tmpdir(), "chappe-network-"));
  await nextLine();
  const ip = (...args: string[]) => execFileSync("ip", args);
  return {
    namespaces,
    change: async (namespace, faults) => {
      const words = Object.entries(faults).flatMap(([name, value]) => [name, String(value)]);
      process_.stdin.write(`${[namespace, ...words].join(" ")}\n`);
      await nextLine();
    },
    move: (namespace, from, to) => {
      ip("-n", namespace, "addr", "del", `${from}/24`, "dev", "up0");
      ip("-n", namespace, "addr", "add", `${to}/24`, "dev", "up0");
      ip("-n", namespace, "route", "add", "default", "via", "203.0.113.254");
    },
    programIn: (namespace, path) => {
      const program = join(folder, `${namespace}-${path.replaceAll("/", "-")}`);
      writeFileSync(program, `#!/bin/sh\nexec ip netns exec ${namespace} ${path} "$@"\n`);
      chmodSync(program, 0o755);
      return program;
    },
    stop: async () => {
      process_.stdin.end();
      await exited;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
