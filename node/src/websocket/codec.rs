//! The frames of RFC 6455 as a server hears and says them, without I/O.
//!
//! What was read is unmasked and parsed where it lies. Only the bytes of a frame or message that is not whole yet are
//! kept, and nothing is kept of what would grow over the bound: that shows in a frame's header.

use std::str;

/// The longest content of a control frame (RFC 6455, 5.5).
const MAX_CONTROL: usize = 125;
/// The longest header of a frame from this side: two bytes and a length of eight.
const MAX_OWN_HEAD: usize = 10;
/// Parts of one message that carry nothing: a sender that flushes at odd moments, and not one that only keeps us busy.
const MAX_EMPTY_PARTS: u32 = 32;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    /// Goes on with the message.
    Continuation = 0x0,
    /// Begins a text.
    Text = 0x1,
    /// Begins what is no text.
    Binary = 0x2,
    /// The last frame of a side.
    Close = 0x8,
    /// Asks for a pong.
    Ping = 0x9,
    /// Answers a ping.
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

/// What a client said.
#[cfg_attr(test, derive(Debug, PartialEq, Eq))]
pub(crate) enum Incoming<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message, whose content is nobody's business.
    Binary,
    /// To be answered by a pong with the same content.
    Ping(&'a [u8]),
    /// The answer to a ping, or to none.
    Pong,
    /// The client says no more. The code is to be said back; none where it named none.
    Close(Option<u16>),
}

/// What a client may not do. The connection is closed; nothing more can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// Not what RFC 6455 allows.
    #[error("not a frame")]
    Protocol,
    /// A text that is no UTF-8.
    #[error("not UTF-8")]
    Utf8,
    /// A message over the bound; nothing of it was kept.
    #[error("too large")]
    TooLarge,
    /// A message in parts without content and without end.
    #[error("too many parts")]
    Parts,
    /// A message that did not come whole in time.
    #[error("too slow")]
    Slow,
}

impl Violation {
    /// One word for it: what the client is told as the reason, and the label of its counter.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Protocol => "protocol error",
            Self::Utf8 => "not UTF-8",
            Self::TooLarge => "too_large",
            Self::Parts => "too many parts",
            Self::Slow => "too slow",
        }
    }

    /// The close code that says so (RFC 6455, 7.4.1).
    pub(crate) const fn close_code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::Utf8 => 1007,
            Self::Parts | Self::Slow => 1008,
            Self::TooLarge => 1009,
        }
    }
}

/// The header of one frame of a client.
#[derive(Clone, Copy, Debug)]
struct Head {
    fin: bool,
    opcode: Opcode,
    mask: [u8; 4],
    /// Where in the frame its content begins and ends.
    start: usize,
    end: usize,
}

impl Head {
    /// The header at the start of `bytes`; `None` until it is there whole.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let [first, second, ..] = *bytes else { return Ok(None) };
        // Reserved bits are for extensions, and none is agreed upon.
        if first & 0x70 != 0 {
            return Err(Violation::Protocol);
        }
        let opcode = Opcode::from_bits(first & 0x0F).ok_or(Violation::Protocol)?;
        let fin = first & 0x80 != 0;
        let is_masked = second & 0x80 != 0;
        if !is_masked || (opcode.is_control() && (!fin || usize::from(second & 0x7F) > MAX_CONTROL)) {
            return Err(Violation::Protocol);
        }
        // A length in more bytes than it needs is none (RFC 6455, 5.2).
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
        // What fits no memory is too large for every bound.
        let end = usize::try_from(len).ok().and_then(|len| start.checked_add(len)).ok_or(Violation::TooLarge)?;
        Ok(Some(Self { fin, opcode, mask: *mask, start, end }))
    }
}

/// A message that came in parts, until its last one.
struct Parts {
    is_text: bool,
    content: Vec<u8>,
    /// Up to where the text is known to be UTF-8.
    checked: usize,
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
            // What ends within a character may go on in the next part.
            self.checked += error.valid_up_to();
            return if error.error_len().is_some() { Err(Violation::Utf8) } else { Ok(()) };
        }
        self.checked = self.content.len();
        Ok(())
    }
}

/// Where a whole frame lies.
enum Place {
    /// In what was read, from here on.
    Input(usize),
    /// In [`Decoder::given`].
    Given,
}

/// Takes a client's bytes apart.
pub(crate) struct Decoder {
    max_message: usize,
    /// The bytes of a frame that is not whole yet, as they came.
    unfinished: Vec<u8>,
    parts: Option<Box<Parts>>,
    /// What the last message was given from, where that isn't what was read.
    given: Vec<u8>,
}

