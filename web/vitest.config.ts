import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig } from "vitest/config";
import { installedBrowsers } from "./test/support/browsers.js";

const SUFFIX = ".test.ts";

/** The files of tests whose text is such. */
function testsWhere(isWanted: (text: string) => boolean): string[] {
  const names = readdirSync("test", { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(SUFFIX));
  return names.map((name) => join("test", name)).filter((path) => isWanted(readFileSync(path, "utf8")));
}

/** The tests that start real nodes, if there is neither the binary of the nodes nor what builds it. */
function testsOfNodes(): string[] {
  const hasBinary = process.env.CHAPPE_BIN !== undefined || existsSync("../target/debug/chappe");
  if (hasBinary || spawnSync("cargo", ["--version"]).status === 0) return [];
  const skipped = testsWhere((text) => text.includes("support/federation.js"));
  console.warn(
    `skipped: ${skipped.length} files of tests need Rust or CHAPPE_BIN, to run nodes (Debian: apt install cargo)`,
  );
  return skipped;
}

/** The tests of which each runs in every browser that is installed, if none is: a file that has no test would fail. */
function testsOfBrowsers(): string[] {
  if (installedBrowsers().length > 0) return [];
  return testsWhere((text) => {
    const tests = text.match(/^(describe|test)\b.*/gm) ?? [];
    return tests.every((line) => /\.each\((installed|pairs)\b/.test(line));
  });
}

/** Tests of the time that media or a picture needs, of what the machine sends, and those that build the page anew. */
const ALONE = [
  "browsers",
  "capture",
  "media",
  "network",
  "site/{crossing,demo,faults,file,firefox,node,open,path,relay,talk,wipe}",
].map((name) => `test/${name}${SUFFIX}`);

const exclude = [...testsOfNodes(), ...testsOfBrowsers()];
// A test waits up to 30 s for each condition (`PATIENCE`), and so do the hooks that start and stop browsers.
const common = {
  globalSetup: "test/support/global-setup.ts",
  testTimeout: 60_000,
  hookTimeout: 60_000,
  expect: { poll: { timeout: 30_000 } },
};
// What is measured in place of tests: by `npm run figures` and `npm run compare`.
const { FIGURES, COMPARE } = process.env;
const measurement =
  FIGURES !== undefined ? "test/figures.ts" : COMPARE !== undefined ? "compare/compare.ts" : undefined;

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          ...common,
          name: "concurrent",
          include: measurement === undefined ? [`test/**/*${SUFFIX}`] : [],
          exclude: [...exclude, ...ALONE],
          // They wait more than they compute, but each starts nodes and often a browser of its own.
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          ...common,
          name: "alone",
          include: measurement === undefined ? ALONE : [measurement],
          exclude,
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
