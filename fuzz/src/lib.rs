//! Which of a fuzzer's decoders an input is for. What is checked of it stands beside the decoder, and is the same as in
//! the tests named `mutated_…`.

use chappe_mutations::tag;
pub use libfuzzer_sys;
use libfuzzer_sys::Corpus;

/// A fuzzer of these decoders. The first byte of its input is one's tag.
#[macro_export]
macro_rules! fuzz {
    ($($decoder:path),+ $(,)?) => {
        const DECODERS: &[(&str, fn(&[u8]) -> bool)] = &[$($decoder),+];
        const _: () = assert!($crate::are_told_apart(DECODERS), "two have the same tag: rename one");

        $crate::libfuzzer_sys::fuzz_target!(|input: &[u8]| -> $crate::libfuzzer_sys::Corpus {
            $crate::decode(DECODERS, input)
        });
    };
}

/// Whether each has a tag of its own.
pub const fn are_told_apart(decoders: &[(&str, fn(&[u8]) -> bool)]) -> bool {
    let (mut seen, mut at) = ([false; 256], 0);
    while at < decoders.len() {
        let tag = tag(decoders[at].0) as usize;
        if seen[tag] {
            return false;
        }
        seen[tag] = true;
        at += 1;
    }
    true
}

/// Gives the input to the decoder that it is for. What is for another is not kept: all seeds lie in one folder.
pub fn decode(decoders: &[(&str, fn(&[u8]) -> bool)], input: &[u8]) -> Corpus {
    let Some((first, bytes)) = input.split_first() else { return Corpus::Reject };
    let Some((_, check)) = decoders.iter().find(|(name, _)| tag(name) == *first) else { return Corpus::Reject };
    // Whether it was taken is of no interest here: what leads to another refusal is worth as much.
    check(bytes);
    Corpus::Keep
}
