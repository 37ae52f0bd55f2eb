//! Directories: signed lists of nodes. The bytes are the same over every transport.
//!
//! An offline root delegates to an online key for at most 90 days, and the online key signs directories. Readers pin
//! the roots and check both signatures. A directory that does not verify or lists no node has no effect.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::{PublicKey, SecretKey},
    record::{MAX_CLOCK_SKEW, NodeRecord, RecordError, SignedRecord},
    roots::Roots,
    signed::{DecodeError, SignError, Signable, Signed, Unverified},
    time::UnixTime,
};

/// The longest lifetime of a delegation.
pub const MAX_DELEGATION: Duration = Duration::from_secs(90 * 24 * 3600);
/// The longest lifetime of a directory.
pub const MAX_DIRECTORY_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a directory is fresh. An older one is still valid, but should be fetched again.
pub const FRESH: Duration = Duration::from_secs(24 * 3600);
/// The most nodes in one directory; a larger federation is split into shards.
pub const MAX_NODES: usize = 1000;
/// The longest encoded directory with its delegation in bytes: [`MAX_NODES`] of the longest records.
pub const MAX_BUNDLE: usize = 520 * 1024;

/// A root's statement that `key` may sign directories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// The federation.
    pub federation: FederationId,
    /// The root that signs.
    pub root: PublicKey,
    /// The online key.
    pub key: PublicKey,
    /// When it starts.
    pub not_before: UnixTime,
    /// When it expires; at most [`MAX_DELEGATION`] after `not_before`.
    pub expires_at: UnixTime,
}

impl Signable for Delegation {
    const KIND: &'static str = "delegation";
    const MAX_LEN: usize = 192;

    fn signer(&self) -> &PublicKey {
        &self.root
    }

    fn is_well_formed(&self) -> bool {
        self.expires_at <= self.not_before + MAX_DELEGATION
    }
}

/// A list of nodes, signed by an online key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// The federation.
    pub federation: FederationId,
    /// The online key that signs.
    pub key_id: PublicKey,
    /// Never decreases, per federation and key. Milliseconds since 1970, so that it never runs ahead of the clock.
    pub seq: u64,
    /// When it was signed.
    pub issued_at: UnixTime,
    /// When it expires.
    pub expires_at: UnixTime,
    /// The shard: `(index, count)`.
    pub shard: (u16, u16),
    /// The nodes' signed records.
    pub nodes: Vec<Bytes>,
}

impl Signable for Directory {
    const KIND: &'static str = "directory";
    const MAX_LEN: usize = MAX_BUNDLE - 256;

    fn signer(&self) -> &PublicKey {
        &self.key_id
    }

    fn is_well_formed(&self) -> bool {
        self.nodes.len() <= MAX_NODES && self.shard.0 < self.shard.1
    }
}

impl Directory {
    /// Whether it lists all public nodes.
    pub const fn is_whole(&self) -> bool {
        self.shard.1 == 1
    }

    /// Whether it is younger than [`FRESH`], so it need not be fetched again soon.
    pub fn is_fresh(&self, now: UnixTime) -> bool {
        self.issued_at + FRESH > now
    }
}

/// The directory is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// The bytes are not a directory with its delegation.
    #[error("not a directory")]
    Decode(#[from] DecodeError),
    /// The directory is of another federation than the pinned one.
    #[error("the directory is of another federation")]
    Federation,
    /// The delegation is not signed by a pinned root, or by one that follows it.
    #[error("the delegation is not signed by a pinned root")]
    Root,
    /// The directory is not signed by the delegated key.
    #[error("the directory is not signed by the delegated key")]
    Delegate,
    /// The delegation or the directory has expired.
    #[error("the directory or its delegation has expired; the clock may be wrong")]
    Expired,
    /// The delegation or the directory is from the future.
    #[error("the directory is from the future; the clock may be wrong")]
    Future,
    /// The directory lists no node.
    #[error("the directory lists no node")]
    Empty,
}

/// A directory with the delegation of its key: a registry serves it and mirrors copy it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryBundle {
    delegation: Signed<Delegation>,
    directory: Signed<Directory>,
}

impl DirectoryBundle {
    /// Signs `directory` with the online key of `delegation`.
    ///
    /// # Errors
    /// A field of the directory is out of bounds, or names another key.
    pub fn sign(delegation: Signed<Delegation>, directory: Directory, key: &SecretKey) -> Result<Self, SignError> {
        Ok(Self { delegation, directory: Signed::sign(directory, key)? })
    }

    /// Encodes the bundle: the delegation's length as two bytes, little endian, the delegation, the directory.
    pub fn encode(&self) -> Vec<u8> {
        join(&self.delegation, &self.directory)
    }

    /// Decodes a bundle and verifies it against the roots at `now`.
    ///
    /// # Errors
    /// The bytes are not a valid bundle.
    pub fn decode(bytes: impl Into<Bytes>, roots: &Roots, now: UnixTime) -> Result<Self, DirectoryError> {
        Self::decode_at(bytes.into(), roots, now, Age::Counts)
    }

