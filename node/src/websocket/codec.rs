//! Decodes and encodes the frames of RFC 6455 on the server's side, without I/O.
//!
//! Frames are unmasked and parsed in the read buffer. Only the bytes of an incomplete frame or message are kept. A
//! message over the bound is refused by a frame's header, before any of its content is kept.

use std::str;

/// The maximum content length of a control frame (RFC 6455, 5.5).
const MAX_CONTROL: usize = 125;
/// The maximum header length of a frame from this side: two bytes, and eight for the length.
const MAX_OWN_HEAD: usize = 10;
/// The maximum number of empty parts in one message. A sender may flush an empty part at times, but an endless sequence
/// of them is an attack.
const MAX_EMPTY_PARTS: u32 = 32;

/// The type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// Continues a fragmented message.
    Continuation = 0x0,
    /// Begins a text message.
    Text = 0x1,
    /// Begins a binary message.
    Binary = 0x2,
    Close = 0x8,
    /// Requests a pong.
    Ping = 0x9,
    Pong = 0xA,
}

impl Opcode {
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A received message or control frame.
#[cfg_attr(test, derive(Debug, PartialEq, Eq))]
pub(crate) enum Incoming<'a> {
    /// A complete text message.
    Text(&'a str),
    /// A complete binary message. Its content is discarded, since the protocol has no binary messages.
    Binary,
    /// A ping. The answer is a pong with the same content.
    Ping(&'a [u8]),
    /// A pong, solicited or not.
    Pong,
    /// The client's last frame, with its code, if any. The answer is a close frame with the same code.
    Close(Option<u16>),
}

/// A protocol violation of a client. No more input can be decoded, and the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// The frame is not valid in RFC 6455.
    #[error("not a frame")]
    Protocol,
    /// The text is not UTF-8.
    #[error("not UTF-8")]
    Utf8,
    /// The message is too large. None of the frame that exceeds the bound was kept.
    #[error("too large")]
    TooLarge,
    /// The message has more than [`MAX_EMPTY_PARTS`] empty parts.
    #[error("too many parts")]
    Parts,
    /// The message was not completed in time.
    #[error("too slow")]
    Slow,
}

impl Violation {
    /// All violations.
    pub(crate) const ALL: [Self; 5] = [Self::Protocol, Self::Utf8, Self::TooLarge, Self::Parts, Self::Slow];

    /// Returns the reason in the close frame, which is also the label of the counter.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Protocol => "protocol error",
            Self::Utf8 => "not UTF-8",
            Self::TooLarge => "too_large",
            Self::Parts => "too many parts",
            Self::Slow => "too slow",
        }
    }

    /// Returns the close code (RFC 6455, 7.4.1).
    pub(crate) const fn close_code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::Utf8 => 1007,
            Self::Parts | Self::Slow => 1008,
            Self::TooLarge => 1009,
        }
    }
}

/// The header of a client's frame.
#[derive(Clone, Copy, Debug)]
struct Head {
    fin: bool,
    opcode: Opcode,
    mask: [u8; 4],
    /// The offset of the content in the frame.
    start: usize,
    /// The offset after the content, which is the length of the frame.
    end: usize,
}

impl Head {
    /// Parses the header at the start of `bytes`. Returns `None` if it is incomplete.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let [first, second, ..] = *bytes else { return Ok(None) };
        // Reserved bits are for extensions, and the server negotiates none.
        if first & 0x70 != 0 {
            return Err(Violation::Protocol);
        }
        let opcode = Opcode::from_bits(first & 0x0F).ok_or(Violation::Protocol)?;
        let fin = first & 0x80 != 0;
        let is_masked = second & 0x80 != 0;
        if !is_masked || (opcode.is_control() && (!fin || usize::from(second & 0x7F) > MAX_CONTROL)) {
            return Err(Violation::Protocol);
        }
        // A length must be encoded in the minimal number of bytes (RFC 6455, 5.2).
        let (len, at) = match second & 0x7F {
            126 => {
                let Some(len) = bytes.get(2..4) else { return Ok(None) };
                let len = u64::from(u16::from_be_bytes([len[0], len[1]]));
                if len < 126 {
                    return Err(Violation::Protocol);
                }
                (len, 4)
            }
            127 => {
                let Some(len) = bytes.get(2..).and_then(<[u8]>::first_chunk::<8>) else { return Ok(None) };
                let len = u64::from_be_bytes(*len);
                if len <= u64::from(u16::MAX) || len >> 63 != 0 {
                    return Err(Violation::Protocol);
                }
                (len, 10)
            }
            len => (u64::from(len), 2),
        };
        let Some(mask) = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>) else { return Ok(None) };
        let start = at + 4;
        // A length that overflows `usize` exceeds every bound.
        let end = usize::try_from(len).ok().and_then(|len| start.checked_add(len)).ok_or(Violation::TooLarge)?;
        Ok(Some(Self { fin, opcode, mask: *mask, start, end }))
    }
}

