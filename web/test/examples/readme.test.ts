/** The code on the pages: it is valid with the library's types, and the five lines are the same on both. */
import { readFileSync } from "node:fs";
import ts from "typescript";
import { expect, test } from "vitest";

const PAGES = ["README.md", "../README.md"];
/** What the pages say in words about their blocks. */
const PRELUDE = `
import { Client } from "@chappe/client";
import { Capture, CaptureError } from "@chappe/client/capture";
declare const root: string, code: string, microphone: MediaStreamTrack, audioElement: HTMLAudioElement;
`;

/** The TypeScript blocks of a page. */
function blocks(page: string): string[] {
  return [...readFileSync(page, "utf8").matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code]) => code as string);
}

/** What the compiler reports of a module. */
function faults(code: string): string[] {
  const path = ts.sys.resolvePath("test/examples/block.ts");
  const config = ts.getParsedCommandLineOfConfigFile(
    "tsconfig.test.json",
    {},
    { ...ts.sys, onUnRecoverableConfigFileDiagnostic: () => {} },
  );
  const options = { ...config?.options, noUnusedLocals: false };
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile } = host;
  host.fileExists = (file) => file === path || fileExists(file);
  host.readFile = (file) => (file === path ? code : readFile(file));
  const program = ts.createProgram([path], options, host);
  return ts.getPreEmitDiagnostics(program).map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, "\n"));
}

test("the code on the pages is valid", () => {
  const [own, root] = PAGES.map(blocks);
  expect(own?.[0]).toBe(root?.[0]);
  expect(own?.[0]?.trim().split("\n")).toHaveLength(5);
  expect(faults(`${PRELUDE}${own?.join("")}`)).toEqual([]);
}, 60_000);
