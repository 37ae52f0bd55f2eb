/** The contacts: who they are, whether their words were compared, and who can be reached. */
import type { Client, ContactId, ContactInfo } from "@chappe/client";
import { type Signal, signal } from "@preact/signals-core";
import type { Vault } from "./vault.js";

/** Whether a contact can be called. Asked only when the contact is opened: each question tells nodes who asks when. */
export interface Reach {
  readonly state: "asking" | "reachable" | "unreachable" | "unknown";
  /** `Date.now()` of the answer. */
  readonly at: number;
}

/** The other side attaches its new inbox some seconds after a pairing. Until then it cannot be found. */
const SETTLES = 10_000;
const ASK_AGAIN = 2_000;

/** The words of a pairing, until both people have compared them. */
type Words = Readonly<Record<ContactId, readonly string[]>>;

export class Book {
  readonly contacts: Signal<readonly ContactInfo[]> = signal([]);
  readonly reach: Signal<ReadonlyMap<ContactId, Reach>> = signal(new Map());
  /** Words that are still to be compared. */
  readonly words: Signal<Words> = signal({});
  /** Contacts who called in vain since the page was opened. In memory only. */
  readonly missed: Signal<ReadonlySet<ContactId>> = signal(new Set());
  readonly #client: Client;
  readonly #vault: Vault;
  readonly #pairedAt = new Map<ContactId, number>();

  constructor(client: Client, vault: Vault) {
    this.#client = client;
    this.#vault = vault;
    const read = () => {
      this.contacts.value = client.contacts;
    };
    client.addEventListener("contactschanged", read);
    client.addEventListener("connected", read);
  }

  async load(): Promise<void> {
    this.words.value = (await this.#vault.get<Words>("words")) ?? {};
  }

  find(id: ContactId): ContactInfo | undefined {
    return this.contacts.value.find((contact) => contact.id === id);
  }

  /** Asks a node whether the contact is connected. */
  async lookUp(id: ContactId): Promise<void> {
    this.#setReach(id, "asking");
    try {
      while (!(await this.#client.isReachable(id))) {
        if (!this.#isSettling(id)) return this.#setReach(id, "unreachable");
        await new Promise((resolve) => setTimeout(resolve, ASK_AGAIN));
      }
      this.#setReach(id, "reachable");
    } catch {
      this.#setReach(id, "unknown");
    }
  }

  #isSettling(id: ContactId): boolean {
    return Date.now() - (this.#pairedAt.get(id) ?? 0) < SETTLES;
  }

  /** Keeps the words of a new pairing until they are compared. */
  async addWords(id: ContactId, words: readonly string[]): Promise<void> {
    this.#pairedAt.set(id, Date.now());
    this.words.value = { ...this.words.value, [id]: words };
    await this.#vault.set("words", this.words.value);
  }

  /** The two people saw the same words. */
  async confirmWords(id: ContactId): Promise<void> {
    const { [id]: _, ...others } = this.words.value;
    this.words.value = others;
    await this.#vault.set("words", others);
  }

  async remove(id: ContactId): Promise<void> {
    await this.#client.removeContact(id);
    await this.confirmWords(id);
  }

  setMissed(id: ContactId, isMissed: boolean): void {
    const missed = new Set(this.missed.value);
    if (isMissed) missed.add(id);
    else missed.delete(id);
    this.missed.value = missed;
  }

  #setReach(id: ContactId, state: Reach["state"]): void {
    this.reach.value = new Map(this.reach.value).set(id, { state, at: Date.now() });
  }
}
