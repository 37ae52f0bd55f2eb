/** A new profile. Loaded at the first start. */
import { randomBytes } from "./bytes.js";
import { cleanName } from "./clean-name.js";
import type { ProfileData } from "./profile.js";
import { generateX25519, x25519OfBytes } from "./x25519.js";

/** A profile without contacts. With `isExportable`, the bytes of its identity are kept beside the key. */
export async function newProfile(name: string, isExportable: boolean): Promise<ProfileData> {
  const identityBytes = isExportable ? randomBytes(32) : undefined;
  const identity = identityBytes === undefined ? await generateX25519() : await x25519OfBytes(identityBytes);
  return { name: cleanName(name), identity, identityBytes, contacts: [] };
}
