/**
 * The profile and the known nodes in IndexedDB.
 *
 * Private keys that WebCrypto can use are stored as keys that no script can read. Everything else, names included, is
 * encrypted with a key that no script can read. The browser keeps that key in its own files, so this protects from scripts,
 * and not from somebody who reads the disk.
 */
import { deleteDB, type IDBPDatabase, openDB } from "idb";
import { type Bytes, concat, fromBase64url, randomBytes, toBase64url, utf8, utf8Text } from "../core/bytes.js";
import type { Contact, Pairing } from "../core/contact.js";
import { type ProfileData, ProfileError, type ProfileStore } from "../core/profile.js";
import { type X25519KeyPair, x25519OfBytes } from "../core/x25519.js";
import type { CacheStore } from "../discovery/cache.js";

const STORE = "chappe";
const IV = 12;

/** What is stored of the profile. */
interface StoredProfile {
  /** The encrypted {@link PlainProfile}. */
  readonly sealed: Bytes;
  /** The identity, unless its bytes are in `sealed`. */
  readonly identity: X25519KeyPair | undefined;
  /** The pairing secrets, in the order of the contacts and their pairings. */
  readonly secrets: CryptoKey[];
}

interface PlainProfile {
  readonly name: string;
  /** The secret of the identity in a profile that its owner can export. */
  readonly identityBytes: string | undefined;
  /** The same in one that cannot be exported, where WebCrypto had no X25519 when it was stored. */
  readonly wrappedIdentity?: string | undefined;
  readonly contacts: readonly PlainContact[];
  readonly activeCall: ProfileData["activeCall"];
}

/** A contact without the keys that are stored beside it. */
export interface PlainContact extends Omit<Contact, "identity" | "pairings"> {
  readonly pairings: readonly PlainPairing[];
}

interface PlainPairing {
  readonly id: string;
  readonly role: Pairing["role"];
  readonly ownRoot: string;
  readonly peerRoot: string;
  readonly secretBytes: string | undefined;
}

/** A database of one profile. */
export class Database {
  /** The profile. */
  readonly profile: ProfileStore;
  /** The nodes that the client knows. */
  readonly cache: CacheStore;
  readonly #name: string;
  /** Rejects after a wipe, here or in another page, until a client uses the profile again. */
  #opened: Promise<IDBPDatabase> | undefined;
  #isWiped = false;

  /** `name` tells profiles of one site apart. Nothing is opened yet. */
  constructor(name: string) {
    this.#name = name;
    this.profile = {
      acquire: async () => {
        if (this.#isWiped) this.#opened = undefined;
        this.#isWiped = false;
        // Before the wait for the lock: a wipe from here on ends this connection, so that nothing is stored after it.
        const opened = this.#open();
        await opened;
        const release = await acquire(`chappe ${name}`).catch((error: unknown) => {
          // Who wipes keeps the lock for a moment.
          if (this.#opened === opened) throw error;
        });
        if (release && this.#opened === opened) return release;
        release?.();
        throw new ProfileError("closed");
      },
      load: () => this.#loadProfile(),
      save: (profile) => this.#saveProfile(profile),
      wipe: () => this.wipe(),
    };
    this.cache = {
      load: async () => {
        const database = await this.#open();
        const sealed: Bytes | undefined = await database.get(STORE, "cache");
        const key = await storageKey(database);
        // Its own key is lost, for example.
        const text = sealed && (await decrypt(key, sealed).catch(() => {}));
        return text && JSON.parse(text);
      },
      save: async (data) => {
        const database = await this.#open();
        await database.put(STORE, await encrypt(database, JSON.stringify(data)), "cache");
      },
    };
  }

  #open(): Promise<IDBPDatabase> {
    this.#opened ??= this.#connect();
    return this.#opened;
  }

  #connect(): Promise<IDBPDatabase> {
    const forget = () => {
      if (this.#opened === opened) this.#opened = undefined;
    };
    const opened = openDB(this.#name, 1, {
      upgrade: (database) => {
        database.createObjectStore(STORE);
      },
      // Another page wipes the profile. This one must not write it again.
      blocking: (_current, _blocked, event) => {
        (event.target as IDBDatabase).close();
        if (this.#opened === opened) this.#lose();
      },
      // The browser closes the database.
      terminated: forget,
    });
    opened.catch(forget);
    return opened;
  }

  /** Nothing is read or written from now on. */
  #lose(): void {
    this.#isWiped = true;
    this.#opened = Promise.reject(new ProfileError("closed"));
    this.#opened.catch(() => {});
  }

  /** Deletes the database. The browser may keep remains in its files until it tidies them up. */
  async wipe(): Promise<void> {
    this.#lose();
    // Another page may have ended the connection that was in use.
    const database = await this.#connect();
    await database.delete(STORE, "key");
    await database.clear(STORE);
    database.close();
    await deleteDB(this.#name);
  }

  async #saveProfile(profile: ProfileData): Promise<void> {
    const { identity, identityBytes } = profile;
    const { privateKey } = identity;
    const wrapped = identityBytes === undefined && privateKey instanceof Uint8Array ? privateKey : undefined;
    const plain: PlainProfile = {
      name: profile.name,
      identityBytes: identityBytes && toBase64url(identityBytes),
      wrappedIdentity: wrapped && toBase64url(wrapped),
      contacts: profile.contacts.map(plainContact),
      activeCall: profile.activeCall,
    };
    const database = await this.#open();
    const stored: StoredProfile = {
      sealed: await encrypt(database, JSON.stringify(plain)),
      identity: identityBytes || wrapped ? undefined : identity,
      secrets: profile.contacts.flatMap((contact) => contact.pairings.map((pairing) => pairing.secret)),
    };
    await database.put(STORE, stored, "profile");
  }

  async #loadProfile(): Promise<ProfileData | undefined> {
    const database = await this.#open();
    const stored: StoredProfile | undefined = await database.get(STORE, "profile");
    if (stored === undefined) return undefined;
    const plain = JSON.parse(await decrypt(await storageKey(database), stored.sealed)) as PlainProfile;
    const identityBytes = fromBase64url(plain.identityBytes, 32);
    const bytes = identityBytes ?? fromBase64url(plain.wrappedIdentity, 32);
    const identity = bytes === undefined ? stored.identity : await x25519OfBytes(bytes);
    if (identity === undefined) throw new Error("the stored profile is damaged");
    const contacts = plain.contacts.map((contact) => restoreContact(contact, stored.secrets));
    return {
      name: plain.name,
      identity,
      identityBytes,
      contacts,
      activeCall: plain.activeCall,
    };
  }
}

