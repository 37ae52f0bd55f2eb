/** A profile in use: its client, and what the page shows of it. */
import { Client, ConnectError, type ContactId, type PairedContact, ProfileError } from "@chappe/client";
import { type Signal, signal } from "@preact/signals-core";
import { Book } from "./book.js";
import { Desk } from "./desk.js";
import type { Federation } from "./federation.js";
import type { CallLog } from "./log.js";
import { Network } from "./network.js";
import { Pairing } from "./pairing.js";
import type { SettingsStore } from "./settings.js";
import type { Vault } from "./vault.js";

export type Screen =
  | { readonly name: "home" }
  | { readonly name: "contact"; readonly id: ContactId }
  | { readonly name: "pair" }
  | { readonly name: "words"; readonly id: ContactId; readonly isNew: boolean }
  | { readonly name: "settings" }
  | { readonly name: "diagnosis" };

export interface SessionOptions {
  readonly profile: string;
  readonly federation: Federation;
  readonly name: string;
  readonly isExportable: boolean;
  readonly link: string | undefined;
}

export class Session {
  readonly client: Client;
  readonly network: Network;
  readonly book: Book;
  readonly desk: Desk;
  readonly pairing: Pairing;
  readonly screen: Signal<Screen> = signal({ name: "home" });

  constructor(options: SessionOptions, vault: Vault, settings: SettingsStore, log: CallLog) {
    this.client = clientOf(options);
    this.network = new Network(this.client);
    this.book = new Book(this.client, vault);
    this.desk = new Desk(this.client, this.book, log, settings);
    this.pairing = new Pairing(this.client, (paired) => this.#paired(paired));
  }

  /** Connects, if `isCurrent` still. The client goes on searching by itself if there is no node. */
  async start(isCurrent: () => boolean): Promise<void> {
    await this.book.load();
    // A client that was closed meanwhile would connect again, and store the profile that was wiped.
    if (!isCurrent()) return;
    // The first search may find no node, and a later one does.
    this.client.addEventListener("connected", () => this.desk.rejoin().catch(reportError), { once: true });
    try {
      await this.client.connect();
    } catch (error) {
      // The client searches on by itself, or this tab is no longer one of the profile.
      if (error instanceof ConnectError || (error instanceof ProfileError && error.code === "closed")) return;
      const isOfProfile = error instanceof ProfileError;
      if (isOfProfile || error instanceof DOMException) {
        this.network.status.value = isOfProfile && error.code === "in-use" ? "in-use" : "unusable";
      }
      if (!isOfProfile) throw error;
    } finally {
      this.book.contacts.value = this.client.contacts;
    }
  }

  show(screen: Screen): void {
    if (screen.name !== "pair") this.pairing.cancel();
    this.screen.value = screen;
    if (screen.name === "contact") void this.book.lookUp(screen.id);
  }

  /** Pairs by a link that the page was opened with at its first start. */
  openLink(link: string): void {
    this.show({ name: "pair" });
    void this.pairing.enter(link);
  }

  /** Shows a link that the page was opened with, for the person to pair by it. Not during a call. */
  offerLink(link: string): void {
    if (this.desk.active.value !== undefined) return;
    this.show({ name: "pair" });
    this.pairing.offered.value = link;
  }

  #paired({ contact, words }: PairedContact): void {
    void this.book.addWords(contact.id, words);
    this.show({ name: "words", id: contact.id, isNew: true });
  }
}

/** The name of the library's database. */
export function databaseOf(profile: string): string {
  return profile === "" ? "chappe" : `chappe-${profile}`;
}

function clientOf({ profile, federation, name, isExportable, link }: SessionOptions): Client {
  const { registries, roots, id, nodes, dnsNames, dnsProviders, isPrivate } = federation;
  return new Client({
    profile: databaseOf(profile),
    registries,
    roots,
    ...(id === "" ? {} : { federation: id }),
    nodes,
    ...(dnsNames.length > 0 ? { dns: { names: dnsNames, providers: dnsProviders } } : {}),
    isPrivate,
    name,
    isExportable,
    links: link === undefined ? [] : [link],
  });
}
