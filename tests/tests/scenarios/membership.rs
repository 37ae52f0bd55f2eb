//! Who is admitted and who isn't, on real nodes and links, and what a refused node's log says.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chappe_common::{
    admission::{IssuerGrant, Ticket, TicketChain},
    federation::FederationId,
    keys::{NodeId, SecretKey},
    record::{Abilities, NodeRecord},
    signed::Signed,
    time::UnixTime,
};
use chappe_node::{
    Node, NodeConfig, clock::Clock, config::AdmissionPolicy, identity::load_or_create_key,
    membership::admission::AdmissionRefusal,
};
use chappe_testkit::{
    eventually,
    federation::{Federation, no_limits},
    link::{
        self,
        words::{self, Hello},
    },
    raw::Raw,
};
use quinn::{Endpoint, TransportConfig};
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

/// What is logged by this thread.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Has all that this thread logs from now on written here.
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let subscriber = tracing_subscriber::fmt().with_writer(self.clone()).with_ansi(false).finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn says(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).contains(text)
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The key of the node with that number, made before it starts.
fn key(federation: &Federation, number: usize) -> SecretKey {
    let dir = federation.node_config(number, |_| {}).node.data_dir;
    std::fs::create_dir_all(&dir).expect("a folder");
    load_or_create_key(&dir).expect("a key")
}

/// Waits until the refused node's log says why, and sees that nobody took it in.
async fn is_refused(federation: &Federation, refused: &Node, log: &Log, advice: &str) {
    eventually(advice, || log.says(advice)).await;
    // Not a moment later either.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(refused.members(), 1, "it knows nobody but itself");
    assert!(federation.nodes.iter().all(|node| node.members() == federation.nodes.len()));
}

#[tokio::test]
async fn a_federation_by_invitation_admits_nodes_with_a_ticket_and_explains_refusals() {
    let log = Log::default();
    let _guard = log.listen();
    let federation = Federation::start(1, |_| {}).await;
    let issuer = SecretKey::from_bytes(&[7; 32]);
    let invite = |config: &mut NodeConfig| {
        config.federation.admission = AdmissionPolicy::Invite;
        config.federation.issuers = vec![issuer.public()];
    };
    let id = FederationId::of_roots(&[federation.root()]);
    let ticket = |node: NodeId, by: &SecretKey| {
        let ticket =
            Ticket { federation: id, issuer: by.public(), node, expires_at: UnixTime::from_secs(u64::from(u32::MAX)) };
        TicketChain::from(Signed::sign(ticket, by).expect("a ticket"))
    };
    // The third signs its ticket itself, with the key of a join link.
    let granted = SecretKey::from_bytes(&[9; 32]);
    let by_grant = |node: NodeId, by: &SecretKey| {
        let expires_at = UnixTime::from_secs(u64::from(u32::MAX));
        let grant = IssuerGrant { federation: id, issuer: by.public(), key: granted.public(), expires_at };
        TicketChain::by_grant(Signed::sign(grant, by).expect("a grant"), &granted, node).expect("a ticket")
    };
    // All members hold tickets, since each judges the others.
    let invited = [1, 2, 5].map(|number| {
        let node = key(&federation, number).node_id();
        let ticket = if number == 5 { by_grant(node, &issuer) } else { ticket(node, &issuer) };
        federation.node_config(number, |config| {
            invite(config);
            config.federation.ticket = Some(ticket.clone());
        })
    });
    let mut nodes = Vec::new();
    for config in invited {
        nodes.push(Node::spawn(config).await.expect("a node"));
    }
    eventually("all are members", || nodes.iter().all(|node| node.members() == 3)).await;
    let uninvited = federation.start_node(3, invite).await;
    eventually("it is told", || log.says("ask one of its operators for a ticket")).await;
    assert_eq!(uninvited.members(), 1);
    let forged = by_grant(key(&federation, 4).node_id(), &SecretKey::from_bytes(&[8; 32]));
    let forger = federation
        .start_node(4, |config| {
            invite(config);
            config.federation.ticket = Some(forged.clone());
        })
        .await;
    eventually("it is told", || log.says("is not by a key that may invite")).await;
    assert_eq!(forger.members(), 1);
    for node in nodes.into_iter().chain([uninvited, forger]) {
        node.shutdown().await;
    }
    federation.shutdown().await;
}

