use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use chappe_common::{
    directory::{Directory, MAX_DELEGATION},
    federation::FederationId,
    record::{Abilities, NodeRecord},
    roots::Roots,
};
use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RData, Record, RecordType, RrKey, rdata::tsig::TsigAlgorithm},
    serialize::txt::Parser,
};
use hickory_server::{
    Server,
    net::runtime::TokioRuntimeProvider,
    store::sqlite::{SqliteConfig, SqliteZoneHandler, TsigKeyConfig},
    zone_handler::{AxfrPolicy, Catalog, ZoneType},
};
use tokio::net::TcpListener;

use super::{update::exchange, *};

const ZONE: &str = "nodes.example.";
const NAME: &str = "chappe.nodes.example";
const SECRET: &[u8] = b"a secret of 32 bytes, more or le";

/// A server with another record under the name.
fn zone_file() -> String {
    format!(
        "$ORIGIN {ZONE}\n@ 60 IN SOA ns hostmaster 1 60 60 60 60\n@ 60 IN NS ns\nns 60 IN A 127.0.0.1\nchappe 60 IN TXT old\n"
    )
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32])
}

/// One time for all signed objects of this process, so that repeated runs give the same bytes.
fn now() -> UnixTime {
    static NOW: LazyLock<UnixTime> = LazyLock::new(|| std::time::SystemTime::now().into());
    *NOW
}

fn record(index: u8, url: String) -> SignedRecord {
    let key = key(100 + index);
    let record = NodeRecord {
        federation: FederationId::of_roots(&[key_of_root().public()]),
        node: key.node_id(),
        epoch: 1,
        seq: 1,
        issued_at: now(),
        expires_at: now() + Duration::from_secs(600),
        client_urls: vec!["ws://[2001:db8::1]:80/long/path".to_owned(), url],
        quic_addrs: vec![([20 + index, 0, 0, 1], 1).into()],
        region: String::new(),
        version: String::new(),
        abilities: Abilities::default(),
    };
    Signed::sign(record, &key).expect("a record within its bounds")
}

fn key_of_root() -> SecretKey {
    key(1)
}

fn delegation() -> Signed<Delegation> {
    delegation_until(now() + MAX_DELEGATION)
}

fn delegation_until(expires_at: UnixTime) -> Signed<Delegation> {
    let (root, federation) = (key_of_root(), FederationId::of_roots(&[key_of_root().public()]));
    let not_before = now();
    let delegation = Delegation { federation, root: root.public(), key: key(2).public(), not_before, expires_at };
    Signed::sign(delegation, &root).expect("a delegation within its bounds")
}

fn bundle(count: u8, seq_offset: u64, shard: (u16, u16)) -> DirectoryBundle {
    bundle_of((0..count).map(|index| record(index, format!("wss://node{index}.example"))), seq_offset, shard)
}

fn bundle_of(nodes: impl Iterator<Item = SignedRecord>, seq_offset: u64, shard: (u16, u16)) -> DirectoryBundle {
    let nodes = nodes.map(|record| record.as_bytes().clone());
    let directory = Directory {
        federation: FederationId::of_roots(&[key_of_root().public()]),
        key_id: key(2).public(),
        seq: now().as_secs() * 1000 + seq_offset,
        issued_at: now(),
        expires_at: now() + Duration::from_secs(3600),
        shard,
        nodes: nodes.collect(),
    };
    DirectoryBundle::sign(delegation(), directory, &key(2)).expect("a directory within its bounds")
}

fn publication(bundle: &DirectoryBundle) -> Publication {
    Publication::from_directory(bundle, delegation(), key(2)).expect("a publication")
}

