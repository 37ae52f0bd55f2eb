//! Known classes of abuse of TURN servers, one test each, against the server without sockets. `docs/protocol/turn.md` lists the
//! classes. Tests that need sockets are in `sockets.rs`, `state.rs` and `namespace.rs`. Tests of a single module
//! are in that module.

mod support;

use std::net::{IpAddr, SocketAddr};

use chappe_turn::{
    budget::BudgetLevel,
    counters::DropReason,
    limits::{Limits, MAX_PERMISSIONS},
    peer_filter::{PeerFilter, RelayHost},
    server::RelayId,
};
use proptest::prelude::*;
use stun_types::{
    attribute::{AttributeWrite, RawAttribute, XorMappedAddress},
    message::{BINDING, Message, Method, TransactionId},
};
use support::*;
use turn_types::{
    attribute::{Data, EvenPort, Lifetime, RequestedTransport, XorPeerAddress},
    message::{ALLOCATE, REFRESH, SEND},
};

fn attribute(kind: u16, value: &[u8]) -> RawAttribute<'_> {
    RawAttribute::new(kind.into(), value)
}

#[test]
fn class_01_private_ranges_are_refused_in_each_request() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    for ip in [[10, 0, 0, 1], [192, 168, 1, 1], [172, 31, 0, 1], [169, 254, 169, 254], [100, 64, 0, 1], [198, 18, 0, 1]]
    {
        let peer = SocketAddr::from((ip, 80));
        assert_eq!(world.permit(client, &user, &[peer]), 403, "{peer}");
        assert_eq!(world.bind(client, &user, 0x4000, peer), 403, "{peer}");
        assert_eq!(world.handle(client, &send(peer, b"x")), Sent::Nothing, "{peer}");
    }
    // One refused peer is enough to refuse the request: no permission is installed.
    assert_eq!(world.permit(client, &user, &[peer(1), SocketAddr::from(([10, 0, 0, 1], 1))]), 403);
    assert_eq!(world.handle(client, &send(peer(1), b"x")), Sent::Nothing);
    assert_eq!(world.server.counters().dropped(DropReason::PeerNotAllowed), 6);
}

#[test]
fn class_02_loopback_and_unspecified_addresses_are_refused() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    for peer in
        ["127.0.0.1:80", "0.0.0.0:80", "0.1.2.3:80", "[::1]:80", "[::]:80", "255.255.255.255:80", "224.0.0.1:80"]
    {
        assert_eq!(world.permit(client, &user, &[peer.parse().expect("an address")]), 403, "{peer}");
    }
}

#[test]
fn class_03_ipv4_addresses_in_ipv6_spelling_are_refused_where_they_are_used() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    for peer in ["[::ffff:127.0.0.1]:80", "[::127.0.0.1]:80", "[2002:7f00:1::1]:80", "[64:ff9b::7f00:1]:80"] {
        let peer = peer.parse().expect("an address");
        assert_eq!(world.bind(client, &user, 0x4000, peer), 403, "{peer}");
        assert_eq!(world.handle(client, &send(peer, b"x")), Sent::Nothing);
    }
    // An IPv4-mapped peer is the IPv4 peer: packets to it are sent over IPv4.
    assert_eq!(world.permit(client, &user, &["[::ffff:8.8.4.4]:7".parse().expect("an address")]), 0);
    assert!(matches!(world.handle(client, &send(peer(7), b"x")), Sent::Peer { peer: sent, .. } if sent == peer(7)));
}

#[test]
fn class_05_own_services_are_refused_and_own_allocations_are_not() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    for (port, expected) in [(22, 403), (3478, 403), (50_007, 403), (50_008, 0), (59_999, 0), (60_000, 403)] {
        let number = 0x4000 + port % 0x1000;
        assert_eq!(world.bind(client, &user, number, SocketAddr::from((EXTERNAL, port))), expected, "{port}");
    }
    // The port of a CreatePermission is ignored.
    assert_eq!(world.permit(client, &user, &[SocketAddr::from((EXTERNAL, 0))]), 0);
    // The permission is for the address. Each Send is checked with its port.
    assert_eq!(world.handle(client, &send(SocketAddr::from((EXTERNAL, 22)), b"x")), Sent::Nothing);
    assert_eq!(world.server.counters().dropped(DropReason::PeerNotAllowed), 1);
}

