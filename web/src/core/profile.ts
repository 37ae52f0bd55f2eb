/** What a client keeps: its identity, its contacts, and the nodes that it knows. Who stores it decides where. */

import type { Bytes } from "./bytes.js";
import { type Contact, type ContactId, confirmed, MAX_CONTACTS, type PairingId } from "./contact.js";
import type { CallId } from "./seal.js";
import type { X25519KeyPair } from "./x25519.js";

/** A profile's contents. */
export interface ProfileData {
  readonly name: string;
  readonly identity: X25519KeyPair;
  /** The secret of the identity, only in a profile that its owner can export. */
  readonly identityBytes?: Bytes | undefined;
  readonly contacts: readonly Contact[];
  /** The call that this device is in, to come back into it after a reload. */
  readonly activeCall?: ActiveCall | undefined;
}

/** A call that this device is in, and when it was last in it. */
export interface ActiveCall {
  readonly call: CallId;
  readonly contact: ContactId;
  /** Whether the call uses relays alone. It still does, or does not, after a reload. */
  readonly isRelayOnly: boolean;
  /** Milliseconds since 1970. */
  readonly at: number;
}

/** Where a profile is stored. */
export interface ProfileStore {
  /**
   * Reserves the profile for this client, and returns how to release it. Two clients of one profile would overwrite each
   * other's contacts, and take each other's inboxes. Rejects with {@link ProfileError} `in-use`, with
   * `no-lock` if that cannot be found out, and with `closed` if the profile is wiped meanwhile.
   */
  acquire(): Promise<() => void>;
  /** The stored profile, or `undefined` before the first {@link save}. */
  load(): Promise<ProfileData | undefined>;
  /** Replaces the stored profile as a whole. */
  save(profile: ProfileData): Promise<void>;
  /** Deletes the profile and everything stored beside it. */
  wipe(): Promise<void>;
}

/** A profile that is kept in memory only. */
export class MemoryProfileStore implements ProfileStore {
  #data: ProfileData | undefined;
  #isInUse = false;

  acquire(): Promise<() => void> {
    if (this.#isInUse) return Promise.reject(new ProfileError("in-use"));
    this.#isInUse = true;
    return Promise.resolve(() => {
      this.#isInUse = false;
    });
  }

  load(): Promise<ProfileData | undefined> {
    return Promise.resolve(this.#data);
  }

  save(profile: ProfileData): Promise<void> {
    this.#data = profile;
    return Promise.resolve();
  }

  wipe(): Promise<void> {
    this.#data = undefined;
    return Promise.resolve();
  }
}

/** The profile cannot be used or changed so. Nothing was changed. */
export class ProfileError extends Error {
  override readonly name = "ProfileError";
  constructor(
    readonly code: "full" | "no-contact" | "in-use" | "no-lock" | "closed",
    options?: ErrorOptions,
  ) {
    super(
      {
        full: `a profile has at most ${MAX_CONTACTS} contacts`,
        "no-contact": "there is no such contact",
        "in-use": "another page or client uses this profile",
        "no-lock": "the browser does not lock the profile for this page",
        closed: "the client was closed, or its profile was wiped",
      }[code],
      options,
    );
  }
}

/** A profile in use. A change counts once it is stored: if that fails, the profile is as before. */
export class Profile {
  readonly #store: ProfileStore;
  #data: ProfileData;
  #writing: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  private constructor(store: ProfileStore, data: ProfileData) {
    this.#store = store;
    this.#data = data;
  }

  /**
   * Loads the stored profile, or creates one with this name. With `isExportable`, its keys can be read by scripts of the
   * page; without it, where the platform allows that, they never can be, and the profile cannot be exported.
   */
  static async open(store: ProfileStore, name: string, isExportable = false): Promise<Profile> {
    const stored = await store.load();
    if (stored !== undefined) return new Profile(store, stored);
    const { newProfile } = await import("./new-profile.js");
    const data = await newProfile(name, isExportable);
    await store.save(data);
    return new Profile(store, data);
  }

  /** The contents as they are now, for an export. */
  get data(): ProfileData {
    return this.#data;
  }

  /** What a pairing needs of this side. */
  get local(): { identity: X25519KeyPair; name: string; isExportable: boolean } {
    return { identity: this.identity, name: this.name, isExportable: this.#data.identityBytes !== undefined };
  }

  /** Waits for the writes that have begun. Later ones are refused. */
  async close(): Promise<void> {
    await this.#writing;
    this.#isClosed = true;
  }

  /** Records the call that this device is in, or that it is in none. */
  setActiveCall(activeCall: ActiveCall | undefined): Promise<void> {
    return this.#write((data) => [{ ...data, activeCall }, undefined]);
  }

  /** This side's identity key. */
  get identity(): X25519KeyPair {
    return this.#data.identity;
  }

  /** The name that new contacts see. */
  get name(): string {
    return this.#data.name;
  }

  /** Changes the name that new contacts see. One that has no printable character changes nothing. */
  async setName(name: string): Promise<void> {
    const { cleanName } = await import("./clean-name.js");
    return this.#write((data) => [{ ...data, name: cleanName(name) || data.name }, undefined]);
  }

  /** The contacts, in the order in which they were paired. */
  get contacts(): readonly Contact[] {
    return this.#data.contacts;
  }

  /** The contact with this id. */
  contact(id: ContactId): Contact | undefined {
    return this.#data.contacts.find((contact) => contact.id === id);
  }

  /** Stores a contact, or a newer pairing with a known one. Returns the contact as stored. */
  async add(contact: Contact, isStored: boolean): Promise<Contact> {
    const { withContact } = await import("./added-contact.js");
    return this.#change((contacts) => {
      if (this.contact(contact.id) === undefined && contacts.length >= MAX_CONTACTS) throw new ProfileError("full");
      return withContact(contacts, contact, isStored);
    });
  }

