//! What comes before a client's messages: a proxy's header, the upgrade's head, and the frames.
#![no_main]

use chappe_node::fuzzing::{FRAMES, HEAD, PROXIED_HEAD, PROXY_HEADER};

chappe_fuzz::fuzz!(HEAD, FRAMES, PROXIED_HEAD, PROXY_HEADER);
