//! The relay's thread with real sockets: the effect of misbehaving clients on the relay and on other clients.

mod support;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    sync::{atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant},
};

use chappe_turn::{
    budget::BudgetLevel,
    peer_filter::PeerFilter,
    runtime::{NewStream, Relay, Snapshot},
};
use nix::sys::socket::{setsockopt, sockopt};
use stun_types::{
    AddressFamily,
    attribute::Nonce,
    message::{BINDING, Message, Method},
};
use support::{channel_data, code, plain, signed, sockets::*};
use turn_types::{
    attribute::{AdditionalAddressFamily, RequestedAddressFamily, RequestedTransport},
    message::ALLOCATE,
};

#[test]
fn class_22_garbage_ends_neither_the_socket_nor_the_thread() {
    let (relay, addr) = start();
    let socket = udp(addr);
    let mut packet = plain(ALLOCATE, &[&RequestedTransport::new(17)]);
    for index in 0..20_000_usize {
        let at = index % packet.len();
        packet[at] = packet[at].wrapping_mul(31).wrapping_add(7);
        let len = index % (packet.len() + 1);
        let _ = socket.send(&packet[..len]);
    }
    // The flood may have filled the relay's buffer. Once it answers, it has read all.
    let mut other = udp(addr);
    other.set_read_timeout(Some(Duration::from_secs(1))).expect("a limit");
    let is_answered = |_| {
        other.send(&plain(BINDING, &[])).expect("it is sent");
        other.recv(&mut [0; 100]).is_ok()
    };
    assert!((0..20).any(is_answered));
    // The longest datagram that is relayed, one just above it, and the longest that loopback accepts.
    for len in [2048, 2049, 65_507] {
        socket.send(&vec![0x40; len]).expect("it is sent");
    }
    eventually(&relay, "the long ones are counted", |snapshot| snapshot.io.truncated == 2);
    assert_eq!(code(&other.request(&plain(BINDING, &[]))), 0);
}

#[test]
fn class_31_packets_of_each_size_pass_a_tcp_connection_back_to_back() {
    let (relay, addr) = start();
    let (mut stream, _) = tcp(&relay);
    let mut socket = udp(addr);
    let (user, nonce, relayed_tcp) = allocate(&mut stream);
    let (other, other_nonce, relayed_udp) = allocate(&mut socket);
    bind(&mut stream, (&user, &nonce), 0x4000, relayed_udp);
    bind(&mut socket, (&other, &other_nonce), 0x4001, relayed_tcp);
    let payload = |len: usize| -> Vec<u8> { (0..len).map(|index| (index % 251) as u8 + 1).collect() };
    for lens in (1..=1500).collect::<Vec<_>>().chunks(50) {
        let mut written = Vec::new();
        for len in lens {
            let packet = channel_data(0x4000, &payload(*len));
            written.extend(&packet);
            written.resize(written.len().next_multiple_of(4), 0xee);
        }
        stream.write_all(&written).expect("it is written");
        for len in lens {
            let mut received = [0; 2048];
            let count = socket.recv(&mut received).expect("a packet");
            assert_eq!(received[..count], channel_data(0x4001, &payload(*len)));
        }
        for len in lens {
            socket.send(&channel_data(0x4001, &payload(*len))).expect("it is sent");
        }
        for len in lens {
            let mut received = vec![0; (4 + len).next_multiple_of(4)];
            stream.read_exact(&mut received).expect("a packet");
            let mut expected = channel_data(0x4000, &payload(*len));
            expected.resize(received.len(), 0);
            assert_eq!(received, expected, "with zeros for padding");
        }
    }
    drop(stream);
    eventually(&relay, "its allocation ends with the connection", |snapshot| snapshot.allocations == 1);
}

