//! The memory and log lines that a flood of unverified sources causes. This is the only test of its program, so that
//! no other test allocates memory.

mod support;

use std::{
    fs,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use chappe_turn::counters::DropReason;
use support::*;
use tracing_subscriber::{Layer, layer::SubscriberExt as _};
use turn_types::{attribute::RequestedTransport, message::ALLOCATE};

/// Packets of the flood. `CHAPPE_FLOOD` sets another number.
const PACKETS: u32 = 1_000_000;

/// Maximum growth of memory during a flood, in KiB.
const MAX_GROWN_KIB: u64 = 1024;

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident set");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

/// Counts log lines at the node's log level, including those of libraries.
struct CountLines(Arc<AtomicU64>);

impl<S: tracing::Subscriber> Layer<S> for CountLines {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        self.0.fetch_add(u64::from(*event.metadata().level() <= tracing::Level::INFO), Ordering::Relaxed);
    }
}

#[test]
fn class_09_and_29_a_flood_of_forged_sources_leaves_no_state_and_no_log() {
    let lines = Arc::new(AtomicU64::new(0));
    let counting = tracing::subscriber::set_default(tracing_subscriber::registry().with(CountLines(lines.clone())));
    let mut world = World::new();
    let user = User { name: "1800000600:0000000000000001".to_owned(), password: "guessed".to_owned() };
    let plain = plain(ALLOCATE, &[&RequestedTransport::new(17)]);
    let signed = signed(ALLOCATE, &[&RequestedTransport::new(17)], &user, "AAAAAAAAAAAAAAAA");
    let mut garbage = signed.clone();
    garbage[2..4].copy_from_slice(&[0xff, 0xff]);
    let packets = std::env::var("CHAPPE_FLOOD").ok().and_then(|text| text.parse().ok()).unwrap_or(PACKETS);
    let mut flood = |from: u32, to: u32| {
        for index in from..to {
            // Each packet has a different public source address.
            let client = udp_of(Ipv4Addr::from(0x1700_0000 + index), 4000);
            let packet = [&plain, &signed, &garbage][index as usize % 3];
            world.handle(client, packet);
        }
    };
    flood(0, packets / 100);
    let before = resident_kib();
    flood(packets / 100, packets);
    let grown = resident_kib().saturating_sub(before);
    println!("{packets} packets: {grown} KiB, {} log lines", lines.load(Ordering::Relaxed));
    assert!(grown <= MAX_GROWN_KIB, "{grown} KiB");
    assert_eq!(world.server.allocations(), 0);
    assert!(world.server.counters().dropped(DropReason::Malformed) >= u64::from(packets / 3));
    drop(counting);
    assert_eq!(lines.load(Ordering::Relaxed), 0);
}
