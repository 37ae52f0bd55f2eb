/** Why a text is not a usable link. Apart from the links, so that an app can tell these errors before they are loaded. */

/** Why a text is not a usable link. */
export type LinkFault = "not-a-link" | "too-long" | "checksum" | "newer-version" | "malformed" | "expired" | "private";

const FAULTS: Record<LinkFault, string> = {
  "not-a-link": "not a link: CHAPPE:… or https://…/i#… is expected",
  "too-long": "the link is too long",
  checksum: "a character of the link is missing or wrong",
  "newer-version": "the link needs a newer version of this software",
  malformed: "the link is damaged",
  expired: "the link has expired: ask for a new one",
  private: "the link contains an address in a private network",
};

/** The text is not a usable link. The message is for people. */
export class LinkError extends Error {
  override readonly name = "LinkError";
  constructor(readonly fault: LinkFault) {
    super(FAULTS[fault]);
  }
}
