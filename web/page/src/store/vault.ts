/**
 * What the page itself stores: settings, which words were compared, and the call log if that is on. Everything is encrypted
 * with a key that no script can read, so that the browser's files hold no name in clear.
 */
import { deleteDB, type IDBPDatabase, openDB } from "idb";

const STORE = "page";
const KEY = "key";
const IV = 12;

/** A small encrypted key-value store. */
export class Vault {
  readonly #name: string;
  #opened: Promise<IDBPDatabase> | undefined;
  /** After a wipe nothing is written again. */
  #isWiped = false;

  constructor(name: string) {
    this.#name = name;
  }

  async get<T>(key: string): Promise<T | undefined> {
    const database = await this.#open();
    const sealed: Uint8Array<ArrayBuffer> | undefined = await database.get(STORE, key);
    if (sealed === undefined) return undefined;
    const params = { name: "AES-GCM", iv: sealed.slice(0, IV) };
    const plain = await crypto.subtle.decrypt(params, await storageKey(database), sealed.slice(IV));
    return JSON.parse(new TextDecoder().decode(plain)) as T;
  }

  async set(key: string, value: unknown): Promise<void> {
    if (this.#isWiped) return;
    const database = await this.#open();
    const iv = crypto.getRandomValues(new Uint8Array(IV));
    const plain = new TextEncoder().encode(JSON.stringify(value));
    const sealed = new Uint8Array(
      await crypto.subtle.encrypt({ name: "AES-GCM", iv }, await storageKey(database), plain),
    );
    const stored = new Uint8Array(IV + sealed.length);
    stored.set(iv);
    stored.set(sealed, IV);
    if (!this.#isWiped) await database.put(STORE, stored, key);
  }

  async delete(key: string): Promise<void> {
    await (await this.#open()).delete(STORE, key);
  }

  /** Writes nothing from now on: another tab deletes the database. */
  abandon(): void {
    this.#isWiped = true;
  }

  /** Deletes the database. The key goes first, so that what the browser keeps in its files cannot be read. */
  async wipe(): Promise<void> {
    this.abandon();
    const opened = this.#opened;
    this.#opened = undefined;
    const database = await opened?.catch(() => undefined);
    if (database !== undefined) {
      await database.delete(STORE, KEY);
      database.close();
    }
    await deleteDB(this.#name);
  }

  #open(): Promise<IDBPDatabase> {
    this.#opened ??= openDB(this.#name, 1, {
      upgrade: (database) => {
        database.createObjectStore(STORE);
      },
      // Another tab wipes, too.
      blocking: (_current, _blocked, event) => (event.target as IDBDatabase).close(),
    });
    return this.#opened;
  }
}

async function storageKey(database: IDBPDatabase): Promise<CryptoKey> {
  const stored: CryptoKey | undefined = await database.get(STORE, KEY);
  if (stored !== undefined) return stored;
  const made = await crypto.subtle.generateKey({ name: "AES-GCM", length: 256 }, false, ["encrypt", "decrypt"]);
  const transaction = database.transaction(STORE, "readwrite");
  // Another write may have been faster.
  const known: CryptoKey | undefined = await transaction.store.get(KEY);
  if (known === undefined) await transaction.store.put(made, KEY);
  await transaction.done;
  return known ?? made;
}
