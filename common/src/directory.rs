//! Directories: signed lists of nodes, the same bytes over every transport.
//!
//! An offline root delegates to an online key for at most 90 days; the online key signs directories. Whoever pins the
//! roots checks both. A directory that does not verify, or lists nobody, changes nothing.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::{PublicKey, SecretKey},
    record::{MAX_CLOCK_SKEW, NodeRecord, RecordError, SignedRecord},
    signed::{DecodeError, SignError, Signable, Signed},
    time::UnixTime,
};

/// The longest delegation from a root to an online key.
pub const MAX_DELEGATION: Duration = Duration::from_secs(90 * 24 * 3600);
/// The longest that a directory counts.
pub const MAX_DIRECTORY_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// For how long a directory is fresh. An older one still counts, and is worth asking for anew.
pub const FRESH: Duration = Duration::from_secs(24 * 3600);
/// The most nodes in one directory; a larger federation is split into shards.
pub const MAX_NODES: usize = 1000;
/// The longest encoded directory with its delegation in bytes: [`MAX_NODES`] of the longest records.
pub const MAX_BUNDLE: usize = 520 * 1024;

/// A root's word that `key` may sign directories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// The federation.
    pub federation: FederationId,
    /// The root that signs.
    pub root: PublicKey,
    /// The online key.
    pub key: PublicKey,
    /// From when on it counts.
    pub not_before: UnixTime,
    /// From when on it counts no more; at most [`MAX_DELEGATION`] after `not_before`.
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
    /// Never goes back, per federation and key id; milliseconds since 1970, so that it never leaps past the clock.
    pub seq: u64,
    /// When it was signed.
    pub issued_at: UnixTime,
    /// From when on it counts no more.
    pub expires_at: UnixTime,
    /// Which part of the federation this is: `(index, of how many)`.
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
    /// Whether it lists all public nodes, rather than a part of them.
    pub const fn is_whole(&self) -> bool {
        self.shard.1 == 1
    }

    /// Whether it is of these days: worth more than an older one, and not worth asking for again soon.
    pub fn is_fresh(&self, now: UnixTime) -> bool {
        self.issued_at + FRESH > now
    }
}

/// Why a directory changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// The bytes are no directory with its delegation.
    #[error("not a directory")]
    Decode(#[from] DecodeError),
    /// It is of another federation than the one that is pinned.
    #[error("the directory is of another federation")]
    Federation,
    /// The delegation is not by a pinned root.
    #[error("the delegation is not signed by a pinned root")]
    Root,
    /// The directory is signed by another key than the delegated one.
    #[error("the directory is not signed by the delegated key")]
    Delegate,
    /// The delegation or the directory counts no more.
    #[error("the directory or its delegation has expired; the clock may be wrong")]
    Expired,
    /// The delegation or the directory is from the future.
    #[error("the directory is from the future; the clock may be wrong")]
    Future,
    /// It lists no node.
    #[error("the directory lists no node")]
    Empty,
}

/// A directory with the delegation that its key rests on: what the registry serves and a mirror copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryBundle {
    delegation: Signed<Delegation>,
    directory: Signed<Directory>,
}

impl DirectoryBundle {
    /// Signs `directory` with the online key of `delegation`.
    ///
    /// # Errors
    /// The directory is out of its bounds, or names another key.
    pub fn sign(delegation: Signed<Delegation>, directory: Directory, key: &SecretKey) -> Result<Self, SignError> {
        Ok(Self { delegation, directory: Signed::sign(directory, key)? })
    }

    /// The encoded form: the delegation's length as two bytes, little endian, the delegation, the directory.
    pub fn encode(&self) -> Vec<u8> {
        join(&self.delegation, &self.directory)
    }

    /// Decodes and verifies against the pinned roots at `now`.
    ///
    /// # Errors
    /// Says why the bytes change nothing.
    pub fn decode(bytes: impl Into<Bytes>, roots: &[PublicKey], now: UnixTime) -> Result<Self, DirectoryError> {
        Self::decode_at(bytes.into(), roots, now, Age::Counts)
    }

