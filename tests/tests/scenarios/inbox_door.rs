//! The inbox door by clients that speak raw frames: on one node, and across two.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{
    keys::SecretKey,
    lease::{Lease, MAX_LEASE},
    proof::verify_node,
    signed::Signed,
};
use chappe_testkit::{
    eventually,
    federation::{Federation, no_limits},
    raw::{Raw, attachment, inbox, lease, now_ms},
};
use serde_json::{Value, json};

async fn federation(count: usize) -> Federation {
    Federation::start(count, no_limits).await
}

fn url(federation: &Federation, node: usize) -> &str {
    federation.nodes[node].client_url()
}

/// The nodes of caller and callee, once the same and once two.
const PLACES: [(usize, usize); 2] = [(0, 0), (0, 1)];

async fn outcome(raw: &mut Raw, message: Value) -> Value {
    raw.send(message).await;
    raw.next().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_five_messages_reach_the_inbox_with_one_outcome_each() {
    let federation = federation(3).await;
    for (number, (from, at)) in PLACES.into_iter().enumerate() {
        let (key, address) = inbox(10 + u8::try_from(number).expect("small"));
        let mut callee = Raw::connect(url(&federation, at)).await;
        callee.attach(&key, now_ms()).await;
        let mut caller = Raw::connect(url(&federation, from)).await;
        for kind in ["call_offer", "call_answer", "call_ice", "call_reject", "call_hangup"] {
            let sent = json!({"type": kind, "to": address, "payload": "sealed \u{fc} \n", "id": kind});
            assert_eq!(outcome(&mut caller, sent).await, json!({"type": "delivered", "id": kind}));
            callee
                .expect_exactly(json!({"type": kind, "to": key.public().to_base64url(), "payload": "sealed \u{fc} \n"}))
                .await;
        }
        // Without an id there is no outcome; the message arrives all the same.
        caller.send(json!({"type": "call_ice", "to": address, "payload": "quiet"})).await;
        assert_eq!(callee.expect("call_ice").await["payload"], "quiet");
        caller.expect_silence().await;
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_count_a_tenth_only_to_an_inbox_that_is_known() {
    let federation = Federation::start(1, |config| config.limits.messages_per_minute = 6).await;
    let (key, address) = inbox(21);
    let mut callee = Raw::connect(url(&federation, 0)).await;
    callee.attach(&key, now_ms()).await;
    let mut caller = Raw::connect(url(&federation, 0)).await;
    let ice = |to: &str| json!({"type": "call_ice", "to": to, "payload": "c", "id": "c"});
    for _ in 0..20 {
        assert_eq!(outcome(&mut caller, ice(&address)).await["type"], "delivered");
    }
    // Two of six messages are used up. Each of these is a lookup.
    let nobody = inbox(22).1;
    for _ in 0..4 {
        assert_eq!(outcome(&mut caller, ice(&nobody)).await["code"], "peer_offline");
    }
    assert_eq!(outcome(&mut caller, ice(&nobody)).await["code"], "rate_limited");
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_from_one_sender_to_one_inbox_stay_in_order() {
    let federation = federation(3).await;
    for (number, (from, at)) in PLACES.into_iter().enumerate() {
        let (key, address) = inbox(20 + u8::try_from(number).expect("small"));
        let mut callee = Raw::connect(url(&federation, at)).await;
        callee.attach(&key, now_ms()).await;
        let mut caller = Raw::connect(url(&federation, from)).await;
        for n in 0..500 {
            let id = n.to_string();
            caller.send(json!({"type": "call_ice", "to": address, "payload": id, "id": id})).await;
        }
        for n in 0..500 {
            assert_eq!(callee.expect("call_ice").await["payload"], n.to_string());
        }
        let mut delivered = Vec::new();
        for _ in 0..500 {
            delivered.push(caller.expect("delivered").await["id"].as_str().expect("an id").parse::<u32>());
        }
        assert!(delivered.into_iter().eq((0..500).map(Ok)));
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unattached_inbox_is_offline_for_messages_and_lookups() {
    let federation = federation(3).await;
    let (_, address) = inbox(30);
    let mut raw = Raw::connect(url(&federation, 0)).await;
    let offline = |id: &str| json!({"type": "error", "code": "peer_offline", "message": "Nobody is connected at this inbox", "id": id});
    let sent = json!({"type": "call_offer", "to": address, "payload": "x", "id": "1"});
    assert_eq!(outcome(&mut raw, sent).await, offline("1"));
    let asked = json!({"type": "resolve", "id": "2", "address": address});
    assert_eq!(outcome(&mut raw, asked).await, offline("2"));
    raw.send(json!({"type": "call_offer", "to": address, "payload": "x"})).await;
    raw.expect_silence().await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_gives_the_lease_that_the_inbox_has_signed() {
    let federation = federation(3).await;
    for (number, (from, at)) in PLACES.into_iter().enumerate() {
        let (key, address) = inbox(40 + u8::try_from(number).expect("small"));
        let mut callee = Raw::connect(url(&federation, at)).await;
        let seq = now_ms();
        callee.attach(&key, seq).await;
        let mut caller = Raw::connect(url(&federation, from)).await;
        caller.send(json!({"type": "resolve", "id": "r", "address": address})).await;
        let resolved = caller.expect("resolved").await;
        let bytes = URL_SAFE_NO_PAD.decode(resolved["lease"].as_str().expect("a text")).expect("base64url");
        let lease = Signed::<Lease>::decode(bytes).expect("a signed lease");
        assert_eq!((lease.node, lease.seq, lease.session_key), (callee.node(), seq, [7; 32]));
        assert_eq!(lease.inbox.key(), &key.public());
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_without_the_proof_for_this_session_attaches_nothing() {
    let federation = federation(3).await;
    let (key, address) = inbox(50);
    let hour = Duration::from_secs(600);
    let mut raw = Raw::connect(url(&federation, 0)).await;
    let other = Raw::connect(url(&federation, 1)).await;
    let stranger = SecretKey::from_bytes(&[51; 32]);
    let good = lease(&key, raw.node(), now_ms(), hour);
    let wrong = [
        ("a proof for another session", attachment(&key, &other.nonce(), &good)),
        ("a proof by another key", attachment(&stranger, &raw.nonce(), &good)),
        ("a lease for another node", raw_item(&key, &raw, &lease(&key, other.node(), now_ms(), hour))),
        ("a lease that lasts too long", raw_item(&key, &raw, &lease(&key, raw.node(), now_ms(), MAX_LEASE * 2))),
        ("a lease that has ended", raw_item(&key, &raw, &lease(&key, raw.node(), now_ms(), Duration::ZERO))),
        ("a lease from the future", raw_item(&key, &raw, &lease(&key, raw.node(), now_ms() + 3_600_000, hour))),
        ("no lease", json!({"lease": "AAAA", "proof": "AAAA"})),
        ("no base64", json!({"lease": "?", "proof": "?"})),
    ];
    for (what, item) in wrong {
        raw.send(json!({"type": "attach", "id": "a", "inboxes": [item]})).await;
        let answer = raw.expect("attached").await;
        assert_eq!(answer["rejected"], json!([{"index": 0, "code": "bad_lease"}]), "{what}");
    }
    let mut caller = Raw::connect(url(&federation, 0)).await;
    caller.send(json!({"type": "resolve", "id": "r", "address": address})).await;
    assert_eq!(caller.expect("error").await["code"], "peer_offline");
    // One bad lease rejects nothing but itself.
    let items = json!([json!({"lease": "AAAA", "proof": "AAAA"}), attachment(&key, &raw.nonce(), &good)]);
    raw.send(json!({"type": "attach", "id": "a", "inboxes": items})).await;
    let answer = raw.expect("attached").await;
    assert_eq!(answer["rejected"], json!([{"index": 0, "code": "bad_lease"}]));
    assert!((295..=300).contains(&answer["ttl"].as_u64().expect("seconds")), "{answer}");
    federation.shutdown().await;
}

fn raw_item(key: &SecretKey, raw: &Raw, lease: &Signed<Lease>) -> Value {
    attachment(key, &raw.nonce(), lease)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_attaches_no_more_inboxes_than_it_may() {
    let federation = Federation::start(1, |config| {
        no_limits(config);
        config.limits.max_inboxes = 2;
    })
    .await;
    let mut raw = Raw::connect(url(&federation, 0)).await;
    let items: Vec<_> = (60..63).map(|n| raw.attachment(&inbox(n).0, now_ms(), Duration::from_secs(600))).collect();
    raw.send(json!({"type": "attach", "id": "a", "inboxes": items})).await;
    assert_eq!(raw.expect("attached").await["rejected"], json!([{"index": 2, "code": "too_many"}]));
    // What is attached can be attached anew; and what is detached makes room.
    raw.attach(&inbox(60).0, now_ms() + 1).await;
    raw.send(json!({"type": "detach", "id": "d", "inboxes": [inbox(60).0.public().to_base64url()]})).await;
    raw.expect_exactly(json!({"type": "detached", "id": "d"})).await;
    raw.attach(&inbox(62).0, now_ms()).await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_lease_counts_a_tenth_of_a_message() {
    let federation = Federation::start(1, |config| config.limits.messages_per_minute = 2).await;
    let mut raw = Raw::connect(url(&federation, 0)).await;
    let items: Vec<_> = (70..82).map(|n| raw.attachment(&inbox(n).0, now_ms(), Duration::from_secs(600))).collect();
    raw.send(json!({"type": "attach", "id": "a", "inboxes": items})).await;
    // One of two messages for itself, and ten leases for the other.
    let limited = |index: u32| json!({"index": index, "code": "rate_limited"});
    assert_eq!(raw.expect("attached").await["rejected"], json!([limited(10), limited(11)]));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reconnects_elsewhere_keeps_its_address_at_once() {
    let federation = federation(3).await;
    let (key, address) = inbox(70);
    let mut caller = Raw::connect(url(&federation, 0)).await;
    let mut former = Raw::connect(url(&federation, 1)).await;
    let mut seq = now_ms();
    former.attach(&key, seq).await;
    let offer = |id: usize| json!({"type": "call_ice", "to": address, "payload": "x", "id": id.to_string()});
    assert_eq!(outcome(&mut caller, offer(0)).await["type"], "delivered");
    former.expect("call_ice").await;
    // The former session is still open, and the caller's node has cached its lease.
    for (round, node) in [2, 0, 1, 1, 2].into_iter().enumerate() {
        let mut latter = Raw::connect(url(&federation, node)).await;
        seq += 1;
        latter.attach(&key, seq).await;
        assert_eq!(outcome(&mut caller, offer(round + 1)).await["type"], "delivered", "round {round}");
        latter.expect("call_ice").await;
        former.expect_silence().await;
        former = latter;
    }
    // An older lease does not take it back.
    let mut late = Raw::connect(url(&federation, 0)).await;
    let item = late.attachment(&key, seq - 1, Duration::from_secs(600));
    late.send(json!({"type": "attach", "id": "a", "inboxes": [item]})).await;
    let rejected = late.expect("attached").await["rejected"][0].clone();
    assert_eq!((&rejected["index"], &rejected["code"]), (&json!(0), &json!("bad_lease")));
    let newer = URL_SAFE_NO_PAD.decode(rejected["lease"].as_str().expect("a text")).expect("base64url");
    assert_eq!(Signed::<Lease>::decode(newer).expect("a signed lease").seq, seq);
    assert_eq!(outcome(&mut caller, offer(9)).await["type"], "delivered");
    former.expect("call_ice").await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_or_left_inbox_is_offline_everywhere() {
    let federation = federation(3).await;
    let (key, address) = inbox(80);
    let mut caller = Raw::connect(url(&federation, 0)).await;
    let mut callee = Raw::connect(url(&federation, 1)).await;
    callee.attach(&key, now_ms()).await;
    callee.send(json!({"type": "detach", "id": "d", "inboxes": [key.public().to_base64url()]})).await;
    callee.expect_exactly(json!({"type": "detached", "id": "d"})).await;
    eventually("the homes forget the lease", || federation.nodes.iter().all(|node| node.stats().leases == 0)).await;
    caller.send(json!({"type": "resolve", "id": "r", "address": address})).await;
    assert_eq!(caller.expect("error").await["code"], "peer_offline");
    callee.attach(&key, now_ms() + 1).await;
    caller.send(json!({"type": "resolve", "id": "r", "address": address})).await;
    caller.expect("resolved").await;
    drop(callee);
    eventually("the homes forget the lease", || federation.nodes.iter().all(|node| node.stats().leases == 0)).await;
    caller.send(json!({"type": "call_hangup", "to": address, "payload": "x", "id": "h"})).await;
    assert_eq!(caller.expect("error").await["code"], "peer_offline");
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_to_one_inbox_have_their_own_rate() {
    let federation = Federation::start(2, |config| config.limits.offers_per_minute = 2).await;
    let (key, address) = inbox(90);
    let mut callee = Raw::connect(url(&federation, 1)).await;
    callee.attach(&key, now_ms()).await;
    let mut caller = Raw::connect(url(&federation, 0)).await;
    let offer = |id: &str| json!({"type": "call_offer", "to": address, "payload": "x", "id": id});
    assert_eq!(outcome(&mut caller, offer("1")).await["type"], "delivered");
    assert_eq!(outcome(&mut caller, offer("2")).await["type"], "delivered");
    assert_eq!(outcome(&mut caller, offer("3")).await["code"], "rate_limited");
    let other = json!({"type": "call_hangup", "to": address, "payload": "x", "id": "4"});
    assert_eq!(outcome(&mut caller, other).await["type"], "delivered");
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_is_a_text_of_at_most_48_kib() {
    let federation = federation(2).await;
    let (key, address) = inbox(100);
    let mut callee = Raw::connect(url(&federation, 1)).await;
    callee.attach(&key, now_ms()).await;
    let mut caller = Raw::connect(url(&federation, 0)).await;
    let send = |payload: Value| json!({"type": "call_offer", "to": address, "payload": payload, "id": "p"});
    let largest = "x".repeat(48 * 1024);
    assert_eq!(outcome(&mut caller, send(json!(largest))).await["type"], "delivered");
    assert_eq!(callee.expect("call_offer").await["payload"], largest);
    assert_eq!(outcome(&mut caller, send(json!(largest + "x"))).await["code"], "too_large");
    assert_eq!(outcome(&mut caller, send(json!({"not": "a text"}))).await["code"], "bad_message");
    assert_eq!(
        outcome(&mut caller, json!({"type": "call_offer", "to": "short", "payload": "x", "id": "p"})).await["code"],
        "bad_message"
    );
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_proves_its_key_for_its_own_url_alone() {
    let federation = federation(1).await;
    let url = url(&federation, 0).to_owned();
    let mut raw = Raw::connect(&url).await;
    let challenge = [3; 32];
    let ask =
        |url: &str| json!({"type": "prove", "id": "p", "challenge": URL_SAFE_NO_PAD.encode(challenge), "url": url});
    raw.send(ask(&url)).await;
    let proof = raw.expect("proof").await;
    let signature = URL_SAFE_NO_PAD.decode(proof["signature"].as_str().expect("a text")).expect("base64url");
    let signature = signature.try_into().expect("64 bytes");
    assert!(verify_node(&raw.node(), &challenge, &raw.nonce(), &url, &signature));
    assert!(!verify_node(&raw.node(), &[4; 32], &raw.nonce(), &url, &signature));
    raw.send(ask("wss://elsewhere.example")).await;
    assert_eq!(raw.expect("error").await["code"], "bad_message");
    // Each costs a signature.
    for _ in 0..12 {
        raw.send(ask(&url)).await;
    }
    assert_eq!(raw.close_code().await, Some(1008));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ice_servers_come_with_credentials_that_end() {
    let federation = Federation::start(1, |config| {
        config.ice.credential_lifetime = Duration::from_secs(600);
        config.ice.servers = serde_json::from_value(json!([
            {"urls": ["stun:stun.example:3478"]},
            {"urls": ["turn:turn.example:3478?transport=udp"], "secret": "north"},
        ]))
        .expect("servers");
    })
    .await;
    let mut raw = Raw::connect(url(&federation, 0)).await;
    let ask = json!({"type": "get_ice_servers", "id": "i"});
    raw.send(ask.clone()).await;
    let refused = raw.expect("error").await;
    assert_eq!(
        (&refused["id"], &refused["code"]),
        (&json!("i"), &json!("not_registered")),
        "passwords are not for all"
    );
    raw.attach(&inbox(1).0, now_ms()).await;
    raw.send(ask.clone()).await;
    let answer = raw.expect("ice_servers").await;
    assert_eq!((&answer["id"], &answer["ttl"]), (&json!("i"), &json!(600)));
    assert_eq!(answer["iceServers"][0], json!({"urls": ["stun:stun.example:3478"]}));
    let turn = &answer["iceServers"][1];
    let expiry: u64 =
        turn["username"].as_str().and_then(|name| name.split(':').next()).expect("a name").parse().expect("a time");
    assert!(expiry.abs_diff(now_ms() / 1000 + 600) <= 5);
    assert!(turn["credential"].as_str().is_some_and(|text| text.len() == 28));
    for _ in 0..10 {
        raw.send(ask.clone()).await;
    }
    for _ in 0..9 {
        raw.expect("ice_servers").await;
    }
    assert_eq!(raw.expect("error").await["code"], "rate_limited");

    // By the code door, who has paired.
    let (one, two) = ("AAACCC".to_owned(), "AAADDD".to_owned());
    let (mut asks, mut answers) =
        (Raw::register(url(&federation, 0), &one).await, Raw::register(url(&federation, 0), &two).await);
    asks.send(ask.clone()).await;
    assert_eq!(asks.expect("error").await["code"], "not_registered");
    asks.send(json!({"type": "pair_request", "targetCode": two})).await;
    answers.expect("pair_incoming").await;
    answers.send(json!({"type": "pair_response", "targetCode": one, "accepted": true})).await;
    for side in [&mut asks, &mut answers] {
        side.expect("pair_matched").await;
        side.send(ask.clone()).await;
        side.expect("ice_servers").await;
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_is_down_for_all_and_its_inboxes_are_nowhere() {
    let mut federation = federation(4).await;
    let (key, address) = inbox(110);
    let mut callee = Raw::connect(url(&federation, 3)).await;
    callee.attach(&key, now_ms()).await;
    let mut caller = Raw::connect(url(&federation, 0)).await;
    caller.send(json!({"type": "resolve", "id": "r", "address": address})).await;
    caller.expect("resolved").await;
    // Dropped without a word: the process is killed.
    drop(federation.nodes.pop());
    federation.settle().await;
    caller.send(json!({"type": "call_offer", "to": address, "payload": "x", "id": "o"})).await;
    assert_eq!(caller.expect("error").await["code"], "peer_offline");
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_survives_the_death_of_one_of_its_homes() {
    let mut federation = federation(5).await;
    let mut callee = Raw::connect(url(&federation, 0)).await;
    let mut addresses = Vec::new();
    for n in 120..132 {
        let (key, address) = inbox(n);
        callee.attach(&key, now_ms()).await;
        addresses.push(address);
    }
    drop(federation.nodes.pop());
    federation.settle().await;
    // Every lease has three homes again.
    eventually("the leases are registered anew", || {
        federation.nodes.iter().map(|node| node.stats().leases).sum::<usize>() == 3 * addresses.len()
    })
    .await;
    let mut caller = Raw::connect(url(&federation, 1)).await;
    for address in &addresses {
        caller.send(json!({"type": "call_ice", "to": address, "payload": "x", "id": "o"})).await;
        caller.expect_exactly(json!({"type": "delivered", "id": "o"})).await;
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_sends_its_clients_other_nodes() {
    let mut federation = federation(3).await;
    let mut raw = Raw::connect(url(&federation, 2)).await;
    let node = federation.nodes.pop().expect("three nodes");
    let stopping = tokio::spawn(node.shutdown());
    let told = raw.expect("going_away").await;
    assert_eq!(told["reason"], "shutdown");
    let others: Vec<_> = federation.nodes.iter().map(chappe_node::Node::id).collect();
    let records = told["nodes"].as_array().expect("a list");
    assert_eq!(records.len(), 2);
    for record in records {
        let bytes = URL_SAFE_NO_PAD.decode(record.as_str().expect("a text")).expect("base64url");
        let record = Signed::<chappe_common::record::NodeRecord>::decode(bytes).expect("a signed record");
        assert!(others.contains(&record.node));
    }
    // It stays for the grace time, and is closed at its end.
    assert_eq!(raw.close_code().await, Some(1001));
    stopping.await.expect("a clean stop");
    federation.settle().await;
    federation.shutdown().await;
}
