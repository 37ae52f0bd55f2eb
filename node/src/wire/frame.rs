//! The frames of a link's two lanes.
//!
//! A frame is a length (four bytes, little endian), a header (postcard), and for the forwarded kinds the payload as
//! the client wrote it. Everything between two sessions goes over the relay lane, so that it stays in order; questions
//! to homes go over the control lane, so that they never wait behind payloads.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use chappe_common::{
    client::{ErrorCode, MAX_MESSAGE, RelayKind},
    code::PairingCode,
    lease::{Address, Inbox},
    redacted::Redacted,
};
use serde::{Deserialize, Serialize};

use super::ids::{ClaimResult, CodeHolder, SessionId};
use crate::limits::byte_channel::Weigh;

/// The longest frame in bytes, without its length: the largest client message and a header.
pub(crate) const MAX_FRAME: usize = MAX_MESSAGE + 4096;
/// The most leases or codes in one request: a frame of 12 KiB.
pub(crate) const MAX_BATCH: usize = 64;

/// What the header of a forwarded message and its length fit in.
const SHORT_HEAD: usize = 80;

/// The two streams that each side of a link opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// What goes from session to session.
    Relay,
    /// Questions to homes, and their answers.
    Control,
}

impl Lane {
    /// The first byte of the lane's stream.
    pub(crate) const fn first_byte(self) -> u8 {
        match self {
            Self::Relay => 1,
            Self::Control => 2,
        }
    }

    /// The lane with that first byte.
    pub(crate) const fn from_first_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Relay),
            2 => Some(Self::Control),
            _ => None,
        }
    }
}

/// What became of a forwarded message at the callee's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The callee's connection has it.
    Delivered,
    /// The inbox or session is not at this node.
    NotHere,
    /// The message was refused.
    Refused(ErrorCode),
}

/// What one session tells another outside of the forwarded messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Note {
    /// «Will you pair, or link?»
    PairRequest(PairRequest),
    /// The ask cannot be processed.
    PairRequestRefused {
        /// Which ask.
        ask: u64,
    },
    /// The asking session is gone, or asked again.
    PairRequestWithdrawn {
        /// Which ask.
        ask: u64,
    },
    /// The client's answer.
    Answer {
        /// Which ask.
        ask: u64,
        /// The answer; none: declined.
        accepted: Option<Accepted>,
    },
    /// The session that says so has ended, or has another code now: no more messages to it.
    Closed,
}

impl Note {
    /// The answer of a node where the session isn't, to a session that asked it or thinks that it is paired with it.
    pub(crate) const fn answer_of_nobody(&self) -> Option<Self> {
        match self {
            Self::PairRequest(ask) => Some(Self::PairRequestRefused { ask: ask.ask }),
            Self::Answer { accepted: Some(_), .. } => Some(Self::Closed),
            _ => None,
        }
    }
}

/// Whether two sessions become a pair of people or two devices of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PairRequestKind {
    /// `pair_request`.
    Pair,
    /// `link_request`.
    Link,
}

/// A pair or link request.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PairRequest {
    /// Chosen by the asking session.
    pub(crate) ask: u64,
    /// Pair or link.
    pub(crate) kind: PairRequestKind,
    /// The code that was asked for; the session may have another by now.
    pub(crate) target: PairingCode,
    /// The asking client's code.
    pub(crate) code: PairingCode,
    /// The asking client's key.
    pub(crate) public_key: [u8; 32],
    /// `proposedName` or `deviceName`.
    pub(crate) name: Option<String>,
    /// The payload, JSON as it came.
    pub(crate) payload: Option<Bytes>,
}

impl fmt::Debug for PairRequest {
    /// Without key, name and payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask").field("ask", &self.ask).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// What an accepting client says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    /// Its key.
    pub(crate) public_key: [u8; 32],
    /// `deviceId`, for links.
    pub(crate) device_id: Option<String>,
    /// The payload, JSON as it came.
    pub(crate) payload: Option<Bytes>,
}

impl fmt::Debug for Accepted {
    /// Without key, name and payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted").finish_non_exhaustive()
    }
}

/// A code that a session has registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CodeRegistration {
    /// The code.
    pub(crate) code: PairingCode,
    /// The session, of the node that says so.
    pub(crate) session: SessionId,
    /// The client's signed claim, by which it can take the code back; clients need none.
    pub(crate) claim: Option<Redacted<Bytes>>,
}

