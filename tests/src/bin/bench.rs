//! The bench.
use chappe_tests::bench::{cores, driver::Generator, floors::{self, Floor}, generator::{self, Depth, Load, Pace}, server::Servers, tls::Files};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("floor") => return floors::run(&serde_json::from_str(&args[2]).expect("a floor")),
        Some("generate") => return generator::run(&serde_json::from_str(&args[2]).expect("a plan")),
        _ => {}
    }
    cores::move_to(cores::GENERATORS);
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("rt").block_on(async {
        let dir = tempfile::tempdir().expect("dir");
        let files = Files::make(dir.path());
        let _ = files;
        let kind = args.get(1).map_or("bare", String::as_str);
        let n: u32 = args.get(2).map_or(1000, |a| a.parse().expect("n"));
        let rate: f64 = args.get(3).map_or(20000.0, |a| a.parse().expect("rate"));
        let size: usize = args.get(4).map_or(1024, |a| a.parse().expect("rate"));
        let servers = match kind {
            "bare" => Servers::floor(Floor::Bare).await,
            "axum" => Servers::floor(Floor::WebSocket).await,
            "axumtls" => Servers::floor(Floor::Tls(dir.path().to_owned())).await,
            "linked" => Servers::linked_floors(dir.path()).await,
            "node" => Servers::nodes(1, None, dir.path()).await,
            "nodetls" => Servers::nodes(1, Some(dir.path()), dir.path()).await,
            _ => Servers::nodes(2, None, dir.path()).await,
        };
        let before = servers.resident_kib();
        let mut generator = Generator::start(&servers.plan());
        let o = generator.connect(n, Depth::Paired).await;
        println!("{kind} connect {:.1} us {:.0}/s", o.usage.servers.as_secs_f64()*1e6/f64::from(n), f64::from(n)/o.usage.elapsed.as_secs_f64());
        generator.rest(1.0).await;
        let idle = servers.resident_kib();
        println!("idle {:.2} KiB", (idle-before) as f64/f64::from(n));
        for _ in 0..3 {
            let l = generator.load(Load { pace: Pace::Open { rate }, size, seconds: 2.0 }).await;
            println!("open {:.2} us/msg n={} lat {:?} late {} faults {:?} others {:.2} own {:.2} srv {:.2}", l.usage.servers.as_secs_f64()*1e6/l.messages as f64, l.messages, l.latency_us, l.late_us, l.faults, l.usage.others, l.usage.own.as_secs_f64()/l.usage.elapsed.as_secs_f64(), l.usage.servers.as_secs_f64()/l.usage.elapsed.as_secs_f64());
        }
        println!("after {:.2} KiB", (servers.resident_kib()-before) as f64/f64::from(n));
        for window in [1, 8] {
            let l = generator.load(Load { pace: Pace::Closed { pairs: 50, window }, size, seconds: 2.0 }).await;
            println!("closed {window}: {:.0}/s {:.2} us/msg n={} lat {:?} late {} faults {:?} others {:.2} own {:.2} srv {:.2}", l.messages as f64/l.usage.elapsed.as_secs_f64(), l.usage.servers.as_secs_f64()*1e6/l.messages as f64, l.messages, l.latency_us, l.late_us, l.faults, l.usage.others, l.usage.own.as_secs_f64()/l.usage.elapsed.as_secs_f64(), l.usage.servers.as_secs_f64()/l.usage.elapsed.as_secs_f64());
        }
        generator.disconnect().await;
    });
}
