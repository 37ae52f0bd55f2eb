//! What comes before a client's messages: the upgrade's head, and the frames.
#![no_main]

chappe_fuzz::fuzz!(chappe_node::fuzzing::HEAD, chappe_node::fuzzing::FRAMES);
