//! The targets of the fuzzer. Each is beside its decoder.

pub use crate::{
    cache::fuzzed::CACHE,
    dial::fuzzed::REPLY,
    doh::fuzzed::ANSWER,
    invite::fuzzed::{INVITE, TEXT as INVITE_TEXT},
    join_link::fuzzed::JOIN_LINK,
    manual::fuzzed::NODE,
};
