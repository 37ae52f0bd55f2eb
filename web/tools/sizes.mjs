// The size of each entry point, as an app's bundler makes it: what is loaded at once, and what is loaded when needed.
// With `--check`, fails if what a call needs is larger than its budget.
import { brotliCompressSync, gzipSync } from "node:zlib";
import { build } from "esbuild";

const KIB = 1024;
/** What a call needs, compressed by gzip, in KiB. */
const BUDGET = 45;
const ENTRIES = { "@chappe/client": "src/index.ts", "@chappe/client/core": "src/core.ts" };
const LATER = { pairing: "src/pairing/pair.ts", "DNS over HTTPS": "src/discovery/doh.ts" };

/** Bundles what an app with this one entry point loads. */
async function bundle(entry) {
  const { outputFiles, metafile } = await build({
    entryPoints: [entry],
    bundle: true,
    minify: true,
    format: "esm",
    splitting: true,
    outdir: "out",
    write: false,
    metafile: true,
    target: "es2023",
  });
  const contents = new Map(outputFiles.map((file) => [file.path.replace(`${process.cwd()}/`, ""), file.contents]));
  return { outputs: metafile.outputs, contents };
}

/** A file and everything that it imports at once. */
function closure({ outputs }, entry, seen = new Set()) {
  const visit = (path) => {
    if (seen.has(path)) return;
    seen.add(path);
    for (const item of outputs[path].imports) if (item.kind === "import-statement") visit(item.path);
  };
  visit(Object.entries(outputs).find(([, output]) => output.entryPoint === entry)[0]);
  return seen;
}

function sizes({ contents }, paths) {
  const all = Buffer.concat([...paths].map((path) => contents.get(path)));
  return [all.length, gzipSync(all, { level: 9 }).length, brotliCompressSync(all).length].map((size) => size / KIB);
}

function row(name, bundled, paths) {
  const [min, gzip, brotli] = sizes(bundled, paths);
  console.log(`${name.padEnd(32)} ${[min, gzip, brotli].map((size) => size.toFixed(1).padStart(7)).join(" ")}`);
  return gzip;
}

console.log(`${"KiB".padEnd(32)} ${["min", "gzip", "brotli"].map((name) => name.padStart(7)).join(" ")}`);
let gzip = 0;
for (const [name, entry] of Object.entries(ENTRIES)) {
  const bundled = await bundle(entry);
  const paths = closure(bundled, entry);
  gzip = Math.max(gzip, row(name, bundled, paths));
  for (const [part, file] of Object.entries(LATER)) {
    const isLoaded = Object.values(bundled.outputs).some((output) => output.entryPoint === file);
    if (!isLoaded) continue;
    const added = [...closure(bundled, file)].filter((path) => !paths.has(path));
    row(`  + ${part}, when needed`, bundled, added);
  }
}
if (process.argv.includes("--check") && gzip > BUDGET) {
  console.error(`a call needs ${gzip.toFixed(1)} KiB by gzip, more than ${BUDGET}`);
  process.exit(1);
}