#[tokio::test]
async fn a_node_that_is_not_on_the_allowlist_learns_the_reason() {
    let log = Log::default();
    let _guard = log.listen();
    let mut federation = Federation::start(0, |_| {}).await;
    let listed: Vec<_> = (0..2).map(|number| key(&federation, number).node_id()).collect();
    let by_list = |config: &mut NodeConfig| {
        config.federation.admission = AdmissionPolicy::Allowlist;
        config.federation.allow = listed.clone();
    };
    for number in 0..2 {
        let node = federation.start_node(number, by_list).await;
        federation.nodes.push(node);
    }
    federation.settle().await;
    let stranger = federation.start_node(2, |_| {}).await;
    is_refused(&federation, &stranger, &log, "ask its operators to add this node's id").await;
    stranger.shutdown().await;
    federation.shutdown().await;
}

#[tokio::test]
async fn the_third_node_of_a_network_is_refused_with_the_reason() {
    let log = Log::default();
    let _guard = log.listen();
    let strict = |config: &mut NodeConfig| config.federation.exempt.clear();
    let federation = Federation::start(2, strict).await;
    let third = federation.start_node(2, strict).await;
    is_refused(&federation, &third, &log, "two nodes of this network (/24 or /48) are members already").await;
    third.shutdown().await;
    federation.shutdown().await;
}

