//! The targets of the fuzzer. Each is beside its decoder.

pub use crate::{
    cache::fuzzed::CACHE,
    dial::fuzzed::REPLY,
    doh::fuzzed::ANSWER,
    link::fuzzed::{LINK, TEXT as LINK_TEXT},
    manual::fuzzed::NODE,
};
