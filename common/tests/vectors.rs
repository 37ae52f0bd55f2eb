//! The vectors of `docs/protocol/vectors/signed.json`, both ways: what this crate makes of the fields is what the file
//! has, and what the file has is what this crate reads.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{
    admission::{IssuerGrant, Ticket, TicketChain},
    beacon::{Beacon, Term},
    directory::{Delegation, Directory, DirectoryBundle, DirectoryError},
    endpoint::NodeEndpoint,
    federation::FederationId,
    keys::SecretKey,
    lease::{AccessToken, Address, Inbox, Lease, prove_attach, verify_attach},
    list_request::{ListRequest, Load},
    proof::{prove_node, verify_node},
    reachability::{Family, Finding, Outcome, Reachability, Transport},
    record::{Abilities, NodeLeave, NodeRecord},
    removal::NodeRemoval,
    revocation::{KeyRevocation, to_text},
    roots::Roots,
    shard::{Issue, MAX_SHARD_NODES, MAX_SHARD_TEXT, MAX_TXT_STRING, ShardBundle, txt_strings},
    signed::{DecodeError, Signed, Unverified},
    succession::{RootSuccessor, SignedSuccession},
    time::UnixTime,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const VECTORS: &str = include_str!("../../docs/protocol/vectors/signed.json");
const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn root() -> SecretKey {
    SecretKey::from_bytes(&[1; 32])
}

fn node() -> SecretKey {
    SecretKey::from_bytes(&[2; 32])
}

fn online() -> SecretKey {
    SecretKey::from_bytes(&[3; 32])
}

fn inbox() -> SecretKey {
    SecretKey::from_bytes(&[4; 32])
}

/// The key in a join link.
fn invited() -> SecretKey {
    SecretKey::from_bytes(&[5; 32])
}

fn federation() -> FederationId {
    FederationId::of_roots(&[root().public()])
}

fn record() -> Signed<NodeRecord> {
    let addr: [SocketAddr; 2] =
        ["192.0.2.7:8711".parse().expect("an address"), "[2001:db8::7]:8711".parse().expect("an address")];
    let record = NodeRecord {
        federation: federation(),
        node: node().node_id(),
        epoch: 3,
        seq: 7,
        issued_at: NOW,
        expires_at: NOW + Duration::from_secs(1800),
        client_urls: vec!["wss://relay.example/ws".into()],
        quic_addrs: addr.to_vec(),
        region: "eu-west".into(),
        version: "0.1.0".into(),
        abilities: Abilities::ICE_SERVERS,
    };
    Signed::sign(record, &node()).expect("a record")
}

fn leave() -> Signed<NodeLeave> {
    let leave = NodeLeave { federation: federation(), node: node().node_id(), epoch: 3, seq: 7, issued_at: NOW };
    Signed::sign(leave, &node()).expect("a leave")
}

fn reachability() -> Signed<Reachability> {
    let finding = |transport, outcome| Finding { transport, place: 0, outcome };
    let reachability = Reachability {
        federation: federation(),
        observer: node().node_id(),
        subject: online().node_id(),
        epoch: 3,
        seq: 7,
        at: NOW,
        family: Family::V4,
        clock_ahead: -2,
        round_trip: 31,
        mtu: 1452,
        certificate_until: Some(NOW + Duration::from_secs(30 * 24 * 3600)),
        findings: vec![
            finding(Transport::Quic, Outcome::Works),
            finding(Transport::Tcp, Outcome::Works),
            finding(Transport::Tls, Outcome::CertificateExpired),
            finding(Transport::StunUdp, Outcome::NoAnswer),
        ],
    };
    Signed::sign(reachability, &node()).expect("a statement")
}

fn lease() -> Signed<Lease> {
    let lease = Lease {
        inbox: Inbox::new(inbox().public()),
        node: node().node_id(),
        session_key: [5; 32],
        access: AccessToken::from_bytes([9; 16]).hash(),
        seq: 1_800_000_000_123,
        expires_at: NOW + Duration::from_secs(600),
    };
    Signed::sign(lease, &inbox()).expect("a lease")
}

fn ticket() -> Signed<Ticket> {
    let ticket = Ticket {
        federation: federation(),
        issuer: root().public(),
        node: node().node_id(),
        expires_at: NOW + Duration::from_secs(365 * 24 * 3600),
    };
    Signed::sign(ticket, &root()).expect("a ticket")
}

