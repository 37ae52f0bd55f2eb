/**
 * Links and QR codes before there is a client: which nodes and which federation they name.
 *
 * @packageDocumentation
 */
export { type Federation, type FederationOptions, fetchFederation } from "./discovery/federation.js";
export type { Fetch } from "./discovery/http.js";
export { LinkError, type LinkFault } from "./discovery/link-error.js";
export { SourceError } from "./discovery/source.js";