#[test]
fn class_31_a_client_that_does_not_read_loses_its_packets_and_delays_nobody() {
    let (relay, addr) = start();
    let (mut stream, dropped) = tcp(&relay);
    let (mut sender, mut other) = (udp(addr), udp(addr));
    let (user, nonce, relayed_tcp) = allocate(&mut stream);
    let (of_sender, sender_nonce, relayed_sender) = allocate(&mut sender);
    let (of_other, other_nonce, relayed_other) = allocate(&mut other);
    bind(&mut stream, (&user, &nonce), 0x4000, relayed_sender);
    bind(&mut sender, (&of_sender, &sender_nonce), 0x4000, relayed_tcp);
    bind(&mut other, (&of_other, &other_nonce), 0x4000, relayed_other);
    // First the kernel's buffers fill, then those of the relay.
    let packet = channel_data(0x4000, &[1; 1400]);
    let deadline = Instant::now() + PATIENCE;
    while relay.snapshot().io.stream_packets_dropped == 0 {
        for _ in 0..50 {
            sender.send(&packet).expect("it is sent");
        }
        assert!(Instant::now() < deadline, "{:?}", relay.snapshot());
        thread::sleep(Duration::from_millis(20));
    }
    // Meanwhile, other clients get their packets. This client is its own peer.
    let mine = channel_data(0x4000, b"mine");
    for _ in 0..100 {
        assert_eq!(other.request(&mine), mine);
    }
    // Ten seconds later the connection is closed, and its allocation has ended.
    eventually(&relay, "it is closed", |snapshot| snapshot.streams == 0 && snapshot.allocations == 2);
    assert!(dropped.load(Ordering::Relaxed), "its permit is free");
}

#[test]
fn class_31_a_stream_that_is_no_stun_or_too_long_is_closed_at_once() {
    let (relay, _) = start();
    for begin in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01\x02\x00", b"\x40\x00\xff\xff", b"\x00\x01\xff\xfc"] {
        let (mut stream, dropped) = tcp(&relay);
        stream.write_all(begin).expect("it is written");
        // If the relay closes with unread bytes, the connection ends with a reset.
        assert!(!matches!(stream.read(&mut [0; 1]), Ok(1)));
        eventually(&relay, "its permit is free", |_| dropped.load(Ordering::Relaxed));
    }
    eventually(&relay, "all are counted", |snapshot| snapshot.streams == 0 && snapshot.io.streams_closed == 4);
}

#[test]
fn other_programs_packets_to_a_relayed_address_reach_nobody_without_a_permission() {
    let (_relay, addr) = start();
    let mut client = udp(addr);
    let (user, nonce, relayed) = allocate(&mut client);
    let peer = UdpSocket::bind("127.0.0.2:0").expect("a socket");
    peer.connect(relayed).expect("an address");
    peer.set_read_timeout(Some(PATIENCE)).expect("a limit");
    peer.send(b"not yet").expect("it is sent");
    thread::sleep(Duration::from_millis(100));
    bind(&mut client, (&user, &nonce), 0x4000, peer.local_addr().expect("an address"));
    peer.send(b"now").expect("it is sent");
    let mut received = [0; 100];
    let len = client.recv(&mut received).expect("a packet");
    assert_eq!(received[..len], channel_data(0x4000, b"now"));
    client.send(&channel_data(0x4000, b"back")).expect("it is sent");
    let len = peer.recv(&mut received).expect("a packet");
    assert_eq!(&received[..len], b"back");
}

#[test]
fn a_relay_that_drains_keeps_its_allocations_and_makes_no_new_ones() {
    let (relay, addr) = start();
    let mut client = udp(addr);
    let (running, nonce, _) = allocate(&mut client);
    relay.drain();
    let request = |socket: &mut UdpSocket| {
        let user = user();
        let attribute = RequestedTransport::new(17);
        let challenge = socket.request(&plain(ALLOCATE, &[&attribute]));
        let message = Message::from_bytes(&challenge).expect("a message");
        let nonce = message.attribute::<Nonce>().expect("a nonce").nonce().to_owned();
        code(&socket.request(&signed(ALLOCATE, &[&attribute], &user, &nonce)))
    };
    assert_eq!(request(&mut udp(addr)), 508);
    let refresh = signed(Method::new(4), &[], &running, &nonce);
    assert_eq!(code(&client.request(&refresh)), 0);
}

