//! A node is killed, and its sessions are attached elsewhere.

use chappe_harness::accept_queue;

use super::Bench;
use crate::{contender::Contender, generator::Depth, server::Servers};

impl Bench {
    /// All sessions of one of three nodes.
    pub(super) async fn killed(&self) {
        for tls in [None, Some(self.tls())] {
            let what = if tls.is_some() { "killed, TLS" } else { "killed" };
            let sessions = self.sessions();
            let nodes = Servers::nodes(3, tls, &self.folder(what)).await;
            let others = nodes.plan().servers[1..].to_vec();
            let mut contender = Contender::start_at_first("chappe", nodes, sessions, Depth::Inbox).await;
            let addrs: Vec<_> = others.iter().map(|server| server.addr).collect();
            let victim = contender.servers.processes.remove(0);
            let moved = contender.generator.move_when(others, victim.kill()).await;
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
            let Some(drops) = accept_queue::drops(&addrs) else {
                self.figures.warn("accept queues aren't looked at: there is no ss; install iproute2");
                continue;
            };
            #[expect(clippy::cast_precision_loss, reason = "a small count")]
            let drops = drops as f64;
            self.figures.print(&format!("{what}: connections dropped by full accept queues"), drops, "", Some(0.0));
        }
    }
}
