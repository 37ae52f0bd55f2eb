//! What sessions cost that do nothing, and what is left of those that have gone.

use std::time::Duration;

use tokio::time::sleep;

use super::Bench;
use crate::bench::{contender::Contender, generator::Depth, server::Servers};

/// In this time a node pings each session that says nothing, once.
const PING_PERIOD: f64 = 60.0;
/// Until a node has done with sessions that have gone.
const SETTLE: Duration = Duration::from_secs(2);

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

    /// All sessions come and go, ten times.
    pub(super) async fn come_and_go(&self) {
        let (sessions, times) = if self.quick { (1000, 3) } else { (10_000, 10) };
        let node = Servers::nodes(1, None, &self.folder("churn")).await;
        let mut node = Contender::start("chappe", node, 2, Depth::Paired).await;
        let mut first = None;
        let mut last = 0;
        for _ in 0..times {
            node.generator.disconnect().await;
            node.generator.connect(sessions, Depth::Paired).await;
            node.generator.disconnect().await;
            sleep(SETTLE).await;
            last = node.servers.resident_kib();
            first.get_or_insert(last);
        }
        #[expect(clippy::cast_precision_loss, reason = "KiB of memory fit")]
        let [first, last] = [first.unwrap_or(last), last].map(|kib| kib as f64);
        let what = format!("{times} × {sessions} sessions come and go");
        self.figures.print(&format!("{what}: memory after the first time"), first / 1024.0, "MiB", None);
        self.figures.print(&format!("{what}: memory after the last ÷ first"), last / first, "", Some(1.1));
    }
}
