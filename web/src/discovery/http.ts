/** One GET of a page: bounded in time and size, without cookies or redirects, and with a cause in words if it fails. */
import { type Bytes, concat } from "../core/bytes.js";
import { isMixedContent, isPublicUrl, isThisMachine } from "../core/special.js";
import { SourceError } from "./source.js";

/** The whole request takes this long at most, in milliseconds. */
const TIMEOUT = 6_000;

/** No cookies, no referrer, and no entry in the browser's cache. */
const WITHOUT_TRACE: RequestInit = { cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer" };

/** The part of `fetch` that discovery uses. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/** The media type of signed statements. */
export const OCTETS = "application/octet-stream";

/** Where a node serves its pages, by the URL of its WebSocket. */
export function originOf(nodeUrl: string): string {
  return nodeUrl.replace(/^ws/, "http").replace(/^([a-z]+:\/\/[^/]*).*$/, "$1");
}

/** Gets at most `maxLength` bytes. Rejects with {@link SourceError}. */
export async function get(
  fetcher: Fetch,
  url: string,
  accept: string,
  maxLength: number,
  signal: AbortSignal,
): Promise<Bytes> {
  if (isMixedContent(url)) throw new SourceError(MIXED_CONTENT);
  const timeout = AbortSignal.timeout(TIMEOUT);
  const init: RequestInit = {
    ...WITHOUT_TRACE,
    headers: { accept },
    redirect: "error",
    signal: AbortSignal.any([signal, timeout]),
  };
  try {
    const response = await fetcher(url, init);
    if (response.status !== 200) throw new SourceError(`HTTP status ${response.status}`);
    return await read(response, maxLength);
  } catch (error) {
    if (error instanceof SourceError) throw error;
    if (timeout.aborted) throw new SourceError("no answer in time");
    if (signal.aborted) throw new SourceError("the search was over");
    throw new SourceError(await cause(fetcher, url));
  }
}

async function read(response: Response, maxLength: number): Promise<Bytes> {
  const reader = response.body?.getReader();
  const parts: Uint8Array[] = [];
  let length = 0;
  for (let part = await reader?.read(); part !== undefined && !part.done; part = await reader?.read()) {
    length += part.value.length;
    if (length > maxLength) {
      await reader?.cancel();
      throw new SourceError("the answer is too long");
    }
    parts.push(part.value);
  }
  return concat(...parts);
}

/** What a page can find out about a request that failed: a browser says only that it did. */
async function cause(fetcher: Fetch, url: string): Promise<string> {
  if (globalThis.navigator?.onLine === false) return "this device is offline";
  if (await isDeniedLocally(url)) return LOCAL_NETWORK_DENIED;
  // `no-cors` allows no `redirect`, so this asks for the head alone.
  const signal = AbortSignal.timeout(TIMEOUT / 3);
  return fetcher(url, { ...WITHOUT_TRACE, method: "HEAD", mode: "no-cors", signal }).then(
    () => "the server answers, but allows no page to read it (CORS)",
    () => "no connection",
  );
}

/** The cause of a request or connection without TLS of a page that was loaded with it. */
export const MIXED_CONTENT = "the browser lets no page of https load http (mixed content)";
/** The cause of a request that the browser refuses because of Local Network Access. */
export const LOCAL_NETWORK_DENIED = "the browser denies this page access to the local network";

/** Whether a URL is in a private network, and the browser denies the page access to it. */
export async function isDeniedLocally(url: string): Promise<boolean> {
  if (isPublicUrl(url)) return false;
  const query = async (name: string) => navigator.permissions.query({ name: name as PermissionName });
  // Earlier versions of Chromium have one permission for both. A browser that knows none asks for none.
  const status = await query(isThisMachine(url) ? "loopback-network" : "local-network")
    .catch(() => query("local-network-access"))
    .catch(() => undefined);
  return status?.state === "denied";
}
