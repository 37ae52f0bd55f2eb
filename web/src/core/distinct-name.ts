/** Tells names that look the same apart. Loaded when a contact is added or renamed. */
import { cleanName, MAX_NAME } from "./clean-name.js";

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
