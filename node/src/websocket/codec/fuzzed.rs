//! Properties that the tests and the fuzzer check for every input: how it is split into reads makes no difference.

use super::*;

/// The maximum message length.
const LONGEST: usize = 300;
pub(super) const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A decoded message or control frame that owns its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owned {
    Text(String),
    Binary,
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
}

/// Encodes a client's frame.
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

/// Decodes `bytes` in reads of `step` bytes.
pub(super) fn decode_all(max_message: usize, bytes: &[u8], step: usize) -> Result<Vec<Owned>, Violation> {
    let mut decoder = Decoder::new(max_message);
    let mut decoded = Vec::new();
    for read in bytes.chunks(step) {
        let (mut read, mut at) = (read.to_vec(), 0);
        while let Some(incoming) = decoder.decode(&mut read, &mut at)? {
            decoded.push(match incoming {
                Incoming::Text(text) => Owned::Text(text.to_owned()),
                Incoming::Binary => Owned::Binary,
                Incoming::Ping(content) => Owned::Ping(content.to_vec()),
                Incoming::Pong => Owned::Pong,
                Incoming::Close(code) => Owned::Close(code),
            });
        }
        assert_eq!(at, read.len());
    }
    // The reader does this at the end of each read too.
    decoder.drop_output();
    if decoder.unfinished.is_empty() {
        assert_eq!((decoder.unfinished.capacity(), decoder.output.capacity()), (0, 0), "nothing is held while idle");
    }
    Ok(decoded)
}

/// Encodes a decoded message as a client's frame.
fn encode(message: &Owned) -> Vec<u8> {
    match message {
        Owned::Text(text) => frame(0x81, text.as_bytes()),
        Owned::Binary => frame(0x82, b""),
        Owned::Ping(content) => frame(0x89, content),
        Owned::Pong => frame(0x8A, b""),
        Owned::Close(code) => frame(0x88, &code.map(u16::to_be_bytes).unwrap_or_default()[..code.map_or(0, |_| 2)]),
    }
}

/// A connection's frames. The first byte is the length of the reads.
pub const FRAMES: (&str, fn(&[u8]) -> bool) = ("frame", |bytes| {
    let Some((step, bytes)) = bytes.split_first() else { return false };
    let whole = decode_all(LONGEST, bytes, usize::MAX);
    assert_eq!(decode_all(LONGEST, bytes, usize::from(*step).max(1)), whole);
    let Ok(decoded) = whole else { return false };
    let again: Vec<u8> = decoded.iter().flat_map(encode).collect();
    assert_eq!(decode_all(LONGEST, &again, usize::MAX).as_ref(), Ok(&decoded));
    !decoded.is_empty()
});
