/** A node's key and one URL of it in compact form: for links, shards and referrals. */
import { type Bytes, fromBase64url, toBase64url } from "./bytes.js";
import type { Reader, Writer } from "./postcard.js";

const MAX_HOST = 64;

/** An IP address and a port. */
export interface AddressPort {
  /** 4 or 16 bytes. */
  readonly ip: Bytes;
  readonly port: number;
}

/** A node's key, and one WebSocket URL of it without a path. */
export interface Endpoint {
  readonly node: Bytes;
  readonly isTls: boolean;
  /** An address, or host and optional port as text. */
  readonly authority: AddressPort | string;
}

/** Reads an address: a variant, 4 or 16 bytes, and the port. */
export function readAddress(reader: Reader): AddressPort {
  const ip = reader.bytes(reader.varint(1) === 0 ? 4 : 16);
  return { ip, port: reader.varint(0xffff) };
}

function writeAddress(writer: Writer, address: AddressPort): void {
  writer
    .varint(address.ip.length === 4 ? 0 : 1)
    .bytes(address.ip)
    .varint(address.port);
}

/** Reads an endpoint. The caller checks {@link isWellFormed}. */
export function readEndpoint(reader: Reader): Endpoint {
  const node = reader.bytes(32);
  const isTls = reader.bool();
  const authority = reader.varint(1) === 0 ? readAddress(reader) : reader.text(MAX_HOST);
  return { node, isTls, authority };
}

/** Writes an endpoint. */
export function writeEndpoint(writer: Writer, endpoint: Endpoint): void {
  writer.bytes(endpoint.node).bool(endpoint.isTls);
  if (typeof endpoint.authority === "string") writer.varint(1).text(endpoint.authority);
  else writeAddress(writer.varint(0), endpoint.authority);
}

/** Whether the URL can be dialled. */
export function isWellFormed({ authority }: Endpoint): boolean {
  if (typeof authority !== "string") return authority.port !== 0;
  return authority.length > 0 && authority.length <= MAX_HOST && /^[A-Za-z0-9.:[\]-]+$/.test(authority);
}

/** The endpoint of a node's URL, or `undefined` if the URL has a path or its host is too long. */
export function endpointOf(node: Bytes, url: string): Endpoint | undefined {
  const match = /^(wss?):\/\/([^/]+)\/*$/.exec(url);
  if (match === null) return undefined;
  const host = match[2] as string;
  const endpoint = { node, isTls: match[1] === "wss", authority: parseAddressPort(host) ?? host };
  return isWellFormed(endpoint) ? endpoint : undefined;
}

/** The WebSocket URL of an endpoint. */
export function urlOf({ isTls, authority }: Endpoint): string {
  const host = typeof authority === "string" ? authority : formatAddressPort(authority);
  return `${isTls ? "wss" : "ws"}://${host}`;
}

/** The text in referrals: `wss://host:port#NODE-ID`. */
export function endpointText(endpoint: Endpoint): string {
  return `${urlOf(endpoint)}#${toBase64url(endpoint.node)}`;
}

/** The endpoint of a referral's text, or `undefined`. */
export function parseEndpointText(text: unknown): Endpoint | undefined {
  if (typeof text !== "string" || text.length > 256) return undefined;
  const [url, id] = text.split("#", 2);
  const node = fromBase64url(id, 32);
  return node === undefined || url === undefined ? undefined : endpointOf(node, url);
}

/** Parses `1.2.3.4:5` or `[::1]:5`. Returns `undefined` for anything else, such as a name. */
export function parseAddressPort(text: string): AddressPort | undefined {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})$/.exec(text);
  if (match === null) return undefined;
  const ip = parseIp((match[1] ?? match[2]) as string);
  const port = Number(match[3]);
  return ip === undefined || port > 0xffff ? undefined : { ip, port };
}

/** Parses an IPv4 or IPv6 address without brackets. */
export function parseIp(text: string): Bytes | undefined {
  return text.includes(":") ? parseIpv6(text) : parseIpv4(text);
}

function parseIpv4(text: string): Bytes | undefined {
  const parts = text.split(".");
  const isByte = (part: string) => /^(0|[1-9][0-9]{0,2})$/.test(part) && Number(part) <= 255;
  return parts.length === 4 && parts.every(isByte) ? new Uint8Array(parts.map(Number)) : undefined;
}

function parseIpv6(text: string): Bytes | undefined {
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const groups = halves.map((half) => ipv6Groups(half));
  const [head, tail] = groups;
  if (head === undefined || groups.includes(undefined)) return undefined;
  const missing = 8 - head.length - (tail?.length ?? 0);
  if (tail === undefined ? missing !== 0 : missing < 1) return undefined;
  const all = [...head, ...Array<number>(missing).fill(0), ...(tail ?? [])];
  return new Uint8Array(all.flatMap((group) => [group >> 8, group & 0xff]));
}

function ipv6Groups(half: string): number[] | undefined {
  if (half === "") return [];
  const groups: number[] = [];
  const parts = half.split(":");
  for (const [index, part] of parts.entries()) {
    const ipv4 = index === parts.length - 1 && part.includes(".") ? parseIpv4(part) : undefined;
    if (ipv4 !== undefined) {
      const [a, b, c, d] = [...ipv4] as [number, number, number, number];
      groups.push(a * 256 + b, c * 256 + d);
    } else if (/^[0-9A-Fa-f]{1,4}$/.test(part)) {
      groups.push(Number.parseInt(part, 16));
    } else {
      return undefined;
    }
  }
  return groups;
}

function formatAddressPort({ ip, port }: AddressPort): string {
  if (ip.length === 4) return `${ip.join(".")}:${port}`;
  const groups = Array.from({ length: 8 }, (_, at) =>
    (((ip[2 * at] as number) << 8) | (ip[2 * at + 1] as number)).toString(16),
  );
  return `[${compress(groups)}]:${port}`;
}

/** RFC 5952: the first longest run of zeros is `::`, so that two programs write an address alike. */
function compress(groups: readonly string[]): string {
  let best = { at: -1, length: 1 };
  for (let at = 0; at < 8; at++) {
    let length = 0;
    while (at + length < 8 && groups[at + length] === "0") length++;
    if (length > best.length) best = { at, length };
  }
  if (best.at < 0) return groups.join(":");
  return `${groups.slice(0, best.at).join(":")}::${groups.slice(best.at + best.length).join(":")}`;
}
