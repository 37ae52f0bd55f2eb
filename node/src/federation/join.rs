//! Joining the federation, and staying whole: full exchanges with nodes that are known from the registry, from the
//! last run, or as members.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use chappe_common::{
    record::{NodeRecord, SignedRecord},
    signed::Signed,
};
use chappe_discovery::{private_file, registry::Registry};
use futures_util::future::join_all;
use rand::{RngExt as _, seq::IteratorRandom as _};
use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until},
};

use super::{exchange, links, membership::Event};
use crate::core::Core;

/// How many nodes a joiner asks at once: one of them may be gone, and another may lie.
const ANCHORS: usize = 3;
/// How long an exchange may take: 3 MiB at 5 Mbit/s.
const EXCHANGE_WAIT: Duration = Duration::from_secs(6);
/// The first and the longest pause between two tries to join; each is twice the last, and jittered.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// At most one exchange that is wanted for a member's record in this time.
const WANTED_PAUSE: Duration = Duration::from_secs(1);
/// How often the known members are written down, if one of their records has changed.
const STORE_EVERY: Duration = Duration::from_secs(120);
/// The first time comes soon: a node that crashes in its first minutes finds back as well.
const FIRST_STORE: Duration = Duration::from_secs(5);
/// The most members that are written down: enough that some are there after weeks.
const STORED: usize = 64;

/// Joins, and keeps the view whole, until the task is ended.
pub(crate) async fn run(core: Arc<Core>, registry: Option<Registry>, members_file: PathBuf) {
    // Records of the last run; most have expired, but where their nodes stood is where most still stand.
    let former = load_members(&members_file);
    let mut pause = FIRST_PAUSE;
    let mut next_try = Instant::now();
    let every = core.config.membership.exchange_every;
    let mut exchange_tick = interval_at(Instant::now() + every, every);
    exchange_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let renew = core.config.registry.renew_every;
    let mut heal_tick = interval_at(Instant::now() + renew, renew);
    let mut store_tick = interval_at(Instant::now() + FIRST_STORE, STORE_EVERY);
    let mut stored = Vec::new();
    loop {
        let alone = core.view.load().len() <= 1;
        tokio::select! {
            biased;
            () = sleep_until(next_try), if alone => {
                ask_registry(&core, registry.as_ref()).await;
                let joined = join(&core, &former).await;
                pause = if joined { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                next_try = Instant::now() + jittered(pause);
            }
            () = core.wants_exchange.notified(), if !alone => {
                exchange_with_members(&core, 1).await;
                sleep(WANTED_PAUSE).await;
            }
            _ = exchange_tick.tick() => exchange_with_members(&core, 1).await,
            _ = heal_tick.tick() => {
                // Two halves that lost each other meet again through what the registry knows.
                ask_registry(&core, registry.as_ref()).await;
                join(&core, &[]).await;
            }
            _ = store_tick.tick() => store_members(&core, &members_file, &mut stored),
        }
    }
}

/// Between half and all of a time.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.0))
}

async fn ask_registry(core: &Core, registry: Option<&Registry>) {
    let Some(registry) = registry else { return };
    let now = core.clock.now();
    match registry.fetch(now).await {
        Ok(bundle) => {
            for record in bundle.records(now).filter(|record| record.node != core.me) {
                core.records.learn(record, now);
            }
        }
        Err(error) => tracing::debug!(%error, "no directory from the registry"),
    }
}

/// Asks up to [`ANCHORS`] nodes that are known, but no members, for all they know. Whether one answered.
async fn join(core: &Arc<Core>, former: &[SignedRecord]) -> bool {
    let view = core.view.load_full();
    let is_stranger = |record: &SignedRecord| record.node != core.me && !view.contains(&record.node);
    let mut anchors =
        core.records.all(core.clock.now()).into_iter().filter(is_stranger).sample(&mut rand::rng(), ANCHORS);
    let unknown =
        |record: &&SignedRecord| is_stranger(record) && core.records.find(&record.node, core.clock.now()).is_none();
    let more = former.iter().filter(unknown).sample(&mut rand::rng(), ANCHORS - anchors.len());
    anchors.extend(more.into_iter().cloned());
    let asked = anchors.iter().map(|anchor| async {
        let joined = exchange_with(core, anchor).await;
        if joined && core.membership.send(Event::Announce(anchor.node)).await.is_ok() {
            tracing::info!(anchor = anchor.node.short(), "joined");
        }
        joined
    });
    join_all(asked).await.contains(&true)
}

async fn exchange_with_members(core: &Arc<Core>, count: usize) {
    let view = core.view.load_full();
    let others = view.nodes().filter(|node| *node != core.me).sample(&mut rand::rng(), count);
    let records: Vec<_> = others.iter().filter_map(|node| core.records.find(node, core.clock.now())).collect();
    join_all(records.iter().map(|record| exchange_with(core, record))).await;
}

async fn exchange_with(core: &Arc<Core>, record: &SignedRecord) -> bool {
    tokio::time::timeout(EXCHANGE_WAIT, try_exchange(core, record)).await.ok().flatten().is_some()
}

async fn try_exchange(core: &Arc<Core>, record: &SignedRecord) -> Option<()> {
    let node = record.node;
    let link = match links::connect_by(core, record).await {
        Ok(link) => link,
        Err(error) => {
            tracing::debug!(%error, peer = node.short(), "no link for an exchange");
            return None;
        }
    };
    let (reply, ours) = oneshot::channel();
    core.membership.send(Event::Snapshot(reply)).await.ok()?;
    let theirs = exchange::ask(link.connection(), &ours.await.ok()?).await.ok()?;
    core.membership.send(Event::Exchange { from: node, theirs, reply: None }).await.ok()
}

/// The records in the file of the last run. A file that can't be read is one that isn't there: the registry knows more.
fn load_members(path: &Path) -> Vec<SignedRecord> {
    let Ok(bytes) = std::fs::read(path) else { return Vec::new() };
    let records: Vec<Bytes> = postcard::from_bytes(&bytes).unwrap_or_default();
    records.into_iter().filter_map(|record| Signed::<NodeRecord>::decode(record).ok()).collect()
}

/// Writes the members down for the next start.
pub(crate) fn store_members(core: &Core, path: &Path, stored: &mut Vec<Bytes>) {
    let view = core.view.load_full();
    let members = view.nodes().filter(|node| *node != core.me).take(STORED);
    let records: Vec<_> = members
        .filter_map(|node| core.records.find(&node, core.clock.now()))
        .map(|record| record.as_bytes().clone())
        .collect();
    // A node that is alone keeps what it knew: it is how it gets back.
    if records == *stored || records.is_empty() {
        return;
    }
    let written = postcard::to_allocvec(&records).map(|bytes| private_file::write(path, &bytes));
    match written {
        Ok(Ok(())) => *stored = records,
        Ok(Err(error)) => tracing::warn!(%error, path = %path.display(), "cannot write the known members down"),
        // Byte strings always encode.
        Err(_) => {}
    }
}
