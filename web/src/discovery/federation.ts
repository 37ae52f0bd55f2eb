/**
 * The roots and registries of a federation, from a node of a link. The link commits to the founding roots, so only the thief
 * of an ended root can lead to a wrong later one. A node can send wrong registries, whose lists are checked by the roots.
 * `docs/protocol/links.md`.
 */
import { type Bytes, equalBytes, fromBase64url, toBase64url, toHex, utf8Text } from "../core/bytes.js";
import { urlOf } from "../core/endpoint.js";
import { parseObject } from "../core/messages.js";
import { isPublicUrl } from "../core/special.js";
import { federationId } from "../core/statements.js";
import { type Fetch, get, originOf } from "./http.js";
import { parseLink } from "./link.js";
import { SourceError } from "./source.js";
import { fetchStatements, Trust } from "./trust.js";

/** The longest response: eight keys and a few URLs. */
const MAX_LENGTH = 4_096;
const MAX_ROOTS = 8;
const MAX_REGISTRIES = 4;
/** A URL without a user, a query, or what other clients read as options. */
const BARE_URL = /^https?:\/\/[^\s@,?#]+$/;

/** A federation, for `ClientOptions`. */
export interface Federation {
  readonly roots: readonly string[];
  /** The federation's id, if `roots` are not its founding ones. */
  readonly federation?: string;
  readonly registries: readonly string[];
}

/** How a federation is fetched. */
export interface FederationOptions {
  /** Accepts nodes and registries in private networks. */
  readonly isPrivate?: boolean;
  readonly signal?: AbortSignal;
  readonly fetch?: Fetch;
}

/**
 * Fetches the federation that a link commits to, from the link's nodes, one after another: up to twelve seconds each. If its
 * root was replaced, `roots` are those that count now, as far as the node knows. Returns `undefined` if the link names no
 * federation. Rejects with `LinkError`, and with the cause of the last node if none answers.
 */
export async function fetchFederation(
  link: string,
  { isPrivate = false, signal = new AbortController().signal, fetch: fetcher }: FederationOptions = {},
): Promise<Federation | undefined> {
  const { nodes, federation } = parseLink(link, Math.floor(Date.now() / 1000), isPrivate);
  if (federation === undefined) return undefined;
  let cause: unknown;
  for (const node of nodes) {
    try {
      return await fetchFromNode(
        fetcher ?? globalThis.fetch.bind(globalThis),
        urlOf(node),
        federation,
        isPrivate,
        signal,
      );
    } catch (error) {
      cause = error;
    }
  }
  throw cause;
}

async function fetchFromNode(
  fetcher: Fetch,
  nodeUrl: string,
  federation: Bytes,
  isPrivate: boolean,
  signal: AbortSignal,
): Promise<Federation> {
  const origin = originOf(nodeUrl);
  const bytes = await get(fetcher, `${origin}/v1/federation`, "application/json", MAX_LENGTH, signal);
  const { roots, registries } = parseObject(utf8Text(bytes)) ?? {};
  const keys = (Array.isArray(roots) ? roots : []).map((root) => fromBase64url(root, 32));
  const isList = keys.length > 0 && keys.length <= MAX_ROOTS;
  if (!isList || !keys.every((key) => key !== undefined)) throw new SourceError("the node names no root keys");
  if (!equalBytes(await federationId(keys), federation)) {
    throw new SourceError("the node names the root keys of another federation than the link");
  }
  const isUsable = (url: unknown): url is string =>
    typeof url === "string" && BARE_URL.test(url) && URL.canParse(url) && (isPrivate || isPublicUrl(url));
  const usable = (Array.isArray(registries) ? registries : []).filter(isUsable).slice(0, MAX_REGISTRIES);
  const trust = new Trust(keys.map(toBase64url));
  await trust.learn(await fetchStatements(fetcher, origin, signal), Math.floor(Date.now() / 1000));
  const current = trust.current.map(toBase64url);
  // A later root is pinned at once. After that, a thief of the old one cannot mislead this client.
  const isRotated = current.join() !== keys.map(toBase64url).join();
  return { roots: current, ...(isRotated ? { federation: toHex(federation) } : {}), registries: usable };
}
