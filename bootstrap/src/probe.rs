//! Probes each listed node every few minutes, with limited rate and concurrency.
//!
//! The due time is stored with the listing, so registries with a shared store share the work: the first one to probe a
//! node defers the next probe for all.
//!
//! If the node proves its key to the registry, its door for clients is tried too. If it does not, it is down or cut off, and
//! its door says nothing more.

use std::{pin::pin, sync::Arc};

use chappe_common::keys::NodeId;
use futures_util::{StreamExt as _, stream};
use tokio::time::{Duration, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    http::AppState,
    metrics::{DialLabel, DialOutcome},
    owner::ProbeResult,
    rules::{DoorTry, Listing},
};

/// Interval at which due nodes are probed.
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
    // Results that are there at the same time are stored in one commit. A node that answers slowly delays none of them.
    let probed = stream::iter(app.owner.due_probes().await)
        .map(|listing| async move { probe(app, &listing).await })
        .buffer_unordered(max_concurrent)
        .ready_chunks(max_concurrent);
    let mut probed = pin!(probed);
    while let Some(results) = probed.next().await {
        if let Err(error) = app.owner.record_probes(results).await {
            // The nodes stay due. The owner logs failures of the store.
            tracing::debug!(error = &error as &dyn std::error::Error, "the results of probes are lost");
        }
    }
}

async fn probe(app: &AppState, listing: &Listing) -> ProbeResult {
    let node = listing.record.node;
    let answered = app.dialer.probe(listing).await;
    let outcome = if answered { DialOutcome::Proved } else { DialOutcome::Unreachable };
    app.metrics.probes.get_or_create(&DialLabel { outcome }).inc();
    let door = if answered && !listing.record.client_urls.is_empty() {
        let door = app.doors.probe(listing).await;
        app.metrics.door_tried(door);
        door
    } else {
        DoorTry::NotTried
    };
    ProbeResult { node, answered, door, jitter: jitter(node) }
}

/// A random number from 0 to 1.
fn jitter(node: NodeId) -> f64 {
    // If the system has no random bytes, the node's key still spreads the probes.
    let byte = getrandom::u32().map_or(node.as_bytes()[0], |random| random.to_le_bytes()[0]);
    f64::from(byte) / 255.0
}
