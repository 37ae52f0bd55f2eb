//! The tasks of a running node that repeat something: expiring entries, watching the clock, and serving the relay for media.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{core::Core, membership::event::Event, sessions::event::SessionEvent};

/// Interval between removals of expired entries.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);
/// Interval between comparisons of the wall clock with the monotonic clock.
const LOOK_AT_CLOCK_EVERY: Duration = Duration::from_secs(1);
/// Minimum time between changes of the relay's peers. Until then, a new member's services are not refused.
const RELAY_MEMBERS_EVERY: Duration = Duration::from_secs(1);
/// Maximum time between them: this machine's own addresses change, too.
const RELAY_ADDRESSES_EVERY: Duration = Duration::from_secs(60);
/// How long a member's services are refused after it was last seen. It may be back at any moment.
const RELAY_MEMBERS_FOR: Duration = Duration::from_secs(3600);
/// The maximum number of such former members. With more, those that are gone are forgotten.
const MAX_FORMER_MEMBERS: usize = 4096;

/// Removes expired entries every [`EXPIRE_EVERY`].
pub(crate) async fn expire(core: Arc<Core>) {
    let mut tick = tokio::time::interval(EXPIRE_EVERY);
    loop {
        tick.tick().await;
        core.homes.expire();
        core.clients.sources.load().expire();
        core.sessions.shrink();
        core.links.expire();
    }
}

/// Asks the clients to connect elsewhere each time the node becomes unable to serve them.
pub(crate) async fn send_clients_away(core: Arc<Core>, mut unfit: watch::Receiver<()>) {
    while unfit.changed().await.is_ok() {
        // The reason may have gone again.
        if core.health.sends_away() {
            // A full queue ends the session.
            core.sessions.for_each(|session| {
                let _ = session.try_send(SessionEvent::GoingAway);
            });
        }
    }
}

/// Detects clock changes and notifies membership, which signs its record again.
pub(crate) async fn watch_clock(core: Arc<Core>) {
    let mut tick = tokio::time::interval(LOOK_AT_CLOCK_EVERY);
    loop {
        tick.tick().await;
        if core.health.check_clock_step().is_some() && core.membership.send(Event::ClockSet).await.is_err() {
            return;
        }
    }
}

/// Tells the relay for media which addresses are members' services, after each change of the members.
pub(crate) async fn watch_members_for_relay(core: Arc<Core>) {
    let Some(relay) = &core.media_relay else { return std::future::pending().await };
    let mut changes = core.members.view_changes();
    let mut known = HashMap::new();
    loop {
        let now = Instant::now();
        let view = core.members.view.load();
        let seen = view.nodes().filter_map(|node| Some((node, (core.members.records.any(&node)?, now))));
        known.extend(seen);
        let is_full = known.len() > view.len() + MAX_FORMER_MEMBERS;
        known.retain(|_, (_, at)| *at == now || (!is_full && now - *at < RELAY_MEMBERS_FOR));
        relay.set_members(known.values().map(|(record, _)| &***record));
        // Members come and go in bursts.
        tokio::time::sleep(RELAY_MEMBERS_EVERY).await;
        if let Ok(Err(_)) = timeout(RELAY_ADDRESSES_EVERY, changes.changed()).await {
            return;
        }
    }
}
