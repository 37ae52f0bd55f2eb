/** Nodes that a person enters: `chappe://KEY@host:port`, `wss://host:port#KEY`, or a bare URL, which pins no key. */
import { fromBase64url, toBase64url } from "../core/bytes.js";
import { type Candidate, newCandidate } from "./source.js";

const MAX_URL = 128;

/** Parses a node's address. Throws `SyntaxError` with what to write instead. */
export function parseManualNode(text: string): Candidate {
  const trimmed = text.trim();
  const short = /^chappe:\/\/([^@]*)@(.*)$/.exec(trimmed);
  const [url, id] = short === null ? splitFragment(trimmed) : [`wss://${short[2]}`, short[1]];
  if (!/^wss?:\/\//.test(url)) throw new SyntaxError("begin the address with wss://, ws:// or chappe://");
  if (url.length > MAX_URL || !URL.canParse(url) || /[\s@?]/.test(url)) {
    throw new SyntaxError("not a node's address: wss://host:port#KEY is expected");
  }
  const node = id === undefined ? undefined : fromBase64url(id, 32);
  if (id !== undefined && node === undefined)
    throw new SyntaxError("the part after # (or before @) is not a node's key");
  return newCandidate(url, node, node && toBase64url(node), "manual");
}

function splitFragment(text: string): [string, string | undefined] {
  const at = text.indexOf("#");
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}
