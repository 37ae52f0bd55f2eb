//! Which packets leave the machine: the relay runs in a separate network namespace, and its only link is captured.
//!
//! The test restarts itself with `unshare` (util-linux) and needs `ip` (iproute2). If the system allows no namespaces, the
//! test prints that it is skipped.

mod support;

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    process::Command,
    thread,
    time::Duration,
};

use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, Socket, Type};
use stun_types::message::{Method, TransactionId};
use support::{channel_data, code, indication, signed_as, sockets::*};
use turn_types::{
    attribute::{ChannelNumber, Data, XorPeerAddress},
    message::{CHANNEL_BIND, SEND},
};

const NAME: &str = "class_01_and_03_nothing_leaves_towards_a_forbidden_peer";

/// The environment variable that is set in the namespace.
const INSIDE: &str = "CHAPPE_TEST_NAMESPACE";

/// The machine's address in the namespace: a public one.
const OWN: [u8; 4] = [9, 9, 9, 9];

/// Captures the packets of the namespace.
struct Capture(Socket);

impl Capture {
    fn start() -> Self {
        // Of all protocols: ETH_P_ALL, in network byte order.
        let protocol = Protocol::from(i32::from(3_u16.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).expect("a packet socket");
        socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a limit");
        Self(socket)
    }

    /// Counts UDP packets until none arrives. Packets to the machine itself are not counted.
    fn count(&self) -> usize {
        let mut count = 0;
        let mut packet = [0; 2048];
        while let Ok(len) = recv(self.0.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            let bytes = &packet[..len];
            let is_udp_out = match bytes.first().map(|first| first >> 4) {
                Some(4) => bytes[9] == 17 && bytes[16..20] != OWN,
                Some(6) => bytes[6] == 17,
                _ => false,
            };
            count += usize::from(is_udp_out);
        }
        count
    }
}

fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status().expect("iproute2");
    assert!(status.success(), "ip {args}");
}

#[test]
fn class_01_and_03_nothing_leaves_towards_a_forbidden_peer() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let is_allowed = Command::new("unshare").args(["--map-root-user", "--net", "ip", "link"]).output();
    if !is_allowed.is_ok_and(|output| output.status.success()) {
        println!("skipped: needs unshare (util-linux), ip (iproute2), and network namespaces");
        return;
    }
    let own = std::env::current_exe().expect("a path");
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net"]).arg(own).args(["--exact", NAME, "--nocapture"]);
    assert!(command.env(INSIDE, "1").status().expect("unshare runs").success());
}

/// Runs in the namespace.
fn inside() {
    for args in [
        "link set lo up",
        "link add out type veth peer name far",
        // Nothing answers at the far end.
        "link set out arp off",
        "link set far up",
        "link set out up",
        "addr add 9.9.9.9/32 dev out",
        "route add default dev out",
        "-6 addr add 2a00::9/128 dev out nodad",
        "-6 route add default dev out",
    ] {
        ip(args);
    }
    let capture = Capture::start();
    let own = IpAddr::from(OWN);
    let (_relay, addr) = start_at(own, Vec::new(), unlimited());
    let mut client = udp_from(own, addr);
    let (user, nonce, _) = allocate(&mut client);
    capture.count();
    let mut tried = 0;
    for peer in [
        "10.0.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "198.18.0.1",
        "192.88.99.1",
        "::ffff:10.0.0.1",
        "::10.0.0.1",
        "::ffff:0:10.0.0.1",
        "2002:a00:1::1",
        "64:ff9b::a00:1",
        "64:ff9b:1::a00:1",
        "2001:0:808:808::f5ff:fffe",
        "fe80::1",
        "fd00::1",
        "2a00:1::5efe:a00:1",
    ] {
        let peer = SocketAddr::new(peer.parse().expect("an address"), 4000);
        let id = TransactionId::generate();
        let peer_attribute = XorPeerAddress::new(peer, id);
        for (method, number) in [(Method::new(8), None), (CHANNEL_BIND, Some(ChannelNumber::new(0x4000)))] {
            let mut attributes: Vec<&dyn stun_types::attribute::AttributeWrite> = vec![&peer_attribute];
            if let Some(number) = &number {
                attributes.push(number);
            }
            assert_eq!(code(&client.request(&signed_as(id, method, &attributes, &user, &nonce))), 403, "{peer}");
        }
        client.send(&indication(SEND, &[&peer_attribute, &Data::new(b"x")], id)).expect("it is sent");
        client.send(&channel_data(0x4000, b"x")).expect("it is sent");
        tried += 1;
    }
    thread::sleep(Duration::from_millis(200));
    assert_eq!(capture.count(), 0, "after {tried} addresses");
    // Packets to an allowed peer are seen, so the capture works.
    bind(&mut client, (&user, &nonce), 0x4001, "8.8.4.4:4000".parse().expect("an address"));
    for _ in 0..3 {
        client.send(&channel_data(0x4001, b"x")).expect("it is sent");
    }
    // Each packet is seen at both ends of the link.
    assert_eq!(capture.count(), 2 * 3);
}