    /// The same for a directory whose time may be over, as of the one that a program brings along from the day it was
    /// built: its nodes are places to look, and no more.
    ///
    /// # Errors
    /// As [`DirectoryBundle::decode`], but for [`DirectoryError::Expired`].
    pub fn decode_old(bytes: impl Into<Bytes>, roots: &[PublicKey], now: UnixTime) -> Result<Self, DirectoryError> {
        Self::decode_at(bytes.into(), roots, now, Age::MayBeOver)
    }

    fn decode_at(bytes: Bytes, roots: &[PublicKey], now: UnixTime, age: Age) -> Result<Self, DirectoryError> {
        if bytes.len() > MAX_BUNDLE {
            return Err(DecodeError::Length.into());
        }
        let (delegation, rest) = split(bytes, roots)?;
        let directory = Signed::<Directory>::decode(rest)?;
        let Directory { federation, key_id, seq, issued_at, expires_at, .. } = *directory;
        let terms = Terms { federation, key_id, seq, issued_at, expires_at, is_empty: directory.nodes.is_empty() };
        check(&delegation, &terms, roots, now, age)?;
        Ok(Self { delegation, directory })
    }

    /// What of an encoded directory its key has signed: all but the delegation, which may be renewed meanwhile.
    pub fn list_of(bytes: &Bytes) -> Option<Bytes> {
        parts(bytes.clone()).map(|(_, list)| list)
    }

    /// The verified directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The records, also those whose time is over: as a key and an address they are worth a dial, and the node proves the
    /// key anew. What is from the future or of another federation is passed over.
    pub fn records_old(&self, now: UnixTime) -> impl Iterator<Item = SignedRecord> {
        self.directory.nodes.iter().filter_map(move |bytes| {
            let record = Signed::<NodeRecord>::decode(bytes.clone()).ok()?;
            let counts = matches!(record.check(self.directory.federation, now), Ok(()) | Err(RecordError::Expired));
            counts.then_some(record)
        })
    }

    /// The records that count at `now`. One that doesn't verify is passed over: it says nothing of the others.
    pub fn records(&self, now: UnixTime) -> impl Iterator<Item = SignedRecord> {
        self.records_old(now).filter(move |record| record.expires_at > now)
    }
}

/// Whether the time of what is read may be over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    Counts,
    MayBeOver,
}

/// What an online key says of each list that it signs, whatever its form.
pub(crate) struct Terms {
    pub(crate) federation: FederationId,
    pub(crate) key_id: PublicKey,
    pub(crate) seq: u64,
    pub(crate) issued_at: UnixTime,
    pub(crate) expires_at: UnixTime,
    pub(crate) is_empty: bool,
}

/// The delegation's length as two bytes, little endian, the delegation, the list.
pub(crate) fn join<T>(delegation: &Signed<Delegation>, list: &Signed<T>) -> Vec<u8> {
    let (delegation, list) = (delegation.as_bytes(), list.as_bytes());
    let len = u16::try_from(delegation.len()).expect("a delegation is at most 192 bytes");
    let mut bytes = Vec::with_capacity(2 + delegation.len() + list.len());
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(delegation);
    bytes.extend_from_slice(list);
    bytes
}

/// The bytes of the delegation and of the list.
pub(crate) fn parts(mut bytes: Bytes) -> Option<(Bytes, Bytes)> {
    let len = usize::from(u16::from_le_bytes(*bytes.first_chunk()?));
    let _ = bytes.split_to(2);
    (len <= bytes.len()).then(|| (bytes.split_to(len), bytes))
}

/// The delegation, which has to be a pinned root's, and the bytes of the list.
pub(crate) fn split(bytes: Bytes, roots: &[PublicKey]) -> Result<(Signed<Delegation>, Bytes), DirectoryError> {
    let (delegation, bytes) = parts(bytes).ok_or(DecodeError::Length)?;
    let delegation = Signed::<Delegation>::decode(delegation)?;
    if roots.contains(&delegation.root) { Ok((delegation, bytes)) } else { Err(DirectoryError::Root) }
}

/// Whether a list that verifies counts at `now`.
pub(crate) fn check(
    delegation: &Delegation,
    list: &Terms,
    roots: &[PublicKey],
    now: UnixTime,
    age: Age,
) -> Result<(), DirectoryError> {
    let federation = FederationId::of_roots(roots);
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
