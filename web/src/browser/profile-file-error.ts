/** Why a profile is not exported or imported. Apart from that, so that an app can tell these errors before it is loaded. */

/** A profile's file cannot be made or read. */
export class ProfileFileError extends Error {
  override readonly name = "ProfileFileError";
  constructor(
    readonly code: "not-exportable" | "not-a-profile" | "wrong-passphrase",
    message: string,
  ) {
    super(message);
  }
}
