/** A federation of real nodes: the `chappe` binary of this repository, with its registry and nodes on loopback. */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

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
  #hasClosed = false;
  #wake: () => void = () => {};
  #at = 0;
  /** Resolves with the exit status. */
  readonly exited: Promise<number | null>;

  constructor(args: readonly string[], env: NodeJS.ProcessEnv = {}, program = binary()) {
    this.#process = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...env } });
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
      // Not at `exit`: its last lines may come later.
      this.#process.on("close", (status) => {
        this.#hasClosed = true;
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
      if (rest <= 0 || this.#hasClosed) {
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
    if (!this.#hasClosed) this.#process.kill(signal);
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

/** Keys of nodes by which many people on one address do not wait for each other. */
export const WITHOUT_RATES = [
  "messages_per_minute",
  "offers_per_minute",
  "pair_requests_per_minute",
  "source_pair_requests_per_minute",
  "source_connections_per_minute",
].map((rate) => `limits.${rate}=100000`);

/** Starts a registry and nodes in one process, by this program in place of the binary. */
export async function startFederation(nodes = 3, sets: readonly string[] = [], program?: string): Promise<Federation> {
  const keys = sets.flatMap((set) => ["--set", set]);
  const up = new Command(["up", "--json", "--no-call", "--nodes", String(nodes), ...keys], {}, program);
  const ready = await up.line("ready", (line) => line.event === "ready");
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

/** A federation whose registry and nodes are processes of their own, so that one can be killed. */
export interface ProcessFederation extends Federation {
  /** The contents of the TXT records for DNS, as the registry's operator publishes them. */
  shards(): Promise<string[]>;
  /** The seed of the founding root's key. */
  readonly rootSeed: Uint8Array;
  /**
   * Lets a new root take the place of the old one, which ends after this time, such as `30days`; called again, it changes
   * that time alone. Restarts the registry. Returns the new root and the federation's id.
   */
  rotateRoot(overlap: string): Promise<{ readonly root: string; readonly id: string }>;
  /** Ends a node at once, as a crash does. */
  kill(node: string): Promise<void>;
  /** Starts a node again. */
  revive(node: string): Promise<void>;
}

/** The first of 20 consecutive ports, below the ephemeral range of most systems, so usually free. */
function firstPort(): number {
  return 20_000 + 20 * Math.floor(Math.random() * 600);
}

/** Whether a command did not start because a port was taken, by a connection of another test for instance. */
function isTaken(error: unknown): boolean {
  return String(error).includes("Address already in use");
}

/** Starts a registry and nodes, each in its own process. Nodes ask the registry this often, such as `1s`. */
export async function startProcesses(count = 3, renewEvery?: string): Promise<ProcessFederation> {
  for (let tries = 1; ; tries++) {
    const folder = mkdtempSync(join(tmpdir(), "chappe-federation-"));
    const commands: Command[] = [];
    try {
      return await startAt(firstPort(), folder, commands, count, renewEvery);
    } catch (error) {
      await Promise.all(commands.map((command) => command.stop()));
      rmSync(folder, { recursive: true, force: true });
      if (tries === 5 || !isTaken(error)) throw error;
    }
  }
}

/** Starts the processes at 20 ports from this one, and adds each command that it runs to `commands`. */
async function startAt(
  port: number,
  folder: string,
  commands: Command[],
  count: number,
  renewEvery: string | undefined,
): Promise<ProcessFederation> {
  const run = (args: readonly string[], env: NodeJS.ProcessEnv = {}) => {
    const command = new Command(args, env);
    commands.push(command);
    return command;
  };
  // Writes keys and configs.
  const made = run(["up", "--json", "--no-call", "--nodes", `${count}`, "--dir", folder, "--port", `${port}`]);
  const { root } = await made.line("ready", (line) => line.event === "ready");
  await made.stop();
  if ((await made.exited) !== 0) throw new Error("the federation was not made");
  const env = renewEvery === undefined ? {} : { CHAPPE_REGISTRY__RENEW_EVERY: renewEvery };
  const start = async (...args: string[]) => {
    const process = run([...args, "--json"], args[0] === "node" ? env : {});
    return { process, ready: await process.line("ready", (line) => line.event === "ready") };
  };
  const startNode = (number: number) => start("node", "run", "--config", join(folder, `node-${number}`, "node.toml"));
  const inRegistry = (file: string) => join(folder, "registry", file);
  const startRegistry = () => start("bootstrap", "run", "--config", inRegistry("bootstrap.toml"));
  // Its port may be taken for a moment.
  const restart = (startAgain: () => ReturnType<typeof start>) =>
    eventually("the port is free", () =>
      startAgain().catch((error) => {
        if (!isTaken(error)) throw error;
        return undefined;
      }),
    );
  let registry = await startRegistry();
  const started = await Promise.all(Array.from({ length: count }, (_, index) => startNode(index + 1)));
  const processes = new Map(
    started.map(({ process, ready }, index) => [String(ready.id), { process, number: index + 1 }]),
  );
  const of = (node: string) => {
    const found = processes.get(node);
    if (found === undefined) throw new Error(`no such node: ${node}`);
    return found;
  };
  const url = String(registry.ready.registry);
  await eventually(
    "all nodes are listed",
    async () => (await (await fetch(`${url}/servers`)).json()).servers.length === count,
  );
  return {
    registry: url,
    root: String(root),
    nodes: started.map(({ ready }) => ({ id: String(ready.id), clientUrl: String(ready.client_url) })),
    shards: async () => {
      const config = inRegistry("bootstrap.toml");
      const args = ["bootstrap", "publish", "--config", config, "--registry", url, "--format", "txt"];
      const { stdout } = await promisify(execFile)(binary(), args);
      return stdout.split("\n").filter((line) => line !== "");
    },
    rootSeed: Buffer.from(readFileSync(inRegistry("root.key"), "utf8").trim(), "hex"),
    rotateRoot: async (overlap) => {
      const files = [
        ["--new-key", "root-2.key"],
        ["--delegation", "delegation"],
        ["--file", "revocations"],
        ["--beacon", "beacon"],
        ...(existsSync(inRegistry("root-2.key")) ? [] : [["--key", "root.key"]]),
      ].flatMap(([option, file]) => [option as string, inRegistry(file as string)]);
      const args = ["--json", "bootstrap", "rotate-root", ...files, "--overlap", overlap];
      const { stdout } = await promisify(execFile)(binary(), args);
      const rotated = JSON.parse(stdout.split("\n")[0] ?? "") as { new: string; federation: string };
      await registry.process.stop();
      registry = await restart(startRegistry);
      return { root: rotated.new, id: rotated.federation };
    },
    kill: (node) => of(node).process.stop("SIGKILL"),
    revive: async (node) => {
      of(node).process = (await restart(() => startNode(of(node).number))).process;
    },
    stop: async () => {
      await Promise.all(
        [registry.process, ...[...processes.values()].map(({ process }) => process)].map((one) => one.stop()),
      );
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Waits until a value is there. */
export async function eventually<T>(
  what: string,
  get: () => T | undefined | false | Promise<T | undefined | false>,
): Promise<T> {
  const until = Date.now() + PATIENCE;
  for (;;) {
    const value = await get();
    if (value !== undefined && value !== false) return value;
    if (Date.now() > until) throw new Error(`never came true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
