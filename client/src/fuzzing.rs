//! The targets of the fuzzer. Each stands beside its decoder.

pub use crate::{
    message::fuzzed::MESSAGE,
    pairing::fuzzed::{IDENTITY, MESSAGE as PAIRING},
    phrase::fuzzed::CODE,
    profile::fuzzed::PROFILE,
    protocol::fuzzed::REPLY,
    referral::fuzzed::NODES,
    seal::fuzzed::{ENVELOPE, PADDING, PAYLOAD},
};
