/** The registry: a signed directory over HTTPS, and the keys that a root has revoked. */
import { type Bytes, toBase64url } from "../core/bytes.js";
import { isPublicUrl } from "../core/special.js";
import {
  type Directory,
  decodeDirectory,
  decodeRevocations,
  ListError,
  MAX_DIRECTORY,
  recordsOf,
} from "../core/statements.js";
import { type Fetch, get } from "./http.js";
import {
  type Candidate,
  newCandidate,
  type SeenList,
  type Source,
  SourceError,
  type SourceResponse,
} from "./source.js";

/** How much longer than the first directory the others, and the revocations, may take. In milliseconds. */
const GRACE = 150;
const MAX_REVOCATIONS = 64 * 194;

/** The registry of one federation, at one or several URLs. */
export function registrySource(
  urls: readonly string[],
  roots: readonly Bytes[],
  revoked: () => ReadonlySet<string>,
  isPrivate: boolean,
  fetcher: Fetch,
): Source {
  return {
    kind: "registry",
    label: undefined,
    list: async (now, signal) => {
      const trust = { roots, revoked: revoked() };
      const revocations = Promise.all(urls.map((url) => fetchRevocations(fetcher, url, roots, signal)));
      const bundles = urls.map((url) =>
        get(fetcher, directoryUrl(url), OCTETS, MAX_DIRECTORY, signal).then((bytes) => ({ url, bytes })),
      );
      const first = await Promise.any(bundles).catch((error: AggregateError) => {
        throw firstCause(error);
      });
      const grace = new Promise<undefined>((resolve) => setTimeout(() => resolve(undefined), GRACE));
      const settled = await Promise.all(bundles.map((bundle) => Promise.race([bundle.catch(() => undefined), grace])));
      const keys = (await Promise.race([revocations, grace])) ?? [];
      const known = { roots, revoked: new Set([...trust.revoked, ...keys.flat()]) };
      const answered = [first, ...settled.filter((bundle) => bundle !== undefined)];
      const read = await Promise.all(answered.map(({ url, bytes }) => readDirectory(url, bytes, known, now)));
      const valid = read.filter((item) => "directory" in item);
      const newest = valid.sort((a, b) => b.directory.seq - a.directory.seq)[0];
      if (newest === undefined) throw new SourceError(listFault(read[0] as ListError));
      const candidates = await candidatesOf(newest.directory, newest.url, isPrivate, now);
      return { candidates, lists: valid.map((item) => item.list), revoked: keys.flat() } satisfies SourceResponse;
    },
  };
}

const OCTETS = "application/octet-stream";

async function readDirectory(
  url: string,
  bytes: Bytes,
  trust: Parameters<typeof decodeDirectory>[1],
  now: number,
): Promise<{ url: string; directory: Directory; list: SeenList } | ListError> {
  try {
    const directory = await decodeDirectory(bytes, trust, now);
    const signed = bytes.slice(2 + (bytes[0] as number) + (bytes[1] as number) * 256);
    return { url, directory, list: listOf("directory", directory, signed) };
  } catch (error) {
    if (error instanceof ListError) return error;
    throw error;
  }
}

/** A list as the cache compares it. */
export function listOf(form: SeenList["form"], list: Omit<Directory, "nodes">, signed: Bytes): SeenList {
  const { keyId, seq, shard, issuedAt } = list;
  return { form, key: toBase64url(keyId), seq, part: shard.join("/"), bytes: signed, issuedAt };
}

/** The nodes of a directory. A list from the internet can't lead a client into a private network. */
async function candidatesOf(directory: Directory, from: string, isPrivate: boolean, now: number): Promise<Candidate[]> {
  const mayBePrivate = isPrivate || !isPublicUrl(from);
  return (await recordsOf(directory, now)).flatMap((record) => {
    const urls = record.clientUrls.filter((url) => mayBePrivate || isPublicUrl(url));
    return urls.map((url) => newCandidate(url, record.node, toBase64url(record.node), "registry"));
  });
}

async function fetchRevocations(
  fetcher: Fetch,
  url: string,
  roots: readonly Bytes[],
  signal: AbortSignal,
): Promise<string[]> {
  if (directoryUrl(url) === url) return [];
  const bytes = await get(fetcher, `${url.replace(/\/+$/, "")}/v1/revocations`, OCTETS, MAX_REVOCATIONS, signal).catch(
    () => new Uint8Array(0),
  );
  return (await decodeRevocations(bytes, roots)).map(({ key }) => toBase64url(key));
}

/** The revoked keys that a node knows. It serves them beside its WebSocket. */
export async function fetchRevocationsOfNode(
  fetcher: Fetch,
  nodeUrl: string,
  roots: readonly Bytes[],
  signal: AbortSignal,
): Promise<string[]> {
  if (roots.length === 0) return [];
  const origin = nodeUrl.replace(/^ws/, "http").replace(/^([a-z]+:\/\/[^/]*).*$/, "$1");
  return fetchRevocations(fetcher, origin, roots, signal);
}

/** A URL whose last part has a dot is a file, and is fetched as it is. */
function directoryUrl(url: string): string {
  const path = url.replace(/^[a-z]+:\/\/[^/]*/i, "");
  const isFile = /\/[^/]*\.[^/]*$/.test(path);
  return isFile ? url : `${url.replace(/\/+$/, "")}/v1/directory`;
}

function firstCause(error: AggregateError): SourceError {
  return error.errors.find((cause) => cause instanceof SourceError) ?? new SourceError("no connection");
}

/** What is wrong with a list, in words. */
export function listFault(error: ListError): string {
  return {
    malformed: "what it sends is not a signed list",
    "other-federation": "its list is of another federation",
    "not-by-a-root": "its list is not signed under a pinned root key",
    "not-by-the-delegate": "its list is not signed by the key that the root has named",
    expired: "its list has expired; is this device's clock right?",
    "from-the-future": "its list is from the future; is this device's clock right?",
    empty: "its list has no node",
    "revoked-key": "its list is signed by a key that was revoked",
  }[error.fault];
}
