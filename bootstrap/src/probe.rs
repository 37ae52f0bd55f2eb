//! Probes each listed node every few minutes, with limited rate and concurrency.
//!
//! The due time is stored with the listing, so registries with a shared store share the work: the first one to probe a
//! node defers the next probe for all.

use std::sync::Arc;

use chappe_common::keys::NodeId;
use futures_util::{StreamExt as _, stream};
use tokio::time::{Duration, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    http::AppState,
    metrics::{DialLabel, DialOutcome},
    owner::ProbeResult,
};

/// Interval at which due nodes are probed. The results of one round are stored in one commit.
const ROUND: Duration = Duration::from_secs(1);

/// Probes nodes until `stop`.
pub(crate) async fn run(app: Arc<AppState>, stop: CancellationToken) {
    let probe = async {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            round(&app).await;
        }
    };
    stop.run_until_cancelled(probe).await;
}

async fn round(app: &AppState) {
    let max_concurrent = app.config.probing.max_concurrent;
    // After an outage many nodes are due. A round probes only as many as run concurrently, so that their results are
    // committed soon.
    let due = app.owner.due_probes().await.into_iter().take(max_concurrent);
    let probed: Vec<_> = stream::iter(due)
        .map(|listing| async move {
            let answered = app.dialer.probe(&listing).await;
            let outcome = if answered { DialOutcome::Proved } else { DialOutcome::Unreachable };
            app.metrics.probes.get_or_create(&DialLabel { outcome }).inc();
            ProbeResult { node: listing.record.node, answered, jitter: jitter(listing.record.node) }
        })
        .buffer_unordered(max_concurrent)
        .collect()
        .await;
    if probed.is_empty() {
        return;
    }
    if let Err(error) = app.owner.record_probes(probed).await {
        // The nodes stay due. The owner logs failures of the store.
        tracing::debug!(error = &error as &dyn std::error::Error, "the results of probes are lost");
    }
}

/// A random number from 0 to 1.
fn jitter(node: NodeId) -> f64 {
    // If the system has no random bytes, the node's key still spreads the probes.
    let byte = getrandom::u32().map_or(node.as_bytes()[0], |random| random.to_le_bytes()[0]);
    f64::from(byte) / 255.0
}
