//! Each kind of source over real sockets, and what is left of a search when a node is found.

mod stand_in;

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use chappe_common::{endpoint::NodeEndpoint, time::UnixTime};
use chappe_discovery::{
    CauseError, Discovery, DiscoveryBuilder, FoundNode,
    doh::{DohError, Provider},
    race::confirm::{Confirmation, Disagreement, Unconfirmed},
    reach::{NameError, ReachError},
    registry::Endpoint,
    source::{SourceError, SourceKind},
};
use stand_in::{Answer, Dns, Manner, a, directory, directory_at, dns, key, node, node_at, registry, shards, txt};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(20);
const ZONE: &str = "nodes.example";

fn asks(dns: &Dns) -> DiscoveryBuilder {
    Discovery::builder().roots([key(40).public()]).provider(dns.provider.clone()).tls(dns.trust.clone()).zone(ZONE)
}

/// Why a search with these sources fails, for sources of the given kind.
async fn causes(builder: DiscoveryBuilder, kind: SourceKind) -> Vec<CauseError> {
    let search = builder.build().expect("a search");
    let failed = timeout(LIMIT, search.connect(&[])).await.expect("in time").expect_err("no node");
    failed.causes.into_iter().filter(|cause| cause.source == kind).map(|cause| cause.error).collect()
}

#[tokio::test]
async fn shards_in_dns_lead_to_a_node() {
    let (url, _node) = node(1, Manner::Honest).await;
    let mut texts = shards(40, &[(1, &url), (2, "ws://127.0.0.1:9")]);
    texts.push("v=spf1 -all".to_owned());
    let dns = dns(txt(ZONE, &texts)).await;
    let search = asks(&dns).build().expect("a search");
    let found = timeout(LIMIT, search.search(&[])).await.expect("in time").found.expect("a node");
    assert_eq!((found.connection.node(), found.via), (key(1).node_id(), SourceKind::Dns));
}

#[tokio::test]
async fn names_of_registries_and_nodes_are_resolved_over_https() {
    let (url, _node) = node(1, Manner::Renamed).await;
    let port = url.rsplit_once(':').expect("a port").1;
    // The stand-in calls itself `relay.example` without a port, so it refuses to sign for this URL.
    let named = format!("ws://relay.example:{port}");
    let body = directory(40, 0, &[(1, &named)]);
    let (registry_url, _registry) = registry(Answer { status: 200, body }).await;
    let registry_url = registry_url.replace("127.0.0.1", "registry.example");
    let dns = dns(vec![a("registry.example", [127, 0, 0, 1]), a("relay.example", [127, 0, 0, 1])]).await;
    let builder = Discovery::builder()
        .registry([registry_url], [key(40).public()])
        .provider(dns.provider.clone())
        .tls(dns.trust.clone());
    let causes = causes(builder, SourceKind::Registry).await;
    let CauseError::Dials { tried: 1, ref last } = causes[0] else { panic!("{causes:?}") };
    assert!(matches!(last, chappe_discovery::dial::DialError::OtherUrl { .. }), "both names led to somebody: {last}");
}

#[tokio::test]
async fn dns_failures_report_distinct_causes() {
    let (nothing, wrong, other) = (dns(Vec::new()).await, dns(txt(ZONE, &["hello".to_owned()])).await, 41);
    let unsigned = dns(txt(ZONE, &shards(other, &[(1, "ws://127.0.0.1:9")]))).await;
    let one = |dns: &Dns| asks(dns);
    let not_root = SourceError::Directory(chappe_common::directory::DirectoryError::Root);
    for (builder, error) in [
        (one(&nothing), SourceError::Doh(DohError::NoSuchName)),
        (one(&wrong), SourceError::NoShard),
        (one(&unsigned), not_root),
        (one(&nothing).tls(wrong.trust.clone()), SourceError::Reach(ReachError::Certificate)),
        (
            Discovery::builder()
                .roots([key(40).public()])
                .zone("elsewhere.test")
                .provider(nothing.provider.clone())
                .tls(nothing.trust.clone()),
            SourceError::Doh(DohError::Refused(5)),
        ),
        (
            Discovery::builder()
                .roots([key(40).public()])
                .zone(ZONE)
                .provider(Provider::new("https://dns.example/dns-query", [SocketAddr::from(([127, 0, 0, 1], 9))])),
            SourceError::Reach(ReachError::Refused),
        ),
    ] {
        assert_eq!(causes(builder, SourceKind::Dns).await, [CauseError::Source(error)]);
    }
}

