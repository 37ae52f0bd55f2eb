/** Runs once before all tests: builds what the tests run, unless it is there. */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { buildPage } from "../../tools/page.mjs";

/** The message of `cargo build --message-format json` about a file that it has built. */
interface Artifact {
  readonly executable?: string | null;
}

export default async function setup(): Promise<void> {
  if (process.env.CHAPPE_BIN === undefined) buildNode();
  if (!isPackageBuilt()) run("npm", ["run", "--silent", "build"], ".");
  await buildPage();
}

/** Builds the binary of the nodes, if cargo is installed, and sets `CHAPPE_BIN` for the tests. */
function buildNode(): void {
  if (spawnSync("cargo", ["--version"]).status !== 0) return;
  const args = ["build", "--quiet", "--locked", "--package", "chappe", "--bin", "chappe"];
  const messages = run("cargo", [...args, "--message-format", "json-render-diagnostics"], "..");
  const executables = messages.split("\n").flatMap((line) => {
    const { executable } = line === "" ? {} : (JSON.parse(line) as Artifact);
    return executable ? [executable] : [];
  });
  process.env.CHAPPE_BIN = executables.at(-1);
}

/** Whether `dist`, which the examples import, is newer than every source. */
function isPackageBuilt(): boolean {
  if (!existsSync("dist/index.js")) return false;
  const builtAt = statSync("dist/index.js").mtimeMs;
  const sources = readdirSync("src", { recursive: true, encoding: "utf8" });
  return sources.every((path) => statSync(join("src", path)).mtimeMs < builtAt);
}

function run(command: string, args: readonly string[], cwd: string): string {
  const { status, stdout, error } = spawnSync(command, args, {
    cwd,
    stdio: ["ignore", "pipe", "inherit"],
    encoding: "utf8",
    maxBuffer: 64 * 1024 * 1024,
  });
  if (status !== 0) throw new Error(`failed: ${command} ${args.join(" ")}`, { cause: error });
  return stdout;
}
