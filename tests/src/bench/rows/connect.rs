//! What it costs to connect: without a signature, and with TLS and one inbox's proof.

use super::Bench;
use crate::{
    bench::{
        contender::Contender,
        floors::Floor,
        generator::{Depth, Opened},
        server::Servers,
    },
    figures::percentile,
};

impl Bench {
    /// Sessions come again and again.
    pub(super) async fn connecting(&self) {
        let (sessions, rounds) = if self.quick { (500, 2) } else { (2000, 5) };
        let plain = Servers::nodes(1, None, &self.folder("connect")).await;
        let tls = Servers::nodes(1, Some(self.tls()), &self.folder("connect-tls")).await;
        let axum = Servers::floor(Floor::WebSocket).await;
        let mut contenders = [
            (Contender::start("bare TCP", Servers::floor(Floor::Bare).await, 2, Depth::Code).await, None),
            (Contender::start("axum", axum, 2, Depth::Code).await, None),
            (Contender::start("chappe, by code", plain, 2, Depth::Code).await, None),
            (Contender::start("chappe, TLS, one inbox", tls, 2, Depth::Both).await, Some(450.0)),
        ];
        let mut costs = [const { Vec::new() }; 4];
        let mut rates = [const { Vec::new() }; 4];
        for _ in 0..rounds {
            for (at, (contender, _)) in contenders.iter_mut().enumerate() {
                let depth = if at == 3 { Depth::Both } else { Depth::Code };
                contender.generator.disconnect().await;
                let Opened { usage, sessions, .. } = contender.generator.connect(sessions, depth).await;
                costs[at].push(usage.servers.as_secs_f64() * 1e6 / f64::from(sessions));
                rates[at].push(f64::from(sessions) / usage.elapsed.as_secs_f64());
            }
        }
        for (at, (contender, most)) in contenders.iter().enumerate() {
            let figure = format!("connect and register: CPU, {}", contender.name);
            self.figures.print(&figure, percentile(&mut costs[at], 0.5), "µs", *most);
            let figure = format!("connect and register: sessions a second, {}", contender.name);
            self.figures.print(&figure, percentile(&mut rates[at], 0.5), "/s", None);
        }
        let ratio = percentile(&mut costs[2], 0.5) / percentile(&mut costs[0], 0.5);
        self.figures.print("connect and register: CPU, chappe by code ÷ bare TCP", ratio, "", Some(2.0));
    }
}
