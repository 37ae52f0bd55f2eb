/**
 * A call cannot have media.
 *
 * - `no-relay`: only relays may be used, and the node names none. Ask the person whether the contact may see this device's
 *   address (`isRelayOnly: false`).
 * - `not-of-the-profile`: the contact's description has other lines than sound, camera and screen.
 */
export class MediaError extends Error {
  override readonly name = "MediaError";
  constructor(readonly code: "no-relay" | "not-of-the-profile") {
    super(code === "no-relay" ? "the node names no relay" : "not of the media profile");
  }
}