/// A question to a home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Keep these signed leases; at most [`MAX_BATCH`].
    PutLeases(Vec<Redacted<Bytes>>),
    /// Forget these leases up to this `seq`.
    DropLeases(Vec<(Inbox, u64)>),
    /// Where is this inbox?
    FindLease(Address),
    /// Give these codes to these sessions of mine, or keep them there.
    ClaimCodes(Vec<CodeRegistration>),
    /// These sessions of mine give their codes back.
    DropCodes(Vec<(PairingCode, SessionId)>),
    /// Where is this code?
    FindCode(PairingCode),
}

/// A home's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Response {
    /// For each lease whether it is kept.
    Leases(Vec<LeasePut>),
    /// The signed lease.
    Lease(Option<Redacted<Bytes>>),
    /// For each code whether it was granted.
    Codes(Vec<ClaimResult>),
    /// Where the code is.
    Code(Option<CodeHolder>),
    /// Done.
    Done,
    /// The request is out of its bounds.
    Refused,
}

/// What became of one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LeasePut {
    /// Kept.
    Kept,
    /// This newer one is kept.
    Stale(Redacted<Bytes>),
    /// Not valid, or the table is full.
    Refused,
}

/// The header of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Header {
    /// A message to an inbox; the payload follows.
    ToInbox {
        /// Comes back in the outcome.
        token: u64,
        /// Which message.
        kind: RelayKind,
        /// To whom.
        to: Address,
    },
    /// A message inside a pairing; the payload follows.
    ToSession {
        /// Comes back in the outcome.
        token: u64,
        /// Which message.
        kind: RelayKind,
        /// To which session of the receiving node.
        to: SessionId,
        /// From which session of the sending node.
        from: SessionId,
    },
    /// What became of a message.
    Outcome {
        /// The message's token.
        token: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// A note between two sessions.
    Note {
        /// To which session of the receiving node.
        to: SessionId,
        /// From which session of the sending node.
        from: SessionId,
        /// The note.
        note: Note,
    },
    /// A question; answered by a response with the same id.
    Request {
        /// Chosen by the asking node.
        id: u64,
        /// The question.
        request: Request,
    },
    /// An answer.
    Response {
        /// The question's id.
        id: u64,
        /// The answer.
        response: Response,
    },
    /// A home's word to the edge of an older lease: this newer one is kept.
    Displaced {
        /// The newer signed lease.
        lease: Redacted<Bytes>,
    },
    /// Messages in a row were delivered.
    Delivered {
        /// The first one's token.
        first: u64,
        /// How many they are.
        count: u32,
    },
}

impl Header {
    /// The lane that the header belongs to.
    pub(crate) const fn lane(&self) -> Lane {
        match self {
            Self::ToInbox { .. }
            | Self::ToSession { .. }
            | Self::Outcome { .. }
            | Self::Note { .. }
            | Self::Delivered { .. } => Lane::Relay,
            Self::Request { .. } | Self::Response { .. } | Self::Displaced { .. } => Lane::Control,
        }
    }

    const fn has_payload(&self) -> bool {
        matches!(self, Self::ToInbox { .. } | Self::ToSession { .. })
    }
}

/// A frame on its way out.
#[derive(Clone)]
pub(crate) struct Frame {
    /// Length and header.
    pub(crate) head: Bytes,
    /// The payload, empty for most.
    pub(crate) payload: Bytes,
}

impl Frame {
    /// A frame of `header` and, where the header says so, a payload.
    pub(crate) fn new(header: &Header, payload: Bytes) -> Self {
        debug_assert!(header.has_payload() || payload.is_empty());
        let length = |head: usize| {
            let len = u32::try_from(head + payload.len()).expect("a frame is bounded by the largest client message");
            len.to_le_bytes()
        };
        // Most headers are short: written in place, they cost one allocation of their size.
        let mut short = [0; SHORT_HEAD];
        let head = if let Ok(written) = postcard::to_slice(header, &mut short[4..]) {
            let len = written.len();
            short[..4].copy_from_slice(&length(len));
            Bytes::copy_from_slice(&short[..4 + len])
        } else {
            let mut head = postcard::to_extend(header, vec![0; 4]).expect("a header of owned values always encodes");
            let len = length(head.len() - 4);
            head[..4].copy_from_slice(&len);
            head.into()
        };
        Self { head, payload }
    }
}