#[test]
fn class_05_a_filter_that_changes_ends_what_it_refuses() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    assert_eq!(world.bind(client, &user, 0x4000, peer(1)), 0);
    assert!(matches!(world.handle(client, &channel_data(0x4000, b"x")), Sent::Peer { .. }));
    let relay: RelayId = *world.sockets.bound.keys().next().expect("one");
    let other = SocketAddr::from(([8, 8, 8, 8], 1));
    assert_eq!(world.permit(client, &user, &[other]), 0);
    let denied = vec!["8.8.4.4/32".parse().expect("a network")];
    world.server.set_filter(PeerFilter { denied, ..PeerFilter::default() });
    assert_eq!(world.handle(client, &channel_data(0x4000, b"x")), Sent::Nothing);
    assert_eq!(world.handle_peer(relay, peer(1), b"x"), Sent::Nothing, "its permission has gone");
    assert!(matches!(world.handle_peer(relay, other, b"x"), Sent::Client { .. }), "others stay");
}

#[test]
fn class_05_a_port_that_becomes_a_service_is_closed_and_its_address_is_not() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    let own = |port: u16| SocketAddr::from((EXTERNAL, port));
    assert_eq!(world.bind(client, &user, 0x4000, own(50_008)), 0);
    assert_eq!(world.bind(client, &user, 0x4001, own(50_009)), 0);
    let host = RelayHost { relay_ports: PORTS, services: vec![50_008] };
    let relay_hosts = [(EXTERNAL.into(), host)].into();
    world.server.set_filter(PeerFilter { relay_hosts, ..PeerFilter::default() });
    let dropped = |world: &World, reason| world.server.counters().dropped(reason);
    world.handle(client, &channel_data(0x4000, b"x"));
    assert_eq!((dropped(&world, DropReason::NoChannel), dropped(&world, DropReason::NoPermission)), (1, 0));
    // There is a channel and a permission, and no allocation at that port.
    world.handle(client, &channel_data(0x4001, b"x"));
    assert_eq!((dropped(&world, DropReason::NoChannel), dropped(&world, DropReason::NoPermission)), (1, 1));
}

