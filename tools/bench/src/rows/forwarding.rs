//! Forwarding at one node, beside the floors: plain and over TLS, and the memory of sessions before and after.

use std::time::Duration;

use tokio::time::sleep;

use super::{Bench, LARGE, NO_TARGETS, SMALL, Targets};
use crate::{
    contender::Contender,
    floors::Floor,
    generator::{Depth, Load, Pace},
    server::Servers,
};

const BARE: &str = "bare TCP";
const AXUM: &str = "axum";
const NODE: &str = "chappe";

/// How long servers may take to return the memory that opening sessions took.
const SETTLE: Duration = Duration::from_secs(2);

const fn open(rate: f64, size: usize) -> Load {
    Load { pace: Pace::Open { rate }, size, seconds: 1.5 }
}

const fn closed(window: usize) -> Load {
    Load { pace: Pace::Closed { pairs: 50, window }, size: SMALL, seconds: 1.5 }
}

impl Bench {
    /// Without TLS, as behind a proxy.
    pub(super) async fn plain(&self) {
        let sessions = self.sessions();
        let mut contenders = vec![
            Contender::start(BARE, Servers::floor(Floor::Bare).await, sessions, Depth::Paired).await,
            Contender::start(AXUM, Servers::floor(Floor::WebSocket).await, sessions, Depth::Paired).await,
            Contender::start(NODE, Servers::nodes(1, None, &self.folder("plain")).await, sessions, Depth::Paired).await,
        ];
        let idle = self.print_idle("plain", &contenders, 5.0).await;
        let cpu = &[(AXUM, 1.0), (BARE, 1.1)];
        for (rate, name) in [(5000.0, "5,000/s"), (20_000.0, "20,000/s"), (40_000.0, "40,000/s")] {
            let p99: &[_] = if rate == 20_000.0 { &[(AXUM, 1.2)] } else { &[] };
            let targets = Targets { cpu, p99, rate: &[] };
            self.compare(&format!("1 KiB, {name}"), &mut contenders, open(rate, SMALL), targets).await;
            if rate == 20_000.0 {
                self.print_after("1 KiB, 20,000/s", &contenders, idle).await;
            }
        }
        let targets = Targets { cpu: &[(BARE, 1.15)], ..NO_TARGETS };
        self.compare("8 KiB, 5,000/s", &mut contenders, open(5000.0, LARGE), targets).await;
        self.compare("closed loop, window 1", &mut contenders, closed(1), NO_TARGETS).await;
        let targets = Targets { rate: &[(AXUM, 0.85)], ..NO_TARGETS };
        self.compare("closed loop, window 8", &mut contenders, closed(8), targets).await;
    }

    /// With the node's own TLS.
    pub(super) async fn over_tls(&self) {
        let sessions = self.sessions();
        let floor = Servers::floor(Floor::Tls(self.tls().to_owned())).await;
        let node = Servers::nodes(1, Some(self.tls()), &self.folder("tls")).await;
        let mut contenders = vec![
            Contender::start(AXUM, floor, sessions, Depth::Paired).await,
            Contender::start(NODE, node, sessions, Depth::Paired).await,
        ];
        let idle = self.print_idle("TLS", &contenders, 14.0).await;
        let targets = Targets { cpu: &[(AXUM, 1.0)], p99: &[(AXUM, 1.2)], rate: &[] };
        for (rate, name) in [(5000.0, "5,000/s"), (20_000.0, "20,000/s")] {
            self.compare(&format!("TLS, 1 KiB, {name}"), &mut contenders, open(rate, SMALL), targets).await;
        }
        self.print_after("TLS, 1 KiB, 20,000/s", &contenders, idle).await;
        self.compare("TLS, 8 KiB, 5,000/s", &mut contenders, open(5000.0, LARGE), NO_TARGETS).await;
        self.compare("TLS, closed loop, window 8", &mut contenders, closed(8), NO_TARGETS).await;
    }

    /// With another number of sessions, at the usual rate.
    pub(super) async fn other_size(&self, sessions: u32) {
        let node = Servers::nodes(1, None, &self.folder(&sessions.to_string())).await;
        let mut contenders = vec![
            Contender::start(AXUM, Servers::floor(Floor::WebSocket).await, sessions, Depth::Paired).await,
            Contender::start(NODE, node, sessions, Depth::Paired).await,
        ];
        let what = format!("{sessions} sessions");
        self.print_idle(&what, &contenders, 5.0).await;
        let targets = Targets { cpu: &[(AXUM, 1.0)], p99: &[(AXUM, 1.2)], rate: &[] };
        self.compare(&format!("{what}, 1 KiB, 20,000/s"), &mut contenders, open(20_000.0, SMALL), targets).await;
    }

    /// Prints the memory of a session. Returns that of the last contender's servers.
    async fn print_idle(&self, what: &str, contenders: &[Contender], most: f64) -> f64 {
        sleep(SETTLE).await;
        for contender in contenders {
            // What a process holds once weighs more on few.
            let counts = contender.name == NODE && contender.opened.sessions >= 10_000;
            let target = counts.then_some(most);
            let figure = format!("{what}: memory of an idle session, {}", contender.name);
            self.figures.print(&figure, contender.session_kib(), "KiB", target);
        }
        last_kib(contenders)
    }

    async fn print_after(&self, what: &str, contenders: &[Contender], idle: f64) {
        sleep(SETTLE).await;
        for contender in contenders {
            let figure = format!("{what}: memory of a session afterwards, {}", contender.name);
            self.figures.print(&figure, contender.session_kib(), "KiB", None);
        }
        let figure = format!("{what}: memory afterwards ÷ idle, {NODE}");
        self.figures.print(&figure, last_kib(contenders) / idle, "", Some(1.2));
    }
}

#[expect(clippy::cast_precision_loss, reason = "KiB of memory fit")]
fn last_kib(contenders: &[Contender]) -> f64 {
    contenders.last().map_or(0.0, |contender| contender.servers.resident_kib() as f64)
}