impl fmt::Debug for Frame {
    /// Sizes alone: both parts hold what clients wrote.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("head", &self.head.len()).field("payload", &self.payload.len()).finish()
    }
}

impl Weigh for Frame {
    fn weight(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

/// Why a lane's bytes are no frames. The link is closed: there is no way to find the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The length is over [`MAX_FRAME`].
    #[error("a frame is longer than allowed")]
    TooLong,
    /// The header is not one value of the lane, or more follows than it announces.
    #[error("a frame is malformed")]
    Malformed,
}

/// Takes the next frame out of what a lane has received: its header and its payload, which is still a part of what was
/// read. `None` until it is there whole.
pub(crate) fn decode(buffer: &mut BytesMut, lane: Lane) -> Result<Option<(Header, BytesMut)>, FrameError> {
    let Some(len) = buffer.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*len) as usize;
    if len > MAX_FRAME {
        return Err(FrameError::TooLong);
    }
    if buffer.len() < 4 + len {
        return Ok(None);
    }
    buffer.advance(4);
    let mut frame = buffer.split_to(len);
    let (header, payload) = postcard::take_from_bytes::<Header>(&frame).map_err(|_| FrameError::Malformed)?;
    if header.lane() != lane || (!header.has_payload() && !payload.is_empty()) {
        return Err(FrameError::Malformed);
    }
    let head = len - payload.len();
    frame.advance(head);
    Ok(Some((header, frame)))
}

