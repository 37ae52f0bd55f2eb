//! Members try a node from outside, on real nodes and links: what they find, and what they refuse.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chappe_common::{
    federation::FederationId,
    keys::{NodeId, SecretKey},
    reachability::{Family, Finding, Outcome, Reachability, Transport},
    record::{Abilities, NodeRecord},
    signed::Signed,
    time::UnixTime,
};
use chappe_node::{Node, NodeConfig, clock::Clock, membership::admission::AdmissionRefusal};
use chappe_testkit::{
    PATIENCE, eventually,
    federation::Federation,
    link::{
        self,
        words::{self, Hello},
    },
    tls::Files,
};
use quinn::{Connection, Endpoint, TransportConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};

/// The first byte of a stream on which a node asks to be tried.
const CHECK: u8 = 3;

/// A request as `docs/protocol/federation.md` defines it: record, clock, port of STUN over UDP, STUN over streams.
type Request = (Vec<u8>, UnixTime, Option<u16>, bool);

/// The reply to one.
#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Statement(Vec<u8>),
    Refused(Refusal),
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Refusal {
    Rate,
    Busy,
    NotAMember,
    Malformed,
    Address,
}

fn with_admin(config: &mut NodeConfig) {
    config.admin.listen = Some(([127, 0, 0, 1], 0).into());
    config.limits.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
}

/// Status and body of a request to the operator's listener.
async fn http(addr: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await.expect("it listens");
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    };
    let answer = timeout(3 * PATIENCE, exchange).await.expect("an answer in time");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// Has members try the node now, and returns the operator's report.
async fn tried(admin: SocketAddr) -> Value {
    let (status, body) = http(admin, "POST", "/reachability").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// The outcomes of a transport, by all observers.
fn outcomes(report: &Value, transport: &str) -> Vec<String> {
    let statements = report["statements"].as_array().expect("a list");
    let findings = statements.iter().flat_map(|one| one["findings"].as_array().expect("a list"));
    let of = findings.filter(|finding| finding["transport"] == transport);
    of.map(|finding| finding["outcome"].as_str().expect("a text").to_owned()).collect()
}

async fn metric(admin: SocketAddr, name: &str) -> i64 {
    let (_, text) = http(admin, "GET", "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().expect("a number")
}

/// Answers membership's probes on a link, so that the member stays one however long a test takes.
fn answer_probes(connection: &Connection) {
    let connection = connection.clone();
    tokio::spawn(async move {
        while let Ok(packet) = connection.read_datagram().await {
            if let Some((1, number)) = packet.split_first() {
                let _ = connection.send_datagram([&[2], number].concat().into());
            }
        }
    });
}

/// A member that is no node: it greets, keeps its link, and asks to be tried.
struct Guest {
    endpoint: Endpoint,
    key: SecretKey,
    record: Signed<NodeRecord>,
    _links: Vec<Connection>,
}

impl Guest {
    /// A member of all nodes, whose record has these addresses behind its own, and these URLs.
    async fn join(federation: &Federation, others: &[SocketAddr], urls: &[String]) -> Self {
        let key = SecretKey::from_bytes(&[77; 32]);
        let tls = chappe_common::link_tls::server_config(&key).expect("TLS parameters");
        let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).expect("QUIC parameters");
        let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
        let endpoint = Endpoint::server(config, ([127, 0, 0, 1], 0).into()).expect("a socket");
        // Proves its key to any peer that dials it.
        let serving = endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = serving.accept().await {
                tokio::spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    connection.closed().await;
                });
            }
        });
        let record = Self::sign(&endpoint, &key, federation.root(), others, urls);
        let mut links = Vec::new();
        for node in &federation.nodes {
            let to = (node.id(), node.addrs().quic);
            let hello = Hello::Record(record.as_bytes().clone(), None, record.issued_at);
            let greeted = async {
                loop {
                    let connection = link::connect(&endpoint, &key, to, TransportConfig::default()).await;
                    let connection = connection.expect("a link");
                    match words::greet(&connection, &hello).await {
                        Some(Hello::Record(..)) => break connection,
                        // The node has heard of this member from another one, and dials it at this moment.
                        Some(Hello::Refused(AdmissionRefusal::Duplicate, _)) => {
                            tokio::time::sleep(Duration::from_millis(100)).await
                        }
                        other => panic!("{other:?}"),
                    }
                }
            };
            let connection = timeout(PATIENCE, greeted).await.expect("admitted in time");
            for lane in [link::RELAY, link::CONTROL] {
                link::open_lane(&connection, lane).await.expect("a lane");
            }
            answer_probes(&connection);
            links.push(connection);
        }
        Self { endpoint, key, record, _links: links }
    }

    fn sign(
        endpoint: &Endpoint,
        key: &SecretKey,
        root: chappe_common::keys::PublicKey,
        others: &[SocketAddr],
        urls: &[String],
    ) -> Signed<NodeRecord> {
        let own = endpoint.local_addr().expect("an address");
        let now = UnixTime::from(std::time::SystemTime::now());
        let record = NodeRecord {
            federation: FederationId::of_roots(&[root]),
            node: key.node_id(),
            epoch: now.as_secs(),
            seq: 1,
            issued_at: now,
            expires_at: now + Duration::from_secs(3600),
            client_urls: urls.to_vec(),
            quic_addrs: [&[own], others].concat(),
            region: String::new(),
            version: "test".to_owned(),
            abilities: Abilities::default(),
        };
        Signed::sign(record, key).expect("a record")
    }

    fn request(&self) -> Request {
        (self.record.as_bytes().to_vec(), self.record.issued_at, None, false)
    }

    /// Asks a node to be tried, by this key.
    async fn ask_by(&self, key: &SecretKey, node: (NodeId, SocketAddr), request: &[u8]) -> Option<Reply> {
        let connection = link::connect(&self.endpoint, key, node, TransportConfig::default()).await?;
        let (mut send, mut receive) = connection.open_bi().await.ok()?;
        send.write_all(&[CHECK]).await.ok()?;
        send.write_all(request).await.ok()?;
        send.finish().ok()?;
        let reply = timeout(2 * PATIENCE, receive.read_to_end(600)).await.expect("a reply in time").ok()?;
        connection.close(6_u8.into(), b"");
        postcard::from_bytes(&reply).ok()
    }

    async fn ask(&self, node: (NodeId, SocketAddr), request: &Request) -> Option<Reply> {
        self.ask_by(&self.key, node, &postcard::to_allocvec(request).expect("it encodes")).await
    }
}

