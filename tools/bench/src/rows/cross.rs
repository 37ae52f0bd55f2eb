//! Forwarding from node to node, beside two relays joined by one QUIC stream, and the latency that the hop adds. Both
//! nodes share the servers' core.

use super::{Bench, NO_TARGETS, SMALL, Targets};
use crate::{
    contender::Contender,
    generator::{Depth, Load, Pace},
    server::Servers,
};

const LINKED: &str = "axum and quinn";
const NODES: &str = "two nodes";

impl Bench {
    /// Every message crosses.
    pub(super) async fn cross(&self) {
        let sessions = self.sessions();
        let same = Servers::nodes(1, None, &self.folder("same")).await;
        let linked = Servers::linked_floors(self.tls()).await;
        let nodes = Servers::nodes(2, None, &self.folder("cross")).await;
        let mut contenders = vec![
            Contender::start("one node", same, sessions, Depth::Both).await,
            Contender::start(LINKED, linked, sessions, Depth::Both).await,
            Contender::start(NODES, nodes, sessions, Depth::Both).await,
        ];
        let open = |rate| Load { pace: Pace::Open { rate }, size: SMALL, seconds: 1.5 };
        // Not measured: the first message to each inbox looks up its lease.
        for contender in &mut contenders {
            contender.generator.load(Load { seconds: if self.quick { 1.0 } else { 5.0 }, ..open(10_000.0) }).await;
        }
        let slow = self.compare("cross node, 1 KiB, 5,000/s", &mut contenders, open(5000.0), NO_TARGETS).await;
        if let [same, _, cross] = &slow[..] {
            for (at, share, most) in [(0, "p50", 100.0), (1, "p99", 1000.0)] {
                let figure = format!("cross node, 1 KiB, 5,000/s: what the hop adds, {share}");
                let added = cross.median(|loaded| loaded.latency_us[at]) - same.median(|loaded| loaded.latency_us[at]);
                self.figures.print(&figure, added, "µs", Some(most));
            }
        }
        let targets = Targets { cpu: &[(LINKED, 1.2)], ..NO_TARGETS };
        self.compare("cross node, 1 KiB, 20,000/s", &mut contenders[1..], open(20_000.0), targets).await;
        let closed = Load { pace: Pace::Closed { pairs: 50, window: 8 }, size: SMALL, seconds: 1.5 };
        self.compare("cross node, closed loop, window 8", &mut contenders[1..], closed, NO_TARGETS).await;
    }
}
