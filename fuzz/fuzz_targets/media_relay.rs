//! What clients send to a node's STUN and TURN server.
#![no_main]

chappe_fuzz::fuzz!(chappe_turn::fuzzing::PACKET, chappe_turn::fuzzing::STREAM);