fn grant() -> Signed<IssuerGrant> {
    let grant = IssuerGrant {
        federation: federation(),
        issuer: root().public(),
        key: invited().public(),
        expires_at: NOW + Duration::from_secs(30 * 24 * 3600),
    };
    Signed::sign(grant, &root()).expect("a grant")
}

fn ticket_by_grant() -> TicketChain {
    TicketChain::by_grant(grant(), &invited(), node().node_id()).expect("a ticket")
}

fn beacon() -> Signed<Beacon> {
    let beacon = Beacon {
        federation: federation(),
        root: root().public(),
        number: NOW.as_secs(),
        from: NOW + Duration::from_secs(3600),
        before: Some(Term { value: [8; 32], eligible: vec![node().node_id()] }),
        term: Term { value: [9; 32], eligible: vec![node().node_id(), online().node_id()] },
    };
    Signed::sign(beacon, &root()).expect("a beacon")
}

fn removal() -> Signed<NodeRemoval> {
    let removal = NodeRemoval {
        federation: federation(),
        signer: root().public(),
        node: node().node_id(),
        issued_at: NOW,
        until: NOW + Duration::from_secs(30 * 24 * 3600),
    };
    Signed::sign(removal, &root()).expect("a removal")
}

fn next_root() -> SecretKey {
    SecretKey::from_bytes(&[10; 32])
}

fn successor() -> Signed<RootSuccessor> {
    let successor = RootSuccessor { federation: federation(), old: root().public(), new: next_root().public() };
    Signed::sign(successor, &root()).expect("a successor")
}

fn succession() -> SignedSuccession {
    let until = NOW + Duration::from_secs(90 * 24 * 3600);
    SignedSuccession::sign(&successor(), &next_root(), NOW, until).expect("a succession")
}

fn revocation() -> Signed<KeyRevocation> {
    let (federation, root_key) = (federation(), root().public());
    let revocation = KeyRevocation { federation, root: root_key, key: online().public(), issued_at: NOW };
    Signed::sign(revocation, &root()).expect("a revocation")
}

fn list_request() -> Signed<ListRequest> {
    ListRequest::sign(federation(), online().public(), &node(), 1_800_000_000_456, Load::Light)
}

fn delegation() -> Signed<Delegation> {
    let delegation = Delegation {
        federation: federation(),
        root: root().public(),
        key: online().public(),
        not_before: NOW,
        expires_at: NOW + Duration::from_secs(90 * 24 * 3600),
    };
    Signed::sign(delegation, &root()).expect("a delegation")
}

const ISSUE: Issue =
    Issue { seq: 1_800_000_000_000, issued_at: NOW, expires_at: UnixTime::from_secs(NOW.as_secs() + 48 * 3600) };

fn shards(urls: &[&str]) -> Vec<ShardBundle> {
    let endpoints = urls.iter().map(|url| NodeEndpoint::new(node().node_id(), url).expect("an endpoint"));
    ShardBundle::sign_all(&delegation(), &endpoints.collect::<Vec<_>>(), ISSUE, &online()).expect("shards")
}

fn shard() -> String {
    shards(&["wss://relay.example", "ws://192.0.2.7:8710", "wss://[2001:db8::7]:8710"])[0].to_text()
}

fn bundle() -> DirectoryBundle {
    let directory = Directory {
        federation: federation(),
        key_id: online().public(),
        seq: 1_800_000_000_000,
        issued_at: NOW,
        expires_at: NOW + Duration::from_secs(48 * 3600),
        shard: (0, 1),
        nodes: vec![record().as_bytes().clone()],
    };
    DirectoryBundle::sign(delegation(), directory, &online()).expect("a directory")
}

