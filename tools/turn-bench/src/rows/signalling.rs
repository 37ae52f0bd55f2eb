//! What relaying costs the signalling of the same node.

use chappe_harness::{cores, cpu::MAX_OTHERS, figures::percentile};

use super::{AUDIO, Bench, Kind, Load, Route};
use crate::{generator::Generator, signalling::Signalling};

const CLIENTS: usize = 100;

/// Packets a second: nearly none, so that the generator's core is as busy as with a load; half of what the relay's thread
/// can do; and more than it can.
const RATES: [(f64, &str); 3] = [(10.0, "no media"), (50_000.0, "50,000/s"), (200_000.0, "all that the relay can")];

/// Seconds of a round.
const SECONDS: f64 = 4.0;

/// Connections of a round for the time to the first message.
const CONNECTIONS: usize = 300;

impl Bench {
    /// The latency of signalling beside a relay, on one core and on two.
    pub(super) async fn signalling(&self) {
        let (rounds, seconds) = if self.quick { (1, 1.0) } else { (3, SECONDS) };
        for (number, on, core) in [(1, "on one core", Some(cores::SERVERS)), (2, "on two cores", None)] {
            let server = Kind::Node.start_on(core, number).await;
            let url = server.listening.node.clone().expect("a node");
            let (mut signalling, is_urgent) = Signalling::start(&url).await;
            if !is_urgent {
                self.figures.warn("the clients don't go before the generator on their core (no right to chrt -f)");
            }
            let mut generator = Generator::connect(&server, CLIENTS, Route::Peers);
            let mut all = RATES.map(|_| Vec::new());
            for _ in 0..rounds {
                for ((rate, _), measured) in RATES.iter().zip(&mut all) {
                    signalling.begin(seconds).await;
                    let loaded = generator.load(&Load { rate: *rate, size: AUDIO, seconds });
                    measured.push((signalling.finish().await, loaded));
                }
            }
            let median = |values: Vec<f64>| percentile(&mut { values }, 0.5);
            let p99 = all.each_ref().map(|measured| median(measured.iter().map(|(one, _)| one.p99).collect()));
            for ((_, name), (measured, p99)) in RATES.iter().zip(all.iter().zip(p99)) {
                let what = format!("signalling {on}, {name}");
                self.figures.print(
                    &format!("{what}: p50"),
                    median(measured.iter().map(|(one, _)| one.p50).collect()),
                    "µs",
                    None,
                );
                self.figures.print(&format!("{what}: p99"), p99, "µs", None);
                let busy = median(measured.iter().map(|(_, loaded)| loaded.server_percent()).collect());
                self.figures.print(&format!("{what}: CPU of the process"), busy, "%", None);
                let lost: usize = measured.iter().map(|(one, _)| one.lost).sum();
                let others = median(measured.iter().map(|(_, loaded)| loaded.usage.others * 100.0).collect());
                if others > MAX_OTHERS {
                    self.figures.warn(&format!("{what}: other processes took {others:.0} % of a core"));
                }
                if lost > 0 {
                    self.figures.warn(&format!("{what}: {lost} messages were lost"));
                }
            }
            for ((_, name), loaded) in RATES.iter().zip(p99).skip(1) {
                self.figures.print(&format!("signalling {on}: p99, {name} ÷ no media"), loaded / p99[0], "", Some(1.5));
            }
        }
    }

    /// The time until a WebSocket has its first message, where a relay shares the port, and where none does.
    pub(super) async fn first_byte(&self) {
        let rounds = if self.quick { 2 } else { 10 };
        let (with, without) = (Kind::Node.start(3).await, Kind::NodeWithoutRelay.start(4).await);
        let [with, without] = [with, without].map(|server| (server.listening.node.clone().expect("a node"), server));
        let mut ratios = [Vec::new(), Vec::new()];
        let mut p50 = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            let with = Signalling::connect(&with.0, CONNECTIONS).await;
            let without = Signalling::connect(&without.0, CONNECTIONS).await;
            ratios[0].push(with.p50 / without.p50);
            ratios[1].push(with.p99 / without.p99);
            p50[0].push(with.p50);
            p50[1].push(without.p50);
        }
        for (name, values) in ["with a relay", "without"].iter().zip(&mut p50) {
            self.figures.print(&format!("connecting, {name}: p50"), percentile(values, 0.5), "µs", None);
        }
        for (name, values) in ["p50", "p99"].iter().zip(&mut ratios) {
            self.figures.print(
                &format!("connecting: {name}, with a relay ÷ without"),
                percentile(values, 0.5),
                "",
                Some(1.05),
            );
        }
    }
}
