//! Frames between nodes as `docs/protocol/federation.md` defines them.

use bytes::Bytes;
use chappe_common::{
    client::{ErrorCode, RelayKind},
    code::PairingCode,
    keys::NodeId,
    lease::Address,
};
use serde::{Deserialize, Serialize};

/// A frame's header.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Header {
    /// A message to an inbox: token, kind, address; the payload follows.
    ToInbox(u64, RelayKind, Address),
    /// A message to a session: token, kind, to, from; the payload follows.
    ToSession(u64, RelayKind, u64, u64),
    /// The outcome of a message: its token.
    Outcome(u64, Outcome),
    /// A note: to, from.
    Note(u64, u64, Note),
    /// A request: its id.
    Request(u64, Request),
    /// The response to the request of this id.
    Response(u64, Response),
    /// A newer lease has displaced an inbox.
    Displaced(Bytes),
    /// A run of messages was delivered: the first token, and how many.
    Delivered(u64, u32),
}

/// The outcome of a message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// It was delivered to the client.
    Delivered,
    /// The inbox or session isn't at this node.
    NotHere,
    /// It was refused.
    Refused(ErrorCode),
}

/// A note from one session to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Note {
    /// A request to pair.
    PairRequest(PairRequest),
    /// The request to pair of this number can't be processed.
    PairRequestRefused(u64),
    /// The request to pair of this number is withdrawn.
    PairRequestWithdrawn(u64),
    /// The answer to the request of this number; `None` if it was declined.
    Answer(u64, Option<Accepted>),
    /// The session has ended.
    Closed,
}

/// A request to pair: its number, 0 for a pair, the target code, the requester's code, key, name and payload.
pub type PairRequest = (u64, u8, PairingCode, PairingCode, [u8; 32], Option<String>, Option<Bytes>);

/// An acceptance: key, device, payload.
pub type Accepted = ([u8; 32], Option<String>, Option<Bytes>);

/// A request to a home.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Register these leases.
    PutLeases(Vec<Bytes>),
    /// Forget these leases.
    DropLeases(Vec<([u8; 32], u64)>),
    /// Find the lease of this inbox.
    FindLease(Address),
    /// Claim these codes for these sessions.
    ClaimCodes(Vec<(PairingCode, u64, Option<Bytes>)>),
    /// Release these codes.
    DropCodes(Vec<(PairingCode, u64)>),
    /// Find the holder of this code.
    FindCode(PairingCode),
}

/// A home's response.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    /// The result for each lease.
    Leases(Vec<LeaseResult>),
    /// The lease, if there is one.
    Lease(Option<Bytes>),
    /// The result for each code.
    Codes(Vec<u8>),
    /// The node and session that hold the code.
    Code(Option<(NodeId, u64)>),
    /// The request was carried out.
    Done,
    /// The request exceeded a bound.
    Refused,
}

/// The result of registering a lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum LeaseResult {
    /// It is registered.
    Kept,
    /// This newer lease is already registered.
    Stale(Bytes),
    /// It was refused.
    Refused,
}

/// Encodes a frame: length, header, payload.
///
/// # Panics
/// The frame is longer than 4 GiB.
pub fn frame(header: &Header, payload: &[u8]) -> Vec<u8> {
    let header = postcard::to_allocvec(header).expect("a header of owned values always encodes");
    let len = u32::try_from(header.len() + payload.len()).expect("a short frame");
    [&len.to_le_bytes()[..], &header, payload].concat()
}

/// Removes the first frame from the bytes read, and returns its header. Returns `None` while the frame is incomplete.
pub fn take(read: &mut Vec<u8>) -> Option<Header> {
    let len = u32::from_le_bytes(*read.first_chunk()?) as usize;
    let header = read.get(4..4 + len)?;
    // The node under test sends valid frames. A frame that doesn't decode is a bug here, and shows as a missing answer.
    let header = postcard::take_from_bytes(header).ok().map(|(header, _)| header);
    drop(read.drain(..4 + len));
    header
}

#[cfg(test)]
mod tests {
    use chappe_common::{
        keys::PublicKey,
        lease::{AccessToken, Inbox},
    };

    use super::*;

    #[test]
    fn frames_have_the_bytes_of_the_protocol() {
        let inbox = Inbox::new(PublicKey::from_bytes([0xab; 32]));
        let address = Address { inbox, token: AccessToken::from_bytes([0xab; 16]) };
        let to_inbox = frame(&Header::ToInbox(300, RelayKind::CallOffer, address), b"\"x\"");
        assert_eq!(hex::encode(to_inbox), format!("37000000{}{}{}{}{}", "00", "ac02", "03", "ab".repeat(48), "227822"));
        let mut read = [frame(&Header::Note(1, 2, Note::Closed), b""), frame(&Header::Delivered(3, 300), b"")].concat();
        assert_eq!(hex::encode(&read), "0400000003010204".to_owned() + "040000000703ac02");
        assert!(matches!(take(&mut read), Some(Header::Note(1, 2, Note::Closed))));
        assert!(matches!(take(&mut read), Some(Header::Delivered(3, 300))));
        assert!(take(&mut read).is_none());
    }
}
