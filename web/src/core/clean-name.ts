/** The form of a name. Loaded when one is entered or received. */
import { UNPRINTABLE } from "./printable.js";

/** The longest name in bytes of UTF-8. */
export const MAX_NAME = 64;

/** A name as it is stored: composed (NFC), printable characters only, single spaces, at most {@link MAX_NAME} bytes. */
export function cleanName(name: string): string {
  const encoder = new TextEncoder();
  let clean = "";
  let length = 0;
  for (const character of name.normalize("NFC")) {
    const c = /\s/u.test(character) ? " " : character;
    const doublesASpace = c === " " && (clean === "" || clean.endsWith(" "));
    const size = encoder.encode(c).length;
    if (doublesASpace || UNPRINTABLE.test(c) || length + size > MAX_NAME) continue;
    clean += c;
    length += size;
  }
  return clean.trimEnd();
}
