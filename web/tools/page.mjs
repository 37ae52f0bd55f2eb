// Builds the page into `page/dist`: `npm run page`. With `--serve [PORT]` it is then served on 127.0.0.1.
//
// The same sources become a site of several files, for a web server, and `chappe.html`, the whole client in one file, which
// works from a disk. Scripts and styles of that one are allowed by their hashes.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

/** What a browser loads before the page can be used, compressed by gzip, in KiB. */
const BUDGET = 90;

const PAGE = fileURLToPath(new URL("../page/", import.meta.url));
const DIST = join(PAGE, "dist");
const OPTIONS = /** @type {const} */ ({
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  write: false,
  outdir: DIST,
  tsconfig: join(PAGE, "tsconfig.json"),
  legalComments: "none",
});
/** The page talks to nodes and registries that people name, so to any host; it loads nothing from there. */
const POLICY = {
  "default-src": "'none'",
  "connect-src": "http: https: ws: wss:",
  "media-src": "blob: mediastream:",
  "base-uri": "'none'",
  "form-action": "'none'",
};

/**
 * The directives of a Content Security Policy.
 *
 * @param {Record<string, string>} policy
 */
function policyText(policy) {
  const directives = Object.entries({ ...POLICY, ...policy });
  return directives.map(([name, value]) => `${name} ${value}`).join("; ");
}

/**
 * @param {string | Uint8Array} contents
 * @param {"hex" | "base64"} encoding
 */
function sha256(contents, encoding) {
  return createHash("sha256").update(contents).digest(encoding);
}

/**
 * Puts the parts of a page into the template.
 *
 * @param {{ policy: string, head: string, script: string }} parts
 */
function html({ policy, head, script }) {
  const template = readFileSync(join(PAGE, "index.html"), "utf8");
  return template
    .replace("<!-- policy -->", () => `<meta http-equiv="Content-Security-Policy" content="${policy}">`)
    .replace("<!-- head -->", () => head)
    .replace("<!-- logo -->", () => readFileSync(join(PAGE, "static/icon.svg"), "utf8").trim())
    .replace("<!-- script -->", () => script);
}

/**
 * Bundles an entry point. The first file is that of the entry, unless there are several.
 *
 * @param {string} entry
 * @param {import("esbuild").BuildOptions} options
 */
async function bundle(entry, options = {}) {
  const { outputFiles = [] } = await build({ ...OPTIONS, entryPoints: [join(PAGE, entry)], ...options });
  return outputFiles;
}

/**
 * Bundles an entry point into one file.
 *
 * @param {string} entry
 * @param {import("esbuild").BuildOptions} options
 */
async function bundleOne(entry, options = {}) {
  const [file] = await bundle(entry, options);
  if (file === undefined) throw new Error(`nothing was built of ${entry}`);
  return file;
}

/**
 * The names of a script and of all that it imports at once.
 *
 * @param {import("esbuild").Metafile["outputs"]} outputs
 * @param {string} path
 * @param {Set<string>} seen
 */
function closure(outputs, path, seen = new Set()) {
  if (seen.has(path)) return seen;
  seen.add(path);
  for (const item of outputs[path]?.imports ?? []) {
    if (item.kind === "import-statement") closure(outputs, item.path, seen);
  }
  return seen;
}

/** A site of several files, by their names; and what a browser loads before the page can be used. */
async function buildSite() {
  /** @type {Map<string, Uint8Array>} */
  const files = new Map();
  const { outputFiles: scripts, metafile } = await build({
    ...OPTIONS,
    entryPoints: [join(PAGE, "src/main.tsx")],
    splitting: true,
    metafile: true,
    define: { HAS_WORKER: "true" },
    chunkNames: "[name]-[hash]",
  });
  for (const { path, contents } of scripts) files.set(path.slice(DIST.length + 1), contents);
  files.set("page.css", (await bundleOne("style/page.css")).contents);
  for (const name of ["icon.svg", "manifest.webmanifest"]) files.set(name, readFileSync(join(PAGE, "static", name)));
  const policy = policyText({
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "manifest-src": "'self'",
    "worker-src": "'self'",
  });
  /** @param {string} root */
  const page = (root) =>
    html({
      policy,
      head: `<link rel="stylesheet" href="${root}page.css"><link rel="icon" href="${root}icon.svg"><link rel="manifest" href="${root}manifest.webmanifest">`,
      script: `<script type="module" src="${root}main.js"></script>`,
    });
  files.set("index.html", Buffer.from(page("./")));
  // Links of contacts are `https://site/i#…`.
  files.set("i/index.html", Buffer.from(page("../")));
  const names = [...files.keys()].filter((name) => name !== "index.html" && name !== "i/index.html");
  const version = sha256(Buffer.concat([...files.values()]), "hex").slice(0, 16);
  const worker = await bundleOne("src/worker.ts", {
    define: {
      FILES: JSON.stringify(["./", "./i/", ...names.map((name) => `./${name}`)]),
      VERSION: `"chappe-page-${version}"`,
    },
  });
  files.set("worker.js", worker.contents);
  const main = Object.keys(metafile.outputs).find((path) => path.endsWith("/main.js")) ?? "";
  const first = [...closure(metafile.outputs, main)].map((path) => path.slice(path.lastIndexOf("/") + 1));
  return { files, atOnce: ["index.html", "page.css", ...first] };
}