/** How long a page waits for another one that is being closed, in milliseconds. */
const ACQUIRE_TIMEOUT = 2_000;

/** Takes the lock of a profile, which the browser releases when the page goes away. */
async function acquire(lock: string): Promise<() => void> {
  const signal = AbortSignal.timeout(ACQUIRE_TIMEOUT);
  try {
    return await new Promise((resolve, reject) => {
      navigator.locks.request(lock, { signal }, () => new Promise<void>(resolve)).catch(reject);
    });
  } catch (cause) {
    throw new ProfileError(signal.aborted ? "in-use" : "no-lock", { cause });
  }
}

/** The key that encrypts what is stored. Made once; no script can read it. */
async function storageKey(database: IDBPDatabase): Promise<CryptoKey> {
  const stored: CryptoKey | undefined = await database.get(STORE, "key");
  if (stored !== undefined) return stored;
  const made = await crypto.subtle.generateKey({ name: "AES-GCM", length: 256 }, false, ["encrypt", "decrypt"]);
  // Another tab may have been faster.
  const transaction = database.transaction(STORE, "readwrite");
  const known: CryptoKey | undefined = await transaction.store.get("key");
  if (known === undefined) await transaction.store.put(made, "key");
  await transaction.done;
  return known ?? made;
}

async function encrypt(database: IDBPDatabase, text: string): Promise<Bytes> {
  const iv = randomBytes(IV);
  const sealed = await crypto.subtle.encrypt({ name: "AES-GCM", iv }, await storageKey(database), utf8(text));
  return concat(iv, new Uint8Array(sealed));
}

async function decrypt(key: CryptoKey, sealed: Bytes): Promise<string> {
  const params = { name: "AES-GCM", iv: sealed.slice(0, IV) };
  const plain = await crypto.subtle.decrypt(params, key, sealed.slice(IV));
  return utf8Text(new Uint8Array(plain));
}

/** What is encrypted of a contact. */
export function plainContact({ identity: _, pairings, ...contact }: Contact): PlainContact {
  return { ...contact, pairings: pairings.map(plainPairing) };
}

function plainPairing({ id, role, ownRoot, peerRoot, secretBytes }: Pairing): PlainPairing {
  return {
    id,
    role,
    ownRoot: toBase64url(ownRoot),
    peerRoot: toBase64url(peerRoot),
    secretBytes: secretBytes && toBase64url(secretBytes),
  };
}

/** The contact again. Takes the secrets of the contact's pairings from the front of `secrets`. */
export function restoreContact(contact: PlainContact, secrets: CryptoKey[]): Contact {
  const pairings = contact.pairings.map((pairing): Pairing => {
    const secret = secrets.shift();
    if (secret === undefined) throw new Error("the stored profile is damaged");
    return restorePairing(pairing, secret);
  });
  return { ...contact, identity: bytesOf(contact.id), pairings };
}

function restorePairing(pairing: PlainPairing, secret: CryptoKey): Pairing {
  return {
    id: pairing.id,
    role: pairing.role,
    secret,
    secretBytes: fromBase64url(pairing.secretBytes, 32),
    ownRoot: bytesOf(pairing.ownRoot),
    peerRoot: bytesOf(pairing.peerRoot),
  };
}

/** The 32 bytes of a stored text. Throws if the store is damaged. */
export function bytesOf(text: string): Bytes {
  const bytes = fromBase64url(text, 32);
  if (bytes === undefined) throw new Error("the stored profile is damaged");
  return bytes;
}
