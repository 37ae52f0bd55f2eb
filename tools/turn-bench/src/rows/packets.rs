//! Rows of relayed packets.

use super::{ALL, AUDIO, Bench, Kind, Load, Loaded, Route, Targets, VIDEO};
use crate::contender::Contender;

/// The kinds that take connections.
const WITH_TCP: [Kind; 2] = [Kind::Chappe, Kind::Coturn];

/// Allocations of the rows with few and with many, and of the largest.
const FEW: usize = 100;
const MANY: usize = 2000;
const MOST: usize = 8000;

/// Calls of the row of voice, each with 50 packets a second each way.
const CALLS: u32 = 500;
const CALL_RATE: u32 = 100;

const SECONDS: f64 = 1.0;

impl Bench {
    pub(super) async fn channels(&self) {
        let mut contenders = self.contenders(&ALL, FEW, Route::Peers).await;
        for size in [AUDIO, VIDEO] {
            let load = Load { rate: 100_000.0, size, seconds: SECONDS };
            let targets = Targets { cpu: Some(0.92), ..Targets::default() };
            self.compare(&format!("100 allocations, {size} bytes, 100,000/s"), &mut contenders, load, targets);
        }
    }

    pub(super) async fn many(&self) {
        let mut contenders = self.contenders(&ALL, MANY, Route::Peers).await;
        for size in [AUDIO, VIDEO] {
            let load = Load { rate: 50_000.0, size, seconds: SECONDS };
            let targets = Targets { cpu: Some(0.80), ..Targets::default() };
            self.compare(&format!("2,000 allocations, {size} bytes, 50,000/s"), &mut contenders, load, targets);
        }
    }

    pub(super) async fn hairpin(&self) {
        let mut contenders = self.contenders(&ALL, FEW, Route::Hairpin).await;
        // At the higher rate, servers without a short way are saturated, and their latency says nothing.
        let rates = [(50_000.0, "50,000", AUDIO), (100_000.0, "100,000", AUDIO), (100_000.0, "100,000", VIDEO)];
        for (rate, name, size) in rates {
            let load = Load { rate, size, seconds: SECONDS };
            let targets = Targets { cpu: Some(0.60), p99: Some(1.0), lost: None };
            self.compare(&format!("relay to relay, {size} bytes, {name}/s"), &mut contenders, load, targets);
        }
    }

    pub(super) async fn loss(&self) {
        let mut contenders = self.contenders(&ALL, FEW, Route::Peers).await;
        let load = Load { rate: 150_000.0, size: AUDIO, seconds: SECONDS };
        let targets = Targets { lost: Some(0.0), ..Targets::default() };
        self.compare("100 allocations, 200 bytes, 150,000/s", &mut contenders, load, targets);
    }

    pub(super) async fn tcp(&self) {
        let mut contenders = self.contenders(&WITH_TCP, FEW, Route::PeersOverTcp).await;
        for (rate, name) in [(20_000.0, "20,000"), (50_000.0, "50,000")] {
            let load = Load { rate, size: AUDIO, seconds: SECONDS };
            let targets = Targets { cpu: Some(1.0), ..Targets::default() };
            self.compare(&format!("clients over TCP, 200 bytes, {name}/s"), &mut contenders, load, targets);
        }
    }

    pub(super) async fn voice(&self) {
        let mut contenders = self.contenders(&ALL, CALLS as usize, Route::Peers).await;
        let load = Load { rate: f64::from(CALLS * CALL_RATE), size: AUDIO, seconds: SECONDS };
        let targets = Targets { p99: Some(1.0), ..Targets::default() };
        self.compare("500 voice calls", &mut contenders, load, targets);
    }

    pub(super) async fn growth(&self) {
        for kind in WITH_TCP.into_iter().filter(|kind| kind.is_installed()) {
            let mut contenders = Vec::new();
            for (number, clients, name) in [(1, MANY, "2,000 allocations"), (2, MOST, "8,000 allocations")] {
                let mut contender = Contender::start(kind, number, clients, Route::Peers).await;
                contender.name = format!("{} with {name}", kind.name());
                contenders.push(contender);
            }
            let load = Load { rate: 50_000.0, size: AUDIO, seconds: SECONDS };
            let all = self.compare("growth, 50,000/s", &mut contenders, load, Targets::default());
            let ratio = all[1].ratio(&all[0], Loaded::cpu_us);
            let what = format!("growth: CPU of a packet, 8,000 ÷ 2,000 allocations, {}", kind.name());
            self.figures.print(&what, ratio, "", (kind == Kind::Chappe).then_some(1.15));
        }
    }
}
