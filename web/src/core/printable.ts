/**
 * Text from others that is safe to show. A control character can break a line, and a format character can reverse text
 * or hide in it.
 */

/** Characters that are not printable: by their category, by Unicode's list of what is not shown, or because they are blank. */
const UNPRINTABLE = /[\p{C}\p{DI}\p{Zl}\p{Zp}\u2800\u{1107f}\u{13441}\u{13442}\u{16fe4}\u{1d159}]/u;
const ALL_UNPRINTABLE = new RegExp(UNPRINTABLE.source, "gu");

/** The longest name in bytes of UTF-8. */
export const MAX_NAME = 64;

/** The text with each unprintable character as an escape, as in `\u{202e}`. */
export function escaped(text: string): string {
  return text.replace(ALL_UNPRINTABLE, (c) => `\\u{${(c.codePointAt(0) as number).toString(16)}}`);
}

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
