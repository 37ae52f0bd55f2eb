// Serves an example on loopback: `npm run example -- five-lines`. Its page takes the federation from its URL:
// `?registry=http://127.0.0.1:…&root=…`, as `chappe up` prints them.
import { realpathSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { context } from "esbuild";

const EXAMPLES = fileURLToPath(new URL("../examples/", import.meta.url));

/**
 * Bundles an example whenever its page is loaded, and serves it.
 *
 * @param {string} name
 * @returns {Promise<{ url: string, stop: () => Promise<void> }>}
 */
export async function serveExample(name) {
  const folder = `${EXAMPLES}${name}`;
  const bundler = await context({
    entryPoints: [`${folder}/main`],
    bundle: true,
    splitting: true,
    format: "esm",
    jsx: "automatic",
    outdir: folder,
    write: false,
    define: { "process.env.NODE_ENV": '"development"' },
  });
  const { port } = await bundler.serve({ host: "127.0.0.1", servedir: folder });
  return { url: `http://127.0.0.1:${port}/`, stop: () => bundler.dispose() };
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const name = process.argv[2];
  if (name !== "five-lines" && name !== "react") {
    console.error("usage: npm run example -- five-lines | react");
    process.exit(2);
  }
  const { url } = await serveExample(name);
  console.log(`${url}?registry=REGISTRY&root=ROOT`);
}