#[tokio::test]
async fn a_registry_with_an_unresolvable_name_is_reached_by_its_address_with_its_name_as_host() {
    let (url, _node) = node(1, Manner::Honest).await;
    let body = directory(40, 0, &[(1, &format!("{url}/"))]);
    let (registry_url, _registry) = registry(Answer { status: 200, body }).await;
    let addr: SocketAddr =
        registry_url.trim_start_matches("http://").trim_end_matches('/').parse().expect("an address");
    let nobody = Provider::new("https://dns.example/dns-query", [SocketAddr::from(([127, 0, 0, 1], 9))]);
    let builder = || Discovery::builder().provider(nobody.clone());
    let endpoint = Endpoint::from("http://registry.example");
    let unresolved = causes(builder().registry([endpoint.clone()], [key(40).public()]), SourceKind::Registry).await;
    let no_answer = SourceError::Reach(ReachError::Name(NameError::NoAnswer));
    assert_eq!(unresolved, [CauseError::Source(no_answer)]);
    let fronted = Endpoint { connect_to: Some(addr), ..endpoint };
    let search = builder().registry([fronted], [key(40).public()]).build().expect("a search");
    let found = timeout(LIMIT, search.connect(&[])).await.expect("in time").expect("a node");
    assert_eq!(found.node(), key(1).node_id());
}

#[tokio::test]
async fn a_second_node_of_another_source_and_network_confirms_the_first() {
    let (first, _first) = node_at([127, 1, 0, 1], 1, Manner::Honest).await;
    let (second, _second) = node_at([127, 2, 0, 1], 2, Manner::Honest).await;
    let (first, second) = (format!("{first}/"), format!("{second}/"));
    let body = directory(40, 0, &[(1, &first)]);
    let (registry_url, _registry) = registry(Answer { status: 200, body }).await;
    let dns = dns(txt(ZONE, &shards(40, &[(2, &second)]))).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cache = folder.path().join("nodes.json");
    let search = asks(&dns).registry([registry_url], []).cache(&cache).build().expect("a search");
    let found = timeout(LIMIT, search.search(&[])).await.expect("in time").found.expect("a node");
    let chosen = found.connection.node();
    let summary = timeout(LIMIT, found.background.finish()).await.expect("in time");
    let Confirmation::Confirmed { second, vouched: false } = summary.confirmation else { panic!("{summary:?}") };
    let mut pair = [chosen, second.node];
    pair.sort_unstable();
    let mut both = [key(1).node_id(), key(2).node_id()];
    both.sort_unstable();
    assert_eq!(pair, both);
    // The cache remembers both as working.
    let again = Discovery::builder().roots([key(40).public()]).cache(&cache).build().expect("a search");
    let found = timeout(LIMIT, again.search(&[])).await.expect("in time").found.expect("a node from the cache");
    assert_eq!((found.via, again.cache().len()), (SourceKind::Cache, 2));
}

#[tokio::test]
async fn two_directories_of_one_number_are_a_disagreement_and_the_node_stays() {
    let (url, _node) = node(1, Manner::Honest).await;
    let url = format!("{url}/");
    let now = UnixTime::from(SystemTime::now());
    let seq = now.as_secs() * 1000;
    let one = directory_at(now, 40, seq, &[(1, &url)]);
    let other = directory_at(now, 40, seq, &[(1, &url), (2, "ws://127.0.0.1:9")]);
    let (one, _one) = registry(Answer { status: 200, body: one }).await;
    let (other, _other) = registry(Answer { status: 200, body: other }).await;
    let search = Discovery::builder().registry([one, other], [key(40).public()]).build().expect("a search");
    let found = timeout(LIMIT, search.search(&[])).await.expect("in time").found.expect("a node");
    assert_eq!(found.connection.node(), key(1).node_id());
    let summary = timeout(LIMIT, found.background.finish()).await.expect("in time");
    let Confirmation::Disagreement { what: Disagreement::Equivocation(proofs), .. } = summary.confirmation else {
        panic!("{summary:?}")
    };
    assert_eq!((proofs.len(), proofs[0].seq, proofs[0].key), (1, seq, key(50).public()));
}

