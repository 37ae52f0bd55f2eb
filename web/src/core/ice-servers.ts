/** The ICE servers of a node, which the browser will dial: checked, as a node may name any host. */
import type { Json } from "./messages.js";
import { hostOf, isPublicHost } from "./special.js";

/** The most servers, and URLs of a server. A node names two servers at most. */
const MAX_SERVERS = 4;
const MAX_URLS = 8;
/** RFC 7064 and RFC 7065. */
const FORM = /^(?:stuns?|turns?):(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?(?:\?transport=(?:udp|tcp))?$/;

/** The usable servers of a node at `nodeUrl`. A host in a private network counts only if it is the node's own. */
export function readIceServers(value: unknown, nodeUrl: string, mayBePrivate: boolean): RTCIceServer[] {
  const servers = (Array.isArray(value) ? value : []).slice(0, MAX_SERVERS) as (Json | null)[];
  const isUsable = (url: unknown): url is string => {
    const host = typeof url === "string" ? FORM.exec(url)?.[1] : undefined;
    return host !== undefined && (mayBePrivate || isPublicHost(host) || host === hostOf(nodeUrl));
  };
  return servers.flatMap((server) => {
    const named = Array.isArray(server?.urls) ? server.urls : [server?.urls];
    const urls = named.filter(isUsable).slice(0, MAX_URLS);
    const { username, credential } = server ?? {};
    const hasCredential = typeof username === "string" && typeof credential === "string";
    const isComplete = hasCredential || urls.every((url) => url.startsWith("stun"));
    if (urls.length === 0 || !isComplete) return [];
    return [hasCredential ? { urls, username, credential } : { urls }];
  });
}
