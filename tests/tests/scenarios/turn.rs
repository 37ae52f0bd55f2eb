//! A node's STUN and TURN server over real sockets. The clients are that of the `turn` crate, and coturn's (Debian's package
//! `coturn`), where they are installed.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use chappe_node::NodeConfig;
use chappe_testkit::{
    PATIENCE, eventually,
    federation::{Federation, no_limits},
    http,
    raw::{Raw, inbox, now_ms},
    tls::Files,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::timeout;
use turn::client::{Client, ClientConfig};
use webrtc_util::Conn;

pub(crate) fn with_turn(config: &mut NodeConfig) {
    no_limits(config);
    config.turn.listen = vec![([127, 0, 0, 1], 0).into()];
    config.turn.allowed_peers = vec!["127.0.0.0/8".parse().expect("a network")];
    config.admin.listen = Some(([127, 0, 0, 1], 0).into());
}

/// The node's own server, as a client with an inbox gets it.
pub(crate) async fn ice_server(mut raw: Raw) -> Value {
    raw.attach(&inbox(1).0, now_ms()).await;
    raw.send(json!({"type": "get_ice_servers", "id": "i"})).await;
    raw.expect("ice_servers").await["iceServers"][0].clone()
}

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect("a text")
}

/// A program of coturn, or `None` with a word about it.
fn coturn(program: &str) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
        return Some(Command::new(program));
    }
    println!("skipped: {program} is not installed (Debian's package coturn)");
    None
}

/// Runs coturn's client with 40 packets of 200 bytes on each of four connections.
async fn exchange(addr: SocketAddr, server: &Value, args: &'static [&str]) -> Option<Output> {
    let mut client = coturn("turnutils_uclient")?;
    client.args(["-u", text(server, "username"), "-w", text(server, "credential"), "-p", &addr.port().to_string()]);
    // Without RTCP, whose ports would be next to those of RTP.
    client.args(["-c", "-n", "40", "-l", "200", "-m", "4"]).args(args).arg(addr.ip().to_string());
    Some(tokio::task::spawn_blocking(move || client.output()).await.expect("no panic").expect("it runs"))
}

fn assert_lossless(name: &str, output: &Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("Total lost packets 0 (0.0"), "{name}: {text}");
}

/// All metrics of the node.
pub(crate) async fn metrics(federation: &Federation) -> String {
    let admin = federation.nodes[0].addrs().admin.expect("it listens");
    let response = http::client().get(format!("http://{admin}/metrics")).send().await.expect("an answer");
    response.text().await.expect("a text")
}

/// A metric of the node.
async fn metric(federation: &Federation, name: &str) -> u64 {
    let text = metrics(federation).await;
    let line =
        text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap_or_else(|| panic!("no {name}"));
    line.parse().expect("a number")
}

/// Waits until a metric has a value.
pub(crate) async fn until_metric(federation: &Federation, name: &str, expected: u64) {
    let mut last = 0;
    let reach = async {
        while last != expected {
            tokio::time::sleep(Duration::from_millis(50)).await;
            last = metric(federation, name).await;
        }
    };
    let is_reached = timeout(PATIENCE, reach).await.is_ok();
    assert!(is_reached, "{name} is {last}, not {expected}");
}

