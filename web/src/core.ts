/**
 * The protocol without a platform: for Node, a worker, or another engine with WebCrypto, `fetch` and `WebSocket`.
 *
 * @packageDocumentation
 */

export type { InboxRejection } from "./core/attaching.js";
export type { Bytes } from "./core/bytes.js";
export { type CallState, CallStateError, type EndReason } from "./core/call.js";
export { CallActionError } from "./core/call-driver.js";
export { ConnectError, SignallingClient, type SignallingEvents, type SignallingOptions } from "./core/client.js";
export { type Clock, SystemClock, Timers } from "./core/clock.js";
export type { Connection, DialTarget, WebSocketConstructor } from "./core/connection.js";
export type { Contact, ContactId, Pairing, PairingId, Role } from "./core/contact.js";
export type { AddressPort, Endpoint } from "./core/endpoint.js";
export { ChappeEvent, TypedEventTarget } from "./core/events.js";
export type { ErrorCode, Json } from "./core/messages.js";
export { NegotiationError } from "./core/negotiation.js";
export {
  type Confirmation,
  DiscoverError,
  type FoundNode,
  type NodeCheck,
  type NodeFinder,
  type Purpose,
  type SourceReport,
} from "./core/node-finder.js";
export type { Description, MediaStates } from "./core/outbox.js";
export {
  type ActiveCall,
  MemoryProfileStore,
  type Profile,
  type ProfileData,
  ProfileError,
  type ProfileStore,
} from "./core/profile.js";
export type { CallId, CallKind } from "./core/seal.js";
export type { DisconnectReason } from "./core/session.js";
export { SignalledCall, type SignalledCallEvents, type Step } from "./core/signalled-call.js";
export { type KeyProtection, keyProtection, type X25519KeyPair, type X25519PrivateKey } from "./core/x25519.js";
export type { CacheData, CachedNode, CacheStore } from "./discovery/cache.js";
export { Discovery, type DiscoveryOptions } from "./discovery/discovery.js";
export type { Fetch } from "./discovery/http.js";
export type { Link } from "./discovery/link.js";
export { LinkError, type LinkFault } from "./discovery/link-error.js";
