//! A node is killed, and its sessions are attached elsewhere.

use super::Bench;
use crate::bench::{accept_queue, contender::Contender, generator::Depth, server::Servers};

impl Bench {
    /// All sessions of one of three nodes.
    pub(super) async fn killed(&self) {
        for tls in [None, Some(self.tls())] {
            let what = if tls.is_some() { "killed, TLS" } else { "killed" };
            let sessions = self.sessions();
            let nodes = Servers::nodes(3, tls, &self.folder(what)).await;
            let others = nodes.plan().servers[1..].to_vec();
            let mut contender = Contender::start_at_first("chappe", nodes, sessions, Depth::Inbox).await;
            let overflows = accept_queue::overflows();
            let victim = contender.servers.processes.remove(0);
            let moved = contender.generator.move_when(others, victim.kill()).await;
            let overflows = accept_queue::overflows().saturating_sub(overflows);
            self.figures.print(
                &format!("{what}: until {sessions} sessions are attached elsewhere"),
                moved.seconds,
                "s",
                Some(10.0),
            );
            self.figures.print(&format!("{what}: attempts that failed"), f64::from(moved.failed), "", None);
            if let Some(why) = moved.why {
                self.figures.warn(&format!("{what}: an attempt failed: {why}"));
            }
            #[expect(clippy::cast_precision_loss, reason = "a small count")]
            let overflows = overflows as f64;
            self.figures.print(&format!("{what}: accept queues that overflowed"), overflows, "", Some(0.0));
        }
    }
}
