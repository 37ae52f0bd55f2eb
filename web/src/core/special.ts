/** Loopback, private and other special-purpose addresses, which are not public servers. */
import { parseIp } from "./endpoint.js";

/** IPv4 ranges of the IANA special-purpose registry without public servers: address and prefix length. */
const V4: readonly (readonly [string, number])[] = [
  ["0.0.0.0", 8],
  ["10.0.0.0", 8],
  ["100.64.0.0", 10],
  ["127.0.0.0", 8],
  ["169.254.0.0", 16],
  ["172.16.0.0", 12],
  ["192.0.0.0", 24],
  ["192.0.2.0", 24],
  ["192.88.99.0", 24],
  ["192.168.0.0", 16],
  ["198.18.0.0", 15],
  ["198.51.100.0", 24],
  ["203.0.113.0", 24],
  ["224.0.0.0", 4],
  ["240.0.0.0", 4],
];
/** IPv4-mapped IPv6 addresses (RFC 4291, section 2.5.5.2). */
const V4_MAPPED = ["::ffff:0:0", 96] as const;
/** Global unicast, and the ranges in it without public servers: special, documentation, 6to4. */
const V6_GLOBAL = ["2000::", 3] as const;
const V6: readonly (readonly [string, number])[] = [
  ["2001::", 23],
  ["2001:db8::", 32],
  ["2002::", 16],
];
/** Names for local use. */
const LOCAL = ["", "localhost", "local", "internal", "lan", "home", "test", "invalid", "onion"];

/** Whether a public server may have this host: a public address, or a name with a dot that is not for local use. */
export function isPublicHost(host: string): boolean {
  const ip = parseIp(host.replace(/^\[|\]$/g, ""));
  if (ip !== undefined) return isPublicIp(ip);
  const labels = host.replace(/\.$/, "").toLowerCase().split(".");
  const top = labels.length > 1 ? (labels.at(-1) as string) : "";
  // A numeric last label means an address in another notation: `127.1`, `0x7f.1`.
  return !/^[0-9]/.test(top) && !LOCAL.includes(top) && !labels.join(".").endsWith("home.arpa");
}

/** Whether a public server may have this URL. */
export function isPublicUrl(url: string): boolean {
  return isPublicHost(hostOf(url));
}

/** The host to which a browser would connect for a URL, without port; empty if it is none. An IPv6 address has brackets. */
export function hostOf(url: string): string {
  return URL.canParse(url) ? new URL(url).hostname : "";
}

/** Whether the URL leads to this machine. */
export function isThisMachine(url: string): boolean {
  return /^(localhost|127\.[0-9.]+|\[::1\])$/i.test(hostOf(url));
}

/** Whether the browser refuses this URL because the page itself was loaded over HTTPS. */
export function isMixedContent(url: string): boolean {
  return globalThis.location?.protocol === "https:" && /^(http|ws):/.test(url) && !isThisMachine(url);
}

function isPublicIp(ip: Uint8Array): boolean {
  const canonical = ip.length === 16 && isIn(ip, V4_MAPPED) ? ip.subarray(12) : ip;
  if (canonical.length === 4) return !V4.some((range) => isIn(canonical, range));
  return isIn(canonical, V6_GLOBAL) && !V6.some((range) => isIn(canonical, range));
}

function isIn(ip: Uint8Array, [net, length]: readonly [string, number]): boolean {
  const base = parseIp(net) as Uint8Array;
  for (let bit = 0; bit < length; bit++) {
    const mask = 0x80 >> (bit & 7);
    if (((ip[bit >> 3] as number) & mask) !== ((base[bit >> 3] as number) & mask)) return false;
  }
  return true;
}

/** The network of a URL's host: attackers who run many nodes usually rent them in few networks. */
export function networkOf(url: string): string {
  const host = hostOf(url).toLowerCase();
  const ip = parseIp(host.replace(/^\[|\]$/g, ""));
  if (ip?.length === 4) return ip.subarray(0, 2).join(".");
  if (ip !== undefined) return Array.from(ip.subarray(0, 4), (byte) => byte.toString(16)).join(":");
  // The registered domain would take the public suffix list. Two sites below `co.uk` merely count as one network.
  return host.replace(/\.$/, "").split(".").slice(-2).join(".");
}
