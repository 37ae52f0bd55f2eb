//! Nodes that contacts passed on over their sealed channel.
//!
//! The list can change during a search, because a call may bring newer nodes. The client stores it between runs.

use std::sync::{Arc, Mutex};

use chappe_common::{endpoint::NodeEndpoint, time::UnixTime};
use futures_util::future::{self, BoxFuture, FutureExt as _};

use crate::source::{Candidate, Source, SourceError, SourceKind, SourceResponse};

/// Maximal number of nodes. Three for each of twenty contacts are more than a search dials.
pub const MAX_REFERRALS: usize = 64;

/// The source of nodes that contacts passed on. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct Referrals(Arc<Mutex<Vec<NodeEndpoint>>>);

impl Referrals {
    /// Replaces the list with the first [`MAX_REFERRALS`] of `nodes`.
    pub fn set(&self, nodes: impl IntoIterator<Item = NodeEndpoint>) {
        let nodes = nodes.into_iter().take(MAX_REFERRALS).collect();
        *self.0.lock().expect("nothing panics while it is locked") = nodes;
    }

    /// Whether there are no referrals.
    pub fn is_empty(&self) -> bool {
        self.0.lock().expect("nothing panics while it is locked").is_empty()
    }
}

impl Source for Referrals {
    fn kind(&self) -> SourceKind {
        SourceKind::Referral
    }

    fn list(&self, _now: UnixTime) -> BoxFuture<'_, Result<SourceResponse, SourceError>> {
        let nodes = self.0.lock().expect("nothing panics while it is locked");
        let candidate =
            |endpoint: &NodeEndpoint| Candidate::new(endpoint.url(), Some(endpoint.node()), SourceKind::Referral);
        let candidates = nodes.iter().map(candidate).collect();
        future::ready(Ok(SourceResponse { candidates, ..SourceResponse::default() })).boxed()
    }
}
