//! What the fuzzer calls: each decoder's target stands beside it.

pub use crate::{
    federation::{hello::fuzzed::HELLO, known::fuzzed::KNOWN},
    membership::{
        accusation::fuzzed::ACCUSATION, exchange::fuzzed::EXCHANGE, gossip::fuzzed::GOSSIP, news::fuzzed::NEWS,
        packet::fuzzed::PACKET,
    },
    register::fuzzed::REFUSED,
    session::{attach::fuzzed::ATTACH, plain::fuzzed::STRING, request::fuzzed::MESSAGE},
    socket::{frame::fuzzed::FRAMES, upgrade::fuzzed::HEAD},
    wire::frame::fuzzed::FRAME as LINK_FRAME,
};