#[test]
fn class_06_no_other_transport_than_udp_is_allocated() {
    let mut world = World::new();
    let (client, user) = (udp(1), world.user());
    let nonce = world.nonce(client);
    for protocol in (0..=u8::MAX).filter(|protocol| *protocol != 17) {
        let request = signed(ALLOCATE, &[&RequestedTransport::new(protocol)], &user, &nonce);
        let Sent::Answer(answer) = world.handle(client, &request) else { panic!("no answer") };
        assert_eq!(code(&answer), 442, "{protocol}");
        // A source may send a hundred requests a second.
        if protocol % 64 == 0 {
            world.pass(1);
        }
    }
    // Connect and ConnectionBind of RFC 6062.
    for method in [0x000a, 0x000b] {
        assert_eq!(code(&world.request(client, &user, Method::new(method), &[])), 400);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn class_07_and_08_no_answer_to_an_unverified_source_is_larger_than_it_may_be(
        method in 0_u16..0x20,
        kinds in proptest::collection::vec((any::<u16>(), proptest::collection::vec(any::<u8>(), 0..24)), 0..6),
        is_v6: bool,
    ) {
        let mut world = World::new();
        let client = if is_v6 { udp_of("2a00::1".parse::<IpAddr>().expect("an address"), 5) } else { udp(5) };
        let values: Vec<_> = kinds
            .iter()
            .filter(|(kind, _)| ![0x0008, 0x001c, 0x8028].contains(kind))
            .map(|(kind, value)| attribute(*kind, value))
            .collect();
        let attributes: Vec<_> = values.iter().map(|value| value as &dyn AttributeWrite).collect();
        let request = plain(Method::new(method), &attributes);
        if let Sent::Answer(answer) = world.handle(client, &request) {
            let headers = if is_v6 { 48 } else { 28 };
            prop_assert!(2 * (answer.len() + headers) <= 3 * (request.len() + headers), "{} for {}", answer.len(), request.len());
        }
        for len in 0..20 {
            prop_assert_eq!(world.handle(client, &request[..len]), Sent::Nothing);
        }
    }
}

#[test]
fn class_07_a_source_gets_ten_answers_a_second() {
    let mut world = World::new();
    let request = plain(BINDING, &[]);
    let answers = (0..1000).filter(|port| world.handle(udp(1 + port), &request) != Sent::Nothing).count();
    assert_eq!(answers, 10);
    assert_eq!(world.server.counters().dropped(DropReason::AnswerRate), 990);
    assert!(matches!(world.handle(udp_of([88, 9, 9, 9], 1), &request), Sent::Answer(_)), "others are unaffected");
    world.pass(1);
    assert!(matches!(world.handle(udp(1), &request), Sent::Answer(_)));
}

#[test]
fn class_08_no_attribute_sends_an_answer_elsewhere() {
    let mut world = World::new();
    for kind in [0x0003, 0x0027] {
        let Sent::Answer(answer) = world.handle(udp(1), &plain(BINDING, &[&attribute(kind, &[0, 0, 0, 6])])) else {
            panic!("no answer");
        };
        assert_eq!(code(&answer), 420, "{kind:#x}");
    }
    let Sent::Answer(answer) = world.handle(udp(7), &plain(BINDING, &[])) else { panic!("no answer") };
    let message = Message::from_bytes(&answer).expect("a message");
    let mapped = message.attribute::<XorMappedAddress>().expect("an address");
    assert_eq!(mapped.addr(message.transaction_id()), udp(7).addr());
}

#[test]
fn class_11_a_stale_nonce_gets_a_new_one() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    let nonce = world.nonce(client);
    world.pass(661);
    for (client, nonce) in [(client, nonce.as_str()), (client, "AAAAAAAAAAAAAAAA"), (client, "x")] {
        let request = signed(REFRESH, &[], &user, nonce);
        let Sent::Answer(answer) = world.handle(client, &request) else { panic!("no answer") };
        assert_eq!(code(&answer), 438);
    }
    let of_another = world.nonce(udp(2000));
    let Sent::Answer(answer) = world.handle(client, &signed(REFRESH, &[], &user, &of_another)) else {
        panic!("no answer")
    };
    assert_eq!(code(&answer), 438);
}

#[test]
fn class_12_attributes_after_the_integrity_are_not_obeyed() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    let nonce = world.nonce(client);
    let before: [(&[&dyn AttributeWrite], u32); 2] = [(&[], 600), (&[&Lifetime::new(700)], 700)];
    for (attributes, expected) in before {
        let mut request = signed(REFRESH, attributes, &user, &nonce);
        // LIFETIME 0 would end the allocation.
        request.extend([0x00, 0x0d, 0, 4, 0, 0, 0, 0]);
        let len = u16::try_from(request.len() - 20).expect("short");
        request[2..4].copy_from_slice(&len.to_be_bytes());
        let Sent::Answer(answer) = world.handle(client, &request) else { panic!("no answer") };
        let message = Message::from_bytes(&answer).expect("a message");
        assert_eq!(message.attribute::<Lifetime>().expect("a lifetime").seconds(), expected);
    }
    assert_eq!(world.server.allocations(), 1);
}

#[test]
fn class_13_of_two_addresses_in_a_send_the_checked_one_is_used() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    assert_eq!(world.permit(client, &user, &[peer(1)]), 0);
    let id = TransactionId::generate();
    let [good, bad] = [peer(1), "10.0.0.1:1".parse().expect("an address")].map(|peer| XorPeerAddress::new(peer, id));
    let data = Data::new(b"x");
    let first = world.handle(client, &indication(SEND, &[&good, &bad, &data], id));
    assert!(matches!(first, Sent::Peer { peer: sent, .. } if sent == peer(1)));
    assert_eq!(world.handle(client, &indication(SEND, &[&bad, &good, &data], id)), Sent::Nothing);
}