#[tokio::test]
async fn a_node_that_is_unreachable_at_its_address_is_not_admitted() {
    let log = Log::default();
    let _guard = log.listen();
    let federation = Federation::start(2, |_| {}).await;
    // A port that is bound by somebody else, who is silent.
    let silent = std::net::UdpSocket::bind(("127.0.0.1", 0)).expect("a socket");
    let addr = silent.local_addr().expect("an address");
    // The registry does not list it either; it knows the others by it.
    let hidden = federation.start_node(2, |config| config.federation.advertise = vec![addr.into()]).await;
    is_refused(&federation, &hidden, &log, "they do not reach federation.advertise").await;
    hidden.shutdown().await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_addresses_in_a_members_record_get_no_packets() {
    let socket = |addr: &str| std::net::UdpSocket::bind(addr).expect("a socket");
    let (near, far) = (socket("127.0.0.1:0"), socket("127.9.0.9:0"));
    let heard = |socket: &std::net::UdpSocket| {
        socket.set_nonblocking(true).expect("a socket");
        std::iter::from_fn(|| socket.recv(&mut [0; 2048]).ok()).count()
    };
    let federation = Federation::start(1, |_| {}).await;
    let own = socket("127.0.0.1:0").local_addr().expect("an address");
    let liar = federation
        .start_node(1, |config| {
            config.federation.listen = own;
            config.federation.advertise =
                [own, far.local_addr().expect("one"), near.local_addr().expect("one")].map(Into::into).to_vec();
        })
        .await;
    eventually("it is a member", || federation.nodes[0].members() == 2).await;
    // As if it were killed: it is probed over new links until it counts as down.
    drop(liar);
    eventually("it is down", || federation.nodes[0].members() == 1).await;
    assert_eq!(heard(&far), 0);
    assert!(heard(&near) > 0, "an address in the first one's network may be its node's own");
    federation.shutdown().await;
}

#[tokio::test]
async fn a_new_node_with_a_slow_clock_logs_why_it_finds_no_members() {
    let log = Log::default();
    let _guard = log.listen();
    let federation = Federation::start(2, |_| {}).await;
    let config = federation.node_config(2, |_| {});
    let wrong = Node::spawn_by(config, Clock::behind(Duration::from_secs(3600))).await.expect("a node");
    is_refused(&federation, &wrong, &log, "nobody is found by it until the system's time is right").await;
    wrong.shutdown().await;
    federation.shutdown().await;
}

#[tokio::test]
async fn a_clock_that_is_an_hour_off_is_reported_and_admits_no_nodes() {
    let hour = Duration::from_secs(3600);
    for (clock, direction) in [(Clock::ahead(hour), "ahead of"), (Clock::behind(hour), "behind")] {
        let log = Log::default();
        let _guard = log.listen();
        let federation = Federation::start(3, |_| {}).await;
        let mut config = federation.node_config(3, |_| {});
        // Its registry's directory is from the future, or expired: it has the others' records from its last run.
        let first = Node::spawn(config.clone()).await.expect("a node");
        eventually("it knows the others", || first.members() == 4).await;
        first.shutdown().await;
        eventually("it has left", || federation.nodes.iter().all(|node| node.members() == 3)).await;
        config.registry.urls.clear();
        let wrong = Node::spawn_by(config, clock).await.expect("a node");
        is_refused(&federation, &wrong, &log, direction).await;
        assert!(log.says("see timedatectl"));
        wrong.shutdown().await;
        federation.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_restarts_constantly_is_rate_limited() {
    // Thirty may each show a new run, and another every ten seconds, which a slow machine may need.
    const HEARD: std::ops::RangeInclusive<u64> = 30..=34;
    let federation = Federation::start(1, |_| {}).await;
    let node = &federation.nodes[0];
    // The node dials its member, too; of two that dial each other at once, the lower key is heard.
    let mut keys = std::iter::repeat_with(|| SecretKey::generate().expect("a key"));
    let key = keys.find(|key| key.node_id() < node.id()).expect("a lower key");
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
    let now = UnixTime::from(std::time::SystemTime::now());
    let greet = async |epoch: u64| {
        let record = NodeRecord {
            federation: FederationId::of_roots(&[federation.root()]),
            node: key.node_id(),
            epoch,
            seq: 1,
            issued_at: now,
            expires_at: now + Duration::from_secs(600),
            client_urls: vec!["ws://127.0.0.1:1/".to_owned()],
            quic_addrs: vec![endpoint.local_addr().expect("a bound socket")],
            region: String::new(),
            version: "1".to_owned(),
            abilities: Abilities::default(),
        };
        let record = Signed::sign(record, &key).expect("a record");
        let to = (node.id(), node.addrs().quic);
        let link = link::connect(&endpoint, &key, to, TransportConfig::default()).await.expect("a connection");
        words::greet(&link, &Hello::Record(record.as_bytes().clone(), None, now)).await.expect("an answer")
    };
    let mut heard = 0;
    let answer = loop {
        match greet(heard + 1).await {
            Hello::Record(..) if heard < *HEARD.end() => heard += 1,
            answer => break answer,
        }
    };
    assert!(matches!(answer, Hello::Refused(AdmissionRefusal::Full, _)), "{answer:?} after {heard}");
    assert!(HEARD.contains(&heard), "{heard}");
    assert!(matches!(greet(heard).await, Hello::Record(..)), "the run that it is in is heard");
    federation.shutdown().await;
}

#[tokio::test]
async fn a_node_that_has_left_begins_no_new_run() {
    let log = Log::default();
    let _guard = log.listen();
    let mut federation = Federation::start(3, |config| {
        no_limits(config);
        config.times.drain = Duration::from_secs(20);
    })
    .await;
    let leaving = federation.nodes.pop().expect("three nodes");
    let mut client = Raw::register(leaving.client_url(), "AAAAAA").await;
    let left = tokio::spawn(leaving.shutdown());
    client.expect("going_away").await;
    federation.settle().await;
    // Their homes are asked over new links, which are refused as links of a run that is over.
    for code in ["BBBBBB", "CCCCCC", "DDDDDD", "EEEEEE", "FFFFFF", "GGGGGG"] {
        client.send(json!({"type": "pair_request", "targetCode": code})).await;
        client.expect("pair_error").await;
    }
    assert!(!log.says("started a new run") && !log.says("later run"));
    federation.settle().await;
    drop(client);
    left.await.expect("it stops");
    federation.shutdown().await;
}
