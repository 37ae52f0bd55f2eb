/** Where to look for nodes, and how a link or the page's address names it. */

/** Where to look for nodes. */
export interface Federation {
  readonly registries: readonly string[];
  readonly roots: readonly string[];
  /** The federation's id, if the roots are not its founding ones; else empty. */
  readonly id: string;
  /** Nodes by hand: `wss://host:port#KEY`. */
  readonly nodes: readonly string[];
  readonly dnsNames: readonly string[];
  readonly dnsProviders: readonly string[];
  readonly isPrivate: boolean;
}

export const NO_FEDERATION: Federation = {
  registries: [],
  roots: [],
  id: "",
  nodes: [],
  dnsNames: [],
  dnsProviders: [],
  isPrivate: false,
};

/** What the part of the page's address after `#` says. It reaches no server. */
export interface Fragment {
  /** Of `#registry=…&root=…&private`, as `chappe up --demo` prints it. May name no node if there is a link. */
  readonly federation: Federation | undefined;
  /** The link of a contact, as the client takes it. */
  readonly link: string | undefined;
  /** Tells two people in one browser apart, for demonstrations. */
  readonly profile: string;
}

/** Base32 of a link with at least one node. */
const LINK = /^[a-z2-7]{24,}$/i;
const PROFILE = /^[a-z0-9-]{1,20}$/;

export function parseFragment(hash: string): Fragment {
  const text = hash.replace(/^#/, "");
  if (LINK.test(text)) return { federation: undefined, link: `CHAPPE:${text.toUpperCase()}`, profile: "" };
  const parameters = new URLSearchParams(text);
  const link = parameters.get("link") ?? undefined;
  const federation: Federation = {
    registries: parameters.getAll("registry"),
    roots: parameters.getAll("root"),
    id: parameters.get("federation") ?? "",
    nodes: parameters.getAll("node"),
    dnsNames: parameters.getAll("dns"),
    dnsProviders: parameters.getAll("doh"),
    isPrivate: parameters.has("private"),
  };
  const profile = parameters.get("profile") ?? "";
  return {
    federation: namesNodes(federation) || (link !== undefined && federation.isPrivate) ? federation : undefined,
    link,
    profile: PROFILE.test(profile) ? profile : "",
  };
}

/** Whether there is any source of nodes. */
export function namesNodes({ registries, nodes, dnsNames }: Federation): boolean {
  return registries.length > 0 || nodes.length > 0 || dnsNames.length > 0;
}

export function isSameFederation(a: Federation, b: Federation): boolean {
  return JSON.stringify({ ...NO_FEDERATION, ...a }) === JSON.stringify({ ...NO_FEDERATION, ...b });
}

/** The lines of a text field, without empty ones. */
export function linesOf(text: string): string[] {
  return text.split(/\s+/).filter((line) => line !== "");
}

/** What is wrong with a federation, before a client is made of it. */
export type FederationFault = "nothing" | "registry" | "root" | "root-missing" | "id" | "node";

/** A root key: 32 bytes as base64url. */
const ROOT = /^[A-Za-z0-9_-]{43}$/;
const ID = /^([0-9a-f]{32})?$/i;

export function faultOf(federation: Federation): FederationFault | undefined {
  const { registries, roots, id, nodes, dnsNames, dnsProviders } = federation;
  if (!namesNodes(federation)) return "nothing";
  const isUrl = (url: string) => /^https?:/.test(url) && URL.canParse(url);
  if (![...registries, ...dnsProviders].every(isUrl)) return "registry";
  if (!roots.every((root) => ROOT.test(root))) return "root";
  // Lists of nodes count only if they are signed.
  if (registries.length + dnsNames.length > 0 && roots.length === 0) return "root-missing";
  if (!ID.test(id)) return "id";
  if (!nodes.every((node) => /^(wss?|chappe):\/\/\S+$/.test(node))) return "node";
  return undefined;
}
