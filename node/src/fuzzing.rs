//! The targets of the fuzzer. Each is defined beside its decoder.

pub use crate::{
    client_protocol::{plain::fuzzed::STRING, request::fuzzed::MESSAGE},
    federation::{
        members_file::fuzzed::KNOWN,
        registration::fuzzed::{ACCEPTED, REFUSED},
    },
    links::hello::fuzzed::HELLO,
    listener::{arrival::fuzzed::PROXIED_HEAD, proxy_header::fuzzed::PROXY_HEADER},
    membership::{
        accusation::fuzzed::ACCUSATION, exchange::fuzzed::EXCHANGE, gossip::fuzzed::GOSSIP, news::fuzzed::NEWS,
        packet::fuzzed::PACKET,
    },
    reachability::message::fuzzed::{CHECK_REPLY, CHECK_REQUEST},
    session::attach::fuzzed::ATTACH,
    websocket::{codec::fuzzed::FRAMES, upgrade::fuzzed::HEAD},
    wire::frame::fuzzed::FRAME as LINK_FRAME,
};
