import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig } from "vitest/config";

const SUFFIX = ".test.ts";

/** The tests that start real nodes, if there is neither the binary of the nodes nor what builds it. */
function testsToSkip(): string[] {
  const hasBinary = process.env.CHAPPE_BIN !== undefined || existsSync("../target/debug/chappe");
  if (hasBinary || spawnSync("cargo", ["--version"]).status === 0) return [];
  const tests = readdirSync("test", { recursive: true, encoding: "utf8" }).filter((path) => path.endsWith(SUFFIX));
  const paths = tests.map((path) => join("test", path));
  const skipped = paths.filter((path) => readFileSync(path, "utf8").includes("support/federation.js"));
  console.warn(
    `skipped: ${skipped.length} files of tests need Rust or CHAPPE_BIN, to run nodes (Debian: apt install cargo)`,
  );
  return skipped;
}

export default defineConfig({
  test: {
    // `npm run figures` sets FIGURES to the number of runs of each measurement.
    include: process.env.FIGURES === undefined ? [`test/**/*${SUFFIX}`] : ["test/figures.ts"],
    exclude: testsToSkip(),
    globalSetup: "test/support/global-setup.ts",
    testTimeout: 20_000,
    // One file at a time: each starts nodes and browsers of its own.
    fileParallelism: false,
  },
});
