//! The ports of relayed addresses, against the server without sockets.

mod support;

use std::collections::HashSet;

use chappe_turn::{budget::BudgetLevel, client::Client};
use stun_types::{AddressFamily, attribute::AttributeWrite};
use support::*;
use turn_types::{
    attribute::{AdditionalAddressFamily, RequestedTransport},
    message::ALLOCATE,
};

/// Asks for an allocation. Returns its port or an error code.
fn ask(world: &mut World, client: Client, user: &User) -> Result<u16, u16> {
    let answer = world.request(client, user, ALLOCATE, &[&RequestedTransport::new(17)]);
    relayed(&answer).map(|addr| addr.port()).ok_or_else(|| code(&answer))
}

#[test]
fn no_port_is_given_to_two_allocations_at_a_time() {
    let mut world = World::with_ports(50_010..=50_017);
    let user = world.user();
    for _ in 0..3 {
        let ports: HashSet<_> = (1..=8).map(|port| ask(&mut world, udp(port), &user).expect("a port")).collect();
        assert_eq!(ports, (50_010..=50_017).collect());
        assert_eq!(ask(&mut world, udp(9), &user), Err(508));
        for port in 1..=8 {
            assert_eq!(world.refresh(udp(port), &user, 0), 0);
        }
    }
}

/// A way to end the allocation of a client.
type End = fn(&mut World, Client, &User);

#[test]
fn each_end_of_an_allocation_frees_its_port() {
    let end_by_refresh = |world: &mut World, client: Client, user: &User| assert_eq!(world.refresh(client, user, 0), 0);
    let close = |world: &mut World, client: Client, _: &User| world.server.handle_closed(&mut world.sockets, client);
    let expire = |world: &mut World, _: Client, _: &User| world.pass(601);
    let spend_budget = |world: &mut World, _: Client, _: &User| {
        world.server.set_budget(&mut world.sockets, BudgetLevel::Spent);
        world.server.set_budget(&mut world.sockets, BudgetLevel::Open);
    };
    let move_away = |world: &mut World, _: Client, _: &User| {
        world.server.set_external(&mut world.sockets, [9, 9, 9, 10].into());
    };
    let ways: [(&str, End); 5] = [
        ("refresh", end_by_refresh),
        ("closed connection", close),
        ("expiry", expire),
        ("budget", spend_budget),
        ("external address", move_away),
    ];
    for (name, end) in ways {
        let mut world = World::with_ports(50_010..=50_010);
        let user = world.user();
        let client = Client::Stream { id: 1, addr: udp(1).addr() };
        assert_eq!(ask(&mut world, client, &user), Ok(50_010), "{name}");
        assert_eq!(ask(&mut world, udp(2), &user), Err(508), "{name}");
        end(&mut world, client, &user);
        assert_eq!(ask(&mut world, udp(2), &user), Ok(50_010), "{name}");
    }
}

#[test]
fn a_bind_that_fails_loses_no_port() {
    let mut world = World::with_ports(50_010..=50_013);
    let user = world.user();
    let both = AdditionalAddressFamily::new(AddressFamily::IPV6);
    let dual: [&dyn AttributeWrite; 2] = [&RequestedTransport::new(17), &both];
    // Another program uses them.
    world.sockets.taken = (50_010..=50_013).collect();
    for _ in 0..20 {
        assert_eq!(ask(&mut world, udp(1), &user), Err(508));
    }
    world.sockets.taken.clear();
    // The machine has no IPv6 address.
    world.sockets.without_v6 = true;
    for _ in 0..20 {
        assert_eq!(code(&world.request(udp(1), &user, ALLOCATE, &dual)), 0);
        assert_eq!(world.refresh(udp(1), &user, 0), 0);
    }
    world.sockets.without_v6 = false;
    for port in 1..=4 {
        assert_eq!(code(&world.request(udp(port), &user, ALLOCATE, &dual)), 0);
    }
    assert_eq!(world.sockets.bound.len(), 8, "all ports of both families");
}