#[test]
fn class_14_another_user_on_the_same_address_gets_441() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    let other = world.user();
    assert_eq!(world.refresh(client, &other, 0), 441);
    assert_eq!(world.permit(client, &other, &[peer(1)]), 441);
    assert_eq!(world.bind(client, &other, 0x4000, peer(1)), 441);
    assert_eq!(code(&world.request(client, &other, ALLOCATE, &[&RequestedTransport::new(17)])), 437);
    // Nor does it get the response to the user's own request.
    let (mine, id, nonce) = (udp(3000), TransactionId::generate(), world.nonce(udp(3000)));
    let allocate = |user: &User| signed_as(id, ALLOCATE, &[&RequestedTransport::new(17)], user, &nonce);
    for (user, expected) in [(&user, 0), (&other, 437), (&user, 0)] {
        let Sent::Answer(answer) = world.handle(mine, &allocate(user)) else { panic!("no answer") };
        assert_eq!(code(&answer), expected);
    }
    assert_eq!(world.refresh(mine, &user, 0), 0);
    assert_eq!(world.refresh(udp(2000), &user, 600), 437, "no allocation");
    assert_eq!(world.refresh(client, &user, 0), 0);
    assert_eq!((world.server.allocations(), world.sockets.bound.len()), (0, 0));
}

#[test]
fn class_15_a_mobility_ticket_changes_nothing() {
    let mut world = World::new();
    let (client, user) = (udp(1), world.user());
    let ticket = attribute(0x8030, b"");
    assert!(relayed(&world.request(client, &user, ALLOCATE, &[&RequestedTransport::new(17), &ticket])).is_some());
    assert_eq!(code(&world.request(udp(2), &user, REFRESH, &[&attribute(0x8030, b"ticket")])), 437);
}

#[test]
fn class_16_allocations_with_even_ports_leak_none() {
    let mut world = World::with_ports(50_010..=50_019);
    let (client, user) = (udp(1), world.user_until(START + 36_000));
    for _ in 0..2000 {
        let attributes: [&dyn AttributeWrite; 2] = [&RequestedTransport::new(17), &EvenPort::new(false)];
        let port = relayed(&world.request(client, &user, ALLOCATE, &attributes)).expect("a port").port();
        assert!(port.is_multiple_of(2));
        assert_eq!(world.refresh(client, &user, 0), 0);
    }
    assert_eq!(
        code(&world.request(client, &user, ALLOCATE, &[&RequestedTransport::new(17), &EvenPort::new(true)])),
        508
    );
    assert_eq!(world.sockets.bound.len(), 0);
    // All ports are still free, also the odd ones.
    for port in 1..=10 {
        world.allocate(udp(port), &user);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn class_16_no_signed_allocate_leaks_a_port(
        further in proptest::collection::vec(
            (proptest::sample::select(vec![0x000d_u16, 0x0017, 0x0018, 0x0019, 0x001a, 0x0022, 0x8000, 0x8022]),
             proptest::collection::vec(any::<u8>(), 0..9)),
            0..4,
        ),
    ) {
        let mut world = World::new();
        let (client, user) = (udp(1), world.user());
        let values: Vec<_> = further.iter().map(|(kind, value)| attribute(*kind, value)).collect();
        let transport = RequestedTransport::new(17);
        let mut attributes: Vec<&dyn AttributeWrite> = vec![&transport];
        attributes.extend(values.iter().map(|value| value as &dyn AttributeWrite));
        let allocated = relayed(&world.request(client, &user, ALLOCATE, &attributes)).is_some();
        prop_assert_eq!(world.server.allocations(), usize::from(allocated));
        if allocated {
            prop_assert_eq!(world.refresh(client, &user, 0), 0);
        }
        prop_assert_eq!(world.sockets.bound.len(), 0);
    }
}

#[test]
fn class_18_a_client_that_allocates_again_and_again_is_limited_and_leaves_nothing() {
    let mut world = World::new();
    let (client, user) = (udp(1), world.user());
    let nonce = world.nonce(client);
    let answered = (0..10_000)
        .filter(|_| {
            let allocate = signed(ALLOCATE, &[&RequestedTransport::new(17)], &user, &nonce);
            let refresh = signed(REFRESH, &[&Lifetime::new(0)], &user, &nonce);
            world.handle(client, &allocate) != Sent::Nothing && world.handle(client, &refresh) != Sent::Nothing
        })
        .count();
    // Each Allocate counts for the source, and each Refresh for its allocation.
    assert!(answered <= 100, "{answered}");
    assert!(world.server.counters().dropped(DropReason::RequestRate) > 9000);
}

#[test]
fn class_07_packets_in_a_clients_name_do_not_keep_it_from_refreshing() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    let nonce = world.nonce(client);
    world.pass(661);
    let forged = plain(ALLOCATE, &[&RequestedTransport::new(17)]);
    for _ in 0..100 {
        world.handle(client, &plain(BINDING, &[]));
        world.handle(client, &forged);
    }
    let Sent::Answer(answer) = world.handle(client, &signed(REFRESH, &[], &user, &nonce)) else { panic!("no answer") };
    assert_eq!(code(&answer), 438, "it gets a new nonce");
}

