/**
 * The protocol without a platform: for Node, a worker, or another engine with WebCrypto, `fetch` and `WebSocket`.
 *
 * @packageDocumentation
 */

export { type CallState, CallStateError, type EndReason } from "./core/call.js";
export { CallActionError } from "./core/call-driver.js";
export { ConnectError, SignallingClient, type SignallingEvents, type SignallingOptions } from "./core/client.js";
export { type Clock, SystemClock, Timers } from "./core/clock.js";
export type { Contact, ContactId, Pairing } from "./core/contact.js";
export { ChappeEvent, TypedEventTarget } from "./core/events.js";
export {
  type Confirmation,
  DiscoverError,
  type FoundNode,
  type NodeCheck,
  type NodeFinder,
  type SourceReport,
} from "./core/node-finder.js";
export { MemoryProfileStore, type ProfileData, ProfileError, type ProfileStore } from "./core/profile.js";
export { SignalledCall, type SignalledCallEvents, type Step } from "./core/signalled-call.js";
export type { CacheData, CacheStore } from "./discovery/cache.js";
export { Discovery, type DiscoveryOptions } from "./discovery/discovery.js";
export type { Link } from "./discovery/link.js";
export { LinkError, type LinkFault } from "./discovery/link-error.js";
