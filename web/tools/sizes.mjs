// The size of each entry point in an app: what is loaded at once, and what is loaded later, when it is needed.
// With `--check`, fails if what a call needs is larger than its budget. With `--others`, adds other libraries, as
// `npm ci --prefix compare` installs them.
import { brotliCompressSync, gzipSync } from "node:zlib";
import { build } from "esbuild";

const KIB = 1024;
/** What a call needs, compressed by gzip, in KiB. */
const BUDGET = 45;
const ENTRIES = {
  "@chappe/client": "src/index.ts",
  "@chappe/client/capture": "src/capture.ts",
  "@chappe/client/core": "src/core.ts",
};
const LATER = {
  "a first start": "src/core/new-profile.ts",
  pairing: "src/browser/page-pairing.ts",
  "DNS over HTTPS": "src/discovery/doh.ts",
  "statements of roots": "src/discovery/root-statements.ts",
};
/** All that other libraries for calls export. */
const OTHERS = {
  "simple-peer": 'export { default } from "simple-peer/simplepeer.min.js"',
  peerjs: 'export * from "peerjs"',
  trystero: 'export * from "trystero"',
  "livekit-client": 'export * from "livekit-client"',
};
const OPTIONS = { bundle: true, minify: true, format: "esm", outdir: "out", write: false, target: "es2023" };

/** Leaves out what is loaded by `import()`. */
const withoutLater = {
  name: "without-later",
  setup({ onResolve }) {
    onResolve({ filter: /.*/ }, ({ path, kind }) => (kind === "dynamic-import" ? { path, external: true } : undefined));
  },
};

/** What is loaded at once, in one file. */
async function loadedAtOnce(entry) {
  const { outputFiles } = await build({ ...OPTIONS, entryPoints: [entry], plugins: [withoutLater] });
  return outputFiles[0].contents;
}

/** The chunks that a part needs in addition to those of the entry point. `undefined` if the entry does not use it. */
async function loadedLater(entry, part) {
  const { outputFiles, metafile } = await build({ ...OPTIONS, entryPoints: [entry], splitting: true, metafile: true });
  const { outputs } = metafile;
  const pathOf = (module) => Object.keys(outputs).find((path) => outputs[path].entryPoint === module);
  if (pathOf(part) === undefined) return undefined;
  const known = closure(outputs, pathOf(entry));
  const added = [...closure(outputs, pathOf(part))].filter((path) => !known.has(path));
  return Buffer.concat(added.map((path) => outputFiles.find((file) => file.path.endsWith(`/${path}`)).contents));
}

/** A chunk and all that it imports at once. */
function closure(outputs, path, seen = new Set()) {
  if (seen.has(path)) return seen;
  seen.add(path);
  for (const item of outputs[path].imports) if (item.kind === "import-statement") closure(outputs, item.path, seen);
  return seen;
}

/** Prints the sizes of some code, and returns that by gzip in KiB. */
function printSizes(name, code) {
  const sizes = [code.length, gzipSync(code, { level: 9 }).length, brotliCompressSync(code).length];
  const [min, gzip, brotli] = sizes.map((size) => size / KIB);
  printRow(
    name,
    [min, gzip, brotli].map((size) => size.toFixed(1)),
  );
  return gzip;
}

function printRow(name, cells) {
  console.log(`${name.padEnd(24)} ${cells.map((cell) => cell.padStart(7)).join(" ")}`);
}

printRow("KiB", ["min", "gzip", "brotli"]);
let largest = 0;
for (const [name, entry] of Object.entries(ENTRIES)) {
  largest = Math.max(largest, printSizes(name, await loadedAtOnce(entry)));
  for (const [part, module] of Object.entries(LATER)) {
    const code = await loadedLater(entry, module);
    if (code !== undefined) printSizes(`  + ${part}`, code);
  }
}
for (const [name, contents] of process.argv.includes("--others") ? Object.entries(OTHERS) : []) {
  const { outputFiles } = await build({
    ...OPTIONS,
    stdin: { contents, resolveDir: "compare" },
    plugins: [withoutLater],
  });
  printSizes(name, outputFiles[0].contents);
}
if (process.argv.includes("--check") && largest > BUDGET) {
  console.error(`a call needs ${largest.toFixed(1)} KiB by gzip, more than ${BUDGET}`);
  process.exit(1);
}
