//! The check against real nodes.

use chappe_discovery::{Discovery, names::Scope};
use chappe_node::NodeConfig;
use chappe_testkit::{
    federation::{Federation, no_limits},
    tls::Files,
};

use super::*;
use crate::ice_servers;

fn with_turn(config: &mut NodeConfig) {
    no_limits(config);
    config.turn.listen = vec![([127, 0, 0, 1], 0).into()];
    config.turn.allowed_peers = vec!["127.0.0.0/8".parse().expect("a network")];
}

/// Gets the servers of the federation's node without TLS, and checks them.
async fn check(federation: &Federation) -> Vec<Checked> {
    let node = &federation.nodes[0];
    let manual = format!("{}#{}", node.client_url(), node.id()).parse().expect("a node");
    let discovery = Discovery::builder().private_network().manual(manual).build().expect("a client");
    let mut connection = discovery.connect(&[]).await.expect("a node");
    let servers = ice_servers::request(&mut connection).await.expect("servers");
    let tls = discovery.net().tls().clone();
    let checker = RelayChecker { net: discovery.net(), tls, node_ips: vec![[127, 0, 0, 1].into()] };
    checker.check_all(&servers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_works_over_udp_and_tcp() {
    let federation = Federation::start(1, with_turn).await;
    let checked = check(&federation).await;
    let transports: Vec<_> = checked.iter().map(|one| one.url.transport()).collect();
    assert_eq!(transports, [Transport::Udp, Transport::Tcp]);
    for one in &checked {
        let worked = one.outcome.unwrap_or_else(|error| panic!("{}: {error}", one.url));
        assert!(worked.mapped.ip().is_loopback() && worked.relayed.port() >= 49_152);
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_works_over_tls_and_an_untrusted_certificate_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let files = Files::make(dir.path());
    let federation = Federation::start(1, |config| {
        with_turn(config);
        config.client.tls_cert = Some(files.certificate());
        config.client.tls_key = Some(files.key());
    })
    .await;
    let trusting = Arc::new(files.client());
    let mut raw = chappe_testkit::raw::Raw::connect_tls(federation.nodes[0].client_url(), trusting.clone()).await;
    raw.attach(&chappe_testkit::raw::inbox(1).0, chappe_testkit::raw::now_ms()).await;
    raw.send(serde_json::json!({"type": "get_ice_servers", "id": "i"})).await;
    let servers = raw.expect("ice_servers").await["iceServers"].clone();
    let servers: Vec<IceServer> = serde_json::from_value(servers).expect("servers");
    let net = Net::system(tls::config(), Scope::Private);
    let mut checker = RelayChecker { net: &net, tls: trusting, node_ips: Vec::new() };
    for one in checker.check_all(&servers).await {
        assert!(one.outcome.is_ok(), "{}: {:?}", one.url, one.outcome);
    }
    checker.tls = tls::config();
    let checked = checker.check_all(&servers).await;
    let of_tls = checked.iter().find(|one| one.url.transport() == Transport::Tls).expect("a URL of TLS");
    assert_eq!(of_tls.outcome, Err(chappe_discovery::reach::ReachError::Certificate.into()));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_external_address_is_named() {
    let federation = Federation::start(1, |config| {
        with_turn(config);
        // A documentation address (TEST-NET-3): it has no hosts.
        config.turn.external = vec![[203, 0, 113, 7].into()];
    })
    .await;
    let checked = check(&federation).await;
    let named = RelayError::OtherAddress { named: [203, 0, 113, 7].into(), answers: [127, 0, 0, 1].into() };
    assert_eq!((checked[0].url.transport(), checked[0].outcome), (Transport::Udp, Err(named)));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_external_address_without_allowed_peers_is_named() {
    let federation = Federation::start(1, |config| {
        with_turn(config);
        config.turn.allowed_peers.clear();
    })
    .await;
    for one in check(&federation).await {
        assert_eq!(one.outcome, Err(RelayError::OwnAddress), "{}", one.url);
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_relay_offers_no_url() {
    let federation = Federation::start(1, no_limits).await;
    assert!(check(&federation).await.is_empty());
    federation.shutdown().await;
}
