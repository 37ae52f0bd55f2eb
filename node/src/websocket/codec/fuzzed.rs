//! What is checked of every input, by the tests and by the fuzzer: what is heard, and that how it is cut changes nothing.

use super::*;

/// The longest message.
const LONGEST: usize = 300;
pub(super) const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// What was heard, with content of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WriteOutcome {
    Text(String),
    Binary,
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
}

/// A client's frame.
pub(super) fn frame(first: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match content.len() {
        len @ 0..126 => bytes.push(0x80 | u8::try_from(len).expect("short")),
        len @ 126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(len).expect("medium").to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(content.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Hears `bytes` in reads of `step` bytes.
pub(super) fn hear(max_message: usize, bytes: &[u8], step: usize) -> Result<Vec<WriteOutcome>, Violation> {
    let mut decoder = Decoder::new(max_message);
    let mut heard = Vec::new();
    for read in bytes.chunks(step) {
        let (mut read, mut at) = (read.to_vec(), 0);
        while let Some(one) = decoder.decode(&mut read, &mut at)? {
            heard.push(match one {
                Incoming::Text(text) => WriteOutcome::Text(text.to_owned()),
                Incoming::Binary => WriteOutcome::Binary,
                Incoming::Ping(content) => WriteOutcome::Ping(content.to_vec()),
                Incoming::Pong => WriteOutcome::Pong,
                Incoming::Close(code) => WriteOutcome::Close(code),
            });
        }
        assert_eq!(at, read.len());
    }
    // As whoever reads does at the end of what was read.
    decoder.forget_given();
    if decoder.unfinished.is_empty() {
        assert_eq!((decoder.unfinished.capacity(), decoder.given.capacity()), (0, 0), "nothing is held while idle");
    }
    Ok(heard)
}

/// A client's side of a message that was heard.
fn say(said: &WriteOutcome) -> Vec<u8> {
    match said {
        WriteOutcome::Text(text) => frame(0x81, text.as_bytes()),
        WriteOutcome::Binary => frame(0x82, b""),
        WriteOutcome::Ping(content) => frame(0x89, content),
        WriteOutcome::Pong => frame(0x8A, b""),
        WriteOutcome::Close(code) => {
            frame(0x88, &code.map(u16::to_be_bytes).unwrap_or_default()[..code.map_or(0, |_| 2)])
        }
    }
}

/// A connection's frames; the first byte says how they are cut.
pub const FRAMES: (&str, fn(&[u8]) -> bool) = ("frame", |bytes| {
    let Some((step, bytes)) = bytes.split_first() else { return false };
    let whole = hear(LONGEST, bytes, usize::MAX);
    assert_eq!(hear(LONGEST, bytes, usize::from(*step).max(1)), whole);
    let Ok(heard) = whole else { return false };
    let again: Vec<u8> = heard.iter().flat_map(say).collect();
    assert_eq!(hear(LONGEST, &again, usize::MAX).as_ref(), Ok(&heard));
    !heard.is_empty()
});
