//! A node finds the external address of its relay for media by asking members.
//!
//! The test with a NAT starts itself again in namespaces: the outer one is the internet with three nodes and the registry,
//! `router` masquerades, and the fourth node is behind it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use chappe_node::{Node, NodeConfig};
use chappe_testkit::{
    PATIENCE,
    federation::{Federation, no_limits},
    raw::{Raw, inbox, now_ms},
    rerun::rerun,
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use turn::client::{Client, ClientConfig};

/// Waits until the node at a URL offers its relay. Returns the server.
async fn offered(client_url: &str) -> Value {
    let offered = async {
        loop {
            let mut raw = Raw::connect(client_url).await;
            raw.attach(&inbox(1).0, now_ms()).await;
            raw.send(json!({"type": "get_ice_servers", "id": "i"})).await;
            let server = raw.expect("ice_servers").await["iceServers"][0].clone();
            if server["credential"].is_string() {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::time::timeout(PATIENCE, offered).await.expect("the address is found in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_listens_on_all_addresses_learns_its_own_from_two_members() {
    let change = |config: &mut NodeConfig| {
        no_limits(config);
        config.turn.listen = vec![([0, 0, 0, 0], 0).into()];
        config.turn.allowed_peers = vec!["127.0.0.0/8".parse().expect("a network")];
    };
    let federation = Federation::start(3, change).await;
    let node = &federation.nodes[0];
    let port = node.addrs().turn.expect("it listens").port();
    let server = offered(node.client_url()).await;
    assert_eq!(server["urls"][1], format!("turn:127.0.0.1:{port}?transport=udp"));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_address_is_not_believed_unless_its_network_is_allowed() {
    let change = |config: &mut NodeConfig| {
        no_limits(config);
        config.turn.listen = vec![([0, 0, 0, 0], 0).into()];
    };
    let federation = Federation::start(3, change).await;
    // Several rounds.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut raw = Raw::connect(federation.nodes[0].client_url()).await;
    raw.attach(&inbox(1).0, now_ms()).await;
    raw.send(json!({"type": "get_ice_servers", "id": "i"})).await;
    let servers = raw.expect("ice_servers").await["iceServers"].clone();
    assert!(servers[0]["credential"].is_null() && servers[0]["urls"].as_array().is_none_or(Vec::is_empty), "{servers}");
    federation.shutdown().await;
}

/// How often a datagram is sent again.
const REPEAT: Duration = Duration::from_millis(300);

const NAME: &str = "turn_nat::a_node_behind_a_nat_offers_the_address_of_the_nat";

/// Set in the namespaces: `internet`, or the configuration of the node behind the NAT.
const INSIDE: &str = "CHAPPE_TEST_INSIDE";

/// The address of the NAT.
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 1);

/// The addresses of nodes on the internet, each in its own network.
const OTHERS: [Ipv4Addr; 3] = [Ipv4Addr::new(8, 8, 1, 2), Ipv4Addr::new(8, 8, 2, 2), Ipv4Addr::new(8, 8, 3, 2)];

/// The address of a peer. No member has it, since of a member's address the relay allows only the high ports.
const PEER: Ipv4Addr = Ipv4Addr::new(8, 8, 4, 2);

const SETUP: &str = "
    set -e
    mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns
    ip link set lo up
    ip netns add router; ip netns add inner
    ip link add wan type veth peer name wan netns router
    ip link set wan up
    for n in 1 2 3 4; do ip addr add 8.8.$n.2/24 dev wan; done
    ip route add 9.9.9.1 dev wan
    ip link add lan netns router type veth peer name eth0 netns inner
    ip -n router link set wan up; ip -n router link set lan up
    ip -n router addr add 9.9.9.1/32 dev wan; ip -n router addr add 10.0.0.1/24 dev lan
    ip -n router route add 8.8.0.0/16 dev wan
    ip -n inner link set lo up; ip -n inner link set eth0 up
    ip -n inner addr add 10.0.0.2/24 dev eth0
    ip -n inner route add default via 10.0.0.1
    ip netns exec router sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
    ip netns exec router nft -f - <<END
    table ip nat {
        chain post { type nat hook postrouting priority 100; oifname wan masquerade; }
        chain pre {
            type nat hook prerouting priority -100;
            iifname wan udp dport { 3478, 8711, 49152-65535 } dnat to 10.0.0.2
            iifname wan tcp dport 8710 dnat to 10.0.0.2
        }
    }
END
";

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

/// Forwards connections from one address to another.
async fn forward(from: SocketAddr, to: SocketAddr) {
    let listener = TcpListener::bind(from).await.expect("a free port");
    loop {
        let (mut one, _) = listener.accept().await.expect("a connection");
        tokio::spawn(async move {
            if let Ok(mut other) = TcpStream::connect(to).await {
                let _ = tokio::io::copy_bidirectional(&mut one, &mut other).await;
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_a_nat_offers_the_address_of_the_nat() {
    match std::env::var(INSIDE) {
        Ok(inside) if inside == "internet" => return internet().await,
        Ok(config) => return behind_the_nat(serde_json::from_str(&config).expect("a configuration")).await,
        Err(_) => {}
    }
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let works = is_root && unshare().args(["sh", "-c", SETUP]).output().is_ok_and(|output| output.status.success());
    if !works {
        println!("skipped: needs root, unshare, ip (iproute2), nft (nftables), and network namespaces");
        return;
    }
    rerun(unshare().env(INSIDE, "internet"), NAME);
}

/// The node behind the NAT. It runs until its process is killed.
async fn behind_the_nat(config: NodeConfig) {
    // The registry has an address that is known to it alone.
    let registry: SocketAddr =
        config.registry.urls[0].trim_start_matches("http://").parse().expect("an address of loopback");
    tokio::spawn(forward(registry, (OTHERS[0], registry.port()).into()));
    let _node = Node::spawn(config).await.expect("a node");
    std::future::pending::<()>().await;
}

async fn internet() {
    assert!(Command::new("sh").args(["-c", SETUP]).status().expect("a shell").success());
    let others = std::sync::atomic::AtomicUsize::new(0);
    let federation = Federation::start(3, |config| {
        no_limits(config);
        let ip = OTHERS[others.fetch_add(1, std::sync::atomic::Ordering::Relaxed)];
        config.client.listen = (ip, 8710).into();
        config.federation.listen = (ip, 8711).into();
        config.federation.exempt.clear();
    })
    .await;
    let registry: SocketAddr = federation.registry_url().trim_start_matches("http://").parse().expect("an address");
    tokio::spawn(forward((OTHERS[0], registry.port()).into(), registry));
    let config = federation.node_config(3, |config| {
        config.client.listen = ([0, 0, 0, 0], 8710).into();
        config.client.urls = vec![format!("ws://{EXTERNAL}:8710")];
        config.federation.listen = ([0, 0, 0, 0], 8711).into();
        config.federation.advertise = vec![format!("{EXTERNAL}:8711").parse().expect("an address")];
        config.federation.exempt.clear();
        config.turn.listen = vec![([0, 0, 0, 0], 3478).into()];
    });
    let mut command = Command::new("ip");
    command.args(["netns", "exec", "inner"]).arg(std::env::current_exe().expect("a path"));
    command.args(["--exact", NAME, "--nocapture"]).stdin(Stdio::null());
    let config = serde_json::to_string(&config).expect("JSON");
    let _behind = Ended(command.env(INSIDE, config).spawn().expect("it runs"));
    chappe_testkit::eventually("the node behind the NAT is a member", || {
        federation.nodes.iter().all(|node| node.members() == 4)
    })
    .await;
    let server = offered(&format!("ws://{EXTERNAL}:8710")).await;
    assert_eq!(server["urls"][1], format!("turn:{EXTERNAL}:3478?transport=udp"), "{server}");
    // A client on the internet allocates there, and a peer on the internet reaches the allocation.
    let conn = UdpSocket::bind((OTHERS[1], 0)).await.expect("a socket");
    let text = |key: &str| server[key].as_str().expect("a text").to_owned();
    let client = Client::new(ClientConfig {
        stun_serv_addr: format!("{EXTERNAL}:3478"),
        turn_serv_addr: format!("{EXTERNAL}:3478"),
        username: text("username"),
        password: text("credential"),
        realm: "turn".to_owned(),
        software: String::new(),
        rto_in_ms: 0,
        conn: Arc::new(conn),
        vnet: None,
    })
    .await
    .expect("a client");
    client.listen().await.expect("it listens");
    use webrtc_util::Conn as _;
    let relayed = client.allocate().await.expect("an allocation");
    let relayed_addr = relayed.local_addr().expect("an address");
    assert_eq!(relayed_addr.ip(), EXTERNAL);
    let peer = UdpSocket::bind((PEER, 0)).await.expect("a socket");
    let peer_addr = peer.local_addr().expect("an address");
    let mut buffer = [0; 16];
    // Datagrams may be lost, so both sides repeat theirs.
    let there_and_back = async {
        loop {
            relayed.send_to(b"out", peer_addr).await.expect("it is sent");
            let Ok(received) = tokio::time::timeout(REPEAT, peer.recv_from(&mut buffer)).await else { continue };
            let (len, from) = received.expect("a packet");
            assert_eq!((&buffer[..len], from), (&b"out"[..], relayed_addr));
            peer.send_to(b"back", relayed_addr).await.expect("it is sent");
            let Ok(received) = tokio::time::timeout(REPEAT, relayed.recv_from(&mut buffer)).await else { continue };
            let (len, _) = received.expect("a packet");
            assert_eq!(&buffer[..len], b"back");
            return;
        }
    };
    tokio::time::timeout(PATIENCE, there_and_back).await.expect("in time");
    client.close().await.expect("it closes");
    federation.shutdown().await;
}
