/**
 * DNS over HTTPS (RFC 8484) from a page: shards of the directory as TXT records.
 *
 * By GET, which browsers send without a preflight. Loaded only when a search comes to it.
 */
import { decode, encode, RECURSION_DESIRED } from "@dnsquery/dns-packet";
import { type Bytes, concat, fromBase64url, toBase64url, utf8Text } from "../core/bytes.js";
import { urlOf } from "../core/endpoint.js";
import { isPublicUrl } from "../core/special.js";
import { ListError } from "../core/statements.js";
import { type Fetch, get } from "./http.js";
import { listOf } from "./registry.js";
import { decodeShard } from "./shard.js";
import { newCandidate, SourceError, type SourceResponse } from "./source.js";
import { framed, type Trust } from "./trust.js";

const MEDIA_TYPE = "application/dns-message";
const MAX_ANSWER = 65_535;
const SHARD = "chappe1=";
const MAX_SHARD_TEXT = 1232;
/** A succession of roots, or a revocation. */
const STATEMENT = /^chappe1[sr]=(.*)$/;
/** The most statements of one name: all that a federation can have. */
const MAX_STATEMENTS = 12 + 64;

/** Queries the TXT records of these names at a provider. Rejects with {@link SourceError}. */
export async function queryShards(
  fetcher: Fetch,
  provider: string,
  names: readonly string[],
  trust: Trust,
  isPrivate: boolean,
  now: number,
  signal: AbortSignal,
): Promise<SourceResponse> {
  const answers = await Promise.allSettled(names.map((name) => queryTxt(fetcher, provider, name, signal)));
  const found = answers.map((answer) => (answer.status === "fulfilled" ? answer.value : []));
  const texts = found.flat();
  const failed = answers.find((answer) => answer.status === "rejected");
  if (texts.length === 0 && failed !== undefined) throw failed.reason;
  // Statements count even without a list, and the lists may depend on them.
  for (const ofName of found) await trust.learn(statementsOf(ofName), now);
  const response = {
    candidates: [] as SourceResponse["candidates"][number][],
    lists: [] as SourceResponse["lists"][number][],
  };
  let fault: ListError | undefined;
  for (const text of texts) {
    if (!text.startsWith(SHARD) || text.length > MAX_SHARD_TEXT) continue;
    const bytes = fromBase64url(text.slice(SHARD.length)) ?? new Uint8Array();
    try {
      const shard = await decodeShard(bytes, trust, now);
      response.lists.push(listOf("shard", shard));
      const usable = shard.nodes.filter((node) => isPrivate || !isPublicUrl(provider) || isPublicUrl(urlOf(node)));
      response.candidates.push(
        ...usable.map((node) => newCandidate(urlOf(node), node.node, toBase64url(node.node), "dns")),
      );
    } catch (error) {
      if (!(error instanceof ListError)) throw error;
      fault = error;
    }
  }
  if (response.candidates.length === 0) {
    throw new SourceError(fault?.message ?? "the names have no list of nodes");
  }
  return response;
}

/** The statements of roots among the records of one name, as a list. */
function statementsOf(texts: readonly string[]): Bytes {
  const statements = texts.flatMap((text) => fromBase64url(STATEMENT.exec(text)?.[1]) ?? []);
  return concat(...statements.slice(0, MAX_STATEMENTS).map(framed));
}

async function queryTxt(fetcher: Fetch, provider: string, name: string, signal: AbortSignal): Promise<string[]> {
  // RFC 8484, 4.1: the id is 0, so that caches see equal queries.
  const question = { type: "TXT", name, class: "IN" } as const;
  const query = encode({ type: "query", id: 0, flags: RECURSION_DESIRED, questions: [question] });
  const separator = provider.includes("?") ? "&" : "?";
  const url = `${provider}${separator}dns=${toBase64url(new Uint8Array(query))}`;
  const answer = await get(fetcher, url, MEDIA_TYPE, MAX_ANSWER, signal);
  return readTxt(answer, name);
}

/** The texts of a DNS answer, each with its strings joined. */
export function readTxt(answer: Bytes, name: string): string[] {
  let packet: ReturnType<typeof decode>;
  try {
    packet = decode(answer);
  } catch {
    throw new SourceError("what it sends is not a DNS message");
  }
  const rcode = (packet as { rcode?: string }).rcode;
  if (rcode === "NXDOMAIN") throw new SourceError(`the name does not exist: ${name}`);
  if (rcode !== undefined && rcode !== "NOERROR") throw new SourceError(`it failed to resolve the name (${rcode})`);
  return (packet.answers ?? []).flatMap((record) => {
    if (record.type !== "TXT") return [];
    const strings = (Array.isArray(record.data) ? record.data : [record.data]) as readonly (string | Uint8Array)[];
    try {
      return [
        strings.every((part) => typeof part === "string")
          ? strings.join("")
          : utf8Text(concat(...(strings as Uint8Array[]))),
      ];
    } catch {
      return [];
    }
  });
}
