/** A federation of real nodes: the `chappe` binary of this repository, with its registry and nodes on loopback. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
/** How long anything may take, in milliseconds, on a machine that does other things too. */
export const PATIENCE = 30_000;

/** The binary, of `CHAPPE_BIN` or of a build of this repository. */
export function binary(): string {
  const candidates = [process.env.CHAPPE_BIN, `${ROOT}target/debug/chappe`, `${ROOT}target/release/chappe`];
  const found = candidates.find((path) => path !== undefined && existsSync(path));
  if (found === undefined) throw new Error("no chappe binary: run `cargo build` first, or set CHAPPE_BIN");
  return found;
}

/** A line of JSON that a command has printed. */
export type Line = Readonly<Record<string, unknown>>;

/** A running command of the binary, whose lines of JSON can be waited for. */
export class Command {
  readonly #process: ChildProcess;
  readonly #lines: Line[] = [];
  #errors = "";
  #wake: () => void = () => {};
  #at = 0;
  /** Resolves with the exit status. */
  readonly exited: Promise<number | null>;

  constructor(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
    this.#process = spawn(binary(), args, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...env } });
    const { stdout, stderr } = this.#process;
    if (stdout === null || stderr === null) throw new Error("the command has no output");
    createInterface(stdout).on("line", (text) => {
      try {
        this.#lines.push(JSON.parse(text) as Line);
      } catch {
        this.#errors += `${text}\n`;
      }
      this.#wake();
    });
    stderr.on("data", (data: Buffer) => {
      this.#errors += data.toString();
    });
    this.exited = new Promise((resolve) => {
      this.#process.on("exit", (status) => {
        this.#wake();
        resolve(status);
      });
    });
  }

  /** Everything printed so far. */
  get lines(): readonly Line[] {
    return this.#lines;
  }

  /** The next line for which `isWanted` holds. */
  async line(what: string, isWanted: (line: Line) => boolean): Promise<Line> {
    const until = Date.now() + PATIENCE;
    for (;;) {
      for (; this.#at < this.#lines.length; this.#at++) {
        const line = this.#lines[this.#at] as Line;
        if (isWanted(line)) {
          this.#at += 1;
          return line;
        }
      }
      const rest = until - Date.now();
      if (rest <= 0 || this.#process.exitCode !== null) {
        throw new Error(`${what}: not printed.\n${JSON.stringify(this.#lines.slice(-5))}\n${this.#errors}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, rest);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  /** Ends the command with a signal, and waits until it has ended. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    if (this.#process.exitCode === null) this.#process.kill(signal);
    await this.exited;
  }
}

/** A node of a {@link Federation}. */
export interface FederationNode {
  readonly id: string;
  readonly clientUrl: string;
}

/** A running federation. */
export interface Federation {
  readonly registry: string;
  readonly root: string;
  readonly nodes: readonly FederationNode[];
  stop(): Promise<void>;
}

/** Starts a registry and nodes in one process. */
export async function startFederation(nodes = 3, sets: readonly string[] = []): Promise<Federation> {
  const up = new Command(["up", "--json", "--nodes", String(nodes), ...sets.flatMap((set) => ["--set", set])]);
  const ready = await up.line("ready", (line) => line.event === "ready");
  // The demonstration call is over before the tests begin, so that it does not disturb them.
  await up.line("the demonstration call", (line) => line.event === "call");
  return {
    registry: String(ready.registry),
    root: String(ready.root),
    nodes: (ready.nodes as { id: string; client_url: string }[]).map(({ id, client_url }) => ({
      id,
      clientUrl: client_url,
    })),
    stop: () => up.stop(),
  };
}

/** Waits until a value is there. */
export async function eventually<T>(what: string, get: () => T | undefined | false): Promise<T> {
  const until = Date.now() + PATIENCE;
  for (;;) {
    const value = get();
    if (value !== undefined && value !== false) return value;
    if (Date.now() > until) throw new Error(`never came true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
