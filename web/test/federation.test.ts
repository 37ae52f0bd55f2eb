/** The federation that a link commits to, from real nodes and from ones that lie. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { fromBase64url, randomBytes, toBase64url } from "../src/core/bytes.js";
import { federationId } from "../src/core/statements.js";
import { createLink, linkQrText } from "../src/discovery/new-link.js";
import { fetchFederation, SourceError } from "../src/link.js";
import { type Federation, startFederation } from "./support/federation.js";

let federation: Federation;

beforeAll(async () => {
  federation = await startFederation(1);
}, 60_000);

afterAll(() => federation.stop());

/** A link to these nodes, which commits to the federation of a root key. */
async function linkTo(nodes: readonly string[], root: string | undefined): Promise<string> {
  const key = fromBase64url(root, 32);
  const id = key && (await federationId([key]));
  const link = createLink(nodes, undefined, Date.now() / 1000 + 600, id);
  if (link === undefined) throw new Error("no link");
  return linkQrText(link);
}

const realNode = () => {
  const [node] = federation.nodes;
  return `${node?.clientUrl}#${node?.id}`;
};

/** A node that sends this in place of its federation. */
async function serve(body: string): Promise<{ node: string; close(): void }> {
  const server = createServer((_, response) => response.end(body));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { node: `ws://127.0.0.1:${port}#${toBase64url(randomBytes(32))}`, close: () => server.close() };
}

test("is that of a real node", async () => {
  const link = await linkTo([realNode()], federation.root);
  expect(await fetchFederation(link, { isPrivate: true })).toEqual({
    roots: [federation.root],
    registries: [federation.registry],
  });
});

test("is unknown if the link commits to none", async () => {
  expect(await fetchFederation(await linkTo([realNode()], undefined), { isPrivate: true })).toBeUndefined();
});

test("is taken from the next node if one is silent or lies", async () => {
  const liar = await serve(JSON.stringify({ roots: [toBase64url(randomBytes(32))], registries: [] }));
  const gone = `ws://127.0.0.1:1#${toBase64url(randomBytes(32))}`;
  const link = await linkTo([liar.node, gone, realNode()], federation.root);
  expect((await fetchFederation(link, { isPrivate: true }))?.roots).toEqual([federation.root]);
  liar.close();
});

test.each([
  ["other roots", { roots: [toBase64url(new Uint8Array(32).fill(7))] }, "another federation"],
  ["no roots", { roots: [] }, "no root keys"],
  ["nine roots", { roots: Array(9).fill(toBase64url(new Uint8Array(32))) }, "no root keys"],
  ["something else", [1, 2], "no root keys"],
  ["too much", { roots: "x".repeat(5_000) }, "too long"],
])("is refused with %s", async (_, answer, text) => {
  const liar = await serve(JSON.stringify(answer));
  const fetched = fetchFederation(await linkTo([liar.node], federation.root), { isPrivate: true });
  await expect(fetched).rejects.toThrow(SourceError);
  await expect(fetched).rejects.toThrow(text);
  liar.close();
});

test("takes registries by their plain URL, and none in a private network from a public link", async () => {
  const registries = ["https://8.8.8.8/v1", "https://8.8.8.8/x,sni=y", "https://me@8.8.8.8", "http://10.0.0.1", 7];
  const body = JSON.stringify({ roots: [federation.root], registries });
  const fetcher = async () => new Response(body);
  const node = `wss://8.8.8.8#${toBase64url(randomBytes(32))}`;
  const link = await linkTo([node], federation.root);
  expect((await fetchFederation(link, { fetch: fetcher }))?.registries).toEqual(["https://8.8.8.8/v1"]);
});
