//! What an allocation costs: its 401, Allocate and ChannelBind, and its memory.

use chappe_harness::figures::percentile;

use super::{Bench, Kind};
use crate::generator::{Generator, Route};

/// Allocations before those that are measured, so that pages of code and tables are there.
const BEFORE: usize = 100;
const MEASURED: u32 = 2000;

/// The floor's allocation is a socket alone, and no figure.
const KINDS: [Kind; 3] = [Kind::Chappe, Kind::Coturn, Kind::TurnCrate];

struct Cost {
    cpu_us: f64,
    kib: f64,
}

impl Bench {
    pub(super) async fn allocation(&self) {
        let rounds = if self.quick { 1 } else { 5 };
        let kinds: Vec<_> = KINDS.into_iter().filter(|kind| kind.is_installed()).collect();
        let mut all: Vec<Vec<Cost>> = kinds.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (kind, costs) in kinds.iter().zip(&mut all) {
                costs.push(measure(*kind).await);
            }
        }
        self.print(&kinds, &all, "memory of an allocation", |cost| cost.kib, "KiB", 0.25);
        self.print(&kinds, &all, "CPU of an allocation", |cost| cost.cpu_us, "µs", 0.40);
    }

    /// Prints a figure of each server, and the ratio that is wanted. In each of `all`, a server's rounds.
    fn print(&self, kinds: &[Kind], all: &[Vec<Cost>], what: &str, of: impl Fn(&Cost) -> f64, unit: &str, target: f64) {
        let median = |mut values: Vec<f64>| percentile(&mut values, 0.5);
        for (kind, costs) in kinds.iter().zip(all) {
            let value = median(costs.iter().map(&of).collect());
            self.figures.print(&format!("{what}, {}", kind.name()), value, unit, None);
        }
        let costs_of = |kind| kinds.iter().position(|other| *other == kind).map(|index| &all[index]);
        if let (Some(own), Some(coturn)) = (costs_of(Kind::Chappe), costs_of(Kind::Coturn)) {
            let ratio = median(own.iter().zip(coturn).map(|(own, other)| of(own) / of(other)).collect());
            self.figures.print(&format!("{what}, chappe ÷ coturn"), ratio, "", Some(target));
        }
    }
}

async fn measure(kind: Kind) -> Cost {
    let server = kind.start(1).await;
    let _before = Generator::connect(&server, BEFORE, Route::Peers);
    let kib = server.process.resident_kib();
    let generator = Generator::connect(&server, MEASURED as usize, Route::Peers);
    #[expect(clippy::cast_precision_loss, reason = "KiB of memory fit")]
    let grown = server.process.resident_kib().saturating_sub(kib) as f64;
    Cost {
        cpu_us: generator.allocating.servers.as_secs_f64() * 1e6 / f64::from(MEASURED),
        kib: grown / f64::from(MEASURED),
    }
}