#[test]
fn class_25_packets_without_payload_count_too() {
    let mut world = World::with(Limits { allocation_bytes_per_second: 100_000, ..Limits::default() });
    let (client, user, _) = allocated(&mut world);
    assert_eq!(world.bind(client, &user, 0x4000, peer(1)), 0);
    let relayed = (0..10_000).filter(|_| world.handle(client, &channel_data(0x4000, b"")) != Sent::Nothing).count();
    assert_eq!(relayed, 100_000 / 256);
    assert_eq!(world.server.counters().bytes, 28 * relayed as u64);
}

#[test]
fn class_17_quotas_and_ports_that_end_recover() {
    let limits =
        Limits { allocations: 5, allocations_per_credential: 2, allocations_per_source: 4, ..Limits::default() };
    let mut world = World::with(limits);
    let user = world.user();
    let ask = |world: &mut World, client, user: &User| {
        code(&world.request(client, user, ALLOCATE, &[&RequestedTransport::new(17)]))
    };
    let codes: Vec<_> = (1..=3).map(|port| ask(&mut world, udp(port), &user)).collect();
    assert_eq!(codes, [0, 0, 486], "of one credential");
    let codes: Vec<_> = (4..=6)
        .map(|port| {
            let other = world.user();
            ask(&mut world, udp(port), &other)
        })
        .collect();
    assert_eq!(codes, [0, 0, 486], "of one source");
    let other = world.user();
    assert_eq!(ask(&mut world, udp_of([88, 9, 9, 9], 1), &other), 0, "others are unaffected");
    assert_eq!(ask(&mut world, udp_of([88, 9, 9, 9], 2), &other), 508, "of all");
    assert_eq!(world.refresh(udp(1), &user, 0), 0);
    assert_eq!(ask(&mut world, udp(3), &user), 0, "again after one has ended");
}

#[test]
fn class_17_the_sources_of_one_network_leave_half_of_the_allocations_to_others() {
    let v4 = |network: u8, host: u8| IpAddr::from([88, 1, network, host]);
    let v6 = |network: u8, host: u8| IpAddr::from([0x2a00, 1, network.into(), host.into(), 0, 0, 0, 1]);
    for ip in [v4 as fn(u8, u8) -> IpAddr, v6] {
        let limits = Limits { allocations: 80, allocations_per_source: 10, ..Limits::default() };
        let mut world = World::with(limits);
        // Ten allocations of each of twelve addresses.
        let mut take = |network: u8| {
            let clients = (1..=12).flat_map(|host| (1..=10).map(move |port| udp_of(ip(network, host), port)));
            let ask = |client| {
                let user = world.user();
                code(&world.request(client, &user, ALLOCATE, &[&RequestedTransport::new(17)]))
            };
            let codes: Vec<_> = clients.map(ask).collect();
            (codes.iter().filter(|code| **code == 0).count(), codes.iter().filter(|code| **code == 486).count())
        };
        // While nobody else wants them, a network gets half. Then each has a quarter.
        assert_eq!(take(1), (40, 80));
        assert_eq!(take(2), (20, 100));
        // Its own allocations are no new ones: a second request of their clients is refused with 437.
        assert_eq!(take(1), (0, 80));
        let (rest, _) = take(3);
        assert_eq!(rest, 20);
        assert_eq!(world.server.counters().network_shares_reached, 80 + 100 + 80);
        // What ends is for others again.
        let gone = udp_of(ip(3, 1), 1);
        world.server.handle_closed(&mut world.sockets, gone);
        let user = world.user();
        assert_eq!(code(&world.request(udp_of(ip(2, 5), 99), &user, ALLOCATE, &[&RequestedTransport::new(17)])), 486);
        assert_eq!(code(&world.request(udp_of(ip(4, 1), 1), &user, ALLOCATE, &[&RequestedTransport::new(17)])), 0);
    }
}

