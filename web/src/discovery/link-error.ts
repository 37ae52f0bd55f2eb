/** Why a text is not a usable link. In a file of its own, so that an app can test for it before the code of links is loaded. */

/** Why a text is not a usable link. */
export type LinkFault = "not-a-link" | "too-long" | "checksum" | "newer-version" | "malformed" | "expired" | "private";

/** The text is not a usable link. The message is for people. */
export class LinkError extends Error {
  override readonly name = "LinkError";
  constructor(
    readonly fault: LinkFault,
    message: string,
  ) {
    super(message);
  }
}
