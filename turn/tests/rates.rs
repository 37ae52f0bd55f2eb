//! The rates of sources, networks and allocations, against the server without sockets.

mod support;

use std::net::IpAddr;

use chappe_turn::{client::Client, counters::DropReason, limits::Limits, server::RelayId};
use stun_types::{
    attribute::AttributeWrite,
    message::{BINDING, TransactionId},
};
use support::*;
use turn_types::{
    attribute::{ChannelNumber, Lifetime, RequestedTransport, XorPeerAddress},
    message::{ALLOCATE, CHANNEL_BIND, REFRESH},
};

#[test]
fn signed_forgeries_are_limited_before_their_nonce_is_verified() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    let nonce = world.nonce(client);
    world.pass(1);
    let forged = signed(REFRESH, &[], &user, "AAAAAAAAAAAAAAAA");
    for _ in 0..10_000 {
        world.handle(udp(2000), &forged);
    }
    assert_eq!(world.server.counters().dropped(DropReason::RequestRate), 9900);
    // In the name of a client with an allocation: it can still refresh.
    let request = signed(REFRESH, &[], &user, &nonce);
    for _ in 0..10_000 {
        world.handle(client, &forged);
    }
    let Sent::Answer(answer) = world.handle(client, &request) else { panic!("no answer") };
    assert_eq!(code(&answer), 0);
}

#[test]
fn signed_forgeries_over_udp_leave_their_source_its_requests_over_a_stream() {
    let mut world = World::new();
    let user = world.user();
    let forged = signed(ALLOCATE, &[&RequestedTransport::new(17)], &user, "AAAAAAAAAAAAAAAA");
    (0..200).for_each(|_| drop(world.handle(udp(1), &forged)));
    assert_eq!(world.server.counters().dropped(DropReason::RequestRate), 100);
    let stream = stream(1);
    let nonce = world.nonce(stream);
    let allocate = signed(ALLOCATE, &[&RequestedTransport::new(17)], &user, &nonce);
    let Sent::Answer(answer) = world.handle(stream, &allocate) else { panic!("no answer") };
    assert!(relayed(&answer).is_some());
}

#[test]
fn bad_signatures_with_a_valid_nonce_are_limited_before_they_are_verified() {
    let mut world = World::new();
    let (client, mut user, _) = allocated(&mut world);
    let nonce = world.nonce(client);
    world.pass(1);
    user.password.push('x');
    let bad = signed(REFRESH, &[], &user, &nonce);
    for _ in 0..10_000 {
        world.handle(client, &bad);
    }
    // Ten of its own, and those of its source.
    assert_eq!(world.server.counters().dropped(DropReason::RequestRate), 10_000 - 10 - 100);
}

#[test]
fn bad_requests_of_a_neighbour_leave_an_allocation_its_own() {
    let mut world = World::new();
    let (victim, user, _) = allocated(&mut world);
    let nonce = world.nonce(victim);
    let (attacker, other) = (udp(1), udp(2));
    let [mut bad, allocate] = [attacker, other].map(|client| {
        let (user, nonce) = (world.user(), world.nonce(client));
        (user, nonce)
    });
    bad.0.password.push('x');
    world.pass(1);
    let dropped = |world: &World| world.server.counters().dropped(DropReason::RequestRate);
    let request = signed(REFRESH, &[], &bad.0, &bad.1);
    (0..1000).for_each(|_| drop(world.handle(attacker, &request)));
    assert!(dropped(&world) >= 900, "the attacker is limited");
    let id = TransactionId::generate();
    let channel: [&dyn AttributeWrite; 2] = [&ChannelNumber::new(0x4000), &XorPeerAddress::new(peer(1), id)];
    for request in [signed(REFRESH, &[], &user, &nonce), signed_as(id, CHANNEL_BIND, &channel, &user, &nonce)] {
        let Sent::Answer(answer) = world.handle(victim, &request) else { panic!("no answer") };
        assert_eq!(code(&answer), 0);
    }
    // Without an allocation, a client shares the rate of its address.
    let allocate = signed(ALLOCATE, &[&RequestedTransport::new(17)], &allocate.0, &allocate.1);
    assert_eq!(world.handle(other, &allocate), Sent::Nothing);
    world.pass(1);
    assert!(matches!(world.handle(other, &allocate), Sent::Answer(_)));
}

