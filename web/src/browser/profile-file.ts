/** Export and import of a profile as an encrypted file. Loaded when it is needed. */
import { type Bytes, concat, fromBase64url, randomBytes, toBase64url, utf8, utf8Text } from "../core/bytes.js";
import type { ProfileData } from "../core/profile.js";
import { hkdfKey, x25519OfBytes } from "../core/x25519.js";
import { bytesOf, type PlainContact, plainContact, restoreContact } from "./database.js";
import { ProfileFileError } from "./profile-file-error.js";

const IV = 12;
/** PBKDF2's rounds: what OWASP recommends for SHA-256. */
const ROUNDS = 600_000;
const SALT = 16;

const FAULTS: Record<ProfileFileError["code"], string> = {
  "not-exportable": "this profile was created with keys that cannot leave this browser",
  "not-a-profile": "the file is not an exported profile",
  "wrong-passphrase": "the passphrase is not that of the file, or the file is damaged",
};

function fault(code: ProfileFileError["code"]): ProfileFileError {
  return new ProfileFileError(code, FAULTS[code]);
}

/** An encrypted file of a profile that was created as exportable. Throws {@link ProfileFileError}. */
export async function exportProfile(profile: ProfileData, passphrase: string): Promise<string> {
  const { identityBytes, contacts, name } = profile;
  const hasSecrets = contacts.every((contact) =>
    contact.pairings.every((pairing) => pairing.secretBytes !== undefined),
  );
  if (identityBytes === undefined || !hasSecrets) throw fault("not-exportable");
  const plain = { name, identityBytes: toBase64url(identityBytes), contacts: contacts.map(plainContact) };
  const [salt, iv] = [randomBytes(SALT), randomBytes(IV)];
  const key = await passphraseKey(passphrase, salt);
  const sealed = await crypto.subtle.encrypt({ name: "AES-GCM", iv }, key, utf8(JSON.stringify(plain)));
  return JSON.stringify({ chappeProfile: 1, sealed: toBase64url(concat(salt, iv, new Uint8Array(sealed))) });
}

/** The profile of an exported file. Rejects with {@link ProfileFileError}. */
export async function readProfile(file: string, passphrase: string): Promise<ProfileData> {
  const sealed = readFile(file);
  const key = await passphraseKey(passphrase, sealed.slice(0, SALT));
  const params = { name: "AES-GCM", iv: sealed.slice(SALT, SALT + IV) };
  const text = await crypto.subtle.decrypt(params, key, sealed.slice(SALT + IV)).catch(() => {
    throw fault("wrong-passphrase");
  });
  const plain = JSON.parse(utf8Text(new Uint8Array(text))) as {
    name: string;
    identityBytes: string;
    contacts: PlainContact[];
  };
  const identityBytes = bytesOf(plain.identityBytes);
  const secrets = plain.contacts.flatMap(({ pairings }) =>
    pairings.map(({ secretBytes }) => bytesOf(secretBytes ?? "")),
  );
  const keys = await Promise.all(secrets.map(hkdfKey));
  const contacts = plain.contacts.map((contact) => restoreContact(contact, keys));
  return { name: plain.name, identity: await x25519OfBytes(identityBytes), identityBytes, contacts };
}

function readFile(file: string): Bytes {
  try {
    const read = JSON.parse(file) as { chappeProfile?: unknown; sealed?: unknown };
    const sealed = fromBase64url(read.sealed);
    if (read.chappeProfile === 1 && sealed !== undefined && sealed.length > SALT + IV) return sealed;
  } catch {
    // Not JSON.
  }
  throw fault("not-a-profile");
}

async function passphraseKey(passphrase: string, salt: Bytes): Promise<CryptoKey> {
  const base = await crypto.subtle.importKey("raw", utf8(passphrase.normalize("NFKC")), "PBKDF2", false, ["deriveKey"]);
  const params = { name: "PBKDF2", hash: "SHA-256", salt, iterations: ROUNDS };
  return crypto.subtle.deriveKey(params, base, { name: "AES-GCM", length: 256 }, false, ["encrypt", "decrypt"]);
}
