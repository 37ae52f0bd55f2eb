/** The list of calls. Kept only while it is switched on, and only on this device. */
import type { ContactId } from "@chappe/client";
import { type Signal, signal } from "@preact/signals-core";
import type { Vault } from "./vault.js";

/** The most calls that are listed. */
const MAX_ENTRIES = 200;

export interface LogEntry {
  readonly contact: ContactId;
  readonly kind: "outgoing" | "incoming" | "missed";
  /** `Date.now()` of the ring. */
  readonly at: number;
  /** Milliseconds of media; 0 if there was none. */
  readonly duration: number;
}

export class CallLog {
  readonly entries: Signal<readonly LogEntry[]> = signal([]);
  readonly #vault: Vault;

  constructor(vault: Vault) {
    this.#vault = vault;
  }

  async load(): Promise<void> {
    this.entries.value = (await this.#vault.get<LogEntry[]>("log")) ?? [];
  }

  async add(entry: LogEntry): Promise<void> {
    this.entries.value = [entry, ...this.entries.value].slice(0, MAX_ENTRIES);
    await this.#vault.set("log", this.entries.value);
  }

  async clear(): Promise<void> {
    this.entries.value = [];
    await this.#vault.delete("log");
  }
}