#[test]
fn requests_with_an_old_nonce_are_limited() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    let nonce = world.nonce(client);
    world.pass(400);
    assert_eq!(world.refresh(client, &user, 600), 0);
    world.pass(300);
    let old = signed(REFRESH, &[], &user, &nonce);
    let answered = (0..1000).filter(|_| world.handle(client, &old) != Sent::Nothing).count();
    assert_eq!((answered, world.server.counters().dropped(DropReason::RequestRate)), (110, 890));
}

/// A client of each host of a network, with a nonce, at a second of its own.
fn clients(world: &mut World, hosts: impl Iterator<Item = IpAddr>) -> Vec<(Client, String)> {
    let clients = hosts.map(|host| udp_of(host, 1)).map(|client| (client, world.nonce(client))).collect();
    world.pass(1);
    clients
}

#[test]
fn class_18_the_clients_of_a_network_make_at_most_334_allocations_a_second_however_soon_they_end_them() {
    let v4 = |host: u16| IpAddr::from([88, 1, 2, 1 + host.to_be_bytes()[1]]);
    let v6 = |host: u16| IpAddr::from([0x2a00, 1, 2, host, 0, 0, 0, 1]);
    let elsewhere = [[88, 1, 3, 1].into(), IpAddr::from([0x2a00, 1, 3, 0, 0, 0, 0, 1])];
    for (host, elsewhere) in [v4 as fn(u16) -> IpAddr, v6].into_iter().zip(elsewhere) {
        let mut world = World::new();
        let user = world.user();
        let mut clients = clients(&mut world, (0..20).map(host).chain([elsewhere]));
        let (other, nonce) = clients.pop().expect("the last");
        let allocate = |world: &mut World, client, nonce: &str| {
            let allocate = signed(ALLOCATE, &[&RequestedTransport::new(17)], &user, nonce);
            let end = signed(REFRESH, &[&Lifetime::new(0)], &user, nonce);
            world.handle(client, &allocate) != Sent::Nothing && world.handle(client, &end) != Sent::Nothing
        };
        for second in 1..=2 {
            // Each source within its own rate.
            for (client, nonce) in &clients {
                (0..100).for_each(|_| _ = allocate(&mut world, *client, nonce));
            }
            let counters = world.server.counters();
            assert_eq!(counters.allocations_opened, 334 * second);
            assert_eq!(counters.dropped(DropReason::NetworkRequestRate), 1666 * second);
            assert_eq!(counters.dropped(DropReason::RequestRate), 0);
            world.pass(1);
        }
        assert!(allocate(&mut world, other, &nonce), "others are unaffected");
        assert_eq!(world.server.allocations(), 0);
    }
}

#[test]
fn class_18_the_allocations_of_a_network_have_a_thousand_requests_a_second_beyond_their_own() {
    let mut world = World::new();
    let user = world.user_until(START + 36_000);
    let hosts = (1..=15).map(|host| IpAddr::from([88, 1, 2, host]));
    let clients = clients(&mut world, hosts);
    for (client, nonce) in &clients {
        let allocate = signed(ALLOCATE, &[&RequestedTransport::new(17)], &user, nonce);
        let Sent::Answer(answer) = world.handle(*client, &allocate) else { panic!("no answer") };
        assert!(relayed(&answer).is_some());
    }
    world.pass(1);
    let mut refresh = |count: usize| {
        let all = clients.iter().map(|(client, nonce)| {
            let request = signed(REFRESH, &[], &user, nonce);
            (0..count).filter(|_| world.handle(*client, &request) != Sent::Nothing).count()
        });
        let answered: Vec<_> = all.collect();
        world.pass(1);
        answered
    };
    let answered = refresh(500);
    assert_eq!(answered.iter().sum::<usize>(), 15 * 10 + 1000);
    assert!(answered.iter().all(|count| *count >= 10), "each has its own: {answered:?}");
    assert_eq!(refresh(10), [10; 15]);
}