/// An incomplete fragmented message.
struct Parts {
    is_text: bool,
    content: Vec<u8>,
    /// The length of the prefix that is known to be UTF-8.
    checked: usize,
    /// The number of empty parts.
    empty: u32,
}

impl Parts {
    fn add(&mut self, part: &[u8]) -> Result<(), Violation> {
        if part.is_empty() {
            self.empty += 1;
            return if self.empty > MAX_EMPTY_PARTS { Err(Violation::Parts) } else { Ok(()) };
        }
        self.content.extend_from_slice(part);
        if self.is_text
            && let Err(error) = str::from_utf8(&self.content[self.checked..])
        {
            // A character at the end may continue in the next part.
            self.checked += error.valid_up_to();
            return if error.error_len().is_some() { Err(Violation::Utf8) } else { Ok(()) };
        }
        self.checked = self.content.len();
        Ok(())
    }
}

/// The location of a complete frame.
enum FrameLocation {
    /// The input, from this offset.
    Input(usize),
    /// [`Decoder::output`].
    Output,
}

/// Decodes a client's frames.
pub(crate) struct Decoder {
    max_message: usize,
    /// The masked bytes of an incomplete frame.
    unfinished: Vec<u8>,
    parts: Option<Box<Parts>>,
    /// The buffer of the last returned message, if it isn't in the input.
    output: Vec<u8>,
}

impl Decoder {
    /// Creates a decoder for messages of at most `max_message` bytes.
    pub(crate) const fn new(max_message: usize) -> Self {
        Self { max_message, unfinished: Vec::new(), parts: None, output: Vec::new() }
    }