fn vectors() -> Value {
    let (nonce, challenge, url) = ([6; 32], [7; 32], "wss://relay.example/ws");
    json!({
        "about": "Signed notes, in hexadecimal bytes. Keys are Ed25519 seeds of 32 equal bytes; the fields stand in docs/protocol/federation.md.",
        "seeds": { "root": "01", "node": "02", "online": "03", "inbox": "04", "invited": "05", "next_root": "0a" },
        "federation_id": federation().to_string(),
        "node_id": node().node_id().to_string(),
        "server_id": node().node_id().to_server_id(),
        "node_record": hex::encode(record().as_bytes()),
        "node_leave": hex::encode(leave().as_bytes()),
        "node_removal": hex::encode(removal().as_bytes()),
        "key_revocation": hex::encode(revocation().as_bytes()),
        "revocation_text": to_text(&revocation()),
        "root_successor": hex::encode(successor().as_bytes()),
        "root_succession": hex::encode(succession().as_bytes()),
        "root_succession_text": succession().to_text(),
        "list_request": hex::encode(list_request().as_bytes()),
        "reachability": hex::encode(reachability().as_bytes()),
        "lease": hex::encode(lease().as_bytes()),
        "access_token": "09",
        "address": Address { inbox: lease().inbox, token: AccessToken::from_bytes([9; 16]) }.to_base64url(),
        "ticket": hex::encode(ticket().as_bytes()),
        "ticket_text": TicketChain::from(ticket()).to_string(),
        "admission_grant": hex::encode(grant().as_bytes()),
        "ticket_by_grant": hex::encode(ticket_by_grant().to_bytes()),
        "beacon": hex::encode(beacon().as_bytes()),
        "attach": { "nonce": "06", "proof": hex::encode(prove_attach(&inbox(), &nonce, &lease())) },
        "prove": {
            "challenge": "07", "nonce": "06", "url": url,
            "signature": hex::encode(prove_node(&node(), &challenge, &nonce, url)),
        },
        "directory": hex::encode(bundle().encode()),
        "shard_text": shard(),
    })
}

fn read_shard(text: &[u8], now: UnixTime) -> Result<ShardBundle, DirectoryError> {
    ShardBundle::decode(text, &[root().public()].into(), now).expect("a shard's text")
}

fn bytes(name: &str) -> Vec<u8> {
    let vectors: Value = serde_json::from_str(VECTORS).expect("JSON");
    hex::decode(vectors[name].as_str().expect("a text")).expect("hexadecimal")
}

#[test]
fn the_crate_produces_the_published_vectors() {
    let expected: Value = serde_json::from_str(VECTORS).expect("JSON");
    assert_eq!(vectors(), expected, "\n{}", serde_json::to_string_pretty(&vectors()).expect("JSON"));
}

#[test]
fn only_identical_bytes_count_as_verified_before() {
    let known = lease();
    let decode = |bytes: Vec<u8>| Unverified::<Lease>::decode(bytes).expect("a lease");
    let mut bytes = known.as_bytes().to_vec();
    assert!(decode(bytes.clone()).is(&known));
    assert_eq!(decode(bytes.clone()).verify(), Ok(known.clone()));
    *bytes.last_mut().expect("a signature") ^= 1;
    let forged = decode(bytes);
    assert!(!forged.is(&known) && *forged.value() == *known);
    assert_eq!(forged.verify(), Err(DecodeError::Signature));
}

#[test]
fn the_vectors_are_read_and_verify() {
    assert_eq!(*Signed::<NodeRecord>::decode(bytes("node_record")).expect("a record"), *record());
    assert_eq!(*Signed::<NodeLeave>::decode(bytes("node_leave")).expect("a leave"), *leave());
    assert_eq!(*Signed::<NodeRemoval>::decode(bytes("node_removal")).expect("a removal"), *removal());
    assert_eq!(*Signed::<KeyRevocation>::decode(bytes("key_revocation")).expect("a revocation"), *revocation());
    assert_eq!(*Signed::<RootSuccessor>::decode(bytes("root_successor")).expect("a successor"), *successor());
    assert_eq!(SignedSuccession::decode(bytes("root_succession")), Ok(succession()));
    assert_eq!(*Signed::<ListRequest>::decode(bytes("list_request")).expect("a request"), *list_request());
    assert_eq!(*Signed::<Reachability>::decode(bytes("reachability")).expect("a statement"), *reachability());
    assert_eq!(*Signed::<Lease>::decode(bytes("lease")).expect("a lease"), *lease());
    assert_eq!(*Signed::<Ticket>::decode(bytes("ticket")).expect("a ticket"), *ticket());
    assert_eq!(*Signed::<IssuerGrant>::decode(bytes("admission_grant")).expect("a grant"), *grant());
    assert_eq!(TicketChain::decode(&bytes("ticket_by_grant")), Ok(ticket_by_grant()));
    assert_eq!(*Signed::<Beacon>::decode(bytes("beacon")).expect("a beacon"), *beacon());
    let directory = DirectoryBundle::decode(bytes("directory"), &[root().public()].into(), NOW).expect("a directory");
    assert_eq!(directory.records(NOW).collect::<Vec<_>>(), vec![record()]);
    let vectors: Value = serde_json::from_str(VECTORS).expect("JSON");
    let shard = read_shard(vectors["shard_text"].as_str().expect("a text").as_bytes(), NOW).expect("a shard");
    let urls: Vec<_> = shard.shard().nodes.iter().map(NodeEndpoint::url).collect();
    assert_eq!(urls, ["wss://relay.example", "ws://192.0.2.7:8710", "wss://[2001:db8::7]:8710"]);
    let proof = prove_attach(&inbox(), &[6; 32], &lease());
    assert!(verify_attach(&[6; 32], &lease(), &proof) && !verify_attach(&[7; 32], &lease(), &proof));
    let proof = prove_node(&node(), &[7; 32], &[6; 32], "ws://a");
    assert!(verify_node(&node().node_id(), &[7; 32], &[6; 32], "ws://a", &proof));
    assert!(!verify_node(&node().node_id(), &[7; 32], &[6; 32], "ws://b", &proof));
}

