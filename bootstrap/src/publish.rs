//! Publishing the public nodes where no registry runs: in DNS, and in a file that any web server can serve.
//!
//! Pure: everything follows from one directory that a registry has signed, with its `seq`. Published twice, it is the same
//! bytes; published anew, the number has gone on.

mod dns;
mod update;

use std::sync::Arc;

use bytes::Bytes;
use chappe_common::{
    directory::{Delegation, DirectoryBundle},
    keys::SecretKey,
    place::NodePlace,
    record::SignedRecord,
    revocation::{self, Revocations},
    shard::{Issue, ShardBundle},
    signed::{SignError, Signed},
    time::UnixTime,
};

pub use self::{
    dns::{NameError, RecordSet},
    update::{TsigKey, TsigKeyError, UpdateError, update},
};
use crate::{
    directory::OnlineKey,
    pools::{PARTS, PoolKey, Slot},
    storage::Head,
};

/// The most nodes that are published: six records of fourteen. DNS hosts take about 8,192 characters for a name; and whoever
/// wants to block all nodes shall not find their list here.
pub const MAX_PUBLISHED: usize = 84;
/// The shard that a mirror's directory is, where it isn't all: none of those that a registry answers with.
const MIRROR: (u16, u16) = (PARTS, PARTS + 1);

/// What is published of one directory.
#[derive(Debug)]
pub struct Publication {
    seq: u64,
    expires_at: UnixTime,
    nodes: usize,
    without_place: usize,
    shards: Vec<String>,
    revocations: Vec<String>,
    mirror: Bytes,
}

/// Why nothing can be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The directory lists only a part of the nodes, such as a registry shows to anybody.
    #[error("the directory lists only a part of the nodes")]
    Part,
    /// The directory is by another key: its number means nothing beside this key's.
    #[error("the directory is signed by another online key")]
    Key,
    /// No node has a URL that fits into DNS: the records of the name would be taken away, with nothing in their place.
    #[error("no node has a URL that is a host and a port alone: there is nothing for DNS")]
    NoPlace,
    /// The name for the records is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It can't be signed: the delegation is for another key, or a bound was passed.
    #[error("cannot sign what is to be published")]
    Sign(#[from] SignError),
}

impl Publication {
    /// What follows from the directory of all public nodes, by the online key that signed it.
    ///
    /// # Errors
    /// It is another directory, or the delegation is for another key.
    pub fn of(bundle: &DirectoryBundle, delegation: Signed<Delegation>, key: SecretKey) -> Result<Self, PublishError> {
        let directory = bundle.directory();
        if !directory.is_whole() {
            return Err(PublishError::Part);
        }
        if directory.key_id != key.public() {
            return Err(PublishError::Key);
        }
        // The directory's own, also where the delegation that goes with it now is another one that ends earlier: what is
        // signed under one number has to be the same whenever it is published.
        let (seq, issued_at, expires_at) = (directory.seq, directory.issued_at, directory.expires_at);
        let counts_until = expires_at.min(delegation.expires_at);
        // Whether one of the records has expired meanwhile is not asked: the same directory has to make the same bytes.
        let all: Vec<SignedRecord> =
            directory.nodes.iter().filter_map(|bytes| Signed::decode(bytes.clone()).ok()).collect();
        let pools = PoolKey::of(&key);
        let picked = pools.pick_many(&all, PARTS, Slot::of(issued_at), MAX_PUBLISHED);
        let places: Vec<_> = picked.iter().filter_map(|record| place(record)).collect();
        let shards = ShardBundle::sign_all(&delegation, &places, Issue { seq, issued_at, expires_at }, &key)?;
        let online = Arc::new(OnlineKey { key, delegation });
        let mirror = if picked.len() == all.len() {
            bundle.encode().into()
        } else {
            let head = Head { seq, issued_at, expires_at, bundle: Bytes::new() };
            online.sign_shard(picked.iter().copied(), &head, MIRROR)?
        };
        Ok(Self {
            seq,
            expires_at: counts_until,
            nodes: picked.len(),
            without_place: picked.len() - places.len(),
            shards: shards.iter().map(ShardBundle::to_text).collect(),
            revocations: Vec::new(),
            mirror,
        })
    }

    /// The same with the revocations of online keys, which go into DNS as well.
    #[must_use]
    pub fn with_revocations(mut self, known: &Revocations) -> Self {
        self.revocations = known.iter().map(revocation::to_text).collect();
        self
    }

    /// The directory's number.
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// From when on what is published counts no more.
    pub const fn expires_at(&self) -> UnixTime {
        self.expires_at
    }

    /// How many nodes a mirror is given.
    pub const fn nodes(&self) -> usize {
        self.nodes
    }

    /// How many nodes DNS is given: all but those [without a place](Self::without_place).
    pub const fn places(&self) -> usize {
        self.nodes - self.without_place
    }

    /// How many of the nodes have no URL that fits into DNS.
    pub const fn without_place(&self) -> usize {
        self.without_place
    }

    /// The texts of the TXT records, at least one: shards, and behind them revocations.
    ///
    /// # Errors
    /// No node has a place in DNS.
    pub fn texts(&self) -> Result<Vec<String>, PublishError> {
        if self.places() == 0 {
            return Err(PublishError::NoPlace);
        }
        Ok(self.shards.iter().chain(&self.revocations).cloned().collect())
    }

    /// The directory for a mirror: served as a file, it is what clients ask a registry for.
    pub const fn mirror(&self) -> &Bytes {
        &self.mirror
    }
}

/// The first URL of a node that has a compact form, with TLS where there is one.
fn place(record: &SignedRecord) -> Option<NodePlace> {
    let places = || record.client_urls.iter().filter_map(|url| NodePlace::new(record.node, url).ok());
    places().find(|place| place.url().starts_with("wss://")).or_else(|| places().next())
}

#[cfg(test)]
mod tests;