impl Decoder {
    /// For messages of at most `max_message` bytes.
    pub(crate) const fn new(max_message: usize) -> Self {
        Self { max_message, unfinished: Vec::new(), parts: None, given: Vec::new() }
    }

    /// The next message or control frame in `input` from `at` on, which moves behind it. `None`: all of `input` is used
    /// up, and what is not whole is kept; go on with what comes next. Call it until then.
    pub(crate) fn decode<'a>(
        &'a mut self,
        input: &'a mut [u8],
        at: &mut usize,
    ) -> Result<Option<Incoming<'a>>, Violation> {
        self.forget_given();
        loop {
            let Some((head, place)) = self.next_frame(input, at)? else { return Ok(None) };
            let frame = match place {
                Place::Input(from) => &mut input[from..],
                Place::Given => &mut self.given,
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
                        return self.give_parts().map(Some);
                    }
                }
                _ => return self.give(input, head, &place).map(Some),
            }
        }
    }

    /// How much is held of what is not whole yet, in bytes: at least half of what it takes.
    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished.len() + self.parts.as_ref().map_or(0, |parts| parts.content.len())
    }

    /// Lets go of it. What comes is no frames any more.
    pub(crate) fn forget_unfinished(&mut self) {
        (self.unfinished, self.parts) = (Vec::new(), None);
    }

    /// Lets go of what was given last.
    pub(crate) fn forget_given(&mut self) {
        self.given = Vec::new();
    }

    /// Finds the next frame, and takes it only where it is allowed.
    fn next_frame(&mut self, input: &[u8], at: &mut usize) -> Result<Option<(Head, Place)>, Violation> {
        if self.unfinished.is_empty() {
            let from = *at;
            let rest = &input[from..];
            if let Some(head) = Head::parse(rest)? {
                self.admit(&head)?;
                if head.end <= rest.len() {
                    *at += head.end;
                    return Ok(Some((head, Place::Input(from))));
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
        self.admit(&head)?;
        let missing = (head.end - self.unfinished.len()).min(input.len() - *at);
        self.unfinished.extend_from_slice(&input[*at..*at + missing]);
        *at += missing;
        if self.unfinished.len() < head.end {
            return Ok(None);
        }
        self.given = std::mem::take(&mut self.unfinished);
        Ok(Some((head, Place::Given)))
    }

    fn admit(&self, head: &Head) -> Result<(), Violation> {
        if head.opcode.is_control() {
            return Ok(());
        }
        if self.parts.is_some() != (head.opcode == Opcode::Continuation) {
            return Err(Violation::Protocol);
        }
        let so_far = self.parts.as_ref().map_or(0, |parts| parts.content.len());
        if so_far + (head.end - head.start) > self.max_message { Err(Violation::TooLarge) } else { Ok(()) }
    }

    fn give_parts(&mut self) -> Result<Incoming<'_>, Violation> {
        let parts = self.parts.take().ok_or(Violation::Protocol)?;
        self.given = parts.content;
        if !parts.is_text {
            return Ok(Incoming::Binary);
        }
        str::from_utf8(&self.given).map(Incoming::Text).map_err(|_| Violation::Utf8)
    }

    fn give<'a>(&'a self, input: &'a [u8], head: Head, place: &Place) -> Result<Incoming<'a>, Violation> {
        let frame = match place {
            Place::Input(from) => &input[*from..],
            Place::Given => &self.given,
        };
        let content = &frame[head.start..head.end];
        Ok(match head.opcode {
            Opcode::Text => Incoming::Text(str::from_utf8(content).map_err(|_| Violation::Utf8)?),
            Opcode::Binary | Opcode::Continuation => Incoming::Binary,
            Opcode::Ping => Incoming::Ping(content),
            Opcode::Pong => Incoming::Pong,
            Opcode::Close => Incoming::Close(close_code(content)?),
        })
    }
}

/// The code of a close frame.
fn close_code(content: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = content.split_first_chunk::<2>() else {
        return if content.is_empty() { Ok(None) } else { Err(Violation::Protocol) };
    };
    let code = u16::from_be_bytes(*code);
    // What the RFC and IANA's registry let an endpoint send; the rest are reserved or mean «no code».
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Protocol);
    }
    str::from_utf8(reason).map_err(|_| Violation::Utf8)?;
    Ok(Some(code))
}

/// Takes the mask off. In blocks, which the compiler makes a few vector instructions of.
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

/// The header of a frame from this side: whole, and without a mask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameHead {
    bytes: [u8; MAX_OWN_HEAD],
    len: usize,
}

impl FrameHead {
    /// For a frame of `len` bytes.
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

    /// The bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
#[cfg(test)]
mod tests;
