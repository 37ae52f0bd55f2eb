//! Joining the federation and healing partitions: contacts nodes that the registry lists or the last run knew. The
//! engine does the rest.

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use chappe_common::{
    directory::DirectoryError,
    keys::NodeId,
    list_request::{ListRequest, Load},
    record::SignedRecord,
};
use chappe_discovery::{registry::RegistryClient, source::SourceError};
use rand::seq::IteratorRandom as _;
use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use super::{
    former_members::FormerMembers,
    members_file::{self, LastRun},
};
use crate::membership::event::Event;
use crate::{core::Core, health::Unfit};

/// Nodes of each source that a joining node contacts at once: one may be gone, and another may lie.
pub(super) const ANCHORS: usize = 3;
/// Pauses between attempts to join. Jitter makes each up to twice as long.
const RETRIES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(250))
    .with_max_delay(Duration::from_secs(15))
    .with_jitter()
    .without_max_times();
/// Interval between writes of the members file.
const STORE_EVERY: Duration = Duration::from_secs(300);
/// Time of the first write. A node that crashes in its first minutes also has to find its way back.
const FIRST_STORE: Duration = Duration::from_secs(5);

/// Maximum number of former members, 32 bytes each.
const MAX_MET: usize = 4096;

/// The nodes that a registry lists.
enum Listed {
    /// No registry is configured, or none answered.
    Unknown,
    /// The listed nodes except this one.
    Others(Vec<NodeId>),
}

/// Joins the federation and heals partitions, until the task is cancelled.
pub(crate) async fn run(core: Arc<Core>, registry: Option<RegistryClient>, members_file: PathBuf) {
    let LastRun { since, records, beacon } = members_file::load(&members_file, core.context.me);
    let mut former = FormerMembers::new(core.context.me, records);
    let mut pauses = RETRIES.build();
    let mut next_try = Instant::now();
    let renew = core.context.config.registry.renew_every;
    let mut heal_tick = interval_at(Instant::now() + renew, renew);
    let mut store_tick = interval_at(Instant::now() + FIRST_STORE, STORE_EVERY);
    store_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut view_changes = core.members.view_changes();
    let mut was_alone = true;
    let mut alone_since = Instant::now();
    let mut clock_sets = core.health.clock_sets();
    // Former and current members, of this run or the last. Other listed nodes may be invented.
    let mut met: HashSet<NodeId> = former.nodes().take(MAX_MET).collect();
    loop {
        let view = core.members.view.load_full();
        let alone = view.len() <= 1;
        for node in view.nodes().filter(|node| *node != core.context.me) {
            if met.len() >= MAX_MET {
                break;
            }
            met.insert(node);
        }
        if was_alone && !alone {
            tracing::info!("joined the federation");
            pauses = RETRIES.build();
        }
        if alone && !was_alone {
            next_try = Instant::now();
            alone_since = next_try;
        }
        was_alone = alone;
        tokio::select! {
            biased;
            changed = view_changes.changed() => if changed.is_err() { return },
            // Attempts that failed because of the clock may succeed now.
            changed = clock_sets.changed() => {
                if changed.is_err() {
                    return;
                }
                (next_try, pauses) = (Instant::now(), RETRIES.build());
            }
            () = sleep_until(next_try), if alone => {
                if let Some(beacon) = beacon.clone() {
                    let _ = core.membership.send(Event::LastBeacon(beacon)).await;
                }
                seek_former(&core, &mut former).await;
                // The contacted nodes are known now, so their age can be stored; other members report the age of the rest.
                // The membership task ends only with the node.
                let _ = core.membership.send(Event::Remember(since.clone())).await;
                let was_alone_for = alone_since.elapsed();
                if let Listed::Others(others) = seek_listed(&core, registry.as_ref()).await {
                    let is_listed = others.iter().any(|node| met.contains(node));
                    if !is_listed || was_alone_for >= core.context.config.membership.cut_off_after {
                        core.health.set_unfit(Unfit::CutOff, is_listed);
                    }
                }
                let Some(pause) = pauses.next() else { return };
                next_try = Instant::now() + pause;
            }
            // Two partitions find each other again through the registry, or the nodes of the last run.
            _ = heal_tick.tick() => {
                seek_former(&core, &mut former).await;
                seek_listed(&core, registry.as_ref()).await;
            }
            _ = store_tick.tick() => store(&core, members_file.clone()).await,
        }
    }
}

/// Contacts a few nodes of the last run.
async fn seek_former(core: &Core, former: &mut FormerMembers) {
    let view = core.members.view.load_full();
    let is_member = |node: &NodeId| *node == core.context.me || view.contains(node);
    let due = former.take_due(core.context.clock.now(), ANCHORS, is_member, &mut rand::rng());
    for record in due {
        let _ = core.membership.send(Event::Seek(record)).await;
    }
}

/// Contacts a few of the nodes that the registry lists.
async fn seek_listed(core: &Core, registry: Option<&RegistryClient>) -> Listed {
    let Some(registry) = registry else { return Listed::Unknown };
    let now = core.context.clock.now();
    match registry.fetch_beacon(now).await {
        Ok(Some(beacon)) => {
            let _ = core.membership.send(Event::Beacon(beacon.as_bytes().clone())).await;
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "cannot fetch a beacon from the registry"),
    }
    // Coarse on purpose: the registry publishes the total.
    let load = Load::of(core.connections.len(), core.context.config.client.max_connections);
    let seq = core.context.clock.millis();
    let request = |registry| ListRequest::sign(core.context.federation, registry, &core.context.key, seq, load);
    match registry.fetch_full_directories(&request, now).await {
        Ok(bundles) => {
            let records: Vec<_> = bundles.iter().flat_map(|bundle| bundle.records(now)).collect();
            let others = records.iter().map(|record| record.node).filter(|node| *node != core.context.me).collect();
            seek(core, records.into_iter()).await;
            return Listed::Others(others);
        }
        Err(SourceError::Directory(error @ (DirectoryError::Future | DirectoryError::Expired))) => {
            core.health.warn_directory_clock(error);
        }
        Err(error) => tracing::debug!(%error, "cannot fetch a directory from the registry"),
    }
    Listed::Unknown
}

/// Contacts a few of these nodes that are not members.
async fn seek(core: &Core, records: impl Iterator<Item = SignedRecord>) {
    let view = core.members.view.load_full();
    let is_stranger = |node: &NodeId| *node != core.context.me && !view.contains(node);
    let sought = records.filter(|record| is_stranger(&record.node)).sample(&mut rand::rng(), ANCHORS);
    for record in sought {
        let _ = core.membership.send(Event::Seek(record)).await;
    }
}

/// Writes the members to disk for the next start.
pub(crate) async fn store(core: &Core, path: PathBuf) {
    let (reply, known) = oneshot::channel();
    if core.membership.send(Event::Known(reply)).await.is_err() {
        return;
    }
    let Ok(known) = known.await else { return };
    // Writing may block. If it is lost because the node ends, the shutdown writes again.
    let _ = tokio::task::spawn_blocking(move || members_file::store(&path, known)).await;
}
