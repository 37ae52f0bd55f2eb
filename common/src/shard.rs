//! Shards: parts of a directory that each fit a DNS record, in a compact form.
//!
//! A shard is self-contained: it has the delegation, and one endpoint for each node. The records of one name come in
//! any order, and some may be missing. A node's own record does not fit; the node proves its key when it is dialled.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    directory::{self, Age, Delegation, DirectoryError, Terms},
    endpoint::NodeEndpoint,
    federation::FederationId,
    keys::{PublicKey, SIGNATURE_LEN, SecretKey},
    roots::Roots,
    signed::{DecodeError, SignError, Signable, Signed},
    time::UnixTime,
};

/// The most nodes in one shard: as many as fit with IPv4 addresses.
pub const MAX_SHARD_NODES: usize = 14;
/// The longest text of a shard: the largest size that DNS over UDP carries everywhere.
pub const MAX_SHARD_TEXT: usize = 1232;
/// The longest string of a TXT record (RFC 1035, 3.3.14).
pub const MAX_TXT_STRING: usize = 255;
/// The prefix of the text, because TXT records of one name may serve any purpose.
const PREFIX: &str = "chappe1=";
/// The most bytes before base64.
const MAX_BYTES: usize = (MAX_SHARD_TEXT - PREFIX.len()) / 4 * 3;

/// A part of a directory, signed by an online key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The federation.
    pub federation: FederationId,
    /// The online key that signs.
    pub key_id: PublicKey,
    /// As in a directory. The shards of one publication have the same.
    pub seq: u64,
    /// When it was signed.
    pub issued_at: UnixTime,
    /// When it expires.
    pub expires_at: UnixTime,
    /// The part: `(index, count)`.
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

/// The times and number of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issue {
    /// As in a directory: milliseconds since 1970, never lower than before.
    pub seq: u64,
    /// The current time.
    pub issued_at: UnixTime,
    /// When it expires; at most seven days later.
    pub expires_at: UnixTime,
}

/// A shard with the delegation of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardBundle {
    delegation: Signed<Delegation>,
    shard: Signed<Shard>,
}

impl ShardBundle {
    /// Splits `endpoints` into as few shards as possible, in this order, and signs each.
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
        // Uses the longest part number, so that the parts fit however many there are.
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

    /// Encodes the text: `chappe1=` and the base64url of delegation and shard, at most [`MAX_SHARD_TEXT`] bytes.
    pub fn to_text(&self) -> String {
        let mut text = PREFIX.to_owned();
        URL_SAFE_NO_PAD.encode_string(directory::join(&self.delegation, &self.shard), &mut text);
        text
    }

    /// Parses a TXT record, with its strings joined, and verifies it against the roots at `now`. Returns `None`
    /// if the record is for something else.
    ///
    /// # Errors
    /// The shard is not valid.
    pub fn decode(text: &[u8], roots: &Roots, now: UnixTime) -> Option<Result<Self, DirectoryError>> {
        let encoded = text.strip_prefix(PREFIX.as_bytes())?;
        if text.len() > MAX_SHARD_TEXT {
            return Some(Err(DecodeError::Length.into()));
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| DecodeError::Malformed);
        Some(bytes.map_err(Into::into).and_then(|bytes| {
            let (delegation, rest) = directory::split(bytes.into(), roots, now, Age::Counts)?;
            let shard = Signed::<Shard>::decode(rest)?;
            let Shard { federation, key_id, seq, issued_at, expires_at, .. } = *shard;
            let terms = Terms { federation, key_id, seq, issued_at, expires_at, is_empty: shard.nodes.is_empty() };
            directory::check(&delegation, &terms, roots, now, Age::Counts)?;
            Ok(Self { delegation, shard })
        }))
    }

    /// The part that the online key has signed: all but the delegation, which may be renewed independently.
    pub fn list_of(text: &[u8]) -> Option<Bytes> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX.as_bytes())?).ok()?;
        directory::parts(bytes.into()).map(|(_, list)| list)
    }

    /// The verified shard.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }
}

/// Splits `text` into the strings of a TXT record, in order.
pub fn txt_strings(text: &str) -> impl Iterator<Item = &str> {
    // The text is ASCII: base64url and the prefix.
    (0..text.len()).step_by(MAX_TXT_STRING).map(|at| &text[at..text.len().min(at + MAX_TXT_STRING)])
}

fn encoded_len(value: &impl Serialize) -> Result<usize, SignError> {
    postcard::to_allocvec(value).map(|bytes| bytes.len()).map_err(|_| SignError::Malformed)
}