fn read(texts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> BTreeMap<String, u64> {
    let roots = Roots::from([key_of_root().public()]);
    let mut urls = BTreeMap::new();
    for text in texts {
        let shard = ShardBundle::decode(text.as_ref(), &roots, now()).expect("a shard").expect("one that counts");
        urls.extend(shard.shard().nodes.iter().map(|place| (place.url(), shard.shard().seq)));
    }
    urls
}

#[test]
fn a_small_federation_is_published_as_it_is() {
    let bundle = bundle(20, 0, (0, 1));
    let publication = publication(&bundle);
    assert_eq!((publication.nodes(), publication.without_endpoint()), (20, 0));
    assert_eq!(publication.mirror(), &Bytes::from(bundle.encode()));
    let urls = read(publication.texts().expect("texts"));
    assert_eq!(urls.len(), 20);
    assert_eq!(urls.get("wss://node7.example"), Some(&bundle.directory().seq));
}

#[test]
fn a_fixed_part_of_a_large_federation_is_published() {
    let bundle = bundle(120, 0, (0, 1));
    let publication = publication(&bundle);
    assert_eq!(publication.nodes(), MAX_PUBLISHED);
    assert_eq!(read(publication.texts().expect("texts")).len(), MAX_PUBLISHED);
    let mirror = DirectoryBundle::decode(publication.mirror().clone(), &[key_of_root().public()].into(), now());
    let mirror = mirror.expect("a directory");
    assert_eq!((mirror.directory().seq, mirror.directory().shard), (bundle.directory().seq, MIRROR));
    assert_eq!(mirror.records(now()).count(), MAX_PUBLISHED);
    let again = self::publication(&bundle);
    let texts = |publication: &Publication| publication.texts().expect("texts").to_vec();
    assert_eq!((texts(&again), again.mirror()), (texts(&publication), publication.mirror()));
}

#[test]
fn a_new_delegation_does_not_change_the_signed_shards() {
    let roots = Roots::from([key_of_root().public()]);
    let decode = |publication: &Publication| -> Vec<_> {
        let texts = publication.texts().expect("texts");
        let shard = |text: &String| ShardBundle::decode(text.as_bytes(), &roots, now());
        texts.iter().map(|text| shard(text).expect("a shard").expect("one that counts").shard().clone()).collect()
    };
    let (bundle, soon) = (bundle(20, 0, (0, 1)), now() + Duration::from_secs(60));
    let renewed = Publication::from_directory(&bundle, delegation_until(soon), key(2)).expect("a publication");
    assert_eq!(decode(&renewed), decode(&publication(&bundle)));
    assert_eq!(renewed.expires_at(), soon);
}

#[test]
fn where_no_node_fits_into_dns_there_are_no_records_to_replace_the_old_ones() {
    let with_path = |index| record(index, format!("wss://node{index}.example/chappe"));
    let none = publication(&bundle_of((0..3).map(with_path), 0, (0, 1)));
    assert_eq!((none.nodes(), none.endpoints(), none.without_endpoint()), (3, 0, 3));
    assert!(matches!(none.texts(), Err(PublishError::NoPlace)));
    let set = RecordSet::new(&none, NAME, Duration::from_secs(300));
    assert!(matches!(set, Err(PublishError::NoPlace)), "{set:?}");

    let one = bundle_of((0..3).map(with_path).chain([record(3, "wss://node3.example".to_owned())]), 0, (0, 1));
    assert_eq!((publication(&one).endpoints(), publication(&one).nodes()), (1, 4));
}

#[test]
fn an_incomplete_or_foreign_directory_is_not_published() {
    let part = Publication::from_directory(&bundle(3, 0, (1, 1024)), delegation(), key(2));
    assert!(matches!(part, Err(PublishError::Part)), "{part:?}");
    let other = Publication::from_directory(&bundle(3, 0, (0, 1)), delegation(), key(3));
    assert!(matches!(other, Err(PublishError::Key)), "{other:?}");
}

#[test]
fn a_zone_file_reads_back_with_another_parser() {
    let publication = publication(&bundle(30, 0, (0, 1)));
    let set = RecordSet::new(&publication, NAME, Duration::from_secs(300)).expect("a name");
    assert!(set.zone().lines().all(|line| line.starts_with("chappe.nodes.example. 300 IN TXT \"chappe1=")));
    let text = format!("$ORIGIN {ZONE}\n@ 60 IN SOA ns hostmaster 1 60 60 60 60\n{}", set.zone());
    let (origin, sets) = Parser::new(text, None, Some(ZONE.parse().expect("a name"))).parse().expect("a zone file");
    assert_eq!(origin, ZONE.parse::<Name>().expect("a name"));
    let key = RrKey::new(format!("{NAME}.").parse::<Name>().expect("a name").into(), RecordType::TXT);
    let texts: Vec<_> = sets[&key].records_without_rrsigs().map(text_of).collect();
    assert_eq!(read(texts).len(), 30);
}

#[test]
fn a_key_file_is_read_as_it_is_written_by_others() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("key");
    let load = |text: &str| {
        fs::write(&file, text).expect("a writable folder");
        TsigKey::load(&file)
    };
    let good =
        "key \"publisher.\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0IG9mIDMyIGJ5dGVzIG9yIHNvLCBmb3I=\";\n};\n";
    assert_eq!(load(good).map(|key| format!("{key:?}")).expect("a key"), "TsigKey(publisher.)");
    assert!(matches!(load(&good.replace("sha256", "md5")), Err(TsigKeyError::Algorithm { .. })));
    assert!(matches!(load(&good.replace("c2Vj", "c2V!")), Err(TsigKeyError::Form { .. })));
    let error = load(&good.replace("algorithm", "")).expect_err("no key").to_string();
    assert!(error.contains("key does not have the format: key \"name\""), "{error}");
}

