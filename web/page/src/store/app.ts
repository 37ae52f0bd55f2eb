/** The page: its settings and the profile in use. Knows no framework, so that it can be tested without one. */
import { Client } from "@chappe/client";
import { type Signal, signal } from "@preact/signals-core";
import { deleteDB } from "idb";
import { type Federation, type Fragment, faultOf, isSameFederation, NO_FEDERATION, namesNodes } from "./federation.js";
import { CallLog } from "./log.js";
import { databaseOf, Session } from "./session.js";
import { SettingsStore } from "./settings.js";
import { Vault } from "./vault.js";

/** The databases of all profiles of this page, and the caches of its service worker. Others may share its origin. */
const OWN_DATABASE = /^(page-)?chappe(-|$)/;
const OWN_CACHE = "chappe-page-";

/** What a person enters at the first start. */
export interface FirstStart {
  readonly federation: Federation;
  readonly name: string;
  readonly rings: boolean;
  readonly isExportable: boolean;
}

export class App {
  readonly settings: SettingsStore;
  readonly log: CallLog;
  /** The profile in use. `undefined` before the first start. */
  readonly session: Signal<Session | undefined> = signal(undefined);
  /** A federation that the page's address names, and that differs from the one in use. */
  readonly offered: Signal<Federation | undefined> = signal(undefined);
  /** The link of a contact that the page was opened with. */
  readonly link: Signal<string | undefined> = signal(undefined);
  /** What a screen reader says. */
  readonly announcement: Signal<string> = signal("");
  readonly #vault: Vault;
  readonly #profile: string;
  /** Everything is being wiped, here or in another tab: no session begins. */
  #isWiped = false;
  /** Where tabs tell each other that everything is wiped. They have one storage, whichever profile each uses. */
  readonly wipes = new BroadcastChannel("chappe-page");

  constructor(fragment: Fragment) {
    this.#profile = fragment.profile;
    this.#vault = new Vault(`page-${databaseOf(fragment.profile)}`);
    this.settings = new SettingsStore(this.#vault);
    this.log = new CallLog(this.#vault);
    this.link.value = fragment.link;
    this.offered.value = fragment.federation;
  }

  /** Loads what is stored, and connects if the first start was before. */
  async load(): Promise<void> {
    await this.settings.load();
    await this.log.load();
    const { federation, name } = this.settings.value.value;
    if (federation === undefined) return;
    const offered = this.offered.value;
    if (offered !== undefined && (faultOf(offered) !== undefined || isSameFederation(offered, federation))) {
      this.offered.value = undefined;
    }
    const link = this.link.value;
    this.link.value = undefined;
    this.#open({ federation, name, isExportable: false, link: undefined });
    // Another site may have opened this address. Nobody becomes a contact until the person confirms.
    if (link !== undefined) this.session.value?.offerLink(link);
  }

  async firstStart({ federation: entered, name, rings, isExportable }: FirstStart): Promise<void> {
    const federation = await this.#withLink(entered);
    this.offered.value = undefined;
    await this.settings.change({ federation, name, rings });
    const link = this.link.value;
    this.link.value = undefined;
    this.#open({ federation, name, isExportable, link });
    if (link !== undefined) this.session.value?.openLink(link);
  }

  /** Uses the profile of an exported file. Rejects with `ProfileFileError`, and with `ProfileError` beside another tab. */
  async importProfile(file: string, passphrase: string, start: FirstStart): Promise<void> {
    await new Client({ profile: databaseOf(this.#profile) }).importProfile(file, passphrase);
    await this.firstStart(start);
  }

  /** Uses another federation from now on. Contacts stay. */
  async changeFederation(federation: Federation): Promise<void> {
    this.offered.value = undefined;
    await this.settings.change({ federation });
    const { name } = this.settings.value.value;
    await this.session.value?.client.close();
    this.#open({ federation, name, isExportable: false, link: undefined });
  }

  /** Deletes everything that this page has stored in the browser. Its other tabs end their calls. */
  async wipe(): Promise<void> {
    this.wipes.postMessage("wiped");
    const session = this.#endSession();
    const wiped = this.#vault.wipe();
    const profile = session === undefined ? deleteDB(databaseOf(this.#profile)) : session.client.wipe();
    // One that fails must not keep the others.
    await Promise.allSettled([wiped, profile]);
    const databases = (await indexedDB.databases()).map(({ name }) => name);
    const own = databases.filter((name) => name !== undefined && OWN_DATABASE.test(name));
    const cached = ((await globalThis.caches?.keys()) ?? []).filter((name) => name.startsWith(OWN_CACHE));
    const worker = navigator.serviceWorker?.getRegistration().then((registration) => registration?.unregister());
    await Promise.allSettled([
      ...own.map((name) => deleteDB(name as string)),
      ...cached.map((name) => caches.delete(name)),
      worker,
    ]);
  }

  /** Ends the call and the session, since another tab deletes what is stored. */
  leave(): void {
    this.#endSession()
      ?.client.close()
      .catch(() => undefined);
  }

  /** From now on nothing of this page is stored, and nothing is shown outside of it. Returns the session of before. */
  #endSession(): Session | undefined {
    const session = this.session.value;
    this.#isWiped = true;
    this.#vault.abandon();
    this.session.value = undefined;
    session?.desk.capture.closeAll();
    session?.desk.sound.stop();
    session?.desk.hangUp();
    session?.pairing.cancel();
    return session;
  }

  /** Wipes, and begins with the first start. */
  async startOver(): Promise<void> {
    await this.wipe();
    location.replace(location.href.replace(/#.*/, ""));
    location.reload();
  }

  /** A link alone names a few nodes. These know the federation to which it commits, which lasts longer. */
  async #withLink(federation: Federation): Promise<Federation> {
    const link = this.link.value;
    if (link === undefined || namesNodes(federation)) return federation;
    const { fetchFederation } = await import("@chappe/client/link");
    const { isPrivate } = federation;
    // Without an answer the link's own nodes remain. If the link is at fault, pairing says so.
    const found = await fetchFederation(link, { isPrivate }).catch(() => undefined);
    if (found === undefined) return federation;
    const { roots, registries, federation: id = "" } = found;
    return { ...federation, roots, registries, id };
  }

  #open(options: { federation: Federation; name: string; isExportable: boolean; link: string | undefined }): void {
    if (this.#isWiped) return;
    const session = new Session({ ...options, profile: this.#profile }, this.#vault, this.settings, this.log);
    this.session.value = session;
    session.start(() => this.session.value === session).catch(reportError);
  }
}

export { NO_FEDERATION };
