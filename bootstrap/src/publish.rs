//! Publishes the public nodes outside of registries: in DNS, and as a file for any web server.
//!
//! Pure: the result depends only on one signed directory and its `seq`. Publishing the same directory twice gives the
//! same bytes; a newer directory has a higher number.

mod dns;
mod update;

use std::sync::Arc;

use bytes::Bytes;
use chappe_common::{
    directory::{Delegation, DirectoryBundle},
    endpoint::NodeEndpoint,
    keys::SecretKey,
    record::SignedRecord,
    revocation,
    root_statements::RootStatements,
    shard::{Issue, ShardBundle},
    signed::{SignError, Signed},
    succession::SignedSuccession,
    time::UnixTime,
};
use chappe_discovery::trust::Trust;

pub use self::{
    dns::{NameError, RecordSet},
    update::{TsigKey, TsigKeyError, UpdateError, send_update},
};
use crate::{
    directory::OnlineKey,
    pools::{PARTS, PoolKey, Slot},
    storage::SignedDirectory,
};

/// Maximal number of published nodes: six records of fourteen. DNS hosts accept about 8,192 characters for a name. The
/// limit also keeps the full list from those who want to block all nodes.
pub const MAX_PUBLISHED: usize = 84;
/// Maximal number of successions in DNS, 310 characters each. A client that was away for longer learns the chain from a
/// registry or a node.
const MAX_SUCCESSIONS_IN_DNS: usize = 2;
/// The shard number of a mirror's directory that is not complete. No registry uses it.
const MIRROR: (u16, u16) = (PARTS, PARTS + 1);

/// What is published of one directory.
#[derive(Debug)]
pub struct Publication {
    seq: u64,
    expires_at: UnixTime,
    nodes: usize,
    without_endpoint: usize,
    shards: Vec<String>,
    statements: Vec<String>,
    mirror: Bytes,
}

/// Why nothing can be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The directory lists only some of the nodes, as a registry returns to unauthenticated clients.
    #[error("the directory lists only some of the nodes")]
    Part,
    /// Another key signed the directory. Numbers of different keys are not comparable.
    #[error("the directory is signed by another online key")]
    Key,
    /// No node has a URL that fits into DNS. Publishing would delete the records of the name without a replacement.
    #[error("no node has a URL that consists only of host and port, so there is nothing to publish in DNS")]
    NoPlace,
    /// The name for the records is not a DNS name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The result cannot be signed: the delegation is for another key, or a bound is exceeded.
    #[error("cannot sign the publication")]
    Sign(#[from] SignError),
}

impl Publication {
    /// The publication of a directory of all public nodes, signed by the same online key.
    ///
    /// # Errors
    /// It is another kind of directory, another key signed it, or the delegation is for another key.
    pub fn from_directory(
        bundle: &DirectoryBundle,
        delegation: Signed<Delegation>,
        key: SecretKey,
    ) -> Result<Self, PublishError> {
        let directory = bundle.directory();
        if !directory.is_whole() {
            return Err(PublishError::Part);
        }
        if directory.key_id != key.public() {
            return Err(PublishError::Key);
        }
        // Use the directory's own expiry, even if the current delegation ends earlier: what is signed under one number
        // must be the same whenever it is published.
        let (seq, issued_at, expires_at) = (directory.seq, directory.issued_at, directory.expires_at);
        let counts_until = expires_at.min(delegation.expires_at);
        // Include records that have expired in the meantime: the same directory must lead to the same bytes.
        let all: Vec<SignedRecord> =
            directory.nodes.iter().filter_map(|bytes| Signed::decode(bytes.clone()).ok()).collect();
        let pools = PoolKey::derive(&key);
        let picked = pools.select_up_to(&all, PARTS, Slot::containing(issued_at), MAX_PUBLISHED);
        let endpoints: Vec<_> = picked.iter().filter_map(|record| endpoint_of(record)).collect();
        let shards = ShardBundle::sign_all(&delegation, &endpoints, Issue { seq, issued_at, expires_at }, &key)?;
        let online = Arc::new(OnlineKey { key, delegations: vec![delegation], trust: Trust::default() });
        let mirror = if picked.len() == all.len() {
            bundle.encode().into()
        } else {
            let head = SignedDirectory { seq, issued_at, expires_at, bundle: Bytes::new() };
            online.sign_shard(picked.iter().copied(), &head, MIRROR)?
        };
        Ok(Self {
            seq,
            expires_at: counts_until,
            nodes: picked.len(),
            without_endpoint: picked.len() - endpoints.len(),
            shards: shards.iter().map(ShardBundle::to_text).collect(),
            statements: Vec::new(),
            mirror,
        })
    }

    /// Adds the statements of roots to the records for DNS: all revocations, and the last two successions.
    #[must_use]
    pub fn with_statements(mut self, known: &RootStatements) -> Self {
        let successions = known.roots.successions();
        let last = &successions[successions.len().saturating_sub(MAX_SUCCESSIONS_IN_DNS)..];
        let revocations = known.revocations.iter().map(revocation::to_text);
        self.statements = last.iter().map(SignedSuccession::to_text).chain(revocations).collect();
        self
    }

    /// The directory's number.
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// When the publication expires.
    pub const fn expires_at(&self) -> UnixTime {
        self.expires_at
    }

    /// Number of nodes in the mirror's directory.
    pub const fn nodes(&self) -> usize {
        self.nodes
    }

    /// Number of nodes in DNS: all but those [without an endpoint](Self::without_endpoint).
    pub const fn endpoints(&self) -> usize {
        self.nodes - self.without_endpoint
    }

    /// Number of nodes without a URL that fits into DNS.
    pub const fn without_endpoint(&self) -> usize {
        self.without_endpoint
    }

    /// The contents of the TXT records: shards, then statements of roots. There is at least one.
    ///
    /// # Errors
    /// No node fits into DNS.
    pub fn texts(&self) -> Result<Vec<String>, PublishError> {
        if self.endpoints() == 0 {
            return Err(PublishError::NoPlace);
        }
        Ok(self.shards.iter().chain(&self.statements).cloned().collect())
    }

    /// The directory for a mirror. Served as a file, it replaces a registry's response.
    pub const fn mirror(&self) -> &Bytes {
        &self.mirror
    }
}

/// The node's first URL that has a compact form, preferably one with TLS.
fn endpoint_of(record: &SignedRecord) -> Option<NodeEndpoint> {
    let endpoints = || record.client_urls.iter().filter_map(|url| NodeEndpoint::new(record.node, url).ok());
    endpoints().find(|endpoint| endpoint.url().starts_with("wss://")).or_else(|| endpoints().next())
}

#[cfg(test)]
mod tests;