fn text_of(record: &Record) -> Vec<u8> {
    match &record.data {
        RData::TXT(text) => text.txt_data.iter().flat_map(|string| string.iter().copied()).collect(),
        other => panic!("no text: {other:?}"),
    }
}

fn write_key(file: &Path, secret: &[u8]) -> TsigKey {
    let secret = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, secret);
    fs::write(file, format!("key \"publisher\" {{ algorithm hmac-sha256; secret \"{secret}\"; }};"))
        .expect("a writable folder");
    TsigKey::load(file).expect("a key")
}

/// The server's TXT records of the name.
async fn served(server: SocketAddr) -> Vec<Vec<u8>> {
    let mut question = Message::query();
    question.add_query(Query::query(format!("{NAME}.").parse().expect("a name"), RecordType::TXT));
    let answer = exchange(server, &question.to_vec().expect("a message")).await.expect("an answer");
    Message::from_vec(&answer).expect("a message").answers.iter().map(text_of).collect()
}

/// Tests updates against any server. Initially the zone has one other TXT record at the name.
async fn takes_updates(server: SocketAddr, good: &TsigKey, bad: &TsigKey) {
    let set = |bundle: &DirectoryBundle| {
        RecordSet::new(&publication(bundle), NAME, Duration::from_secs(300)).expect("a name")
    };
    assert_eq!(served(server).await, [b"old".to_vec()]);
    let (first, second) = (bundle(40, 0, (0, 1)), bundle(17, 1, (0, 1)));
    let refused = send_update(server, ZONE, &set(&first), bad).await;
    assert!(matches!(refused, Err(UpdateError::Rejected(_))), "{refused:?}");
    assert_eq!(served(server).await, [b"old".to_vec()], "nothing has changed");

    send_update(server, ZONE, &set(&first), good).await.expect("an update");
    let mut expected = publication(&first).texts().expect("texts").to_vec();
    expected.sort_unstable();
    let served_texts = async || {
        let mut texts: Vec<_> =
            served(server).await.into_iter().map(|text| String::from_utf8(text).expect("ASCII")).collect();
        texts.sort_unstable();
        texts
    };
    assert_eq!(served_texts().await, expected, "and what was there is gone");
    send_update(server, ZONE, &set(&first), good).await.expect("the same again");
    assert_eq!(served_texts().await, expected);
    send_update(server, ZONE, &set(&second), good).await.expect("a newer one");
    assert_eq!(read(served(server).await).len(), 17);

    let elsewhere = send_update(server, "other.example", &set(&second), good).await;
    assert!(matches!(elsewhere, Err(UpdateError::OutOfZone { .. })), "{elsewhere:?}");
}

