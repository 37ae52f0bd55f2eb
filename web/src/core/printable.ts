/**
 * Text from others that is safe to show. A control character can break a line, and a format character can reverse text
 * or hide in it.
 */

/** Categories of characters that are not printable, and invisible characters of other categories. */
const UNPRINTABLE =
  /\p{Cc}|\p{Cf}|\p{Zl}|\p{Zp}|\p{Co}|\p{Cs}|\p{Cn}|\u034f|[\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0]|[\u180b-\u180f]|[\ufe00-\ufe0f]|[\u{e0000}-\u{e0fff}]/u;
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
