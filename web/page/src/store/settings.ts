/** The settings of this device. */
import { type ReadonlySignal, type Signal, signal } from "@preact/signals-core";
import { type Federation, NO_FEDERATION } from "./federation.js";
import type { Vault } from "./vault.js";

export type Theme = "system" | "light" | "dark";

export interface Settings {
  /** Where to look for nodes. Without it the page asks for one. */
  readonly federation: Federation | undefined;
  /** The name that new contacts see. */
  readonly name: string;
  readonly theme: Theme;
  /** `system`, or the code of a language. */
  readonly language: string;
  /** Whether calls are listed on this device. */
  readonly keepsLog: boolean;
  /** Whether title, icon, notifications and media keys show a call. */
  readonly showsCalls: boolean;
  /** Whether an incoming call can be heard. */
  readonly rings: boolean;
}

/** Quiet: nothing shows or keeps that somebody called. */
export const DEFAULTS: Settings = {
  federation: undefined,
  name: "",
  theme: "system",
  language: "system",
  keepsLog: false,
  showsCalls: false,
  rings: false,
};

/** The settings, and their place in the vault. */
export class SettingsStore {
  readonly #vault: Vault;
  readonly #value: Signal<Settings> = signal(DEFAULTS);

  constructor(vault: Vault) {
    this.#vault = vault;
  }

  get value(): ReadonlySignal<Settings> {
    return this.#value;
  }

  async load(): Promise<void> {
    const stored = await this.#vault.get<Partial<Settings>>("settings");
    // An earlier version has stored no id.
    const federation = stored?.federation && { ...NO_FEDERATION, ...stored.federation };
    this.#value.value = { ...DEFAULTS, ...stored, federation };
  }

  async change(part: Partial<Settings>): Promise<void> {
    this.#value.value = { ...this.#value.value, ...part };
    await this.#vault.set("settings", this.#value.value);
  }
}
