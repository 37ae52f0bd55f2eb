//! The frames of a link's two lanes.
//!
//! A frame is a length (four bytes, little endian), a header (postcard), and for forwarded messages the payload as the
//! client wrote it. Everything between two sessions uses the relay lane, so that it stays in order. Requests to homes
//! use the control lane, so that they never wait behind payloads.

use std::{fmt, net::IpAddr};

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

/// Maximum frame length in bytes, without the length field: the largest client message and a header.
pub(crate) const MAX_FRAME: usize = MAX_MESSAGE + 4096;
/// Maximum leases or codes in one request: a frame of 12 KiB.
pub(crate) const MAX_BATCH: usize = 64;

/// Enough bytes for the header of a forwarded message and the length field.
const SHORT_HEAD: usize = 80;

/// The two streams that each side of a link opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Messages between sessions, and their outcomes.
    Relay,
    /// Requests to homes, and their responses.
    Control,
}

impl Lane {
    /// Returns the first byte of the lane's stream.
    pub(crate) const fn first_byte(self) -> u8 {
        match self {
            Self::Relay => 1,
            Self::Control => 2,
        }
    }

    /// Returns the lane of a stream with this first byte.
    pub(crate) const fn from_first_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Relay),
            2 => Some(Self::Control),
            _ => None,
        }
    }
}

/// The outcome of a forwarded message at the callee's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Written to the callee's connection.
    Delivered,
    /// The inbox or session is not at this node.
    NotHere,
    /// Refused with this error code.
    Refused(ErrorCode),
}

/// A note about pairing from one session to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Note {
    /// A request to pair or link.
    PairRequest(PairRequest),
    /// The request cannot be processed.
    PairRequestRefused { id: u64 },
    /// The requesting session is gone, or has sent another request.
    PairRequestWithdrawn { id: u64 },
    Answer {
        id: u64,
        /// `None` if the client declined.
        accepted: Option<Accepted>,
    },
    /// The sending session has ended or has another code now, and accepts no more messages.
    Closed,
}

impl Note {
    /// Returns the answer if the addressed session does not exist, for a session that sent it a request or considers it
    /// paired.
    pub(crate) const fn answer_of_nobody(&self) -> Option<Self> {
        match self {
            Self::PairRequest(request) => Some(Self::PairRequestRefused { id: request.id }),
            Self::Answer { accepted: Some(_), .. } => Some(Self::Closed),
            _ => None,
        }
    }
}

/// Whether two people pair, or a person links a second device.
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
    /// Chosen by the requesting session.
    pub(crate) id: u64,
    pub(crate) kind: PairRequestKind,
    /// The requested code. The session may have another by now.
    pub(crate) target: PairingCode,
    /// The requesting client's code.
    pub(crate) code: PairingCode,
    /// The requesting client's key.
    pub(crate) public_key: [u8; 32],
    /// `proposedName` or `deviceName`.
    pub(crate) name: Option<String>,
    /// The payload: JSON as the client wrote it.
    pub(crate) payload: Option<Bytes>,
}

impl fmt::Debug for PairRequest {
    /// Omits key, name and payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairRequest").field("id", &self.id).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// The answer of an accepting client.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) public_key: [u8; 32],
    /// `deviceId`, if a device is linked.
    pub(crate) device_id: Option<String>,
    /// The payload: JSON as the client wrote it.
    pub(crate) payload: Option<Bytes>,
}

impl fmt::Debug for Accepted {
    /// Omits key, name and payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted").finish_non_exhaustive()
    }
}

/// A code that a session has registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CodeRegistration {
    pub(crate) code: PairingCode,
    /// A session of the sending node.
    pub(crate) session: SessionId,
    /// The client's signed claim, with which it can reclaim the code. Optional.
    pub(crate) claim: Option<Redacted<Bytes>>,
}

