/** Pairing in a page: by a code, a link or a QR code. Loaded when somebody pairs. */
import type { Discovery } from "../discovery/discovery.js";
import { linkQrText, linkUrl, type Paired, type PairingParts, pairByCode, showCode } from "../pairing/pair.js";
import type { ShownPairing } from "./client.js";

/** Pairs with the person who shows this code, link or QR text. The nodes of a link are used from then on. */
export async function pair(text: string, discovery: Discovery, parts: PairingParts): Promise<Paired> {
  const isLink = /^(https:|chappe:)/i.test(text.trim());
  return pairByCode(isLink ? ((await discovery.addLink(text)).code ?? "") : text, parts);
}

/** Shows a code, with a link to `site` or to this page's. */
export async function show(
  {
    site = globalThis.location?.origin ?? "",
    isForLink = false,
  }: { readonly site?: string; readonly isForLink?: boolean },
  discovery: Discovery,
  parts: PairingParts,
): Promise<Omit<ShownPairing, "paired"> & { readonly paired: Promise<Paired> }> {
  const shown = await showCode(isForLink, parts);
  const { code, expiresAt, paired } = shown;
  const { pinned, federation } = discovery.trust;
  const link = shown.link(pinned.length > 0 ? await federation : undefined);
  return {
    code,
    link: link && site.startsWith("https:") ? linkUrl(link, site) : undefined,
    qrText: link && linkQrText(link),
    expiresAt,
    paired,
  };
}
