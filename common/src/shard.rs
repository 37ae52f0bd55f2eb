//! Shards: the directory cut into pieces that fit a DNS record each, in a form of their own.
//!
//! A shard stands alone: it brings the delegation, and for each node its key and one endpoint. Records of one name
//! come in any order, and some may be missing. A node's own signed record doesn't fit; that a node has the key shows
//! when it is dialled.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    directory::{self, Age, Delegation, DirectoryError, Terms},
    endpoint::NodeEndpoint,
    federation::FederationId,
    keys::{PublicKey, SIGNATURE_LEN, SecretKey},
    signed::{DecodeError, SignError, Signable, Signed},
    time::UnixTime,
};

/// The most nodes in one shard: as many as fit with IPv4 addresses.
pub const MAX_SHARD_NODES: usize = 14;
/// The longest text of a shard: what DNS carries over UDP everywhere, where somebody's resolver still asks that way.
pub const MAX_SHARD_TEXT: usize = 1232;
/// The longest string of a TXT record (RFC 1035, 3.3.14).
pub const MAX_TXT_STRING: usize = 255;
/// What the text begins with: TXT records of one name may be for anything.
const PREFIX: &str = "chappe1=";
/// The most bytes before base64.
const MAX_BYTES: usize = (MAX_SHARD_TEXT - PREFIX.len()) / 4 * 3;

/// Some nodes of a directory, signed by an online key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The federation.
    pub federation: FederationId,
    /// The online key that signs.
    pub key_id: PublicKey,
    /// As a directory's; the shards of one publication have the same.
    pub seq: u64,
    /// When it was signed.
    pub issued_at: UnixTime,
    /// From when on it counts no more.
    pub expires_at: UnixTime,
    /// Which part this is: `(index, of how many)`.
    pub shard: (u16, u16),
    /// The nodes, at most [`MAX_SHARD_NODES`].
    pub nodes: Vec<NodeEndpoint>,
}

impl Signable for Shard {
    const KIND: &'static str = "shard";
    const MAX_LEN: usize = MAX_BYTES;

    fn signer(&self) -> &PublicKey {
        &self.key_id
    }

    fn is_well_formed(&self) -> bool {
        self.nodes.len() <= MAX_SHARD_NODES
            && self.shard.0 < self.shard.1
            && self.nodes.iter().all(NodeEndpoint::is_well_formed)
    }
}

/// When a publication is made, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issue {
    /// As a directory's: milliseconds since 1970, and never lower than the one before.
    pub seq: u64,
    /// Now.
    pub issued_at: UnixTime,
    /// From when on it counts no more; at most seven days later.
    pub expires_at: UnixTime,
}

/// A shard with the delegation that its key rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardBundle {
    delegation: Signed<Delegation>,
    shard: Signed<Shard>,
}

impl ShardBundle {
    /// Cuts `endpoints` into as few shards as hold them in this order, and signs each.
    ///
    /// # Errors
    /// An endpoint is not well formed, the key is not the delegated one, or there are more than 65,535 shards.
    pub fn sign_all(
        delegation: &Signed<Delegation>,
        endpoints: &[NodeEndpoint],
        issue: Issue,
        key: &SecretKey,
    ) -> Result<Vec<Self>, SignError> {
        let Issue { seq, issued_at, expires_at } = issue;
        let (federation, key_id) = (delegation.federation, delegation.key);
        // Its part's number in full length, so that the pieces fit however many there are.
        let empty =
            Shard { federation, key_id, seq, issued_at, expires_at, shard: (u16::MAX, u16::MAX), nodes: Vec::new() };
        let frame = 2 + delegation.as_bytes().len() + encoded_len(&empty)? + SIGNATURE_LEN;
        let room = MAX_BYTES.checked_sub(frame).ok_or(SignError::TooLong)?;
        let mut pieces: Vec<Vec<NodeEndpoint>> = Vec::new();
        let mut left = 0;
        for endpoint in endpoints {
            let len = encoded_len(endpoint)?;
            if pieces.last().is_none_or(|piece| piece.len() == MAX_SHARD_NODES || len > left) {
                pieces.push(Vec::new());
                left = room;
            }
            left = left.checked_sub(len).ok_or(SignError::TooLong)?;
            pieces.last_mut().expect("one was pushed").push(endpoint.clone());
        }
        let of = u16::try_from(pieces.len()).map_err(|_| SignError::TooLong)?;
        let shards = (0..).zip(pieces).map(|(index, nodes)| {
            let shard = Shard { shard: (index, of), nodes, ..empty.clone() };
            Ok(Self { delegation: delegation.clone(), shard: Signed::sign(shard, key)? })
        });
        shards.collect()
    }

    /// The text: `chappe1=` and the base64url of delegation and shard, at most [`MAX_SHARD_TEXT`] bytes.
    pub fn to_text(&self) -> String {
        let mut text = PREFIX.to_owned();
        URL_SAFE_NO_PAD.encode_string(directory::join(&self.delegation, &self.shard), &mut text);
        text
    }

    /// Reads a TXT record, its strings put together, and verifies it against the pinned roots at `now`. `None` where it
    /// is a record for something else.
    ///
    /// # Errors
    /// Says why the shard changes nothing.
    pub fn decode(text: &[u8], roots: &[PublicKey], now: UnixTime) -> Option<Result<Self, DirectoryError>> {
        let encoded = text.strip_prefix(PREFIX.as_bytes())?;
        if text.len() > MAX_SHARD_TEXT {
            return Some(Err(DecodeError::Length.into()));
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| DecodeError::Malformed);
        Some(bytes.map_err(Into::into).and_then(|bytes| {
            let (delegation, rest) = directory::split(bytes.into(), roots)?;
            let shard = Signed::<Shard>::decode(rest)?;
            let Shard { federation, key_id, seq, issued_at, expires_at, .. } = *shard;
            let terms = Terms { federation, key_id, seq, issued_at, expires_at, is_empty: shard.nodes.is_empty() };
            directory::check(&delegation, &terms, roots, now, Age::Counts)?;
            Ok(Self { delegation, shard })
        }))
    }

    /// What of a shard's text its key has signed: all but the delegation, which may be renewed meanwhile.
    pub fn list_of(text: &[u8]) -> Option<Bytes> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX.as_bytes())?).ok()?;
        directory::parts(bytes.into()).map(|(_, list)| list)
    }

    /// The verified shard.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }
}

/// The strings of a TXT record that carry `text`, in their order.
pub fn txt_strings(text: &str) -> impl Iterator<Item = &str> {
    // The text is ASCII: base64url and the prefix.
    (0..text.len()).step_by(MAX_TXT_STRING).map(|at| &text[at..text.len().min(at + MAX_TXT_STRING)])
}

fn encoded_len(value: &impl Serialize) -> Result<usize, SignError> {
    postcard::to_allocvec(value).map(|bytes| bytes.len()).map_err(|_| SignError::Malformed)
}