#[test]
fn one_network_does_not_use_up_the_rate_of_all() {
    let limits =
        Limits { allocation_bytes_per_second: 100_000_000, total_bytes_per_second: 1_000_000, ..Limits::default() };
    let mut world = World::with(limits);
    let (user, relayed_to) = (world.user(), peer(1));
    // Several sources of one /24, and a client elsewhere.
    let floods: Vec<_> = (1..=10).map(|host| udp_of([88, 1, 2, host], 1)).collect();
    let other = udp_of([88, 1, 3, 1], 1);
    for client in floods.iter().chain([&other]) {
        world.allocate(*client, &user);
        assert_eq!(world.bind(*client, &user, 0x4000, relayed_to), 0);
    }
    let packet = channel_data(0x4000, &[0; 972]);
    let mut relayed = 0;
    for _ in 0..5 {
        for client in &floods {
            (0..1000).for_each(|_| drop(world.handle(*client, &packet)));
        }
        relayed += (0..100).filter(|_| world.handle(other, &packet) != Sent::Nothing).count();
        world.pass(1);
    }
    assert_eq!(relayed, 500);
    assert!(world.server.counters().packets >= 3000, "the network gets what others leave");
}

#[test]
fn a_packet_between_two_clients_counts_in_the_share_of_its_sender() {
    let limits =
        Limits { allocation_bytes_per_second: 100_000_000, total_bytes_per_second: 1_000_000, ..Limits::default() };
    let mut world = World::with(limits);
    let user = world.user();
    let [flood, victim] = [1, 2].map(|net| udp_of([88, 1, net, 1], 1));
    let [from, to] = [flood, victim].map(|client| world.allocate(client, &user));
    assert_eq!(world.bind(flood, &user, 0x4000, to), 0);
    assert_eq!(world.bind(victim, &user, 0x4000, from), 0);
    assert_eq!(world.bind(victim, &user, 0x4001, peer(1)), 0);
    world.pass(1);
    let mut relayed = 0;
    for _ in 0..5 {
        (0..10_000).for_each(|_| drop(world.handle(flood, &channel_data(0x4000, &[0; 972]))));
        relayed += (0..100).filter(|_| world.handle(victim, &channel_data(0x4001, &[0; 972])) != Sent::Nothing).count();
        world.pass(1);
    }
    assert!(world.server.counters().hairpinned >= 1000);
    assert_eq!(relayed, 500, "what others send to a client does not use up its share");
}

#[test]
fn a_flood_of_one_kind_in_a_clients_name_leaves_it_the_answers_of_the_other_kind() {
    let mut world = World::new();
    let [binding, allocate] = [plain(BINDING, &[]), plain(ALLOCATE, &[&RequestedTransport::new(17)])];
    for (flood, other) in [(&binding, &allocate), (&allocate, &binding)] {
        let answered = (0..100).filter(|_| world.handle(udp(1), flood) != Sent::Nothing).count();
        assert_eq!(answered, 10);
        assert!(matches!(world.handle(udp(2), other), Sent::Answer(_)));
        world.pass(1);
    }
}

#[test]
fn the_streams_of_a_source_get_a_hundred_answers_a_second_and_its_datagrams_have_their_own() {
    let binding = plain(BINDING, &[]);
    let allocate = plain(ALLOCATE, &[&RequestedTransport::new(17)]);
    let count = |world: &mut World, client: fn(u16) -> Client, request: &[u8]| {
        (0..200).filter(|index| world.handle(client(*index), request) != Sent::Nothing).count()
    };
    let streams = |index: u16| stream((index % 50).into());
    let datagrams = |index: u16| udp(1 + index);
    for request in [&binding, &allocate] {
        let mut world = World::new();
        assert_eq!(count(&mut world, streams, request), 100);
        assert_eq!(world.server.counters().dropped(DropReason::AnswerRate), 100);
        assert_eq!(count(&mut world, datagrams, request), 10, "streams use up nothing of theirs");
        world.pass(1);
        assert_eq!(count(&mut world, datagrams, request), 10);
        assert_eq!(count(&mut world, streams, request), 100, "nor they of the streams'");
    }
}

#[test]
fn packets_of_a_peer_do_not_use_up_the_rate_of_the_client() {
    let mut world = World::with(Limits { allocation_bytes_per_second: 100_000, ..Limits::default() });
    let (client, user, _) = allocated(&mut world);
    assert_eq!(world.bind(client, &user, 0x4000, peer(1)), 0);
    let relay: RelayId = *world.sockets.bound.keys().next().expect("one");
    let received = (0..1000).filter(|_| world.handle_peer(relay, peer(1), &[0; 972]) != Sent::Nothing).count();
    assert_eq!(received, 100);
    let sent = (0..1000).filter(|_| world.handle(client, &channel_data(0x4000, &[0; 972])) != Sent::Nothing).count();
    assert_eq!(sent, 100);
}