#[tokio::test]
async fn an_update_replaces_the_whole_set_at_a_server_in_this_process() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let good = write_key(&dir.path().join("key"), SECRET);
    let bad = write_key(&dir.path().join("other"), b"another secret");
    fs::write(dir.path().join("zone"), zone_file()).expect("a writable folder");
    fs::write(dir.path().join("secret"), SECRET).expect("a writable folder");
    let tsig = TsigKeyConfig {
        name: "publisher.".to_owned(),
        key_file: "secret".into(),
        algorithm: TsigAlgorithm::HmacSha256,
        fudge: 300,
    };
    let (zone_path, journal_path) = ("zone".into(), "journal".into());
    let config = SqliteConfig { zone_path, journal_path, allow_update: true, tsig_keys: vec![tsig] };
    let origin: Name = ZONE.parse().expect("a name");
    let (primary, root) = (ZoneType::Primary, Some(dir.path()));
    let handler = SqliteZoneHandler::<TokioRuntimeProvider>::try_from_config(
        origin.clone(),
        primary,
        AxfrPolicy::Deny,
        false,
        root,
        &config,
        None,
    );
    let handler = handler.await.expect("a zone");
    let mut catalog = Catalog::new();
    catalog.upsert(origin.into(), vec![Arc::new(handler)]);
    let mut server = Server::new(catalog);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let addr = listener.local_addr().expect("an address");
    server.register_listener(listener, Duration::from_secs(10), 65_535);
    takes_updates(addr, &good, &bad).await;
}

/// A child process that ends with the test.
struct Knot(std::process::Child);

impl Drop for Knot {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn an_update_replaces_the_whole_set_at_knot() {
    if !Path::new("/usr/sbin/knotd").exists() {
        eprintln!("skipped: no DNS server here (Debian: knot)");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let folder = dir.path().display();
    let good = write_key(&dir.path().join("key"), SECRET);
    let bad = write_key(&dir.path().join("other"), b"another secret");
    // The server cannot report a chosen port, so use one that is free now.
    let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
    let addr = port.expect("a free port");
    let zone = format!(
        "$ORIGIN {ZONE}\n@ 60 SOA ns hostmaster 1 60 60 60 60\n@ 60 NS ns\nns A 127.0.0.1\nchappe 60 TXT old\n"
    );
    fs::write(dir.path().join("zone"), zone).expect("a writable folder");
    let secret = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, SECRET);
    let config = format!(
        "server:\n  rundir: {folder}\n  listen: 127.0.0.1@{port}\ndatabase:\n  storage: {folder}\nkey:\n  - id: publisher\n    \
         algorithm: hmac-sha256\n    secret: {secret}\nacl:\n  - id: update\n    key: publisher\n    action: update\nzone:\n  \
         - domain: {ZONE}\n    storage: {folder}\n    file: zone\n    acl: update\n",
        port = addr.port(),
    );
    fs::write(dir.path().join("knot.conf"), config).expect("a writable folder");
    let log = fs::File::create(dir.path().join("log")).expect("a writable folder");
    let child = Command::new("/usr/sbin/knotd").arg("-c").arg(dir.path().join("knot.conf")).stdout(log).spawn();
    let _knot = Knot(child.expect("a server"));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while tokio::net::TcpStream::connect(addr).await.is_err() || served(addr).await.is_empty() {
        assert!(std::time::Instant::now() < deadline, "{:?}", fs::read_to_string(dir.path().join("log")));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    takes_updates(addr, &good, &bad).await;
}
