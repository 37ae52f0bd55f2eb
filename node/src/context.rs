//! What all subsystems of a node share: configuration, identity, clock, counters and tasks. Depends on no subsystem.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use chappe_common::{
    federation::FederationId,
    keys::{NodeId, SecretKey},
    record::{Abilities, NodeRecord, SignedRecord},
    signed::{SignError, Signed},
};

use crate::{
    clock::Clock,
    config::{LiveConfig, NodeConfig},
    metrics::Metrics,
    tasks::Tasks,
};

/// Identity, configuration and shared services of a node.
#[derive(Debug)]
pub(crate) struct Context {
    /// As of the start. Values that may change later are in `live` alone.
    pub(crate) config: NodeConfig,
    /// The values that are replaced when the configuration is read again.
    pub(crate) live: Arc<ArcSwap<LiveConfig>>,
    pub(crate) clock: Clock,
    pub(crate) key: SecretKey,
    /// Equal to the node's public key.
    pub(crate) me: NodeId,
    pub(crate) federation: FederationId,
    /// As in the record.
    pub(crate) client_urls: Vec<String>,
    /// As in the record. Replaced when the addresses of an advertised name change.
    pub(crate) quic_addrs: ArcSwap<Vec<SocketAddr>>,
    pub(crate) region: String,
    /// As in the record. The relay for media is no longer offered when the month's budget is nearly spent.
    pub(crate) abilities: ArcSwap<Abilities>,
    pub(crate) record_lifetime: Duration,
    pub(crate) started: Instant,
    pub(crate) metrics: Metrics,
    /// All tasks except those of client connections, the client listener and joining.
    pub(crate) tasks: Tasks,
}

impl Context {
    /// Returns the current values that may be replaced. Not to be held across an `.await`.
    pub(crate) fn live(&self) -> Guard<Arc<LiveConfig>> {
        self.live.load()
    }

    /// Signs this node's record.
    ///
    /// # Errors
    /// Returns an error if the record is too long.
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
            abilities: **self.abilities.load(),
        };
        Signed::sign(record, &self.key)
    }
}
