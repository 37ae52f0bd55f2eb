//! Contenders: servers with their generators. They take turns under load, so that changes in the machine's speed affect
//! all of them.

use chappe_harness::{cpu::MAX_OTHERS, figures::percentile};

use crate::{
    generator::{Faults, Generator, Load, Loaded, Route},
    servers::{Kind, Server},
};

/// How late the generator may send, in microseconds: a small part of the latencies that matter to a call.
const MAX_LATE_US: f64 = 500.0;

/// The percentage of packets without a latency from which on a 99th percentile means little.
const MAX_UNMEASURED: f64 = 5.0;

/// A server and its generator.
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) generator: Generator,
    _server: Server,
}

/// The results of the same load in several rounds.
pub(crate) struct Rounds(Vec<Loaded>);

impl Contender {
    /// Starts a server of a kind, as the `number`th, and makes the allocations of its clients.
    pub(crate) async fn start(kind: Kind, number: u8, clients: usize, route: Route) -> Self {
        let server = kind.start(number).await;
        let generator = Generator::connect(&server, clients, route);
        Self { name: kind.name().to_owned(), kind, generator, _server: server }
    }
}

/// Puts the same load on each contender, in turn.
pub(crate) fn alternate(contenders: &mut [Contender], load: &Load, rounds: usize) -> Vec<Rounds> {
    let mut all: Vec<_> = contenders.iter().map(|_| Rounds(Vec::new())).collect();
    for _ in 0..rounds {
        for (contender, rounds) in contenders.iter_mut().zip(&mut all) {
            rounds.0.push(contender.generator.load(load));
        }
    }
    all
}

impl Loaded {
    /// The server's time for a packet, in microseconds.
    pub(crate) fn cpu_us(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "packets of a run fit")]
        let packets = self.packets as f64;
        self.usage.servers.as_secs_f64() * 1e6 / packets
    }

    /// The percentage of its core that the server used.
    pub(crate) fn server_percent(&self) -> f64 {
        self.usage.servers.as_secs_f64() / self.usage.elapsed.as_secs_f64() * 100.0
    }
}

impl Rounds {
    /// The median of a figure over the rounds.
    pub(crate) fn median(&self, of: impl Fn(&Loaded) -> f64) -> f64 {
        percentile(&mut self.0.iter().map(of).collect::<Vec<_>>(), 0.5)
    }

    /// The least of a figure over the rounds. For latencies: others on the same core only add to them.
    pub(crate) fn least(&self, of: impl Fn(&Loaded) -> f64) -> f64 {
        percentile(&mut self.0.iter().map(of).collect::<Vec<_>>(), 0.0)
    }

    /// The median of the ratios of a figure to another's in the same round.
    pub(crate) fn ratio(&self, to: &Self, of: impl Fn(&Loaded) -> f64) -> f64 {
        percentile(&mut self.0.iter().zip(&to.0).map(|(own, other)| of(own) / of(other)).collect::<Vec<_>>(), 0.5)
    }

    /// The percentage of the packets of all rounds that were lost.
    pub(crate) fn lost_percent(&self) -> f64 {
        let sent: u64 = self.0.iter().map(|loaded| loaded.sent).sum();
        #[expect(clippy::cast_precision_loss, reason = "packets of a run fit")]
        let percent = self.faults().lost as f64 / sent as f64 * 100.0;
        percent
    }

    /// The faulty packets of all rounds together.
    pub(crate) fn faults(&self) -> Faults {
        self.0.iter().fold(Faults::default(), |sum, loaded| {
            let one = loaded.faults;
            Faults {
                lost: sum.lost + one.lost,
                misrouted: sum.misrouted + one.misrouted,
                altered: sum.altered + one.altered,
                reordered: sum.reordered + one.reordered,
            }
        })
    }

    /// Why its figures are not reliable, if they are not.
    pub(crate) fn limits(&self) -> Vec<String> {
        let mut limits = Vec::new();
        let others = self.median(|loaded| loaded.usage.others * 100.0);
        if others > MAX_OTHERS {
            limits.push(format!("other processes took {others:.0} % of a core"));
        }
        let late = self.median(|loaded| loaded.late_us);
        if late > MAX_LATE_US {
            limits.push(format!("the generator was saturated: it was late by {late:.0} µs (p99)"));
        }
        let unmeasured = self.median(|loaded| loaded.unmeasured * 100.0);
        if unmeasured > MAX_UNMEASURED {
            limits.push(format!("the generator paused, and {unmeasured:.0} % of the packets have no latency"));
        }
        let drops: u64 = self.0.iter().map(|loaded| loaded.own_drops).sum();
        if drops > 0 {
            limits.push(format!("the generator was saturated: its sockets dropped {drops} packets"));
        }
        limits
    }
}
