//! What a client says to its node: messages, and the leases and proofs that it attaches.
#![no_main]

chappe_fuzz::fuzz!(chappe_node::fuzzing::MESSAGE, chappe_node::fuzzing::STRING, chappe_node::fuzzing::ATTACH);
