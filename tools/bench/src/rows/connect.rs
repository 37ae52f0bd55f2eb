//! What it costs to connect: without a signature, and with TLS and one inbox's proof.

use chappe_harness::figures::percentile;

use super::Bench;
use crate::{
    contender::Contender,
    floors::Floor,
    generator::{Depth, Opened},
    server::Servers,
};

impl Bench {
    /// Sessions come again and again.
    pub(super) async fn connecting(&self) {
        let (sessions, rounds) = if self.quick { (500, 2) } else { (2000, 5) };
        let plain = Servers::nodes(1, None, &self.folder("connect")).await;
        let tls = Servers::nodes(1, Some(self.tls()), &self.folder("connect-tls")).await;
        let bare = Servers::floor(Floor::Bare).await;
        let axum = Servers::floor(Floor::WebSocket).await;
        let axum_tls = Servers::floor(Floor::Tls(self.tls().to_owned())).await;
        let mut contenders = Vec::new();
        for (name, servers, depth, most) in [
            ("bare TCP", bare, Depth::Code, None),
            ("axum", axum, Depth::Code, None),
            ("chappe, by code", plain, Depth::Code, None),
            ("axum, TLS", axum_tls, Depth::Code, None),
            ("chappe, TLS, one inbox", tls, Depth::Both, Some(450.0)),
        ] {
            contenders.push((Contender::start(name, servers, 2, depth).await, depth, most));
        }
        let mut costs = vec![Vec::new(); contenders.len()];
        let mut rates = costs.clone();
        for _ in 0..rounds {
            for (at, (contender, depth, _)) in contenders.iter_mut().enumerate() {
                contender.generator.disconnect().await;
                let Opened { usage, sessions, .. } = contender.generator.connect(sessions, *depth).await;
                costs[at].push(usage.servers.as_secs_f64() * 1e6 / f64::from(sessions));
                rates[at].push(f64::from(sessions) / usage.elapsed.as_secs_f64());
            }
        }
        for (at, (contender, _, most)) in contenders.iter().enumerate() {
            let figure = format!("connect and register: CPU, {}", contender.name);
            self.figures.print(&figure, percentile(&mut costs[at], 0.5), "µs", *most);
            let figure = format!("connect and register: sessions a second, {}", contender.name);
            self.figures.print(&figure, percentile(&mut rates[at], 0.5), "/s", None);
        }
        let ratio = percentile(&mut costs[2], 0.5) / percentile(&mut costs[0], 0.5);
        self.figures.print("connect and register: CPU, chappe by code ÷ bare TCP", ratio, "", Some(2.0));
    }
}