#[test]
fn a_spent_budget_ends_the_allocations() {
    let (relay, addr) = start();
    let mut client = udp(addr);
    let (user, nonce, relayed) = allocate(&mut client);
    bind(&mut client, (&user, &nonce), 0x4000, relayed);
    let packet = channel_data(0x4000, &[1; 1000]);
    relay.set_budget(BudgetLevel::NoAllocations);
    eventually(&relay, "it is set", |snapshot| snapshot.budget == BudgetLevel::NoAllocations);
    assert_eq!(client.request(&packet), packet, "running ones go on");
    relay.set_budget(BudgetLevel::Spent);
    eventually(&relay, "it has ended", |snapshot| snapshot.counters.allocations_closed == 1);
}

#[test]
fn a_stopped_relay_closes_its_connections_and_takes_no_more() {
    let (relay, _) = start();
    let (mut stream, dropped) = tcp(&relay);
    allocate(&mut stream);
    relay.stop();
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(1)));
    assert!(dropped.load(Ordering::Relaxed), "its permit is free");
    assert!(!relay.snapshot().is_running);
    let (socket, addr) = (stream, SocketAddr::from(([127, 0, 0, 1], 1)));
    let refused = relay.add_stream(NewStream { socket, addr, tls: None, received: Vec::new(), guard: Box::new(()) });
    assert!(refused.is_err());
}

#[test]
fn a_relay_starts_again_at_the_addresses_of_a_stopped_one_and_without_its_allocations() {
    let (relay, addr) = start();
    let mut client = udp(addr);
    let (user, nonce, relayed) = allocate(&mut client);
    relay.stop();
    assert!(UdpSocket::bind(relayed).is_ok(), "the relayed address is free");
    let localhost = [Ipv4Addr::LOCALHOST.into()];
    let again = spawn(&[addr], Vec::new(), &localhost, Vec::new()).expect("its address is free");
    assert_eq!(again.addrs(), [addr]);
    let refresh = |nonce: &str| signed(Method::new(4), &[], &user, nonce);
    // The client gets a new nonce, and learns that its allocation has gone.
    let stale = client.request(&refresh(&nonce));
    let message = Message::from_bytes(&stale).expect("a message");
    let new = message.attribute::<Nonce>().expect("a nonce").nonce().to_owned();
    assert_eq!((code(&stale), code(&client.request(&refresh(&new)))), (438, 437));
    allocate(&mut client);
    eventually(&again, "there is a new one", |snapshot| snapshot.allocations == 1);
}

#[test]
fn a_passed_socket_replaces_the_one_of_its_family_and_one_of_no_listed_family_is_refused() {
    let any = ["127.0.0.1:0", "[::1]:0"].map(|addr| addr.parse::<SocketAddr>().expect("an address"));
    for (passed, other) in [(any[0], any[1]), (any[1], any[0])] {
        let socket = UdpSocket::bind(passed).expect("a socket");
        let bound = socket.local_addr().expect("an address");
        let relay = spawn(&any, vec![socket], &EXTERNALS, Vec::new()).expect("a relay");
        let addrs = relay.addrs();
        assert!(addrs.contains(&bound) && addrs[0].is_ipv4() && addrs[1].is_ipv6(), "{addrs:?}");
        allocate(&mut udp_from(bound.ip(), bound));
        let socket = UdpSocket::bind(passed).expect("a socket");
        let refused = spawn(&[other], vec![socket], &EXTERNALS, Vec::new());
        assert_eq!(refused.expect_err("no such family").kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn class_27_a_peer_that_is_not_there_is_not_reported_and_delays_no_other_peer() {
    let (relay, [addr, _]) = start_dual();
    let mut client = udp(addr);
    let (user, nonce, relayed) = allocate(&mut client);
    // The system answers with ICMP: nothing listens there any more.
    let closed = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("an address");
    let (there, there_addr) = peer(relayed);
    bind(&mut client, (&user, &nonce), 0x4000, closed);
    bind(&mut client, (&user, &nonce), 0x4001, there_addr);
    for _ in 0..10 {
        (0..10).for_each(|_| assert!(client.send(&channel_data(0x4000, b"anybody?")).is_ok()));
        exchange(&client, 0x4001, &there, relayed);
    }
    let snapshot = eventually(&relay, "all are relayed", |snapshot| snapshot.counters.packets == 120);
    assert_eq!((snapshot.io.sends_failed, snapshot.io.receives_failed), (0, 0));
}

#[test]
fn errors_of_a_socket_are_counted_and_end_neither_it_nor_the_relay() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    // The socket then reports that a client is gone, which sockets otherwise do not.
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true).expect("an option of Linux");
    let addr = socket.local_addr().expect("bound");
    let relay = spawn(&[addr], vec![socket], &EXTERNALS, Vec::new()).expect("a relay");
    eventually(&relay, "an error is counted", |snapshot| {
        // It is closed before the answer arrives, at least once.
        let gone = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        gone.send_to(&plain(BINDING, &[]), addr).expect("it is sent");
        snapshot.io.receives_failed > 0
    });
    allocate(&mut udp_from(addr.ip(), addr));
}

#[test]
fn packets_that_the_system_does_not_send_are_counted() {
    let (relay, addr) = start();
    let mut client = udp(addr);
    let (user, nonce, _) = allocate(&mut client);
    // A socket bound to loopback has no way to it.
    bind(&mut client, (&user, &nonce), 0x4000, "8.8.4.4:4000".parse().expect("an address"));
    for _ in 0..10 {
        client.send(&channel_data(0x4000, b"x")).expect("it is sent");
    }
    eventually(&relay, "all are counted", |snapshot| snapshot.io.sends_failed == 10);
}

/// Keeps the thread that drops it busy until the test releases it.
struct Held {
    is_dropped: mpsc::Sender<()>,
    release: mpsc::Receiver<()>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.is_dropped.send(());
        let _ = self.release.recv_timeout(PATIENCE);
    }
}