/// A process that is ended with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_client_relays_over_udp_and_tcp() {
    let federation = Federation::start(1, with_turn).await;
    let server = ice_server(Raw::connect(federation.nodes[0].client_url()).await).await;
    let addrs = federation.nodes[0].addrs();
    let udp = addrs.turn.expect("it listens");
    let urls = json!([
        format!("stun:{udp}"),
        format!("turn:{udp}?transport=udp"),
        format!("turn:{}?transport=tcp", addrs.client),
    ]);
    assert_eq!(server["urls"], urls);
    let exchanges = [
        ("UDP, channels", udp, &["-y"][..]),
        ("UDP, indications", udp, &["-y", "-s"]),
        ("TCP, channels", addrs.client, &["-y", "-t"]),
        ("TCP, indications", addrs.client, &["-y", "-t", "-s"]),
    ];
    // Concurrently over TCP, as the client sleeps for seconds. Over UDP, a packet that comes too late counts as lost.
    for some in [&exchanges[..1], &exchanges[1..2], &exchanges[2..]] {
        let mut servers = Vec::new();
        for _ in some {
            // Each has its own credential, whose allocations are few.
            servers.push(ice_server(Raw::connect(federation.nodes[0].client_url()).await).await);
        }
        let outputs = some.iter().zip(&servers).map(|((_, addr, args), server)| exchange(*addr, server, args));
        for ((name, ..), output) in some.iter().zip(join_all(outputs).await) {
            let Some(output) = output else { return };
            assert_lossless(name, &output);
        }
    }
    // From one allocation to another, each packet went to the other client at once.
    until_metric(&federation, "chappe_turn_packets_hairpinned_total", 640).await;
    until_metric(&federation, "chappe_turn_packets_total", 640).await;
    // The client has ended its allocations, and closed its connections.
    until_metric(&federation, "chappe_turn_allocations", 0).await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn coturns_client_relays_over_tls_on_the_port_of_the_websocket() {
    let dir = tempfile::tempdir().expect("a folder");
    let files = Files::make(dir.path());
    let federation = Federation::start(1, |config| {
        with_turn(config);
        config.client.tls_cert = Some(files.certificate());
        config.client.tls_key = Some(files.key());
    })
    .await;
    let client = federation.nodes[0].addrs().client;
    let raw = Raw::connect_tls(federation.nodes[0].client_url(), files.client().into()).await;
    let server = ice_server(raw).await;
    assert_eq!(server["urls"][2], format!("turns:{client}?transport=tcp"));
    let exchanges = [("channels", &["-y", "-t", "-S"][..]), ("indications", &["-y", "-t", "-S", "-s"])];
    let raw = Raw::connect_tls(federation.nodes[0].client_url(), files.client().into()).await;
    let servers = [server, ice_server(raw).await];
    let outputs = exchanges.iter().zip(&servers).map(|((_, args), server)| exchange(client, server, args));
    for ((name, _), output) in exchanges.iter().zip(join_all(outputs).await) {
        let Some(output) = output else { return };
        assert_lossless(name, &output);
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_reach_a_peer_elsewhere_and_come_back() {
    let federation = Federation::start(1, with_turn).await;
    let server = ice_server(Raw::connect(federation.nodes[0].client_url()).await).await;
    let addrs = federation.nodes[0].addrs();
    let Some(mut peer) = coturn("turnutils_peer") else { return };
    let port = UdpSocket::bind("127.0.0.2:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
    let peer = peer.args(["-L", "127.0.0.2", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let _peer = Ended(peer.spawn().expect("it runs"));
    let port: &'static str = port.to_string().leak();
    for (name, addr, args) in [
        ("UDP", addrs.turn.expect("it listens"), vec!["-e", "127.0.0.2", "-r", port]),
        ("TCP", addrs.client, vec!["-e", "127.0.0.2", "-r", port, "-t"]),
    ] {
        let Some(output) = exchange(addr, &server, args.leak()).await else { return };
        assert_lossless(name, &output);
    }
    federation.shutdown().await;
}

/// A Binding request.
pub(crate) const BINDING: [u8; 20] = *b"\x00\x01\x00\x00\x21\x12\xa4\x42transaction!";

#[tokio::test(flavor = "multi_thread")]
async fn stun_http_and_websockets_share_a_port() {
    let federation = Federation::start(1, with_turn).await;
    let client = federation.nodes[0].addrs().client;
    let mut raw = Raw::connect(federation.nodes[0].client_url()).await;
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(client).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
        // In two parts: the first is too short to be told from anything else.
        stream.write_all(&BINDING[..7]).expect("it writes");
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(&BINDING[7..]).expect("it writes");
        let mut answer = [0; 32];
        stream.read_exact(&mut answer).expect("an answer");
        answer
    })
    .await
    .expect("no panic");
    assert_eq!((&answer[..2], &answer[4..20]), (&[1, 1][..], &BINDING[4..]));
    assert_eq!(http::client().get(format!("http://{client}/health")).send().await.expect("an answer").status(), 200);
    raw.send(json!({"type": "ping"})).await;
    raw.expect("pong").await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_asks_again_gets_the_same_credential_and_another_session_another() {
    let federation = Federation::start(1, with_turn).await;
    let url = federation.nodes[0].client_url();
    let mut names = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::connect(url).await;
        raw.attach(&inbox(1).0, now_ms()).await;
        for _ in 0..3 {
            raw.send(json!({"type": "get_ice_servers", "id": "i"})).await;
            names.push(text(&raw.expect("ice_servers").await["iceServers"][0], "username").to_owned());
        }
    }
    names.dedup();
    assert_eq!(names.len(), 2, "{names:?}");
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_relay_stun_on_the_clients_port_is_closed_and_counted_and_get_ice_servers_is_empty() {
    let federation = Federation::start(1, |config| {
        no_limits(config);
        config.admin.listen = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    let client = federation.nodes[0].addrs().client;
    let read = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(client).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
        stream.write_all(&BINDING).expect("it writes");
        stream.read(&mut [0; 32]).expect("it is closed")
    })
    .await
    .expect("no panic");
    assert_eq!(read, 0);
    until_metric(&federation, "chappe_connections_refused_total", 1).await;
    assert_eq!(ice_server(Raw::connect(federation.nodes[0].client_url()).await).await, Value::Null);
    federation.shutdown().await;
}

/// Allocates by the client of the `turn` crate. Returns the client and the relayed address.
pub(crate) async fn allocate(server: &Value, addr: SocketAddr) -> (Client, Arc<dyn Conn + Send + Sync>) {
    let conn = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let client = Client::new(ClientConfig {
        stun_serv_addr: addr.to_string(),
        turn_serv_addr: addr.to_string(),
        username: text(server, "username").to_owned(),
        password: text(server, "credential").to_owned(),
        realm: "turn".to_owned(),
        software: String::new(),
        rto_in_ms: 0,
        conn: Arc::new(conn),
        vnet: None,
    })
    .await
    .expect("a client");
    client.listen().await.expect("it listens");
    let relayed = Arc::new(client.allocate().await.expect("an allocation"));
    (client, relayed)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_turn_crates_client_relays_to_another_allocation_and_to_a_peer() {
    let federation = Federation::start(1, with_turn).await;
    let server = ice_server(Raw::connect(federation.nodes[0].client_url()).await).await;
    let udp = federation.nodes[0].addrs().turn.expect("it listens");
    let (one, from) = allocate(&server, udp).await;
    let (other, to) = allocate(&server, udp).await;
    let mapped = one.send_binding_request().await.expect("an answer");
    assert!(mapped.ip().is_loopback());
    let peer = tokio::net::UdpSocket::bind("127.0.0.2:0").await.expect("a socket");
    let peer_addr = peer.local_addr().expect("an address");
    let (from_addr, to_addr) = (from.local_addr().expect("an address"), to.local_addr().expect("an address"));
    let mut buffer = [0; 100];
    // Each needs a permission for the other, which sending asks for.
    let mut received = None;
    for _ in 0..50 {
        from.send_to(b"there", to_addr).await.expect("it is sent");
        to.send_to(b"back", from_addr).await.expect("it is sent");
        if let Ok(result) = timeout(Duration::from_millis(200), to.recv_from(&mut buffer)).await {
            received = Some(result.expect("a packet"));
            break;
        }
    }
    let (len, source) = received.expect("it arrives");
    assert_eq!((&buffer[..len], source), (&b"there"[..], from_addr));
    from.send_to(b"out", peer_addr).await.expect("it is sent");
    let (len, source) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await.expect("in time").expect("a packet");
    assert_eq!((&buffer[..len], source), (&b"out"[..], from_addr));
    for client in [one, other] {
        client.close().await.expect("it closes");
    }
    federation.shutdown().await;
}

// Class 5 of docs/protocol/turn.md.
#[tokio::test(flavor = "multi_thread")]
async fn the_services_of_a_member_get_no_packets_from_the_relay_and_its_other_ports_do() {
    // The client may have bound a channel before the relay learned of the member.
    const DROPPED: [&str; 2] =
        ["chappe_turn_dropped_total{code=\"peer_not_allowed\"}", "chappe_turn_dropped_total{code=\"no_channel\"}"];
    let mut federation = Federation::start(1, with_turn).await;
    let server = ice_server(Raw::connect(federation.nodes[0].client_url()).await).await;
    let udp = federation.nodes[0].addrs().turn.expect("it listens");
    let (client, relayed) = allocate(&server, udp).await;
    // At an address that the first node has no interface with.
    let member = federation
        .start_node(1, |config| {
            no_limits(config);
            config.federation.listen = ([127, 0, 0, 3], 0).into();
            config.client.listen = ([127, 0, 0, 3], 0).into();
        })
        .await;
    let service = member.addrs().client;
    federation.nodes.push(member);
    federation.settle().await;
    // The port of another relay.
    let bound = (50_000..60_000).find_map(|port| UdpSocket::bind(("127.0.0.3", port)).ok());
    let peer = bound.expect("a free port");
    peer.set_nonblocking(true).expect("a socket");
    let peer = tokio::net::UdpSocket::from_std(peer).expect("a socket");
    let dropped =
        async |federation: &Federation| metric(federation, DROPPED[0]).await + metric(federation, DROPPED[1]).await;
    let is_refused = async {
        while dropped(&federation).await == 0 {
            relayed.send_to(b"to a service", service).await.expect("it is sent");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(timeout(PATIENCE, is_refused).await.is_ok(), "the relay has learned of the member");
    relayed.send_to(b"to a peer", peer.local_addr().expect("an address")).await.expect("it is sent");
    let mut buffer = [0; 100];
    let (len, _) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await.expect("in time").expect("a packet");
    assert_eq!(&buffer[..len], b"to a peer");

    // Its services may be back at any moment. The relay hears of a change within a second or so.
    federation.nodes.pop().expect("the member").shutdown().await;
    eventually("the member has left", || federation.nodes[0].members() == 1).await;
    // The first client's channel was removed, so its packets tell nothing. A new one has neither channel nor permission.
    let (later, relayed) = allocate(&server, udp).await;
    let before = metric(&federation, DROPPED[0]).await;
    for _ in 0..30 {
        relayed.send_to(b"to a service", service).await.expect("it is sent");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let all_are_refused = async {
        while metric(&federation, DROPPED[0]).await < before + 30 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(
        timeout(PATIENCE, all_are_refused).await.is_ok(),
        "{} of 30",
        metric(&federation, DROPPED[0]).await - before
    );
    later.close().await.expect("it closes");
    client.close().await.expect("it closes");
    federation.shutdown().await;
}

// Class 23 of docs/protocol/turn.md.
#[tokio::test(flavor = "multi_thread")]
async fn half_open_tls_connections_are_bounded_and_counted_while_a_client_is_served() {
    const BOUND: usize = 64;
    const FLOOD: u64 = 500;
    let dir = tempfile::tempdir().expect("a folder");
    let files = Files::make(dir.path());
    let federation = Federation::start(1, |config| {
        with_turn(config);
        config.client.max_connections = BOUND;
        config.client.tls_cert = Some(files.certificate());
        config.client.tls_key = Some(files.key());
    })
    .await;
    let client = federation.nodes[0].addrs().client;
    let mut raw = Raw::connect_tls(federation.nodes[0].client_url(), files.client().into()).await;
    let mut open = Vec::new();
    for number in 0..FLOOD {
        let mut stream = tokio::net::TcpStream::connect(client).await.expect("a connection");
        // The beginning of a ClientHello.
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"\x16\x03\x01\x02\x00\x01\x00").await.expect("it is sent");
        open.push(stream);
        if number % 50 == 49 {
            // A good client binds over TLS, and the session that was there before goes on.
            let tls = tokio_rustls::TlsConnector::from(Arc::new(files.client()));
            let stun = async {
                let stream = tokio::net::TcpStream::connect(client).await?;
                let mut stream = tls.connect("127.0.0.1".try_into().expect("an address"), stream).await?;
                tokio::io::AsyncWriteExt::write_all(&mut stream, &BINDING).await?;
                let mut answer = [0; 32];
                tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer).await?;
                std::io::Result::Ok(answer)
            };
            let answer = timeout(PATIENCE, stun).await.expect("in time").expect("an answer");
            assert_eq!(answer[..2], [1, 1]);
            raw.send(json!({"type": "ping"})).await;
            raw.expect("pong").await;
        }
    }
    // All but the newest were closed for newer ones, and counted.
    let ended = metric(&federation, "chappe_client_handshakes_failed_total").await;
    assert!(ended >= FLOOD - BOUND as u64, "{ended} of {FLOOD}");
    let mut still_open = 0;
    for stream in &open {
        still_open += usize::from(
            matches!(stream.try_read(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
        );
    }
    assert!(still_open <= BOUND, "{still_open}");
    federation.shutdown().await;
}