#[test]
fn class_17_ports_of_other_programs_are_passed_over() {
    let mut world = World::new();
    world.sockets.taken = PORTS.step_by(2).collect();
    let user = world.user();
    for port in 1..=10 {
        assert!(!world.allocate(udp(port), &user).port().is_multiple_of(2));
    }
    world.sockets.taken = PORTS.collect();
    assert_eq!(code(&world.request(udp(11), &user, ALLOCATE, &[&RequestedTransport::new(17)])), 508);
    world.sockets.taken.clear();
    world.allocate(udp(11), &user);
}

#[test]
fn class_18_permissions_of_an_allocation_are_bounded() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    let codes: Vec<_> = (0..400_u16)
        .map(|index| {
            let [a, b] = index.to_be_bytes();
            world.permit(client, &user, &[SocketAddr::from(([8, 9, a, b], 1))])
        })
        .collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), MAX_PERMISSIONS);
    assert!(codes[MAX_PERMISSIONS..].iter().all(|code| *code == 508));
    let many: Vec<_> = (1..=17).map(peer).collect();
    assert_eq!(world.permit(client, &user, &many), 400);
}

#[test]
fn class_19_an_expired_credential_allocates_nothing_and_its_allocation_ends_after_a_grace() {
    let mut world = World::new();
    let (client, user) = (udp(1), world.user_until(START + 100));
    world.allocate(client, &user);
    world.pass(100);
    assert_eq!(code(&world.request(udp(2), &user, ALLOCATE, &[&RequestedTransport::new(17)])), 401);
    assert_eq!(world.refresh(client, &user, 3600), 0, "within its grace");
    world.pass(598);
    assert_eq!(world.server.allocations(), 1);
    world.pass(2);
    assert_eq!(world.refresh(client, &user, 3600), 401);
    assert_eq!((world.server.allocations(), world.sockets.bound.len()), (0, 0));
    assert_eq!(world.server.counters().allocations_closed, 1);
}

// A server that believes the length relays what its buffer held before.
#[test]
fn class_22_data_that_is_shorter_than_its_length_is_dropped() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    assert_eq!(world.bind(client, &user, 0x4000, peer(1)), 0);
    for len in [1..=3, 4..=8, 100..=103].into_iter().flatten() {
        let packet = [&[0x40, 0, 0, len][..], &vec![1; usize::from(len) - 1]].concat();
        assert_eq!(world.handle(client, &packet), Sent::Nothing, "ChannelData of {len}");
    }
    let whole = send(peer(1), b"12345678");
    let data = whole.len() - 12;
    assert_eq!(whole[data..data + 4], [0, 0x13, 0, 8]);
    for len in [9, 11, 12, 255] {
        let mut packet = whole.clone();
        packet[data + 3] = len;
        assert_eq!(world.handle(client, &packet), Sent::Nothing, "DATA of {len}");
    }
    assert_eq!(world.server.counters().dropped(DropReason::Malformed), 16);
    // Over UDP, ChannelData may be padded.
    let Sent::Peer { data, .. } = world.handle(client, b"\x40\x00\x00\x05hello...") else { panic!("not relayed") };
    assert_eq!(data, b"hello");
}

#[test]
fn class_25_one_allocation_does_not_relay_more_than_its_rate() {
    let limits = Limits { allocation_bytes_per_second: 100_000, ..Limits::default() };
    let mut world = World::with(limits);
    let (client, user, _) = allocated(&mut world);
    assert_eq!(world.bind(client, &user, 0x4000, peer(1)), 0);
    let mut relayed = 0;
    for _ in 0..10 {
        let packet = channel_data(0x4000, &[0; 1000]);
        relayed += (0..10_000).filter(|_| world.handle(client, &packet) != Sent::Nothing).count();
        world.pass(1);
    }
    assert!((950..=1100).contains(&relayed), "{relayed} of 100,000 packets in ten seconds");
}

