//! Notifies the service manager (systemd) of a daemon's state, and feeds its watchdog.
//!
//! Nothing is sent if `NOTIFY_SOCKET` is not set. The first notification that fails is logged; the daemon continues.

use std::{
    env,
    future::pending,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Interval of the status line without a watchdog.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// The connection to the service manager.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    is_there: bool,
    has_watchdog: bool,
    tick: Interval,
    last_status: String,
    has_failed: AtomicBool,
}

impl ServiceManager {
    /// Reads the environment.
    pub(crate) fn from_env() -> Self {
        let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
        // Half of the limit, as systemd recommends, so that one late message is no failure.
        let every = watchdog.map_or(STATUS_EVERY, |limit| (limit / 2).min(STATUS_EVERY));
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            is_there: env::var_os("NOTIFY_SOCKET").is_some(),
            has_watchdog: watchdog.is_some(),
            tick,
            last_status: String::new(),
            has_failed: AtomicBool::new(false),
        }
    }

    /// Reports that the daemon serves.
    pub(crate) fn ready(&self) {
        self.send(&[NotifyState::Ready]);
    }

    /// Reports that the configuration is being read again. [`ServiceManager::ready`] has to follow.
    pub(crate) fn reloading(&self) {
        // The time tells the manager which of several requests this is for (systemd 253).
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(_) => self.send(&[NotifyState::Reloading]),
        }
    }

    /// Reports that the daemon stops.
    pub(crate) fn stopping(&self, status: &str) {
        self.send(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Waits until the next report is due. Without a manager, none ever is.
    pub(crate) async fn tick(&mut self) {
        if !self.is_there {
            return pending().await;
        }
        self.tick.tick().await;
    }

    /// Reports that the daemon is alive, and its status if that has changed.
    pub(crate) fn alive(&mut self, status: String) {
        if self.has_watchdog {
            self.send(&[NotifyState::Watchdog]);
        }
        if self.last_status != status {
            self.send(&[NotifyState::Status(&status)]);
            self.last_status = status;
        }
    }

    /// Reports that the daemon is alive, until `ending` has ended.
    pub(crate) async fn alive_during(&mut self, ending: impl Future<Output = ()>) {
        let mut ending = std::pin::pin!(ending);
        loop {
            tokio::select! {
                biased;
                () = &mut ending => return,
                () = self.tick() => {}
            }
            if self.has_watchdog {
                self.send(&[NotifyState::Watchdog]);
            }
        }
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        if !self.is_there {
            return;
        }
        if let Err(error) = sd_notify::notify(states)
            && !self.has_failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "cannot notify the service manager (NOTIFY_SOCKET)");
        }
    }
}