#[test]
fn a_statement_of_one_kind_does_not_decode_as_another() {
    assert!(Signed::<Lease>::decode(bytes("node_leave")).is_err());
    assert!(Signed::<NodeLeave>::decode(bytes("lease")).is_err());
}

#[test]
fn a_record_counts_in_its_federation_and_its_time_alone() {
    use chappe_common::record::RecordError::{Expired, Federation, Future};
    let record = record();
    assert_eq!(record.check(federation(), NOW), Ok(()));
    assert_eq!(record.check(FederationId::of_roots(&[]), NOW), Err(Federation));
    assert_eq!(record.check(federation(), NOW + Duration::from_secs(1800)), Err(Expired));
    assert_eq!(record.check(federation(), UnixTime::from_secs(NOW.as_secs() - 121)), Err(Future));
    assert_eq!(record.check(federation(), UnixTime::from_secs(NOW.as_secs() - 120)), Ok(()));
}

#[test]
fn a_higher_epoch_or_seq_replaces_a_record_and_never_the_other_way_round() {
    let old = record().into_value();
    let newer = NodeRecord { seq: old.seq + 1, ..old.clone() };
    let restarted = NodeRecord { epoch: old.epoch + 1, seq: 0, ..old.clone() };
    assert!(newer.supersedes(&old) && restarted.supersedes(&newer));
    assert!(!old.supersedes(&newer) && !newer.supersedes(&restarted) && !old.supersedes(&old));
    assert!(leave().ends(&old) && !leave().ends(&newer) && !leave().ends(&restarted));
}

#[test]
fn a_directory_changes_nothing_unless_all_of_it_holds() {
    use chappe_common::directory::DirectoryError::{Decode, Expired, Future, Root};
    let decode =
        |bytes: Vec<u8>, root: &SecretKey, now| DirectoryBundle::decode(bytes, &[root.public()].into(), now).err();
    let valid = bundle().encode();
    assert_eq!(decode(valid.clone(), &root(), NOW), None);
    assert_eq!(decode(valid.clone(), &node(), NOW), Some(Root));
    assert_eq!(decode(valid.clone(), &root(), NOW + Duration::from_secs(48 * 3600)), Some(Expired));
    assert_eq!(decode(valid.clone(), &root(), UnixTime::from_secs(NOW.as_secs() - 121)), Some(Future));
    let mut broken = valid.clone();
    *broken.last_mut().expect("not empty") ^= 1;
    assert_eq!(decode(broken, &root(), NOW), Some(Decode(DecodeError::Signature)));
    assert_eq!(decode(valid[..valid.len() - 1].to_vec(), &root(), NOW).map(|_| ()), Some(()));
}

#[test]
fn a_directory_whose_time_is_over_can_still_say_where_to_look() {
    let old =
        |root: &SecretKey, now| DirectoryBundle::decode_old(bundle().encode(), &[root.public()].into(), now).err();
    assert_eq!(old(&root(), NOW + Duration::from_secs(400 * 24 * 3600)), None);
    assert_eq!(old(&node(), NOW), Some(DirectoryError::Root));
    assert_eq!(old(&root(), UnixTime::from_secs(NOW.as_secs() - 121)), Some(DirectoryError::Future));
    let day = Duration::from_secs(24 * 3600);
    assert!(bundle().directory().is_fresh(NOW) && !bundle().directory().is_fresh(NOW + day));
}