/** The whole client in one file. */
async function buildFile() {
  const script = await bundleOne("src/main.tsx", { define: { HAS_WORKER: "false" } });
  const style = await bundleOne("style/page.css");
  const icon = readFileSync(join(PAGE, "static/icon.svg")).toString("base64");
  const policy = policyText({
    "script-src": `'sha256-${sha256(script.text, "base64")}'`,
    "style-src": `'sha256-${sha256(style.text, "base64")}'`,
    "img-src": "data:",
  });
  const text = html({
    policy,
    head: `<link rel="icon" href="data:image/svg+xml;base64,${icon}"><style>${style.text}</style>`,
    script: `<script type="module">${script.text}</script>`,
  });
  return { text, scriptHash: sha256(script.text, "hex") };
}

/** Builds both. Returns the hashes of the one file, and the sizes of both in KiB, compressed by gzip. */
export async function buildPage() {
  const [{ files, atOnce }, { text, scriptHash }] = await Promise.all([buildSite(), buildFile()]);
  rmSync(DIST, { recursive: true, force: true });
  mkdirSync(join(DIST, "i"), { recursive: true });
  for (const [name, contents] of files) writeFileSync(join(DIST, name), contents);
  writeFileSync(join(DIST, "chappe.html"), text);
  const fileHash = sha256(text, "hex");
  writeFileSync(join(DIST, "chappe.html.sha256"), `${fileHash}  chappe.html\n`);
  /** @param {string | Uint8Array} contents */
  const kib = (contents) => gzipSync(contents, { level: 9 }).length / 1024;
  const siteSize = atOnce.reduce((sum, name) => sum + kib(files.get(name) ?? ""), 0);
  return { dist: DIST, fileHash, scriptHash, siteSize, fileSize: kib(text) };
}

/** @type {Record<string, string>} */
const TYPES = {
  html: "text/html; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  css: "text/css; charset=utf-8",
  svg: "image/svg+xml",
  webmanifest: "application/manifest+json",
};

/**
 * Serves the page on loopback.
 *
 * @returns {Promise<{ url: string, close(): void }>}
 */
export async function servePage(port = 0) {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://127.0.0.1");
    const name = pathname.endsWith("/") ? `${pathname}index.html` : pathname === "/i" ? "/i/index.html" : pathname;
    const type = TYPES[name.slice(name.lastIndexOf(".") + 1)];
    try {
      if (type === undefined || /\.\./.test(decodeURIComponent(name))) throw new Error("no such file");
      const contents = readFileSync(join(DIST, name));
      response.writeHead(200, {
        "content-type": type,
        "cache-control": "no-cache",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "content-security-policy": "frame-ancestors 'none'",
      });
      response.end(contents);
    } catch {
      response.writeHead(404, { "content-type": "text/plain" });
      response.end("not found\n");
    }
  });
  await /** @type {Promise<void>} */ (new Promise((resolve) => server.listen(port, "127.0.0.1", resolve)));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the server has no port");
  return { url: `http://127.0.0.1:${address.port}/`, close: () => server.close() };
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const { fileHash, scriptHash, siteSize, fileSize } = await buildPage();
  console.log(`sha256 of chappe.html:  ${fileHash}`);
  console.log(`sha256 of its script:   ${scriptHash}`);
  console.log(`size by gzip:           ${siteSize.toFixed(1)} KiB at once; chappe.html ${fileSize.toFixed(1)} KiB`);
  if (siteSize > BUDGET) {
    console.error(`the page needs more than ${BUDGET} KiB`);
    process.exit(1);
  }
  const at = process.argv.indexOf("--serve");
  if (at >= 0) {
    const { url } = await servePage(Number(process.argv[at + 1] ?? 0));
    console.log(`page: ${url}#registry=REGISTRY&root=ROOT&private&profile=1`);
  }
}
