//! The tasks of a running node that repeat something: expiring entries, watching the clock, and serving the relay for media.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{core::Core, membership::event::Event, sessions::event::SessionEvent};

/// Interval between removals of expired entries.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);
/// Interval between comparisons of the wall clock with the monotonic clock.
const LOOK_AT_CLOCK_EVERY: Duration = Duration::from_secs(1);
/// Minimum time between changes of the relay's peers. Until then, a new member's services are not refused.
const RELAY_MEMBERS_EVERY: Duration = Duration::from_secs(1);

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
    loop {
        let nodes: Vec<_> = core.members.view.load().nodes().collect();
        let records: Vec<_> = nodes.iter().filter_map(|node| core.members.records.any(node)).collect();
        relay.set_members(records.iter().map(|record| &***record));
        // Members come and go in bursts.
        tokio::time::sleep(RELAY_MEMBERS_EVERY).await;
        if changes.changed().await.is_err() {
            return;
        }
    }
}