#[test]
fn a_shard_fits_a_dns_record_and_stands_alone() {
    let full = |url: &dyn Fn(usize) -> String| {
        let urls: Vec<_> = (0..40).map(url).collect();
        shards(&urls.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let of_addresses = full(&|n| format!("wss://203.0.113.{n}:65535"));
    assert_eq!(of_addresses.iter().map(|piece| piece.shard().nodes.len()).collect::<Vec<_>>(), [14, 14, 12]);
    let of_names = full(&|n| format!("wss://{n:02}{}:65535", "a".repeat(56)));
    for (index, piece) in of_addresses.iter().enumerate().chain(of_names.iter().enumerate()) {
        let text = piece.to_text();
        assert!(text.len() <= MAX_SHARD_TEXT && piece.shard().nodes.len() <= MAX_SHARD_NODES, "{}", text.len());
        assert_eq!(usize::from(piece.shard().shard.0), index);
        assert!(txt_strings(&text).all(|part| part.len() <= MAX_TXT_STRING));
        assert_eq!(txt_strings(&text).collect::<String>(), text);
        assert_eq!(read_shard(text.as_bytes(), NOW).as_ref(), Ok(piece));
    }
    assert_eq!(of_names.iter().map(|piece| piece.shard().nodes.len()).sum::<usize>(), 40);
}

#[test]
fn a_shard_changes_nothing_unless_all_of_it_holds() {
    let roots = Roots::from([root().public()]);
    assert_eq!(ShardBundle::decode(b"v=spf1 -all", &roots, NOW), None, "a record for something else");
    let text = shard();
    let error =
        |text: &str, roots: &Roots, now| ShardBundle::decode(text.as_bytes(), roots, now).expect("a shard").err();
    assert_eq!(error(&text, &roots, NOW), None);
    assert_eq!(error(&text, &[node().public()].into(), NOW), Some(DirectoryError::Root));
    assert_eq!(error(&text, &roots, ISSUE.expires_at), Some(DirectoryError::Expired));
    assert_eq!(error(&text, &roots, UnixTime::from_secs(NOW.as_secs() - 121)), Some(DirectoryError::Future));
    let malformed = Some(DirectoryError::Decode(DecodeError::Malformed));
    assert_eq!(error(&format!("{text}="), &roots, NOW), malformed, "padding");
    let long = format!("{text}{}", "A".repeat(MAX_SHARD_TEXT));
    assert_eq!(error(&long, &roots, NOW), Some(DirectoryError::Decode(DecodeError::Length)));
    // A directory is no shard, although the same key has signed it.
    let directory = format!("chappe1={}", URL_SAFE_NO_PAD.encode(bundle().encode()));
    assert!(error(&directory, &roots, NOW).is_some());
    let leaping = Issue { seq: ISSUE.seq + 121_000, ..ISSUE };
    let endpoint = NodeEndpoint::new(node().node_id(), "ws://a").expect("an endpoint");
    let pieces = ShardBundle::sign_all(&delegation(), &[endpoint], leaping, &online()).expect("a shard");
    assert_eq!(error(&pieces[0].to_text(), &roots, NOW), Some(DirectoryError::Future));
}

proptest! {
    #[test]
    fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = Signed::<NodeRecord>::decode(bytes.clone());
        let _ = Signed::<NodeLeave>::decode(bytes.clone());
        let _ = Signed::<NodeRemoval>::decode(bytes.clone());
        let _ = Signed::<ListRequest>::decode(bytes.clone());
        let _ = Signed::<Lease>::decode(bytes.clone());
        let _ = Signed::<Ticket>::decode(bytes.clone());
        let _ = Signed::<Beacon>::decode(bytes.clone());
        let text = [b"chappe1=", URL_SAFE_NO_PAD.encode(&bytes).as_bytes()].concat();
        let _ = ShardBundle::decode(&text, &[root().public()].into(), NOW);
        let _ = ShardBundle::decode(&[b"chappe1=", bytes.as_slice()].concat(), &[root().public()].into(), NOW);
        let _ = DirectoryBundle::decode(bytes, &[root().public()].into(), NOW);
    }

    #[test]
    fn signed_statements_read_back(seq in any::<u64>(), key in any::<[u8; 32]>(), session_key in any::<[u8; 32]>()) {
        let key = SecretKey::from_bytes(&key);
        let lease = Lease {
            inbox: Inbox::new(key.public()), node: node().node_id(), session_key, access: AccessToken::from_bytes([9; 16]).hash(), seq, expires_at: NOW,
        };
        let signed = Signed::sign(lease.clone(), &key).expect("a lease");
        prop_assert_eq!(Signed::<Lease>::decode(signed.as_bytes().clone()).map(Signed::into_value), Ok(lease));
    }

    #[test]
    fn trailing_bytes_are_refused(extra in proptest::collection::vec(any::<u8>(), 1..20)) {
        let mut bytes = lease().as_bytes().to_vec();
        bytes.splice(bytes.len() - 64..bytes.len() - 64, extra);
        prop_assert!(Signed::<Lease>::decode(bytes).is_err());
    }
}