/// Keeps the relay's thread busy until the returned sender is dropped.
fn keep_busy(relay: &Relay) -> mpsc::Sender<()> {
    let (mut stream, socket, addr) = connection();
    let ((is_dropped, dropped), (release, released)) = (mpsc::channel(), mpsc::channel());
    let guard = Box::new(Held { is_dropped, release: released });
    relay.add_stream(NewStream { socket, addr, tls: None, received: Vec::new(), guard }).expect("it is taken");
    // The relay closes it, since it is no STUN.
    stream.write_all(b"GET / HTTP/1.1\r\n").expect("it is written");
    dropped.recv_timeout(PATIENCE).expect("it is closed");
    release
}

#[test]
fn class_31_a_connection_with_many_short_packets_leaves_others_their_turn() {
    // They fit into one read of the relay, and into the peer's buffer.
    const PACKETS: usize = 200;
    let (relay, addr) = start();
    let peer = UdpSocket::bind("127.0.0.2:0").expect("a socket");
    peer.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let peer_addr = peer.local_addr().expect("an address");
    let ((mut stream, _), mut other) = (tcp(&relay), udp(addr));
    let (user, nonce, _) = allocate(&mut stream);
    bind(&mut stream, (&user, &nonce), 0x4000, peer_addr);
    let (user, nonce, _) = allocate(&mut other);
    bind(&mut other, (&user, &nonce), 0x4000, peer_addr);
    let busy = keep_busy(&relay);
    // All of them are there before the thread goes on.
    stream.write_all(&channel_data(0x4000, b"many").repeat(PACKETS)).expect("it is written");
    other.send(&channel_data(0x4000, b"one")).expect("it is sent");
    drop(busy);
    let mut packets = std::iter::repeat_with(|| {
        let mut received = [0; 100];
        let len = peer.recv(&mut received).expect("a packet");
        received[..len].to_vec()
    });
    let before = packets.position(|packet| packet == b"one").expect("it arrives");
    // Those of one turn, which are 64.
    assert!(before < PACKETS / 2, "{before}");
}

