//! Probing the listed nodes, each every few minutes, paced and few at once.
//!
//! When which node is due is kept with its listing, so registries that share a store share the work: who is first
//! puts the next probe off for all.

use std::sync::Arc;

use chappe_common::keys::NodeId;
use futures_util::{StreamExt as _, stream};
use tokio::time::{Duration, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    http::App,
    metrics::{DialLabel, DialOutcome},
    owner::Probed,
};

/// How often the owner is asked who is due. What is found in one round is stored in one commit.
const ROUND: Duration = Duration::from_secs(1);

/// Probes until `stop`.
pub(crate) async fn run(app: Arc<App>, stop: CancellationToken) {
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

async fn round(app: &App) {
    let at_once = app.config.probing.max_at_once;
    // After a standstill many are due; a round takes as many as are probed at once, so that no commit waits for long.
    let due = app.owner.due().await.into_iter().take(at_once);
    let probed: Vec<_> = stream::iter(due)
        .map(|listing| async move {
            let answered = app.dialer.probe(&listing).await;
            let outcome = if answered { DialOutcome::Proved } else { DialOutcome::Unreachable };
            app.metrics.probes.get_or_create(&DialLabel { outcome }).inc();
            Probed { node: listing.record.node, answered, jitter: jitter(listing.record.node) }
        })
        .buffer_unordered(at_once)
        .collect()
        .await;
    if probed.is_empty() {
        return;
    }
    if let Err(error) = app.owner.probed(probed).await {
        // They stay due. Where the store is gone, the owner says so.
        tracing::debug!(error = &error as &dyn std::error::Error, "the results of probes are lost");
    }
}

/// From 0 to 1 by chance.
fn jitter(node: NodeId) -> f64 {
    // Without randomness, nodes are still spread by their keys.
    let byte = getrandom::u32().map_or(node.as_bytes()[0], |random| random.to_le_bytes()[0]);
    f64::from(byte) / 255.0
}