/// A request to a home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Register these signed leases; at most [`MAX_BATCH`].
    PutLeases(Vec<Redacted<Bytes>>),
    /// Withdraw the leases of these inboxes up to this `seq`.
    DropLeases(Vec<(Inbox, u64)>),
    /// Look up the lease of this inbox.
    FindLease(Address),
    /// Register these codes for sessions of the sender, or renew them.
    ClaimCodes(Vec<CodeRegistration>),
    /// Remove these codes of the sender's sessions.
    DropCodes(Vec<(PairingCode, SessionId)>),
    /// Look up the holder of this code.
    FindCode(PairingCode),
    /// Return the IP address from which this link comes. Not only for homes.
    FindAddress,
}

/// A home's response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Response {
    /// The result for each lease.
    Leases(Vec<LeaseResult>),
    Lease(Option<Redacted<Bytes>>),
    /// The result for each code.
    Codes(Vec<ClaimResult>),
    /// The holder of the code.
    Code(Option<CodeHolder>),
    Done,
    /// The request is out of bounds, or there was no time for it.
    Refused,
    /// The requester's address.
    Address(IpAddr),
}

/// The result of registering one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LeaseResult {
    /// The lease is registered.
    Kept,
    /// The home has this newer lease.
    Stale(Redacted<Bytes>),
    /// The lease is invalid, or the table is full.
    Refused,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Header {
    /// A message to an inbox; the payload follows.
    ToInbox {
        /// The outcome repeats it.
        token: u64,
        kind: RelayKind,
        to: Address,
    },
    /// A message inside a pairing; the payload follows.
    ToSession {
        /// The outcome repeats it.
        token: u64,
        kind: RelayKind,
        /// A session of the receiving node.
        to: SessionId,
        /// A session of the sending node.
        from: SessionId,
    },
    /// The outcome of one message.
    Outcome { token: u64, outcome: Outcome },
    Note {
        /// A session of the receiving node.
        to: SessionId,
        /// A session of the sending node.
        from: SessionId,
        note: Note,
    },
    /// A request to a home. The response has the same id.
    Request {
        /// Chosen by the requesting node.
        id: u64,
        request: Request,
    },
    /// A home's response.
    Response {
        /// The request's id.
        id: u64,
        response: Response,
    },
    /// A home's notice to the edge of an older lease that a newer one is registered.
    Displaced { lease: Redacted<Bytes> },
    /// Messages with consecutive tokens were delivered.
    Delivered {
        /// The first token.
        first: u64,
        /// The number of messages.
        count: u32,
    },
}

impl Header {
    /// Returns the lane of the header.
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

/// An encoded frame.
#[derive(Clone)]
pub(crate) struct Frame {
    pub(crate) head: Bytes,
    /// Empty for most headers.
    pub(crate) payload: Bytes,
}

impl Frame {
    /// Encodes a header, with a payload if the header has one.
    pub(crate) fn new(header: &Header, payload: Bytes) -> Self {
        debug_assert!(header.has_payload() || payload.is_empty());
        let length = |head: usize| {
            let len = u32::try_from(head + payload.len()).expect("a frame is bounded by the largest client message");
            len.to_le_bytes()
        };
        // Most headers are short: encoding them on the stack needs one allocation of the exact size.
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
    /// Only sizes: both parts contain client data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("head", &self.head.len()).field("payload", &self.payload.len()).finish()
    }
}

impl Weigh for Frame {
    fn weight(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

/// Why a lane's bytes are not frames. The link is closed, because the next frame cannot be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The length exceeds [`MAX_FRAME`].
    #[error("a frame is longer than allowed")]
    TooLong,
    /// The header is not valid for the lane, or bytes follow that it does not announce.
    #[error("a frame is malformed")]
    Malformed,
}

/// Splits the next frame off the received bytes. Returns its header and its payload, which shares the buffer. Returns
/// `None` until the frame is complete.
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

/// Properties that tests and the fuzzer check for every input.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// Returns the bytes of a frame.
    pub(super) fn bytes_of(frame: &Frame) -> BytesMut {
        let mut bytes = BytesMut::from(&frame.head[..]);
        bytes.extend_from_slice(&frame.payload);
        bytes
    }

