//! Frames, as a client says and hears them: those of RFC 6455 without fragments, or a length and a body. No I/O.

use std::ops::Range;

/// The opcodes that are met (RFC 6455, 5.2).
pub(super) const TEXT: u8 = 0x1;
pub(super) const BINARY: u8 = 0x2;
pub(super) const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xA;

/// How bodies are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// A length of four bytes, little-endian.
    Length,
    /// WebSocket frames with this opcode.
    WebSocket(u8),
}

/// A frame that was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) opcode: u8,
    pub(super) body: Range<usize>,
}

impl Framing {
    /// Puts a frame of a body that `put` appends, and that will be `len` bytes, behind what `to` holds.
    pub(super) fn encode(self, to: &mut Vec<u8>, len: usize, mask: u32, put: impl FnOnce(&mut Vec<u8>)) {
        match self {
            Self::Length => {
                to.extend_from_slice(&u32::try_from(len).expect("a small frame").to_le_bytes());
                put(to);
            }
            Self::WebSocket(opcode) => encode(to, opcode, len, mask, put),
        }
    }

    /// The first frame of `bytes`; `None` until it is whole.
    pub(super) fn decode(self, bytes: &[u8]) -> Option<Frame> {
        let (opcode, start, len) = match self {
            Self::Length => (BINARY, 4, u32::from_le_bytes(*bytes.first_chunk()?) as usize),
            Self::WebSocket(_) => {
                let [first, second] = *bytes.first_chunk()?;
                let (start, len) = match second {
                    126 => (4, u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?).into()),
                    127 => (10, usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?),
                    len => (2, usize::from(len)),
                };
                (first & 0x0F, start, len)
            }
        };
        let body = start..len.checked_add(start)?;
        (body.end <= bytes.len()).then_some(Frame { opcode, body })
    }
}

/// A WebSocket frame of a client, masked as RFC 6455, 5.3 has it.
pub(super) fn encode(to: &mut Vec<u8>, opcode: u8, len: usize, mask: u32, put: impl FnOnce(&mut Vec<u8>)) {
    to.push(0x80 | opcode);
    match u16::try_from(len) {
        Ok(short @ ..126) => to.push(0x80 | short.to_be_bytes()[1]),
        Ok(len) => {
            to.push(0x80 | 126);
            to.extend_from_slice(&len.to_be_bytes());
        }
        Err(_) => {
            to.push(0x80 | 127);
            to.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    to.extend_from_slice(&mask.to_ne_bytes());
    let start = to.len();
    put(to);
    debug_assert_eq!(to.len() - start, len, "the body is as long as was said");
    let (words, rest) = to[start..].as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ mask).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.to_ne_bytes()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(framing: Framing, body: &[u8], mask: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        framing.encode(&mut bytes, body.len(), mask, |to| to.extend_from_slice(body));
        bytes
    }

    #[test]
    fn the_masked_frame_of_the_rfc_comes_out() {
        let mask = u32::from_ne_bytes([0x37, 0xfa, 0x21, 0x3d]);
        let bytes = encoded(Framing::WebSocket(TEXT), b"Hello", mask);
        assert_eq!(hex::encode(bytes), "818537fa213d7f9f4d5158");
    }

    #[test]
    fn frames_of_every_length_decode_once_they_are_complete() {
        for len in [0, 1, 125, 126, 65_535, 65_536] {
            let body = vec![b'x'; len];
            let framed = encoded(Framing::Length, &body, 0);
            assert_eq!(Framing::Length.decode(&framed), Some(Frame { opcode: BINARY, body: 4..4 + len }));
            assert_eq!(Framing::Length.decode(&framed[..framed.len() - 1]), None);
            // A server's frame is a client's without the mask.
            let mut framed = encoded(Framing::WebSocket(BINARY), &body, 0);
            let key = framed.len() - len - 4;
            framed.drain(key..key + 4);
            framed[1] &= 0x7F;
            assert_eq!(Framing::WebSocket(TEXT).decode(&framed), Some(Frame { opcode: BINARY, body: key..key + len }));
            assert_eq!(Framing::WebSocket(TEXT).decode(&framed[..framed.len() - 1]), None);
        }
    }
}
