/**
 * Calls between paired people in a page, through relays that cannot read what they forward.
 *
 * @packageDocumentation
 */
export {
  Client,
  type ClientEvents,
  type ClientOptions,
  type ContactInfo,
  type PairedContact,
  type ShownPairing,
} from "./browser/client.js";
export { ProfileFileError } from "./browser/profile-file-error.js";
export type { InboxRejection } from "./core/attaching.js";
export { type CallState, CallStateError, type EndReason } from "./core/call.js";
export { CallActionError } from "./core/call-driver.js";
export { ConnectError, type IceConfiguration } from "./core/client.js";
export type { ContactId } from "./core/contact.js";
export { ChappeEvent, TypedEventTarget } from "./core/events.js";
export { ERROR_CODES, type ErrorCode } from "./core/messages.js";
export { type Confirmation, DiscoverError, type NodeCheck, type SourceReport } from "./core/node-finder.js";
export { escaped } from "./core/printable.js";
export { ProfileError } from "./core/profile.js";
export type { CallId, CallKind } from "./core/seal.js";
export type { DisconnectReason } from "./core/session.js";
export type { Step } from "./core/signalled-call.js";
export { type KeyProtection, keyProtection } from "./core/x25519.js";
export { LinkError, type LinkFault } from "./discovery/link-error.js";
export { Call } from "./media/call.js";
export type { CallEvents, MediaOptions } from "./media/call-events.js";
export { MediaError } from "./media/media-error.js";
export { type LocalTracks, MEDIA_LINES, type MediaLine } from "./media/media-profile.js";
export { QUALITY_THRESHOLDS, type Quality, type QualityThresholds } from "./media/quality.js";
export type { RemoteMedia } from "./media/remote-media.js";
export type { Route, RouteEnd } from "./media/statistics.js";
export { PairError, type PairErrorCode } from "./pairing/pair-error.js";
