//! Frames between nodes as `docs/protocol/federation.md` has them, written and read by a node that keeps to nothing else.

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
    /// What became of the message of a token.
    Outcome(u64, Outcome),
    /// A note: to, from.
    Note(u64, u64, Note),
    /// A question with its id.
    Request(u64, Request),
    /// Its answer.
    Response(u64, Response),
    /// A newer lease.
    Displaced(Bytes),
    /// So many messages from a token on were delivered.
    Delivered(u64, u32),
}

/// What became of a message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// The client has it.
    Delivered,
    /// Nobody is here.
    NotHere,
    /// It was refused.
    Refused(ErrorCode),
}

/// What a session tells another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Note {
    /// «Will you pair?»
    Ask(Ask),
    /// An ask can't be processed.
    AskRefused(u64),
    /// An ask is taken back.
    AskWithdrawn(u64),
    /// The answer to an ask; none: declined.
    Answer(u64, Option<Accepted>),
    /// The session has ended.
    Closed,
}

/// A request to pair: its number, 0 for a pair, the code that is asked for, the asker's code and key, name, payload.
pub type Ask = (u64, u8, PairingCode, PairingCode, [u8; 32], Option<String>, Option<Bytes>);

/// What who accepts says: key, device, payload.
pub type Accepted = ([u8; 32], Option<String>, Option<Bytes>);

/// A question to a home.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Keep these leases.
    PutLeases(Vec<Bytes>),
    /// Forget these.
    DropLeases(Vec<([u8; 32], u64)>),
    /// Where is this inbox?
    FindLease(Address),
    /// These codes are these sessions'.
    ClaimCodes(Vec<(PairingCode, u64, Option<Bytes>)>),
    /// These codes are given back.
    DropCodes(Vec<(PairingCode, u64)>),
    /// Where is this code?
    FindCode(PairingCode),
}

/// A home's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    /// Of each lease.
    Leases(Vec<LeasePut>),
    /// A lease.
    Lease(Option<Bytes>),
    /// Of each code.
    Codes(Vec<u8>),
    /// The node and the session of a code.
    Code(Option<(NodeId, u64)>),
    /// Done.
    Done,
    /// Out of bounds.
    Refused,
}

/// What became of a lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum LeasePut {
    /// Kept.
    Kept,
    /// This newer one is.
    Stale(Bytes),
    /// Refused.
    Refused,
}

/// A frame: its length, its header, and what follows.
///
/// # Panics
/// It is longer than any frame.
pub fn frame(header: &Header, payload: &[u8]) -> Vec<u8> {
    let header = postcard::to_allocvec(header).expect("a header of owned values always encodes");
    let len = u32::try_from(header.len() + payload.len()).expect("a short frame");
    [&len.to_le_bytes()[..], &header, payload].concat()
}

/// Takes the first frame's header out of what was read; `None` until it is whole.
pub fn take(read: &mut Vec<u8>) -> Option<Header> {
    let len = u32::from_le_bytes(*read.first_chunk()?) as usize;
    let header = read.get(4..4 + len)?;
    // The node is honest: what doesn't decode is this tool's own fault, and shows as what was never answered.
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
