/** Why a profile is not exported or imported. Apart from that, so that an app can tell these errors before it is loaded. */

/** A profile's file cannot be made or read. */
export class ProfileFileError extends Error {
  override readonly name = "ProfileFileError";
  constructor(readonly code: "not-exportable" | "not-a-profile" | "wrong-passphrase") {
    super(
      {
        "not-exportable": "this profile was created with keys that cannot leave this browser",
        "not-a-profile": "the file is not an exported profile",
        "wrong-passphrase": "the passphrase is not that of the file, or the file is damaged",
      }[code],
    );
  }
}
