//! The tasks of a running node that repeat something: expiring entries, watching the clock, and serving the relay for media.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    core::Core, media_relay::known_members::KnownMembers, membership::event::Event, sessions::event::SessionEvent,
};

/// Interval between removals of expired entries.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);
/// Interval between comparisons of the wall clock with the monotonic clock.
const LOOK_AT_CLOCK_EVERY: Duration = Duration::from_secs(1);
/// Minimum time between changes of the relay's peers. Until then, a new member's services are not refused.
const RELAY_MEMBERS_EVERY: Duration = Duration::from_secs(1);
/// Maximum time between them: this machine's own addresses change, too.
const RELAY_ADDRESSES_EVERY: Duration = Duration::from_secs(60);

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

/// Tells the relay for media which addresses are members' services, after each change of the members and every
/// [`RELAY_ADDRESSES_EVERY`].
pub(crate) async fn watch_members_for_relay(core: Arc<Core>) {
    let Some(relay) = &core.media_relay else { return std::future::pending().await };
    let mut changes = core.members.view_changes();
    let mut known = KnownMembers::new();
    loop {
        let view = core.members.view.load();
        known.update(view.nodes().filter_map(|node| Some((node, core.members.records.any(&node)?))), Instant::now());
        relay.set_members(known.records().map(|record| &***record));
        if until_next_peers(&mut changes).await.is_err() {
            return;
        }
    }
}

/// Waits until the relay's peers may have changed.
async fn until_next_peers(changes: &mut watch::Receiver<()>) -> Result<(), watch::error::RecvError> {
    // Members come and go in bursts.
    tokio::time::sleep(RELAY_MEMBERS_EVERY).await;
    timeout(RELAY_ADDRESSES_EVERY, changes.changed()).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_relays_peers_are_read_again_a_second_after_a_change_and_every_minute() {
        let (changed, mut changes) = watch::channel(());
        let mut waited = async || {
            let began = Instant::now();
            let result = timeout(10 * RELAY_ADDRESSES_EVERY, until_next_peers(&mut changes)).await;
            (result.expect("this machine's addresses are read again").is_ok(), began.elapsed().as_secs())
        };
        assert_eq!(waited().await, (true, 61));
        changed.send_replace(());
        assert_eq!(waited().await, (true, 1));
        assert_eq!(waited().await, (true, 61));
        drop(changed);
        assert_eq!(waited().await, (false, 1), "the node ends");
    }
}
