//! Probes each listed node every few minutes, with limited rate and concurrency.
//!
//! The due time is stored with the listing, so registries with a shared store share the work: the first one to probe a
//! node defers the next probe for all.
//!
//! If the node proves its key to the registry, its door for clients is tried too. If it does not, it is down or cut off, and
//! its door says nothing more.

use std::sync::Arc;

use chappe_common::keys::NodeId;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Duration, MissedTickBehavior, interval};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

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

async fn round(app: &Arc<AppState>) {
    let max_concurrent = app.config.probing.max_concurrent;
    // After an outage many nodes are due. A round takes only as many as run concurrently: what is known of others may
    // change before their turn.
    let due = app.owner.due_probes().await.into_iter().take(max_concurrent);
    // Each probe is a task, because its time runs while results are stored. Those that are there at the same time are stored
    // in one commit.
    let probes = due.map(|listing| {
        let app = Arc::clone(app);
        AbortOnDropHandle::new(tokio::spawn(async move { probe(&app, &listing).await }))
    });
    let mut probed = probes.collect::<FuturesUnordered<_>>().ready_chunks(max_concurrent);
    while let Some(results) = probed.next().await {
        // A probe that panicked has no result. Its node stays due.
        if let Err(error) = app.owner.record_probes(results.into_iter().flatten().collect()).await {
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
    let door = if answered && listing.is_tried() {
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
