/** The nodes that a stopping node names. Loaded when one stops. */
import { type Bytes, equalBytes, fromBase64url } from "../core/bytes.js";
import { type Endpoint, endpointOf, urlOf } from "../core/endpoint.js";
import { isPublicUrl } from "../core/special.js";
import { decodeNodeRecord, MAX_CLOCK_SKEW, MAX_LIFETIME, type NodeRecord } from "../core/statements.js";
import type { Trust } from "./trust.js";

/** The most records that are read: a node names three. */
const MAX_RECORDS = 3;
/** The bit of a node that is in reserve: it is for those to whom somebody has given its address. */
const RESERVE = 2;

/** The nodes of the first of these records that count at `now`, in seconds since 1970. Skips all others. */
export async function readAlternatives(
  records: unknown,
  trust: Trust,
  now: number,
  isPrivate = false,
): Promise<Endpoint[]> {
  // Without a root, nobody knows which federation it is.
  if (!Array.isArray(records) || trust.pinned.length === 0) return [];
  const federation = await trust.federation;
  const bytes = records.slice(0, MAX_RECORDS).map((record) => fromBase64url(record) ?? new Uint8Array());
  const decoded = await Promise.all(bytes.map(decodeNodeRecord));
  const counting = decoded.filter((record) => record !== undefined).filter((record) => counts(record, federation, now));
  const endpoints = counting.map(({ node, clientUrls }) => {
    const url = clientUrls.find((one) => one.startsWith("wss:")) ?? clientUrls[0];
    return url && endpointOf(node, url);
  });
  return endpoints.filter((one) => typeof one === "object" && (isPrivate || isPublicUrl(urlOf(one)))) as Endpoint[];
}

function counts({ abilities, issuedAt, expiresAt, ...record }: NodeRecord, federation: Bytes, now: number): boolean {
  return (
    equalBytes(record.federation, federation) &&
    (abilities & RESERVE) === 0 &&
    issuedAt <= now + MAX_CLOCK_SKEW &&
    now < expiresAt &&
    expiresAt <= issuedAt + MAX_LIFETIME
  );
}
