/** Why a text is not a usable link. Apart from the links and the messages, so that an app can tell these errors before they are loaded. */

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