#[test]
fn class_31_many_connections_with_many_short_packets_share_one_turn() {
    const CONNECTIONS: usize = 50;
    const PACKETS: usize = 200;
    let (relay, addr) = start();
    let peer = UdpSocket::bind("127.0.0.2:0").expect("a socket");
    peer.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let peer_addr = peer.local_addr().expect("an address");
    let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| tcp(&relay)).collect();
    for (stream, _) in &mut streams {
        let (user, nonce, _) = allocate(stream);
        bind(stream, (&user, &nonce), 0x4000, peer_addr);
    }
    let mut other = udp(addr);
    let (user, nonce, relayed) = allocate(&mut other);
    bind(&mut other, (&user, &nonce), 0x4000, peer_addr);
    bind(&mut other, (&user, &nonce), 0x4001, relayed);
    let busy = keep_busy(&relay);
    for (stream, _) in &mut streams {
        stream.write_all(&channel_data(0x4000, b"many").repeat(PACKETS)).expect("it is written");
    }
    other.send(&channel_data(0x4000, b"one")).expect("it is sent");
    drop(busy);
    // Before it come those of one turn: one of each connection. The peer's buffer takes more than that.
    let mut received = [0; 100];
    let is_one = |_: &usize| peer.recv(&mut received).expect("a packet") == b"one".len();
    let before = (0..).find(is_one).expect("endless");
    assert!(before <= 64, "{before}");
    // Other clients get their packets, and so does each connection.
    let mine = channel_data(0x4001, b"mine");
    (0..100).for_each(|_| assert_eq!(other.request(&mine), mine));
    let all = (CONNECTIONS * PACKETS + 1 + 100) as u64;
    eventually(&relay, "all are relayed", |snapshot| snapshot.counters.packets == all);
}

#[test]
fn a_busy_relay_blocks_no_caller_and_refuses_connections_beyond_its_queue() {
    const QUEUE: u64 = 256;
    let (relay, _) = start();
    let busy = keep_busy(&relay);
    let (_client, socket, addr) = connection();
    let since = Instant::now();
    let is_taken = |_: &u64| {
        let socket = socket.try_clone().expect("an open file");
        let new = NewStream { socket, addr, tls: None, received: Vec::new(), guard: Box::new(()) };
        relay.add_stream(new).is_ok()
    };
    assert_eq!((0..QUEUE + 10).filter(is_taken).count() as u64, QUEUE);
    relay.set_filter(PeerFilter::default());
    relay.set_external(EXTERNALS[0]);
    relay.set_budget(BudgetLevel::NoAllocations);
    relay.drain();
    assert_eq!(relay.snapshot().budget, BudgetLevel::Open, "the thread has not taken it yet");
    assert!(since.elapsed() < PATIENCE / 2, "{:?}", since.elapsed());
    drop(busy);
    let is_all_taken =
        |snapshot: &Snapshot| (snapshot.budget, snapshot.io.streams_opened) == (BudgetLevel::NoAllocations, QUEUE + 1);
    eventually(&relay, "all is taken", is_all_taken);
}

#[test]
fn a_relay_says_that_it_makes_no_allocations_together_with_the_count_of_those_made_before() {
    let stops: [fn(&Relay); 2] = [Relay::drain, |relay| relay.set_budget(BudgetLevel::NoAllocations)];
    for stop in stops {
        let (relay, addr) = start();
        let mut client = udp(addr);
        allocate(&mut client);
        let busy = keep_busy(&relay);
        stop(&relay);
        assert_eq!(relay.snapshot().budget, BudgetLevel::Open, "the thread has not taken it yet");
        drop(busy);
        let closed = eventually(&relay, "it is taken", |snapshot| snapshot.budget == BudgetLevel::NoAllocations);
        assert_eq!(closed.allocations, 1);
    }
}

#[test]
fn a_relay_that_is_dropped_does_not_wait_for_its_thread() {
    let (relay, _) = start();
    let _busy = keep_busy(&relay);
    let since = Instant::now();
    drop(relay);
    assert!(since.elapsed() < PATIENCE / 2, "{:?}", since.elapsed());
}

#[test]
fn a_connection_that_the_system_refuses_counts_as_opened_and_closed() {
    let (relay, _) = start();
    // A file is no socket, and can't be waited for.
    let socket = TcpStream::from(OwnedFd::from(std::fs::File::open("/proc/self/exe").expect("a file")));
    let addr = SocketAddr::from(([127, 0, 0, 1], 1));
    relay
        .add_stream(NewStream { socket, addr, tls: None, received: Vec::new(), guard: Box::new(()) })
        .expect("it is taken");
    let is_counted =
        |snapshot: &Snapshot| (snapshot.io.streams_opened, snapshot.io.streams_closed, snapshot.streams) == (1, 1, 0);
    eventually(&relay, "it is counted", is_counted);
}

