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

/** `wanted`, with a number appended if it looks like one of `taken`. */
export function distinctName(wanted: string, taken: readonly string[]): string {
  const name = cleanName(wanted) || "contact";
  const looks = new Set(taken.map(look));
  for (let n = 1; ; n++) {
    const suffix = n === 1 ? "" : ` ${n}`;
    const candidate = cut(name, MAX_NAME - suffix.length) + suffix;
    if (!looks.has(look(candidate))) return candidate;
  }
}

function cut(name: string, length: number): string {
  const encoder = new TextEncoder();
  let kept = "";
  for (const c of name) {
    if (encoder.encode(kept + c).length > length) break;
    kept += c;
  }
  return kept.trimEnd();
}

/** Letters of other scripts, and digits, beside the Latin letter that they look like in common fonts. */
const LOOKALIKES = new Map(
  "аa еe оo рp сc уy хx іi јj ѕs ԁd һh ӏl вb нh кk мm тt αa βb εe ιi κk νv οo ρp τt υu χx γy ωw 0o 1l |l ıi"
    .split(" ")
    .map((pair) => [...pair] as [string, string]),
);

/** What a reader sees of a name: without case, accents, spaces, and differences between letters that look alike. */
function look(name: string): string {
  const base = name
    .normalize("NFKD")
    .toLowerCase()
    .replace(/[\p{M}\s]/gu, "");
  return [...base]
    .map((c) => LOOKALIKES.get(c) ?? c)
    .join("")
    .replace(/i/g, "l");
}