#[test]
fn class_25_a_budget_stops_first_allocations_and_then_all() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    let ask = |world: &mut World| code(&world.request(udp(2), &user, ALLOCATE, &[&RequestedTransport::new(17)]));
    world.server.set_budget(&mut world.sockets, BudgetLevel::NoAllocations);
    assert_eq!(ask(&mut world), 508);
    assert_eq!(world.refresh(client, &user, 600), 0, "running ones go on");
    world.server.set_budget(&mut world.sockets, BudgetLevel::Spent);
    assert_eq!((world.server.allocations(), world.sockets.bound.len()), (0, 0));
    world.server.set_budget(&mut world.sockets, BudgetLevel::Open);
    assert_eq!(ask(&mut world), 0);
}

#[test]
fn class_26_allocations_that_relay_to_each_other_are_no_loop() {
    let mut world = World::new();
    let [(a, relay_a), (b, relay_b)] = [1, 2].map(|port| {
        let user = world.user();
        let relayed = world.allocate(udp(port), &user);
        ((udp(port), user), relayed)
    });
    assert_eq!(world.bind(a.0, &a.1, 0x4000, relay_b), 0);
    // B has no permission for A yet.
    assert_eq!(world.handle(a.0, &channel_data(0x4000, b"hello")), Sent::Nothing);
    assert_eq!(world.bind(b.0, &b.1, 0x4001, relay_a), 0);
    // One packet in, one packet out, to the other client and not to a socket.
    let expected = Sent::Client { client: b.0, data: channel_data(0x4001, b"hello") };
    assert_eq!(world.handle(a.0, &channel_data(0x4000, b"hello")), expected);
    assert_eq!(world.server.counters().hairpinned, 1);
    // A client that is its own peer gets its packet once.
    assert_eq!(world.bind(a.0, &a.1, 0x4002, relay_a), 0);
    let expected = Sent::Client { client: a.0, data: channel_data(0x4002, b"me") };
    assert_eq!(world.handle(a.0, &channel_data(0x4002, b"me")), expected);
}

// A list by user would end up as a metric with a label for each.
#[test]
fn class_28_counts_have_the_same_parts_after_one_user_and_after_hundreds() {
    let shape =
        |world: &World| format!("{:?}", world.server.counters()).replace(|sign: char| sign.is_ascii_digit(), "");
    let mut world = World::new();
    let of_none = shape(&world);
    for host in 1..=200 {
        let (client, user) = (udp_of([88, 1, 2, host], 1), world.user());
        world.allocate(client, &user);
        assert_eq!(world.permit(client, &user, &[peer(host.into()), SocketAddr::from(([10, 0, 0, 1], 1))]), 403);
        assert_eq!(world.handle(client, &send(peer(1), b"x")), Sent::Nothing);
        assert_eq!(shape(&world), of_none);
    }
    assert_eq!(world.server.counters().allocations_opened, 200);
}

#[test]
fn class_30_packets_from_impossible_sources_are_dropped() {
    let mut world = World::new();
    let request = plain(BINDING, &[]);
    for source in
        ["88.1.2.3:0", "255.255.255.255:5", "224.0.0.1:5", "0.0.0.0:5", "[ff02::1]:5", "[::]:5", "9.9.9.9:3478"]
    {
        let addr: SocketAddr = source.parse().expect("an address");
        assert_eq!(world.handle(udp_of(addr.ip(), addr.port()), &request), Sent::Nothing, "{source}");
    }
    assert_eq!(world.server.counters().dropped(DropReason::ImpossibleSource), 7);
}

#[test]
fn class_32_dont_fragment_is_refused_as_the_rfc_has_it() {
    let mut world = World::new();
    let (client, user) = (udp(1), world.user());
    let dont_fragment = attribute(0x001a, b"");
    assert_eq!(code(&world.request(client, &user, ALLOCATE, &[&RequestedTransport::new(17), &dont_fragment])), 420);
    world.allocate(client, &user);
    assert_eq!(world.permit(client, &user, &[peer(1)]), 0);
    let id = TransactionId::generate();
    let attributes: [&dyn AttributeWrite; 3] = [&XorPeerAddress::new(peer(1), id), &Data::new(b"x"), &dont_fragment];
    assert_eq!(world.handle(client, &indication(SEND, &attributes, id)), Sent::Nothing);
}