/// What is checked of every input, by the tests and by the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// A frame as it is written.
    pub(super) fn bytes_of(frame: &Frame) -> BytesMut {
        let mut bytes = BytesMut::from(&frame.head[..]);
        bytes.extend_from_slice(&frame.payload);
        bytes
    }

    /// The first byte of a lane, and a frame on it.
    pub const FRAME: (&str, fn(&[u8]) -> bool) = ("link frame", |bytes| {
        let Some((lane, bytes)) = bytes.split_first() else { return false };
        let Some(lane) = Lane::from_first_byte(*lane) else { return false };
        // The length as it is: most changes would otherwise only make it wrong.
        let mut buffer = BytesMut::from(bytes);
        let _ = decode(&mut buffer, lane);
        let Some(body) = bytes.get(4..) else { return false };
        let mut buffer = BytesMut::from(&u32::try_from(body.len()).expect("short").to_le_bytes()[..]);
        buffer.extend_from_slice(body);
        let Ok(Some((header, payload))) = decode(&mut buffer, lane) else { return false };
        assert!(buffer.is_empty() && header.lane() == lane);
        let mut again = bytes_of(&Frame::new(&header, payload.clone().freeze()));
        assert_eq!(decode(&mut again, lane), Ok(Some((header, payload))));
        true
    });
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::{NodeId, PublicKey};

    use super::{fuzzed::bytes_of, *};
    use crate::leases::address_of;

    #[test]
    fn a_frame_has_exactly_these_bytes() {
        let header = Header::ToInbox { token: 300, kind: RelayKind::CallOffer, to: address_of(0xab) };
        let frame = Frame::new(&header, Bytes::from_static(b"\"x\""));
        // Length 55; variant 0; token 300 as a varint; kind 3; the inbox and its token; the payload.
        assert_eq!(
            hex::encode(bytes_of(&frame)),
            format!("37000000{}{}{}{}{}", "00", "ac02", "03", "ab".repeat(48), "227822")
        );
    }

    #[test]
    fn frames_are_found_one_by_one_however_they_arrive() {
        let headers = [
            Header::Outcome { token: 1, outcome: Outcome::Delivered },
            Header::Note { to: SessionId::from_raw(1), from: SessionId::from_raw(2), note: Note::Closed },
            Header::Outcome { token: 2, outcome: Outcome::Refused(ErrorCode::Congested) },
            Header::Delivered { first: 3, count: 300 },
        ];
        let all: Vec<u8> = headers.iter().flat_map(|h| bytes_of(&Frame::new(h, Bytes::new()))).collect();
        let mut buffer = BytesMut::new();
        let mut found = Vec::new();
        for byte in all {
            buffer.extend_from_slice(&[byte]);
            while let Some((header, _)) = decode(&mut buffer, Lane::Relay).expect("only whole frames") {
                found.push(header);
            }
        }
        assert_eq!(found, headers);
    }

    #[test]
    fn a_payload_is_what_stands_behind_the_header() {
        let header = Header::ToInbox { token: 1, kind: RelayKind::CallIce, to: address_of(1) };
        let mut buffer = bytes_of(&Frame::new(&header, Bytes::from_static(b"\"x\"")));
        buffer.extend_from_slice(&bytes_of(&Frame::new(&header, Bytes::from_static(b"\"behind\""))));
        let mut payload = || decode(&mut buffer, Lane::Relay).expect("a frame").expect("whole").1;
        assert_eq!((&payload()[..], &payload()[..]), (&b"\"x\""[..], &b"\"behind\""[..]));
    }

    #[test]
    fn what_does_not_belong_to_the_lane_or_is_too_long_is_refused() {
        let frame = Frame::new(&Header::Response { id: 1, response: Response::Done }, Bytes::new());
        assert_eq!(decode(&mut bytes_of(&frame), Lane::Relay), Err(FrameError::Malformed));
        let mut long = BytesMut::from(&(MAX_FRAME as u32 + 1).to_le_bytes()[..]);
        assert_eq!(decode(&mut long, Lane::Relay), Err(FrameError::TooLong));
        let mut trailing = bytes_of(&frame);
        trailing[0] += 1;
        trailing.extend_from_slice(b"!");
        assert_eq!(decode(&mut trailing, Lane::Control), Err(FrameError::Malformed));
    }

    /// One header of each kind, and of each kind of what is in them.
    fn headers() -> Vec<Header> {
        let code = "ABC234".parse().expect("a code");
        let inbox = Inbox::new(PublicKey::from_bytes([3; 32]));
        let (to, from) = (SessionId::from_raw(1), SessionId::from_raw(u64::MAX));
        let note = |note| Header::Note { to, from, note };
        let request = |request| Header::Request { id: 300, request };
        let response = |response| Header::Response { id: 300, response };
        let lease = || Redacted::new(Bytes::from_static(b"a lease"));
        let payload = Some(Bytes::from_static(b"\"x\""));
        let (public_key, name) = ([7; 32], Some("é".to_owned()));
        let (device_id, kind) = (name.clone(), RelayKind::CallIce);
        let ask = PairRequest {
            ask: 1,
            kind: PairRequestKind::Link,
            target: code,
            code,
            public_key,
            name,
            payload: payload.clone(),
        };
        let holder = CodeHolder { node: NodeId::new(PublicKey::from_bytes([4; 32])), session: to };
        vec![
            Header::ToInbox { token: 300, kind, to: address_of(3) },
            Header::ToSession { token: 0, kind: RelayKind::Offer, to, from },
            Header::Outcome { token: 1, outcome: Outcome::Refused(ErrorCode::Congested) },
            note(Note::PairRequest(ask)),
            note(Note::PairRequestRefused { ask: 1 }),
            note(Note::PairRequestWithdrawn { ask: 1 }),
            note(Note::Answer { ask: 1, accepted: Some(Accepted { public_key, device_id, payload }) }),
            note(Note::Answer { ask: 1, accepted: None }),
            request(Request::PutLeases(vec![lease(), Redacted::new(Bytes::new())])),
            request(Request::DropLeases(vec![(inbox, 1_800_000_000_000)])),
            request(Request::FindLease(address_of(3))),
            request(Request::ClaimCodes(vec![
                CodeRegistration { code, session: to, claim: None },
                CodeRegistration { code, session: from, claim: Some(lease()) },
            ])),
            request(Request::FindCode(code)),
            response(Response::Leases(vec![LeasePut::Kept, LeasePut::Stale(lease())])),
            response(Response::Lease(Some(lease()))),
            response(Response::Code(Some(holder))),
            response(Response::Refused),
            Header::Displaced { lease: lease() },
            Header::Delivered { first: 300, count: 2 },
        ]
    }

    #[test]
    fn mutated_frames_read_as_they_are_written() {
        let corpus: Vec<_> = headers()
            .iter()
            .map(|header| {
                let payload = if header.has_payload() { Bytes::from_static(b"\"x\"") } else { Bytes::new() };
                let lane = header.lane().first_byte();
                [&[lane], &bytes_of(&Frame::new(header, payload))[..]].concat()
            })
            .collect();
        chappe_mutations::run(fuzzed::FRAME, &corpus);
    }
}
