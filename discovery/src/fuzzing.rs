//! What the fuzzer calls: each decoder's target stands beside it.

pub use crate::{
    cache::fuzzed::CACHE,
    dial::fuzzed::REPLY,
    doh::fuzzed::ANSWER,
    link::fuzzed::{LINK, TEXT as LINK_TEXT},
    manual::fuzzed::NODE,
};
