/**
 * Text from others that is safe to show. A control character can break a line, and a format character can reverse text
 * or hide in it.
 */

/** Characters that are not printable: by their category, by Unicode's list of what is not shown, or because they are blank. */
export const UNPRINTABLE = /[\p{C}\p{DI}\p{Zl}\p{Zp}\u2800\u{1107f}\u{13441}\u{13442}\u{16fe4}\u{1d159}]/u;
const ALL_UNPRINTABLE = new RegExp(UNPRINTABLE.source, "gu");

/** The text with each unprintable character as an escape, as in `\u{202e}`. */
export function escaped(text: string): string {
  return text.replace(ALL_UNPRINTABLE, (c) => `\\u{${(c.codePointAt(0) as number).toString(16)}}`);
}
