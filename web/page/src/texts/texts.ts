/** The texts of the page, in the language of the person. Each language is one file, with the keys of the English one. */
import { computed, type ReadonlySignal, signal } from "@preact/signals-core";
import { en } from "./en.js";

export type TextKey = keyof typeof en;
/** All texts of a language. */
export type Texts = Readonly<Record<TextKey, string>>;

/** The languages, by their own names. */
export const LANGUAGES = { en: "English", de: "Deutsch", ar: "العربية" } as const;
export type Language = keyof typeof LANGUAGES;

/** All but English are loaded when they are needed. */
const LOADERS: Readonly<Record<Language, () => Promise<Texts>>> = {
  en: () => Promise.resolve(en),
  de: async () => (await import("./de.js")).de,
  ar: async () => (await import("./ar.js")).ar,
};

const RIGHT_TO_LEFT: ReadonlySet<Language> = new Set(["ar"]);

/** `system`, or a language. */
export const chosenLanguage = signal("system");

const wantedLanguage: ReadonlySignal<Language> = computed(() => {
  const wanted = chosenLanguage.value === "system" ? navigator.languages : [chosenLanguage.value];
  return wanted.map((tag) => tag.slice(0, 2)).find(isLanguage) ?? "en";
});

const inUse = signal<{ readonly language: Language; readonly texts: Texts }>({ language: "en", texts: en });

/** The language in use. */
export const language: ReadonlySignal<Language> = computed(() => inUse.value.language);

/** Loads the wanted language. The one before stays until it is there. */
export async function loadLanguage(): Promise<void> {
  const wanted = wantedLanguage.value;
  const texts = await LOADERS[wanted]();
  if (wantedLanguage.value === wanted) inUse.value = { language: wanted, texts };
}

export const direction: ReadonlySignal<"ltr" | "rtl"> = computed(() =>
  RIGHT_TO_LEFT.has(language.value) ? "rtl" : "ltr",
);

function isLanguage(tag: string): tag is Language {
  return tag in LANGUAGES;
}

/** The text of a key. `{name}` in it is replaced by the value of `name`. */
export function t(key: TextKey, values: Readonly<Record<string, string | number>> = {}): string {
  const text = inUse.value.texts[key];
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => {
    const value = values[name];
    if (value === undefined) return whole;
    // Isolated: a name in another script must not turn the sentence around.
    return typeof value === "number" ? new Intl.NumberFormat(language.value).format(value) : `\u2068${value}\u2069`;
  });
}

type Underscored<Code extends string> = Code extends `${infer Head}-${infer Tail}`
  ? `${Head}_${Underscored<Tail>}`
  : Code;

/** The key of a text for a code such as `no-answer`. */
export function keyOf<Prefix extends string, Code extends string>(
  prefix: Prefix,
  code: Code,
): `${Prefix}${Underscored<Code>}` {
  return `${prefix}${code.replaceAll("-", "_")}` as `${Prefix}${Underscored<Code>}`;
}

/** Hours and minutes. */
export function timeText(at: number): string {
  return new Intl.DateTimeFormat(language.value, { timeStyle: "short" }).format(at);
}

export function dateText(at: number): string {
  return new Intl.DateTimeFormat(language.value, { dateStyle: "medium", timeStyle: "short" }).format(at);
}

/** Such as 1:05. */
export function durationText(milliseconds: number): string {
  const seconds = Math.floor(milliseconds / 1_000);
  const digits = new Intl.NumberFormat(language.value, { minimumIntegerDigits: 2 });
  const minutes = new Intl.NumberFormat(language.value).format(Math.floor(seconds / 60));
  return `${minutes}:${digits.format(seconds % 60)}`;
}