  /** Records that the contact has stored this pairing, and drops the older ones. */
  confirm(id: ContactId, pairing: PairingId): Promise<Contact> {
    return this.#update(id, (contact) => confirmed(contact, pairing) ?? contact);
  }

  /** Changes a contact's name, as this person sees it. */
  async rename(id: ContactId, name: string): Promise<Contact> {
    const { distinctName } = await import("./distinct-name.js");
    return this.#update(id, (contact, others) => ({ ...contact, name: distinctName(name, others) }));
  }

  /** Allows paths other than relays in calls with a contact, or forbids them. */
  allowDirect(id: ContactId, isDirectAllowed: boolean): Promise<Contact> {
    return this.#update(id, (contact) => ({ ...contact, isDirectAllowed }));
  }

  /** Blocks or unblocks a contact. To a blocked contact, this side appears offline. */
  block(id: ContactId, isBlocked: boolean): Promise<Contact> {
    return this.#update(id, (contact) => ({ ...contact, isBlocked }));
  }

  /** Stores the nodes that a contact has shared. */
  setNodes(id: ContactId, nodes: readonly string[]): Promise<Contact> {
    return this.#update(id, (contact) => ({ ...contact, nodes }));
  }

  /** Removes a contact. */
  remove(id: ContactId): Promise<Contact> {
    return this.#change((contacts) => {
      const removed = contacts.find((contact) => contact.id === id);
      if (removed === undefined) throw new ProfileError("no-contact");
      return [contacts.filter((contact) => contact !== removed), removed];
    });
  }

  #update(id: ContactId, change: (contact: Contact, otherNames: string[]) => Contact): Promise<Contact> {
    return this.#change((contacts) => {
      const known = contacts.find((contact) => contact.id === id);
      if (known === undefined) throw new ProfileError("no-contact");
      const others = contacts.filter((contact) => contact !== known).map(({ name }) => name);
      const changed = change(known, others);
      return [contacts.map((contact) => (contact === known ? changed : contact)), changed];
    });
  }

  #change(change: (contacts: readonly Contact[]) => [readonly Contact[], Contact]): Promise<Contact> {
    return this.#write((data) => {
      const [contacts, contact] = change(data.contacts);
      return [{ ...data, contacts }, contact];
    });
  }

  #write<T>(change: (data: ProfileData) => [ProfileData, T]): Promise<T> {
    const written = this.#writing.then(async () => {
      if (this.#isClosed) throw new ProfileError("closed");
      const [data, result] = change(this.#data);
      await this.#store.save(data);
      this.#data = data;
      return result;
    });
    // One write at a time. A failed one is reported to its caller, and does not keep the next from running.
    this.#writing = written.catch(() => {});
    return written;
  }
}