    /// The first byte of a lane, and a frame for it.
    pub const FRAME: (&str, fn(&[u8]) -> bool) = ("link frame", |bytes| {
        let Some((lane, bytes)) = bytes.split_first() else { return false };
        let Some(lane) = Lane::from_first_byte(*lane) else { return false };
        // First with the given length, then with the right one: most mutations of the length only make it wrong.
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
    fn a_frame_has_the_expected_bytes() {
        let header = Header::ToInbox { token: 300, kind: RelayKind::CallOffer, to: address_of(0xab) };
        let frame = Frame::new(&header, Bytes::from_static(b"\"x\""));
        // Length 55; variant 0; token 300 as a varint; kind 3; the inbox and its token; the payload.
        assert_eq!(
            hex::encode(bytes_of(&frame)),
            format!("37000000{}{}{}{}{}", "00", "ac02", "03", "ab".repeat(48), "227822")
        );
    }

    #[test]
    fn frames_are_split_however_their_bytes_arrive() {
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
    fn the_payload_follows_the_header() {
        let header = Header::ToInbox { token: 1, kind: RelayKind::CallIce, to: address_of(1) };
        let mut buffer = bytes_of(&Frame::new(&header, Bytes::from_static(b"\"x\"")));
        buffer.extend_from_slice(&bytes_of(&Frame::new(&header, Bytes::from_static(b"\"behind\""))));
        let mut payload = || decode(&mut buffer, Lane::Relay).expect("a frame").expect("whole").1;
        assert_eq!((&payload()[..], &payload()[..]), (&b"\"x\""[..], &b"\"behind\""[..]));
    }

    #[test]
    fn a_frame_of_the_other_lane_or_of_wrong_length_is_refused() {
        let frame = Frame::new(&Header::Response { id: 1, response: Response::Done }, Bytes::new());
        assert_eq!(decode(&mut bytes_of(&frame), Lane::Relay), Err(FrameError::Malformed));
        let mut long = BytesMut::from(&(MAX_FRAME as u32 + 1).to_le_bytes()[..]);
        assert_eq!(decode(&mut long, Lane::Relay), Err(FrameError::TooLong));
        let mut trailing = bytes_of(&frame);
        trailing[0] += 1;
        trailing.extend_from_slice(b"!");
        assert_eq!(decode(&mut trailing, Lane::Control), Err(FrameError::Malformed));
    }

    /// One header of each kind, with each kind of content.
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
        let pair_request = PairRequest {
            id: 1,
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
            note(Note::PairRequest(pair_request)),
            note(Note::PairRequestRefused { id: 1 }),
            note(Note::PairRequestWithdrawn { id: 1 }),
            note(Note::Answer { id: 1, accepted: Some(Accepted { public_key, device_id, payload }) }),
            note(Note::Answer { id: 1, accepted: None }),
            request(Request::PutLeases(vec![lease(), Redacted::new(Bytes::new())])),
            request(Request::DropLeases(vec![(inbox, 1_800_000_000_000)])),
            request(Request::FindLease(address_of(3))),
            request(Request::ClaimCodes(vec![
                CodeRegistration { code, session: to, claim: None },
                CodeRegistration { code, session: from, claim: Some(lease()) },
            ])),
            request(Request::FindCode(code)),
            request(Request::FindAddress),
            response(Response::Leases(vec![LeaseResult::Kept, LeaseResult::Stale(lease())])),
            response(Response::Lease(Some(lease()))),
            response(Response::Code(Some(holder))),
            response(Response::Refused),
            response(Response::Address([192, 0, 2, 1].into())),
            Header::Displaced { lease: lease() },
            Header::Delivered { first: 300, count: 2 },
        ]
    }

    #[test]
    fn mutated_frames_decode_to_what_they_encode() {
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
