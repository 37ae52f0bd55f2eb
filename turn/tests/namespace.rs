//! Which packets leave the machine: the relay runs in a separate network namespace, and its only link is captured. And that
//! peers beyond a link are reached over IPv6.
//!
//! The tests restart themselves with `unshare` (util-linux) and need `ip` (iproute2). If the system allows no namespaces, they
//! print that they are skipped.

mod support;

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, Socket, Type};
use stun_types::{
    AddressFamily,
    message::{Method, TransactionId},
};
use support::{channel_data, code, indication, signed_as, sockets::*};
use turn_types::{
    attribute::{AdditionalAddressFamily, ChannelNumber, Data, XorPeerAddress},
    message::{CHANNEL_BIND, SEND},
};

const NAME: &str = "class_01_and_03_nothing_leaves_towards_a_forbidden_peer";

/// The environment variable that is set in the namespace.
const INSIDE: &str = "CHAPPE_TEST_NAMESPACE";

/// The machine's addresses in the namespace: public ones.
const OWN: [u8; 4] = [9, 9, 9, 9];
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2a00, 0, 0, 0, 0, 0, 0, 9);

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
                Some(6) => bytes[6] == 17 && bytes[24..40] != OWN_V6.octets(),
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
    let ips = [IpAddr::from(OWN), OWN_V6.into()];
    let relay = start_at_all(&ips, &ips, Vec::new());
    let mut tried = 0;
    // Clients of each family. Each has a relayed address of both.
    for addr in relay.addrs() {
        let mut client = udp_from(addr.ip(), *addr);
        let both = AdditionalAddressFamily::new(AddressFamily::IPV6);
        let (user, nonce, relayed) = allocate_with(&mut client, &[&both]);
        assert_eq!(relayed.len(), 2);
        capture.count();
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
            "::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "4000::1",
            "fec0::1",
            "ff02::1",
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
        // Packets to allowed peers are seen, so the capture works.
        for (number, peer) in [(0x4001, "8.8.4.4:4000"), (0x4002, "[2a00:1::4]:4000")] {
            bind(&mut client, (&user, &nonce), number, peer.parse().expect("an address"));
            for _ in 0..3 {
                client.send(&channel_data(number, b"x")).expect("it is sent");
            }
            // Each packet is seen at both ends of the link.
            assert_eq!(capture.count(), 2 * 3, "{peer}");
        }
    }
}

const FAR_NAME: &str = "peers_beyond_a_link_are_reached_over_ipv6_from_the_relayed_address";

/// The relay's machine, and a peer in another namespace.
const FAR_SETUP: &str = "
    set -e
    mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns
    ip netns add far
    ip link set lo up
    ip link add out type veth peer name out netns far
    ip addr add 9.9.9.9/24 dev out; ip -6 addr add 2a00::9/64 dev out nodad
    ip link set out up
    ip -n far -6 addr add 2a00::77/64 dev out nodad
    ip -n far link set out up
";

const FAR: &str = "[2a00::77]:4000";

/// A process that is ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command
}

#[test]
fn peers_beyond_a_link_are_reached_over_ipv6_from_the_relayed_address() {
    match std::env::var(INSIDE).as_deref() {
        Ok("far") => return answer_with_source(),
        Ok(_) => return reach_far_peer(),
        Err(_) => {}
    }
    // Namespaces with names need root.
    if !unshare().args(["sh", "-c", FAR_SETUP]).output().is_ok_and(|output| output.status.success()) {
        println!("skipped: needs root, unshare (util-linux), ip (iproute2), and network namespaces");
        return;
    }
    let own = std::env::current_exe().expect("a path");
    let mut command = unshare();
    command.arg(own).args(["--exact", FAR_NAME, "--nocapture"]).env(INSIDE, "relay");
    assert!(command.status().expect("unshare runs").success());
}

/// The peer: answers each packet with the address that it came from, until the process is killed.
fn answer_with_source() {
    let socket = UdpSocket::bind(FAR).expect("an address of this namespace");
    let mut packet = [0; 100];
    while let Ok((_, from)) = socket.recv_from(&mut packet) {
        socket.send_to(from.to_string().as_bytes(), from).expect("it is sent");
    }
}

fn reach_far_peer() {
    assert!(Command::new("sh").args(["-c", FAR_SETUP]).status().expect("a shell").success());
    let mut far = Command::new("ip");
    far.args(["netns", "exec", "far"]).arg(std::env::current_exe().expect("a path"));
    far.args(["--exact", FAR_NAME, "--nocapture"]).env(INSIDE, "far").stdout(Stdio::null());
    let _far = Ended(far.spawn().expect("it runs"));
    let ips = [IpAddr::from(OWN), "2a00::9".parse().expect("an address")];
    let relay = start_at_all(&ips, &ips, Vec::new());
    // Clients of each family.
    for addr in relay.addrs() {
        let mut client = udp_from(addr.ip(), *addr);
        let both = AdditionalAddressFamily::new(AddressFamily::IPV6);
        let (user, nonce, relayed) = allocate_with(&mut client, &[&both]);
        bind(&mut client, (&user, &nonce), 0x4000, FAR.parse().expect("an address"));
        client.set_read_timeout(Some(Duration::from_millis(300))).expect("a limit");
        let mut received = [0; 100];
        // The peer may not listen yet.
        let answer = (0..60).find_map(|_| {
            client.send(&channel_data(0x4000, b"x")).expect("it is sent");
            client.recv(&mut received).ok()
        });
        let len = answer.expect("an answer");
        assert_eq!(received[..len], channel_data(0x4000, relayed[1].to_string().as_bytes()));
    }
}
