//! The cost of idle sessions, and the memory left after sessions have ended.

use std::time::Duration;

use tokio::time::sleep;

use super::Bench;
use crate::{contender::Contender, generator::Depth, server::Servers};

/// The time in which a node pings each idle session once.
const PING_PERIOD: f64 = 60.0;
/// How long a node may take to clean up after ended sessions.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a node may take to shrink its tables, which it checks every ten seconds.
const GIVE_BACK: Duration = Duration::from_secs(12);

impl Bench {
    /// Idle sessions.
    pub(super) async fn idle(&self) {
        let sessions = self.sessions();
        let node = Servers::nodes(1, None, &self.folder("idle")).await;
        let mut node = Contender::start("chappe", node, sessions, Depth::Paired).await;
        let usage = node.generator.rest(if self.quick { 5.0 } else { PING_PERIOD }).await;
        let share = usage.servers.as_secs_f64() / usage.elapsed.as_secs_f64() * 100.0;
        self.figures.print(&format!("idle: CPU of {sessions} sessions"), share, "%", Some(0.2));
    }

    /// Opens and closes all sessions ten times.
    pub(super) async fn come_and_go(&self) {
        let (sessions, times) = if self.quick { (1000, 3) } else { (10_000, 10) };
        let node = Servers::nodes(1, None, &self.folder("churn")).await;
        let mut node = Contender::start("chappe", node, 2, Depth::Paired).await;
        let mut left = Vec::new();
        for time in 1..=times {
            node.generator.disconnect().await;
            node.generator.connect(sessions, Depth::Paired).await;
            node.generator.disconnect().await;
            sleep(SETTLE).await;
            if time == 1 || time == times {
                sleep(if self.quick { SETTLE } else { GIVE_BACK }).await;
                left.push(node.servers.resident_kib());
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "KiB of memory fit")]
        let [first, last] = [left.first(), left.last()].map(|kib| kib.map_or(0.0, |kib| *kib as f64));
        let what = format!("{times} × {sessions} sessions come and go");
        self.figures.print(&format!("{what}: memory after the first time"), first / 1024.0, "MiB", None);
        self.figures.print(&format!("{what}: memory after the last ÷ first"), last / first, "", Some(1.1));
    }
}
