/**
 * Calls between paired people in a page, through relays that cannot read what they forward.
 *
 * @packageDocumentation
 */
export { Client, type ClientEvents, type ClientOptions, type ShownPairing } from "./browser/client.js";
export type { ProfileFileError } from "./browser/profile-file.js";
export { type CallState, CallStateError, type EndReason } from "./core/call.js";
export { CallActionError } from "./core/call-driver.js";
export { ConnectError } from "./core/client.js";
export type { Contact, ContactId } from "./core/contact.js";
export { ChappeEvent, TypedEventTarget } from "./core/events.js";
export { type Confirmation, DiscoverError, type NodeCheck, type SourceReport } from "./core/node-finder.js";
export { escaped } from "./core/printable.js";
export { ProfileError } from "./core/profile.js";
export type { DisconnectReason } from "./core/session.js";
export type { Step } from "./core/signalled-call.js";
export { type KeyProtection, keyProtection } from "./core/x25519.js";
export type { LinkError, LinkFault } from "./discovery/link.js";
export { Call, type CallEvents, type LocalTracks, type MediaOptions } from "./media/call.js";
export type { MediaLine } from "./media/media-profile.js";
export type { PairError, PairErrorCode, Paired } from "./pairing/pair.js";
