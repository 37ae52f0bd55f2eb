//! What a node is and runs on: configuration, identity, clock, counters and tasks. It knows no subsystem.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use chappe_common::{
    federation::FederationId,
    keys::{NodeId, PublicKey, SecretKey},
    record::{Abilities, NodeRecord, SignedRecord},
    signed::{SignError, Signed},
};

use crate::{clock::Clock, config::NodeConfig, metrics::Metrics, tasks::Tasks};

/// What every subsystem of a node is given.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: NodeConfig,
    /// The wall clock.
    pub(crate) clock: Clock,
    pub(crate) key: SecretKey,
    /// The node's id, which is its public key.
    pub(crate) me: NodeId,
    pub(crate) federation: FederationId,
    /// The federation's roots. A node without any trusts itself.
    pub(crate) roots: Vec<PublicKey>,
    /// The URLs that clients use, as in the record.
    pub(crate) client_urls: Vec<String>,
    /// The addresses that nodes dial, as in the record. Stored anew when the addresses of an advertised name change.
    pub(crate) quic_addrs: ArcSwap<Vec<SocketAddr>>,
    /// As in the record.
    pub(crate) region: String,
    /// As in the record.
    pub(crate) abilities: Abilities,
    /// How long a record is valid.
    pub(crate) record_lifetime: Duration,
    pub(crate) started: Instant,
    pub(crate) metrics: Metrics,
    /// The node's own tasks.
    pub(crate) tasks: Tasks,
}

impl Context {
    /// Signs this node's record.
    ///
    /// # Errors
    /// The record is too long.
    pub(crate) fn sign_record(&self, epoch: u64, seq: u64) -> Result<SignedRecord, SignError> {
        let now = self.clock.now();
        let record = NodeRecord {
            federation: self.federation,
            node: self.me,
            epoch,
            seq,
            issued_at: now,
            expires_at: now + self.record_lifetime,
            client_urls: self.client_urls.clone(),
            quic_addrs: self.quic_addrs.load().to_vec(),
            region: self.region.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abilities: self.abilities,
        };
        Signed::sign(record, &self.key)
    }
}
