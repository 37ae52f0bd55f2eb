/** Why a profile is not exported or imported. Apart from that, so that an app can tell these errors before it is loaded. */

/** What is wrong with a profile, a file or a passphrase. */
export type ProfileFileFault = "not-exportable" | "not-a-profile" | "wrong-passphrase";

/** A profile's file cannot be made or read. */
export class ProfileFileError extends Error {
  override readonly name = "ProfileFileError";
  constructor(
    readonly code: ProfileFileFault,
    message: string,
  ) {
    super(message);
  }
}