#[tokio::test]
async fn a_referral_leads_to_a_node_and_one_that_is_alone_is_not_confirmed() {
    let (url, _node) = node(1, Manner::Honest).await;
    let endpoint = NodeEndpoint::new(key(1).node_id(), &format!("{url}/")).expect("an endpoint");
    // The stand-in's URL ends in a slash, which the compact form omits.
    let search = Discovery::builder().build().expect("a search");
    assert!(search.connect(&[]).await.expect_err("no source").causes.is_empty());
    search.referrals().set([endpoint]);
    let found = timeout(LIMIT, search.search(&[])).await.expect("in time").found.expect("a node");
    assert_eq!(found.via, SourceKind::Referral);
    let summary = timeout(LIMIT, found.background.finish()).await.expect("in time");
    assert_eq!(summary.confirmation, Confirmation::Unconfirmed(Unconfirmed::NoOther));
}

#[tokio::test]
async fn a_directory_that_was_built_in_is_for_a_first_start_however_old_it_is() {
    let (url, _node) = node(1, Manner::Honest).await;
    let long_ago = UnixTime::from_secs(UnixTime::from(SystemTime::now()).as_secs() - 300 * 24 * 3600);
    let snapshot = directory_at(long_ago, 40, long_ago.as_secs() * 1000, &[(1, &format!("{url}/"))]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cache = folder.path().join("nodes.json");
    let search = |root: u8| {
        let builder = Discovery::builder().roots([key(root).public()]).cache(&cache).snapshot(snapshot.clone());
        builder.build().expect("a search")
    };
    assert!(search(41).connect(&[]).await.is_err(), "of a root that is not pinned");
    let outcome = timeout(LIMIT, search(40).search(&[])).await.expect("in time");
    let FoundNode { connection, via, background } = outcome.found.expect("a node");
    assert_eq!(via, SourceKind::Snapshot);
    connection.close().await;
    background.finish().await;
    let outcome = timeout(LIMIT, search(40).search(&[])).await.expect("in time");
    assert_eq!(outcome.found.expect("a node").via, SourceKind::Cache, "the second time it is remembered");
}

#[tokio::test]
async fn a_registry_that_sends_one_byte_a_second_does_not_stall_a_search() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut request = [0; 2048];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 1000\r\n\r\n").await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let causes = causes(Discovery::builder().registry([url], [key(40).public()]), SourceKind::Registry).await;
    assert_eq!(causes, [CauseError::Source(SourceError::Timeout)]);
}

#[tokio::test]
async fn when_everything_is_silent_the_report_comes_within_ten_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = silent.local_addr().expect("an address");
    let mut builder = Discovery::builder()
        .registry([format!("http://{addr}")], [key(40).public()])
        .zone(ZONE)
        .provider(Provider::new("https://dns.example/dns-query", [addr]))
        .provider(Provider::new("https://dns2.example/dns-query", [addr]));
    for n in 0..12 {
        builder = builder.manual(format!("ws://127.0.0.1:{}/{n}", addr.port()).parse().expect("an address"));
    }
    let began = std::time::Instant::now();
    let failed = builder.build().expect("a search").connect(&[]).await.expect_err("no node");
    assert!(began.elapsed() <= Duration::from_secs(10), "{:?}", began.elapsed());
    let timed_out = |error: &CauseError| {
        let of_dials = matches!(error, CauseError::Dials { last: chappe_discovery::dial::DialError::Timeout, .. });
        of_dials || *error == CauseError::Source(SourceError::Timeout)
    };
    let causes: Vec<_> = failed.causes.iter().filter(|cause| cause.source != SourceKind::Cache).collect();
    assert!(causes.len() == 4 && causes.iter().all(|cause| timed_out(&cause.error)), "{failed}");
}
