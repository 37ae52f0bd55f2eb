/** X25519 by a library, for platforms whose WebCrypto has none. A module of its own, so that bundlers keep only this part. */
export { x25519 } from "@noble/curves/ed25519.js";