    /// As [`DirectoryBundle::decode`], but accepts an expired directory, such as the one built into a program. Use its
    /// nodes only as candidates to dial.
    ///
    /// # Errors
    /// As [`DirectoryBundle::decode`], except [`DirectoryError::Expired`].
    pub fn decode_old(bytes: impl Into<Bytes>, roots: &Roots, now: UnixTime) -> Result<Self, DirectoryError> {
        Self::decode_at(bytes.into(), roots, now, Age::MayBeOver)
    }

    fn decode_at(bytes: Bytes, roots: &Roots, now: UnixTime, age: Age) -> Result<Self, DirectoryError> {
        if bytes.len() > MAX_BUNDLE {
            return Err(DecodeError::Length.into());
        }
        let (delegation, rest) = split(bytes, roots, now, age)?;
        let directory = Signed::<Directory>::decode(rest)?;
        let Directory { federation, key_id, seq, issued_at, expires_at, .. } = *directory;
        let terms = Terms { federation, key_id, seq, issued_at, expires_at, is_empty: directory.nodes.is_empty() };
        check(&delegation, &terms, roots, now, age)?;
        Ok(Self { delegation, directory })
    }

    /// The part that the online key has signed: all but the delegation, which may be renewed independently.
    pub fn list_of(bytes: &Bytes) -> Option<Bytes> {
        parts(bytes.clone()).map(|(_, list)| list)
    }

    /// The root that signed the delegation in front of an encoded list. Nothing is verified.
    pub fn root_of(bytes: &Bytes) -> Option<PublicKey> {
        let (delegation, _) = parts(bytes.clone())?;
        Unverified::<Delegation>::decode(delegation).ok().map(|delegation| delegation.value().root)
    }

    /// The verified directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The records, including expired ones: the node proves its key when it is dialled. Skips records from the future
    /// or of another federation.
    pub fn records_old(&self, now: UnixTime) -> impl Iterator<Item = SignedRecord> {
        self.directory.nodes.iter().filter_map(move |bytes| {
            let record = Signed::<NodeRecord>::decode(bytes.clone()).ok()?;
            let counts = matches!(record.check(self.directory.federation, now), Ok(()) | Err(RecordError::Expired));
            counts.then_some(record)
        })
    }

    /// The valid records at `now`. Skips records that do not verify.
    pub fn records(&self, now: UnixTime) -> impl Iterator<Item = SignedRecord> {
        self.records_old(now).filter(move |record| record.expires_at > now)
    }
}

/// Whether expired lists are accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    Counts,
    MayBeOver,
}

/// The fields that all lists of an online key share.
pub(crate) struct Terms {
    pub(crate) federation: FederationId,
    pub(crate) key_id: PublicKey,
    pub(crate) seq: u64,
    pub(crate) issued_at: UnixTime,
    pub(crate) expires_at: UnixTime,
    pub(crate) is_empty: bool,
}

/// Encodes the delegation's length as two bytes, little endian, the delegation, and the list.
pub(crate) fn join<T>(delegation: &Signed<Delegation>, list: &Signed<T>) -> Vec<u8> {
    let (delegation, list) = (delegation.as_bytes(), list.as_bytes());
    let len = u16::try_from(delegation.len()).expect("a delegation is at most 192 bytes");
    let mut bytes = Vec::with_capacity(2 + delegation.len() + list.len());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(delegation);
    bytes.extend_from_slice(list);
    bytes
}

/// Splits an encoded list into the bytes of the delegation and of the list.
pub(crate) fn parts(mut bytes: Bytes) -> Option<(Bytes, Bytes)> {
    let len = usize::from(u16::from_le_bytes(*bytes.first_chunk()?));
    let _ = bytes.split_to(2);
    (len <= bytes.len()).then(|| (bytes.split_to(len), bytes))
}

/// Returns the delegation, verified against the roots at `now`, and the bytes of the list.
pub(crate) fn split(
    bytes: Bytes,
    roots: &Roots,
    now: UnixTime,
    age: Age,
) -> Result<(Signed<Delegation>, Bytes), DirectoryError> {
    let (delegation, bytes) = parts(bytes).ok_or(DecodeError::Length)?;
    let delegation = Signed::<Delegation>::decode(delegation)?;
    let is_accepted = match age {
        Age::Counts => roots.accepts(&delegation.root, now),
        Age::MayBeOver => roots.knows(&delegation.root),
    };
    if is_accepted { Ok((delegation, bytes)) } else { Err(DirectoryError::Root) }
}

/// Checks the times and the federation of a verified list at `now`.
pub(crate) fn check(
    delegation: &Delegation,
    list: &Terms,
    roots: &Roots,
    now: UnixTime,
    age: Age,
) -> Result<(), DirectoryError> {
    let federation = roots.federation();
    if delegation.federation != federation || list.federation != federation {
        return Err(DirectoryError::Federation);
    }
    if list.key_id != delegation.key {
        return Err(DirectoryError::Delegate);
    }
    let latest = now + MAX_CLOCK_SKEW;
    if delegation.not_before > latest || list.issued_at > latest || list.seq / 1000 > latest.as_secs() {
        return Err(DirectoryError::Future);
    }
    let is_over = delegation.expires_at <= now || list.expires_at <= now;
    if (is_over && age == Age::Counts) || list.expires_at > list.issued_at + MAX_DIRECTORY_LIFETIME {
        return Err(DirectoryError::Expired);
    }
    if list.is_empty {
        return Err(DirectoryError::Empty);
    }
    Ok(())
}