/// The external addresses of a relay that is behind a NAT. A peer at one of them would be an allocation.
const EXTERNALS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9)), IpAddr::V6(Ipv6Addr::new(0x2a00, 0, 0, 0, 0, 0, 0, 9))];

/// A relay on loopback of both families. Its peers may be on loopback too.
fn start_dual() -> (Relay, [SocketAddr; 2]) {
    let ips = [Ipv4Addr::LOCALHOST.into(), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let allowed = ["127.0.0.0/8", "::1/128"].map(|net| net.parse().expect("a network"));
    let relay = start_at_all(&ips, &EXTERNALS, allowed.into());
    let addrs = relay.addrs().try_into().expect("one of each family");
    (relay, addrs)
}

/// A peer on loopback of the family of an address.
fn peer(relayed: SocketAddr) -> (UdpSocket, SocketAddr) {
    let ip = if relayed.is_ipv4() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { Ipv6Addr::LOCALHOST.into() };
    let socket = UdpSocket::bind((ip, 0)).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let addr = socket.local_addr().expect("an address");
    (socket, addr)
}

/// Sends a packet on a channel to a peer, and the peer sends one back.
fn exchange(client: &UdpSocket, number: u16, peer: &UdpSocket, relayed: SocketAddr) {
    let mut received = [0; 100];
    client.send(&channel_data(number, b"out")).expect("it is sent");
    let (len, from) = peer.recv_from(&mut received).expect("a packet");
    // From the local address, which a NAT would replace.
    assert_eq!((&received[..len], from.port()), (&b"out"[..], relayed.port()));
    peer.send_to(b"back", from).expect("it is sent");
    let len = client.recv(&mut received).expect("a packet");
    assert_eq!(received[..len], channel_data(number, b"back"));
}

#[test]
fn an_allocation_of_both_families_reaches_peers_of_both() {
    let (_relay, addrs) = start_dual();
    for addr in addrs {
        let mut client = udp_from(addr.ip(), addr);
        let both = AdditionalAddressFamily::new(AddressFamily::IPV6);
        let (user, nonce, relayed) = allocate_with(&mut client, &[&both]);
        let ips: Vec<_> = relayed.iter().map(SocketAddr::ip).collect();
        assert_eq!(ips, EXTERNALS, "of a client at {addr}");
        for (number, relayed) in (0x4000..).zip(relayed) {
            let (peer, peer_addr) = peer(relayed);
            bind(&mut client, (&user, &nonce), number, peer_addr);
            exchange(&client, number, &peer, relayed);
        }
    }
}

#[test]
fn clients_of_one_family_use_relayed_addresses_of_the_other() {
    let (relay, [v4, v6]) = start_dual();
    let mut clients = Vec::new();
    for (addr, family) in [(v4, AddressFamily::IPV6), (v6, AddressFamily::IPV4), (v6, AddressFamily::IPV6)] {
        let mut client = udp_from(addr.ip(), addr);
        let (user, nonce, relayed) = allocate_with(&mut client, &[&RequestedAddressFamily::new(family)]);
        assert_eq!((relayed.len(), relayed[0].is_ipv6()), (1, family == AddressFamily::IPV6));
        let (peer, peer_addr) = peer(relayed[0]);
        bind(&mut client, (&user, &nonce), 0x4000, peer_addr);
        exchange(&client, 0x4000, &peer, relayed[0]);
        clients.push((client, user, nonce, relayed[0]));
    }
    // From the relayed address of a client over IPv4 to that of a client over IPv6.
    let (mut one, of_one, one_nonce, one_relayed) = clients.swap_remove(0);
    let (mut other, of_other, other_nonce, other_relayed) = clients.swap_remove(0);
    bind(&mut one, (&of_one, &one_nonce), 0x4001, other_relayed);
    bind(&mut other, (&of_other, &other_nonce), 0x4002, one_relayed);
    one.send(&channel_data(0x4001, b"hello")).expect("it is sent");
    let mut received = [0; 100];
    let len = other.recv(&mut received).expect("a packet");
    assert_eq!(received[..len], channel_data(0x4002, b"hello"));
    eventually(&relay, "it went directly", |snapshot| snapshot.counters.hairpinned == 1);
}