/// What a node requests at a client URL of a random member, which is no check.
const REVOCATIONS: &[u8; 19] = b"GET /v1/revocations";

/// Counts what arrives at an address that belongs to somebody else.
struct Bystander {
    addr: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Bystander {
    async fn new(ip: [u8; 4]) -> Self {
        let udp = UdpSocket::bind((std::net::Ipv4Addr::from(ip), 0)).await.expect("a socket");
        let addr = udp.local_addr().expect("an address");
        Self { addr, udp, tcp: TcpListener::bind(addr).await.expect("the same port") }
    }

    /// What has arrived: a packet or a connection, and from where.
    async fn arrived(&self) -> Option<(&'static str, SocketAddr)> {
        if let Ok((_, from)) = self.udp.try_recv_from(&mut [0; 1]) {
            return Some(("UDP", from));
        }
        while let Ok(Ok((mut stream, from))) = timeout(Duration::ZERO, self.tcp.accept()).await {
            let mut request = [0; REVOCATIONS.len()];
            let read = timeout(PATIENCE, stream.read_exact(&mut request)).await;
            if !matches!(read, Ok(Ok(_))) || request != *REVOCATIONS {
                return Some(("TCP", from));
            }
        }
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_in_different_networks_say_how_they_reach_a_node() {
    let turn = |config: &mut NodeConfig| {
        with_admin(config);
        config.turn.listen = vec![([127, 0, 0, 1], 0).into()];
        config.turn.allowed_peers = vec!["127.0.0.0/8".parse().expect("a network")];
    };
    let federation = Federation::start(3, turn).await;
    let node = &federation.nodes[0];
    let admin = node.addrs().admin.expect("an address");
    eventually("the relay is offered", || node.addrs().turn.is_some()).await;
    let report = tried(admin).await;
    assert_eq!(report["lastRound"]["answered"], 2, "{report}");
    for transport in ["quic", "tcp", "client", "stun_udp", "stun_tcp"] {
        assert_eq!(outcomes(&report, transport), ["works", "works"], "{transport}: {report}");
    }
    assert!(outcomes(&report, "tls").is_empty(), "it has no certificate");
    for statement in report["statements"].as_array().expect("a list") {
        assert_eq!((&statement["family"], &statement["clockAhead"]), (&"ipv4".into(), &0.into()), "{statement}");
        assert!(statement["mtu"].as_u64().is_some_and(|mtu| mtu >= 1200), "{statement}");
        let target = &statement["findings"][0]["target"];
        assert_eq!(*target, node.addrs().quic.to_string(), "{statement}");
    }
    assert_eq!(metric(admin, "chappe_observers_reaching{code=\"quic\"}").await, 2);
    assert_eq!(metric(admin, "chappe_observers_failing{code=\"quic\"}").await, 0);
    let observers = [1, 2].map(|number| federation.nodes[number].addrs().admin.expect("an address"));
    for observer in observers {
        assert_eq!(metric(observer, "chappe_checks_total").await, 1);
    }
    // The operator may ask for a few rounds, and then gets what is known.
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(http(admin, "POST", "/reachability").await.0);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    let (status, body) = http(admin, "GET", "/reachability").await;
    assert_eq!((status, body.contains("\"works\"")), (200, true), "{body}");
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_in_an_ipv6_network_is_tried_over_ipv6() {
    let v6 = |config: &mut NodeConfig| {
        with_admin(config);
        let any = (std::net::Ipv6Addr::LOCALHOST, 0).into();
        (config.client.listen, config.federation.listen) = (any, any);
        config.federation.exempt = vec!["::1/128".parse().expect("a network")];
        config.limits.exempt = vec!["::1/128".parse().expect("a network")];
    };
    let federation = Federation::start(3, v6).await;
    let report = tried(federation.nodes[0].addrs().admin.expect("an address")).await;
    for transport in ["quic", "tcp", "client"] {
        assert_eq!(outcomes(&report, transport), ["works", "works"], "{transport}: {report}");
    }
    let statements = report["statements"].as_array().expect("a list");
    assert!(statements.iter().all(|statement| statement["family"] == "ipv6"), "{report}");
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ahead_is_stated() {
    let federation = Federation::start(1, with_admin).await;
    // Members refuse a node whose clock differs by more than two minutes.
    let ahead = Clock::ahead(Duration::from_secs(60));
    let node = Node::spawn_by(federation.node_config(1, with_admin), ahead).await.expect("a node");
    eventually("both are members", || node.members() == 2 && federation.nodes[0].members() == 2).await;
    let report = tried(node.addrs().admin.expect("an address")).await;
    let stated = report["statements"][0]["clockAhead"].as_i64().expect("a number");
    assert!((58..=61).contains(&stated), "{report}");
    node.shutdown().await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_an_earlier_version_are_not_asked() {
    let federation = Federation::start(1, with_admin).await;
    let node = &federation.nodes[0];
    // Its record has no bit 2.
    let _guest = Guest::join(&federation, &[], &[]).await;
    eventually("the guest is a member", || node.members() == 2).await;
    let report = tried(node.addrs().admin.expect("an address")).await;
    assert_eq!(report["lastRound"]["asked"], 0, "{report}");
    federation.shutdown().await;
}

/// Two members that lie say so beside a third one, and change nothing: the node is a member, is listed, and serves clients.
#[tokio::test(flavor = "multi_thread")]
async fn liars_are_shown_beside_the_others_and_delist_nobody() {
    let federation = Federation::start(2, with_admin).await;
    let node = &federation.nodes[0];
    let admin = node.addrs().admin.expect("an address");
    let mut liars = Vec::new();
    for seed in [81, 82] {
        liars.push(Liar::join(&federation, seed, |_, honest| honest).await);
    }
    eventually("the liars are members", || federation.nodes.iter().all(|node| node.members() == 4)).await;
    let report = tried(admin).await;
    let mut tcp = outcomes(&report, "tcp");
    tcp.sort();
    assert_eq!(tcp, ["no_answer", "no_answer", "works"], "{report}");
    assert_eq!(metric(admin, "chappe_observers_failing{code=\"tcp\"}").await, 2);
    assert_eq!(http(admin, "GET", "/readyz").await.0, 200, "it serves clients");
    let other = federation.nodes[1].addrs().admin.expect("an address");
    assert!(http(other, "GET", "/members").await.1.contains(&node.id().to_string()), "it is still a member");
    let registry = federation.registry_url().trim_start_matches("http://").parse().expect("an address");
    let (status, servers) = http(registry, "GET", "/servers").await;
    assert!(status == 200 && servers.contains(&node.id().to_server_id()), "{servers}");
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_that_is_closed_is_told_from_one_whose_certificate_has_expired() {
    let federation = Federation::start(2, with_admin).await;
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let closed = free.local_addr().expect("an address");
    drop(free);
    let node = federation
        .start_node(2, |config| {
            with_admin(config);
            config.client.urls = vec![format!("ws://{closed}")];
        })
        .await;
    eventually("it is a member", || node.members() == 3 && federation.nodes.iter().all(|one| one.members() == 3)).await;
    let admin = node.addrs().admin.expect("an address");
    let report = tried(admin).await;
    assert_eq!(outcomes(&report, "tcp"), ["refused", "refused"], "{report}");
    assert_eq!(outcomes(&report, "quic"), ["works", "works"], "{report}");
    assert_eq!(metric(admin, "chappe_observers_failing{code=\"tcp\"}").await, 2);
    node.shutdown().await;
    // A certificate of the past, signed by itself.
    let dir = tempfile::tempdir().expect("a folder");
    let expired = Files::make_expired(dir.path());
    let node = federation
        .start_node(3, |config| {
            with_admin(config);
            (config.client.tls_cert, config.client.tls_key) = (Some(expired.certificate()), Some(expired.key()));
        })
        .await;
    eventually("it is a member", || node.members() == 3 && federation.nodes.iter().all(|one| one.members() == 3)).await;
    let report = tried(node.addrs().admin.expect("an address")).await;
    assert_eq!(outcomes(&report, "tcp"), ["works", "works"], "{report}");
    assert_eq!(outcomes(&report, "tls"), ["certificate_expired", "certificate_expired"], "{report}");
    assert!(outcomes(&report, "client").is_empty(), "{report}");
    node.shutdown().await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_others_get_no_packet_and_the_record_s_own_are_tried() {
    let federation = Federation::start(1, with_admin).await;
    let member = (federation.nodes[0].id(), federation.nodes[0].addrs().quic);
    // Links may be dialled in the network of the first address.
    let (one, other) = (Bystander::new([127, 1, 1, 1]).await, Bystander::new([127, 7, 7, 7]).await);
    let urls = [format!("ws://{}", one.addr), format!("ws://{}/path", other.addr), "ws://[::1]:9".to_owned()];
    let guest = Guest::join(&federation, &[one.addr, other.addr, "[::1]:9".parse().expect("an address")], &urls).await;
    let Some(Reply::Statement(bytes)) = guest.ask(member, &guest.request()).await else { panic!("no statement") };
    let statement = Signed::<Reachability>::decode(bytes).expect("a signed statement");
    assert_eq!((statement.observer, statement.subject), (member.0, guest.key.node_id()));
    assert_eq!((statement.epoch, statement.seq, statement.family), (guest.record.epoch, 1, Family::V4));
    let finding = |transport, place, outcome| Finding { transport, place, outcome };
    let expected = [
        finding(Transport::Quic, 0, Outcome::Works),
        finding(Transport::Quic, 1, Outcome::Elsewhere),
        finding(Transport::Quic, 2, Outcome::Elsewhere),
        finding(Transport::Tcp, 0, Outcome::Elsewhere),
        finding(Transport::Tcp, 1, Outcome::Elsewhere),
    ];
    assert_eq!(statement.findings, expected);
    for bystander in [&one, &other] {
        assert_eq!(bystander.arrived().await, None, "at {}; the member is at {}", bystander.addr, member.1);
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_strangers_broken_ones_and_floods_are_refused_and_counted() {
    let federation = Federation::start(1, with_admin).await;
    let node = &federation.nodes[0];
    let (member, admin) = ((node.id(), node.addrs().quic), node.addrs().admin.expect("an address"));
    let guest = Guest::join(&federation, &[], &[]).await;
    let refused = |reply: Option<Reply>| match reply {
        Some(Reply::Refused(refusal)) => Some(refusal),
        _ => None,
    };
    let request = postcard::to_allocvec(&guest.request()).expect("it encodes");
    let stranger = SecretKey::from_bytes(&[78; 32]);
    assert_eq!(refused(guest.ask_by(&stranger, member, &request).await), Some(Refusal::NotAMember));
    // A record of another key, and bytes that are no request.
    let other = Guest::sign(&guest.endpoint, &stranger, federation.root(), &[], &[]);
    let foreign = (other.as_bytes().to_vec(), other.issued_at, None, false);
    assert_eq!(refused(guest.ask(member, &foreign).await), Some(Refusal::Malformed));
    assert_eq!(refused(guest.ask_by(&guest.key, member, b"no request").await), Some(Refusal::Malformed));
    // Two of the burst are left.
    let mut limited = 0;
    for _ in 0..10 {
        match guest.ask(member, &guest.request()).await {
            Some(Reply::Refused(refusal)) => {
                assert_eq!(refusal, Refusal::Rate);
                limited += 1;
            }
            Some(Reply::Statement(_)) => {}
            None => panic!("no reply"),
        }
    }
    assert!(limited >= 7, "{limited} of ten were refused");
    assert_eq!(metric(admin, "chappe_checks_refused_total{code=\"not_a_member\"}").await, 1);
    assert_eq!(metric(admin, "chappe_checks_refused_total{code=\"malformed\"}").await, 2);
    assert_eq!(metric(admin, "chappe_checks_refused_total{code=\"rate\"}").await, limited);
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_in_a_private_network_is_not_tried_unless_the_range_is_exempt() {
    // The range is exempt for the node that asks, and not for the one that is asked.
    let federation = Federation::start(1, with_admin).await;
    let strict = federation
        .start_node(1, |config| {
            with_admin(config);
            config.federation.exempt.clear();
        })
        .await;
    let node = &federation.nodes[0];
    eventually("both are members", || strict.members() == 2 && node.members() == 2).await;
    let report = tried(node.addrs().admin.expect("an address")).await;
    assert_eq!((&report["lastRound"]["asked"], &report["lastRound"]["answered"]), (&1.into(), &0.into()), "{report}");
    let errors = report["lastRound"]["errors"].to_string();
    assert!(errors.contains("private address"), "{report}");
    let strict_admin = strict.addrs().admin.expect("an address");
    assert_eq!(metric(strict_admin, "chappe_checks_refused_total{code=\"address\"}").await, 1);
    strict.shutdown().await;
    federation.shutdown().await;
}

/// A member that is no node, and answers requests with statements of its own.
struct Liar {
    _endpoint: Endpoint,
    _links: Vec<Connection>,
}

impl Liar {
    /// A member of all nodes. `change` makes the statements from one that no client reaches the node; the number counts the
    /// requests.
    async fn join(
        federation: &Federation,
        seed: u8,
        change: impl Fn(usize, Reachability) -> Reachability + Clone + Send + Sync + 'static,
    ) -> Self {
        let key = SecretKey::from_bytes(&[seed; 32]);
        let tls = chappe_common::link_tls::server_config(&key).expect("TLS parameters");
        let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).expect("QUIC parameters");
        let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
        let endpoint = Endpoint::server(config, ([127, 0, 0, 1], 0).into()).expect("a socket");
        let plain = Guest::sign(&endpoint, &key, federation.root(), &[], &[]).into_value();
        let record = Signed::sign(NodeRecord { abilities: Abilities::CHECKS, ..plain }, &key).expect("a record");
        let (serving, liar, told) = (endpoint.clone(), key.clone(), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            while let Some(incoming) = serving.accept().await {
                let (told, key, change) = (told.clone(), liar.clone(), change.clone());
                tokio::spawn(async move { Self::answer(incoming, &key, &told, change).await });
            }
        });
        let mut links = Vec::new();
        for node in &federation.nodes {
            let to = (node.id(), node.addrs().quic);
            let deadline = Instant::now() + PATIENCE;
            let connection = loop {
                let connection = link::connect(&endpoint, &key, to, TransportConfig::default()).await.expect("a link");
                let hello = Hello::Record(record.as_bytes().clone(), None, record.issued_at);
                if matches!(words::greet(&connection, &hello).await, Some(Hello::Record(..))) {
                    break connection;
                }
                // A node that has heard of the liar from another one may be dialling it just now.
                assert!(Instant::now() < deadline, "the node takes no link");
                tokio::time::sleep(Duration::from_millis(100)).await;
            };
            answer_probes(&connection);
            links.push(connection);
        }
        Self { _endpoint: endpoint, _links: links }
    }

    /// Returns at the end of the connection, or at once if no check is asked for.
    async fn answer(
        incoming: quinn::Incoming,
        key: &SecretKey,
        told: &AtomicUsize,
        change: impl Fn(usize, Reachability) -> Reachability,
    ) -> Option<()> {
        let connection = incoming.await.ok()?;
        let (mut send, mut receive) = connection.accept_bi().await.ok()?;
        let asked = receive.read_to_end(700).await.ok()?;
        let (about, ..): Request = postcard::from_bytes(asked.strip_prefix(&[CHECK])?).ok()?;
        let about = Signed::<NodeRecord>::decode(about).expect("a record");
        let number = told.fetch_add(1, Ordering::Relaxed);
        let statement = Reachability {
            federation: about.federation,
            observer: key.node_id(),
            subject: about.node,
            epoch: about.epoch,
            seq: about.seq,
            at: std::time::SystemTime::now().into(),
            family: Family::V4,
            clock_ahead: 0,
            round_trip: 1,
            mtu: 1200,
            certificate_until: None,
            findings: vec![Finding { transport: Transport::Tcp, place: 0, outcome: Outcome::NoAnswer }],
        };
        let statement = change(number, statement);
        if statement.at == SILENT {
            connection.closed().await;
            return None;
        }
        let mut bytes = Signed::sign(statement, key).expect("a statement").as_bytes().to_vec();
        // A statement of 1987 stands for a forged one.
        if Signed::<Reachability>::decode(bytes.clone()).expect("a statement").at == FORGED {
            *bytes.last_mut().expect("a signature") ^= 1;
        }
        send.write_all(&postcard::to_allocvec(&Reply::Statement(bytes)).expect("it encodes")).await.ok()?;
        send.finish().ok()?;
        connection.closed().await;
        Some(())
    }
}

/// The time of statements that [`Liar`] forges.
const FORGED: UnixTime = UnixTime::from_secs(550_000_000);
/// The time of statements that it keeps back.
const SILENT: UnixTime = UnixTime::from_secs(0);

/// It takes the time limit for a reply, 24 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_never_replies_keeps_nobody_from_seeing_what_others_found() {
    let federation = Federation::start(2, with_admin).await;
    let node = &federation.nodes[0];
    let _liar = Liar::join(&federation, 83, |_, honest| Reachability { at: SILENT, ..honest }).await;
    eventually("the liar is a member", || federation.nodes.iter().all(|node| node.members() == 3)).await;
    let report = tried(node.addrs().admin.expect("an address")).await;
    assert_eq!((&report["lastRound"]["asked"], &report["lastRound"]["answered"]), (&2.into(), &1.into()), "{report}");
    assert_eq!(outcomes(&report, "tcp"), ["works"], "{report}");
    federation.shutdown().await;
}

/// Two statements that do not count. The others are in the tests of the decoder.
#[tokio::test(flavor = "multi_thread")]
async fn statements_that_are_forged_or_about_others_do_not_count() {
    let federation = Federation::start(1, with_admin).await;
    let node = &federation.nodes[0];
    let admin = node.addrs().admin.expect("an address");
    let _liar = Liar::join(&federation, 79, |number, honest| match number {
        0 => Reachability { at: FORGED, ..honest },
        _ => Reachability { subject: SecretKey::from_bytes(&[80; 32]).node_id(), ..honest },
    })
    .await;
    eventually("the liar is a member", || node.members() == 2).await;
    for fault in ["signature", "subject"] {
        let report = tried(admin).await;
        let name = format!("chappe_reachability_statements_refused_total{{code=\"{fault}\"}}");
        assert_eq!(metric(admin, &name).await, 1, "{report}");
        assert_eq!(report["statements"].as_array().map(Vec::len), Some(0), "{report}");
    }
    assert_eq!(metric(admin, "chappe_observers_failing{code=\"tcp\"}").await, 0);
    federation.shutdown().await;
}
