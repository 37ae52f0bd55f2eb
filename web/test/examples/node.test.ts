/** The example `node`: two processes that use the built package. */
import { execFile, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Federation, startFederation } from "../support/federation.js";

const PROGRAM = "examples/node/pair.mjs";
let federation: Federation;

beforeAll(async () => {
  federation = await startFederation();
}, 60_000);

afterAll(() => federation.stop());

test("two processes pair, and print the same words", async () => {
  const args = [PROGRAM, federation.registry, federation.root];
  const bob = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  const exited = new Promise((resolve) => bob.on("exit", resolve));
  const lines = createInterface(bob.stdout)[Symbol.asyncIterator]();
  const { value: codeLine } = (await lines.next()) as { value: string };
  expect(codeLine).toMatch(/^code: [A-Z2-9]{6}-[A-Z2-9]{4}/);
  const ada = await promisify(execFile)(process.execPath, [...args, codeLine.replace("code: ", "")]);
  const { value: words } = (await lines.next()) as { value: string };
  expect(words).toMatch(/^words: \w+( \w+){3}$/);
  expect(ada.stdout).toBe(`${words}\n`);
  expect(await exited).toBe(0);
}, 60_000);
