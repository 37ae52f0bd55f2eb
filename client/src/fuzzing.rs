//! What the fuzzer calls: each decoder's target stands beside it.

pub use crate::{
    message::fuzzed::MESSAGE,
    pairing::fuzzed::{IDENTITY, MESSAGE as PAIRING},
    phrase::fuzzed::CODE,
    profile::fuzzed::PROFILE,
    protocol::fuzzed::REPLY,
    referral::fuzzed::NODES,
    seal::fuzzed::{ENVELOPE, PADDING, PAYLOAD},
};