    /// Decodes the next message or control frame in `input` from offset `at`, and moves `at` behind it.
    ///
    /// Returns `None` if all of `input` is used up. The decoder then keeps the incomplete rest. The caller has to call
    /// it until then.
    pub(crate) fn decode<'a>(
        &'a mut self,
        input: &'a mut [u8],
        at: &mut usize,
    ) -> Result<Option<Incoming<'a>>, Violation> {
        self.drop_output();
        loop {
            let Some((head, location)) = self.next_frame(input, at)? else { return Ok(None) };
            let frame = match location {
                FrameLocation::Input(from) => &mut input[from..],
                FrameLocation::Output => &mut self.output,
            };
            let content = &mut frame[head.start..head.end];
            unmask(content, head.mask);
            match head.opcode {
                Opcode::Text | Opcode::Binary if !head.fin => {
                    let mut parts =
                        Parts { is_text: head.opcode == Opcode::Text, content: Vec::new(), checked: 0, empty: 0 };
                    parts.add(content)?;
                    self.parts = Some(Box::new(parts));
                }
                Opcode::Continuation => {
                    let Some(parts) = &mut self.parts else { return Err(Violation::Protocol) };
                    parts.add(content)?;
                    if head.fin {
                        return self.finish_parts().map(Some);
                    }
                }
                _ => return self.to_incoming(input, head, &location).map(Some),
            }
        }
    }

    /// Returns the number of bytes of the incomplete frame and message. Their memory is at most twice as large.
    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished.len() + self.parts.as_ref().map_or(0, |parts| parts.content.len())
    }

    /// Drops the incomplete frame and message. Later input can't be decoded any more.
    pub(crate) fn drop_unfinished(&mut self) {
        (self.unfinished, self.parts) = (Vec::new(), None);
    }

    /// Frees the buffer of the last returned message.
    pub(crate) fn drop_output(&mut self) {
        self.output = Vec::new();
    }

    /// Finds the next complete frame, and checks that it is allowed.
    fn next_frame(&mut self, input: &[u8], at: &mut usize) -> Result<Option<(Head, FrameLocation)>, Violation> {
        if self.unfinished.is_empty() {
            let from = *at;
            let rest = &input[from..];
            if let Some(head) = Head::parse(rest)? {
                self.check_head(&head)?;
                if head.end <= rest.len() {
                    *at += head.end;
                    return Ok(Some((head, FrameLocation::Input(from))));
                }
            }
            self.unfinished.extend_from_slice(rest);
            *at = input.len();
            return Ok(None);
        }
        let head = loop {
            if let Some(head) = Head::parse(&self.unfinished)? {
                break head;
            }
            let Some(byte) = input.get(*at) else { return Ok(None) };
            self.unfinished.push(*byte);
            *at += 1;
        };
        self.check_head(&head)?;
        let missing = (head.end - self.unfinished.len()).min(input.len() - *at);
        self.unfinished.extend_from_slice(&input[*at..*at + missing]);
        *at += missing;
        if self.unfinished.len() < head.end {
            return Ok(None);
        }
        self.output = std::mem::take(&mut self.unfinished);
        Ok(Some((head, FrameLocation::Output)))
    }

    fn check_head(&self, head: &Head) -> Result<(), Violation> {
        if head.opcode.is_control() {
            return Ok(());
        }
        if self.parts.is_some() != (head.opcode == Opcode::Continuation) {
            return Err(Violation::Protocol);
        }
        let received = self.parts.as_ref().map_or(0, |parts| parts.content.len());
        if received + (head.end - head.start) > self.max_message { Err(Violation::TooLarge) } else { Ok(()) }
    }

    fn finish_parts(&mut self) -> Result<Incoming<'_>, Violation> {
        let parts = self.parts.take().ok_or(Violation::Protocol)?;
        self.output = parts.content;
        if !parts.is_text {
            return Ok(Incoming::Binary);
        }
        str::from_utf8(&self.output).map(Incoming::Text).map_err(|_| Violation::Utf8)
    }

    fn to_incoming<'a>(
        &'a self,
        input: &'a [u8],
        head: Head,
        location: &FrameLocation,
    ) -> Result<Incoming<'a>, Violation> {
        let frame = match location {
            FrameLocation::Input(from) => &input[*from..],
            FrameLocation::Output => &self.output,
        };
        let content = &frame[head.start..head.end];
        Ok(match head.opcode {
            Opcode::Text => Incoming::Text(str::from_utf8(content).map_err(|_| Violation::Utf8)?),
            Opcode::Binary | Opcode::Continuation => Incoming::Binary,
            Opcode::Ping => Incoming::Ping(content),
            Opcode::Pong => Incoming::Pong,
            Opcode::Close => Incoming::Close(parse_close_code(content)?),
        })
    }
}

/// Parses the content of a close frame.
fn parse_close_code(content: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = content.split_first_chunk::<2>() else {
        return if content.is_empty() { Ok(None) } else { Err(Violation::Protocol) };
    };
    let code = u16::from_be_bytes(*code);
    // The codes that the RFC and IANA's registry let an endpoint send. The others are reserved, or mean that there is
    // no code.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Protocol);
    }
    str::from_utf8(reason).map_err(|_| Violation::Utf8)?;
    Ok(Some(code))
}

/// Removes the mask, in blocks that the compiler can vectorize.
fn unmask(content: &mut [u8], mask: [u8; 4]) {
    let mut wide = [0; 32];
    for (index, byte) in wide.iter_mut().enumerate() {
        *byte = mask[index % 4];
    }
    let (blocks, rest) = content.as_chunks_mut::<32>();
    for block in blocks {
        for (byte, mask) in block.iter_mut().zip(wide) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in rest.iter_mut().zip(wide) {
        *byte ^= mask;
    }
}

/// The header of an unfragmented frame from this side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameHead {
    bytes: [u8; MAX_OWN_HEAD],
    len: usize,
}

impl FrameHead {
    /// Creates the header of a frame with `len` bytes of content.
    pub(crate) fn new(opcode: Opcode, len: usize) -> Self {
        let mut bytes = [0; MAX_OWN_HEAD];
        bytes[0] = 0x80 | opcode as u8;
        let used = match (u8::try_from(len), u16::try_from(len)) {
            (Ok(short @ 0..126), _) => {
                bytes[1] = short;
                2
            }
            (_, Ok(medium)) => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&medium.to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..].copy_from_slice(&(len as u64).to_be_bytes());
                10
            }
        };
        Self { bytes, len: used }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
#[cfg(test)]
mod tests;
