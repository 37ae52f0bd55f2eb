/** Makes links: for a pairing, so this is loaded with it. */
import { base32nopad } from "@scure/base";
import { type Bytes, concat } from "../core/bytes.js";
import { parseEndpointText, writeEndpoint } from "../core/endpoint.js";
import { Writer } from "../core/postcard.js";
import { checksum, type Link, MAX_BYTES, MAX_LINK_NODES, PREFIX, VERSION } from "./link.js";

function encode(link: Link): Bytes {
  const writer = new Writer().varint(link.expiresAt).option(link.code, (part, code) => part.text(code));
  writer.varint(link.nodes.length);
  for (const node of link.nodes) writeEndpoint(writer, node);
  writer.option(link.federation, (part, federation) => part.bytes(federation));
  const body = concat(new Uint8Array([VERSION]), writer.finish());
  return concat(body, checksum(body));
}

/**
 * A link to the first of these nodes (`wss://host:port#NODE-ID`) that fit, or `undefined` if none does. If there is no
 * room for the federation, the last of several nodes is left out.
 */
export function createLink(
  nodes: readonly string[],
  code: string | undefined,
  expiresAt: number,
  federation: Bytes | undefined,
): Link | undefined {
  const fits = (link: Link) => encode(link).length <= MAX_BYTES;
  const endpoints = nodes.map(parseEndpointText).filter((endpoint) => endpoint !== undefined);
  let link: Link = { expiresAt: Math.floor(expiresAt), code, nodes: [], federation: undefined };
  for (const endpoint of endpoints) {
    const longer = { ...link, nodes: [...link.nodes, endpoint] };
    if (longer.nodes.length <= MAX_LINK_NODES && fits(longer)) link = longer;
  }
  if (link.nodes.length === 0) return undefined;
  if (federation === undefined) return link;
  for (let count = link.nodes.length; count > 0; count--) {
    const committed = { ...link, nodes: link.nodes.slice(0, count), federation };
    if (fits(committed)) return committed;
  }
  return link;
}

/** The content of the QR code. */
export function linkQrText(link: Link): string {
  return PREFIX + base32nopad.encode(encode(link));
}

/** The link as a URL. `site` is any `https://…`; what follows `#` reaches no server. */
export function linkUrl(link: Link, site: string): string {
  return `${site.replace(/\/+$/, "")}/i#${base32nopad.encode(encode(link))}`;
}
