//! How allocations live and end, against the server without sockets.

mod support;

use std::{collections::HashSet, net::SocketAddr};

use chappe_turn::server::RelayId;
use stun_types::message::{BINDING, Message};
use support::*;
use turn_types::{
    attribute::{AdditionalAddressFamily, Lifetime, RequestedTransport},
    message::{ALLOCATE, REFRESH},
};

#[test]
fn a_dual_allocation_relays_both_families_and_ends_one_by_one() {
    let mut world = World::new();
    let (client, user) = (udp(1), world.user());
    let both = AdditionalAddressFamily::new(stun_types::AddressFamily::IPV6);
    let answer = world.request(client, &user, ALLOCATE, &[&RequestedTransport::new(17), &both]);
    assert_eq!((code(&answer), world.sockets.bound.len()), (0, 2));
    let ports: HashSet<_> = world.sockets.bound.keys().map(|relay| relay.family).collect();
    assert_eq!(ports.len(), 2);
    let six: SocketAddr = "[2a00::77]:7".parse().expect("an address");
    assert_eq!(world.permit(client, &user, &[peer(1), six]), 0);
    for to in [peer(1), six] {
        let Sent::Peer { relay, peer, .. } = world.handle(client, &send(to, b"x")) else { panic!("not relayed") };
        assert_eq!(peer, to);
        assert!(matches!(world.handle_peer(relay, to, b"back"), Sent::Client { .. }));
    }
    let end = |world: &mut World, family| {
        let family = turn_types::attribute::RequestedAddressFamily::new(family);
        code(&world.request(client, &user, REFRESH, &[&Lifetime::new(0), &family]))
    };
    assert_eq!(end(&mut world, stun_types::AddressFamily::IPV6), 0);
    assert_eq!((world.server.allocations(), world.sockets.bound.len()), (1, 1));
    assert_eq!(end(&mut world, stun_types::AddressFamily::IPV6), 443);
    assert_eq!(world.permit(client, &user, &[six]), 443);
    assert_eq!(end(&mut world, stun_types::AddressFamily::IPV4), 0);
    assert_eq!((world.server.allocations(), world.sockets.bound.len()), (0, 0));
}

#[test]
fn an_allocation_lives_for_an_hour_at_most_unless_it_is_refreshed() {
    let mut world = World::new();
    let (client, user) = (udp(1), world.user_until(START + 100_000));
    let answer = world.request(client, &user, ALLOCATE, &[&RequestedTransport::new(17), &Lifetime::new(u32::MAX)]);
    let granted = |answer: &[u8]| {
        Message::from_bytes(answer).expect("a message").attribute::<Lifetime>().expect("a lifetime").seconds()
    };
    assert_eq!(granted(&answer), 3600);
    assert_eq!(granted(&world.request(client, &user, REFRESH, &[&Lifetime::new(4000)])), 3600);
    world.pass(3601);
    assert_eq!(world.server.allocations(), 0);
}

#[test]
fn an_allocation_ends_when_its_last_refresh_says() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    assert_eq!(world.refresh(client, &user, 3600), 0);
    // Its expiry was looked at, and is due in most of an hour.
    world.pass(650);
    assert_eq!(world.refresh(client, &user, 600), 0);
    world.pass(598);
    assert_eq!(world.server.allocations(), 1);
    world.pass(3);
    assert_eq!((world.server.allocations(), world.sockets.bound.len()), (0, 0));
}

#[test]
fn a_repeated_allocate_gets_the_same_answer_and_makes_no_second_allocation() {
    let mut world = World::new();
    let (client, user) = (udp(1), world.user());
    let nonce = world.nonce(client);
    let request = signed(ALLOCATE, &[&RequestedTransport::new(17)], &user, &nonce);
    let (first, second) = (world.handle(client, &request), world.handle(client, &request));
    assert_eq!(first, second);
    assert_eq!(world.server.allocations(), 1);
}

#[test]
fn peers_without_a_permission_reach_nobody() {
    let mut world = World::new();
    let (client, user, _) = allocated(&mut world);
    let relay: RelayId = *world.sockets.bound.keys().next().expect("one");
    assert_eq!(world.handle_peer(relay, peer(1), b"x"), Sent::Nothing);
    assert_eq!(world.permit(client, &user, &[peer(9)]), 0);
    assert!(matches!(world.handle_peer(relay, peer(1), b"x"), Sent::Client { client: to, .. } if to == client));
    world.pass(300);
    assert_eq!(world.handle_peer(relay, peer(1), b"x"), Sent::Nothing, "it has expired");
}

#[test]
fn allocations_need_an_external_address_and_end_when_it_changes() {
    let mut world = World::new();
    let (client, user, relayed) = allocated(&mut world);
    assert_eq!(relayed.ip(), std::net::IpAddr::from(EXTERNAL));
    world.server.set_external(&mut world.sockets, EXTERNAL.into());
    assert_eq!(world.server.allocations(), 1, "it is the same");
    let other: std::net::IpAddr = [9, 9, 9, 10].into();
    world.server.set_external(&mut world.sockets, other);
    assert_eq!((world.server.allocations(), world.sockets.bound.len()), (0, 0));
    assert_eq!(world.allocate(client, &user).ip(), other);
    // An address of the other family changes nothing.
    world.server.set_external(&mut world.sockets, "2a00::10".parse().expect("an address"));
    assert_eq!(world.server.allocations(), 1);
    // Its own port at the new address is no client.
    let own = SocketAddr::new(other, 3478);
    assert_eq!(world.handle(udp_of(own.ip(), own.port()), &plain(BINDING, &[])), Sent::Nothing);

    let mut world = World::without_external();
    let user = world.user();
    assert_eq!(code(&world.request(client, &user, ALLOCATE, &[&RequestedTransport::new(17)])), 508);
    world.server.set_external(&mut world.sockets, other);
    assert_eq!(world.allocate(client, &user).ip(), other);
}

#[test]
fn a_repeated_dual_allocate_says_again_why_it_has_no_ipv6_address() {
    let mut world = World::new();
    world.sockets.without_v6 = true;
    let (client, user) = (udp(1), world.user());
    let nonce = world.nonce(client);
    let both = AdditionalAddressFamily::new(stun_types::AddressFamily::IPV6);
    let request = signed(ALLOCATE, &[&RequestedTransport::new(17), &both], &user, &nonce);
    let Sent::Answer(answer) = world.handle(client, &request) else { panic!("no answer") };
    let has_error = Message::from_bytes(&answer).expect("a message").has_attribute(0x8001.into());
    assert!(code(&answer) == 0 && has_error, "ADDRESS-ERROR-CODE");
    assert_eq!(world.handle(client, &request), Sent::Answer(answer));
}
