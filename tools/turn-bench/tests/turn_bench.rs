//! The generator against the servers of this program: every packet arrives once, unaltered and at the right end, and
//! errors are detected. Speed isn't judged.
#![cfg(target_os = "linux")]

use chappe_turn_bench::{Faults, Generator, Load, Route, servers::Kind};

const CLIENTS: usize = 10;
/// How often a load is tried that has lost packets: a server that waits for a busy machine's core loses those of UDP.
const ATTEMPTS: usize = 5;
const LOAD: Load = Load { rate: 1000.0, size: 200, seconds: 0.5 };

/// Runs a short load. The address of a test's server is its own, since tests run side by side.
async fn packets_arrive(kind: Kind, number: u8, route: Route) {
    let server = kind.start(number).await;
    let mut generator = Generator::connect(&server, CLIENTS, route);
    for size in [200, 1200] {
        let mut loads = (0..ATTEMPTS).map(|_| {
            let loaded = generator.load(&Load { size, ..LOAD });
            let faults = Faults { lost: 0, ..loaded.faults };
            assert_eq!(faults, Faults::default(), "{kind:?}, {route:?}: {loaded:?}");
            loaded
        });
        let loaded = loads.find(|loaded| loaded.faults.lost == 0);
        let loaded = loaded.unwrap_or_else(|| panic!("{kind:?}, {route:?}: each load has lost packets"));
        assert!(loaded.sent > 500 && loaded.packets > 250, "{kind:?}, {route:?}: {loaded:?}");
        assert!(loaded.usage.servers.as_nanos() > 0, "the kernel counts no time");
    }
}

#[tokio::test]
async fn every_packet_over_chappe_arrives_once_and_unaltered() {
    for route in [Route::Peers, Route::PeersOverTcp, Route::Hairpin] {
        packets_arrive(Kind::Chappe, 101, route).await;
    }
}

#[tokio::test]
async fn every_packet_over_the_floor_arrives_once_and_unaltered() {
    for route in [Route::Peers, Route::Hairpin] {
        packets_arrive(Kind::Floor, 102, route).await;
    }
}

#[tokio::test]
async fn every_packet_over_the_turn_crate_arrives_once_and_unaltered() {
    for route in [Route::Peers, Route::Hairpin] {
        packets_arrive(Kind::TurnCrate, 103, route).await;
    }
}

#[tokio::test]
async fn every_packet_over_coturn_arrives_once_and_unaltered() {
    if !Kind::Coturn.is_installed() {
        return;
    }
    for route in [Route::Peers, Route::PeersOverTcp, Route::Hairpin] {
        packets_arrive(Kind::Coturn, 104, route).await;
    }
}

#[tokio::test]
async fn packets_that_a_stopped_server_does_not_relay_are_counted_as_lost() {
    let server = Kind::Floor.start(105).await;
    let mut generator = Generator::connect(&server, CLIENTS, Route::Peers);
    server.stop();
    let loaded = generator.load(&LOAD);
    assert_eq!(loaded.faults, Faults { lost: loaded.sent, ..Faults::default() });
    assert!(loaded.sent > 500);
}
