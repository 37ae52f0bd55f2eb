//! This project's relay, as a node runs it, and an acceptor of connections.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener},
};

use chappe_turn::{
    credentials::CredentialSecret,
    limits::{Limits, RelayAddress, RelayAddresses},
    peer_filter::{PeerFilter, RelayHost},
    runtime::{NewStream, Relay, RelayConfig},
    server::Config,
};

use super::{Listening, RELAY_PORTS, SECRET, announce};

/// Serves until the process is killed. `node` is the URL of the node in this process, if there is one.
pub(super) fn serve(ip: Ipv4Addr, node: Option<String>) {
    let host = RelayHost { relay_ports: RELAY_PORTS, services: Vec::new() };
    let config = RelayConfig {
        listen: vec![SocketAddr::new(ip.into(), 0)],
        passed: Vec::new(),
        relay_bind: vec![ip.into()],
        server: Config {
            // All rules apply; the rates are above what is measured.
            limits: Limits {
                allocations: 20_000,
                allocation_bytes_per_second: 100_000_000,
                total_bytes_per_second: 1_000_000_000,
                ..Limits::default()
            },
            addresses: RelayAddresses {
                v4: Some(RelayAddress { external: Some(ip.into()), ports: RELAY_PORTS }),
                v6: None,
            },
            secret: CredentialSecret::new(SECRET.as_bytes()),
            filter: PeerFilter {
                allowed: vec!["127.0.0.0/8".parse().expect("a network")],
                relay_hosts: HashMap::from([(ip.into(), host)]),
                ..PeerFilter::default()
            },
            listening: Vec::new(),
            seed: rand::random(),
        },
    };
    let relay = Relay::spawn(config).expect("a relay");
    let listener = TcpListener::bind((ip, 0)).expect("a free port");
    let [SocketAddr::V4(udp)] = *relay.addrs() else { panic!("one address was asked for") };
    let tcp = SocketAddrV4::new(ip, listener.local_addr().expect("a bound socket").port());
    announce(Listening { udp, tcp: Some(tcp), node });
    loop {
        let (socket, addr) = listener.accept().expect("a connection");
        let stream = NewStream { socket, addr, tls: None, received: Vec::new(), guard: Box::new(()) };
        relay.add_stream(stream).expect("few connections are opened at once");
    }
}
