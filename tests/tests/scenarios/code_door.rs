//! The code door, row by row, by clients that speak raw frames: on one node, and across two.

use std::time::{Duration, Instant};

use chappe_node::NodeConfig;
use chappe_testkit::{
    eventually,
    federation::{Federation, no_limits},
    raw::{Raw, key_of},
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

const A: &str = "AAAAAA";
const B: &str = "BBBBBB";
const C: &str = "CCCCCC";
const PAIR_ERROR: &str = "Pair request could not be processed";
const LINK_ERROR: &str = "Link request could not be processed";

/// Times short enough to wait for.
fn quick(config: &mut NodeConfig) {
    config.times.pair_request = Duration::from_millis(2500);
    config.times.pair_warning = Duration::from_millis(1500);
    config.times.pair_error = Duration::from_millis(400);
}

fn quick_no_limits(config: &mut NodeConfig) {
    quick(config);
    no_limits(config);
}

/// A federation and where the two clients of a scenario connect.
struct Place {
    federation: Federation,
    a: String,
    b: String,
}

impl Place {
    async fn new(cross: bool, change: impl Fn(&mut NodeConfig)) -> Self {
        let federation = Federation::start(if cross { 3 } else { 1 }, change).await;
        let a = federation.nodes[0].client_url().to_owned();
        let b = federation.nodes[usize::from(cross)].client_url().to_owned();
        Self { federation, a, b }
    }

    async fn two(&self) -> (Raw, Raw) {
        (Raw::register(&self.a, A).await, Raw::register(&self.b, B).await)
    }

    async fn paired(&self) -> (Raw, Raw) {
        let (mut a, mut b) = self.two().await;
        pair(&mut a, A, &mut b, B).await;
        (a, b)
    }
}

async fn pair(a: &mut Raw, a_code: &str, b: &mut Raw, b_code: &str) {
    a.send(json!({"type": "pair_request", "targetCode": b_code})).await;
    b.expect("pair_incoming").await;
    b.send(json!({"type": "pair_response", "targetCode": a_code, "accepted": true})).await;
    b.expect("pair_matched").await;
    a.expect("pair_matched").await;
}

/// Runs a scenario with both clients at one node, and at two.
macro_rules! both_ways {
    ($($(#[$doc:meta])* $name:ident($place:ident, $change:expr) $body:block)*) => {
        mod same_node {
            use super::*;
            $($(#[$doc])* #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let $place = Place::new(false, $change).await;
                $body
                $place.federation.shutdown().await;
            })*
        }
        mod cross_node {
            use super::*;
            $($(#[$doc])* #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let $place = Place::new(true, $change).await;
                $body
                $place.federation.shutdown().await;
            })*
        }
    };
}

both_ways! {
    a_registration_is_answered_and_a_taken_code_collides(place, quick_no_limits) {
        let mut a = Raw::connect(&place.a).await;
        let server = a.server_info["serverId"].clone();
        a.send(json!({"type": "register", "pairingCode": A, "publicKey": key_of(A)})).await;
        a.expect_exactly(json!({"type": "registered", "pairingCode": A, "serverId": server})).await;
        let mut b = Raw::connect(&place.b).await;
        b.send(json!({"type": "register", "pairingCode": A, "publicKey": key_of(B)})).await;
        let collision = b.expect("code_collision").await;
        assert!(collision["message"].as_str().is_some_and(|text| !text.contains(A)));
        // Who has the code may register it again, and the other may take another.
        a.send(json!({"type": "register", "pairingCode": A, "publicKey": key_of(A)})).await;
        a.expect("registered").await;
        b.send(json!({"type": "register", "pairingCode": B, "publicKey": key_of(B)})).await;
        b.expect("registered").await;
    }

    a_code_is_free_again_when_its_session_has_ended_or_has_another(place, quick_no_limits) {
        let mut a = Raw::register(&place.a, A).await;
        a.send(json!({"type": "register", "pairingCode": C, "publicKey": key_of(A)})).await;
        a.expect("registered").await;
        let mut b = register_eventually(&place.b, A).await;
        b.expect_silence().await;
        drop(a);
        register_eventually(&place.b, C).await;
    }

    an_accepted_pair_request_matches_both(place, quick_no_limits) {
        let (mut a, mut b) = place.two().await;
        a.send(json!({"type": "pair_request", "targetCode": B, "proposedName": "Ann", "payload": {"n": 1}})).await;
        b.expect_exactly(json!({
            "type": "pair_incoming", "fromCode": A, "fromPublicKey": key_of(A), "expiresIn": 2500,
            "proposedName": "Ann", "payload": {"n": 1},
        })).await;
        b.send(json!({"type": "pair_response", "targetCode": A, "accepted": true, "payload": [2]})).await;
        b.expect_exactly(json!({
            "type": "pair_matched", "peerCode": A, "peerPublicKey": key_of(A), "isInitiator": false,
            "payload": {"n": 1},
        })).await;
        a.expect_exactly(json!({
            "type": "pair_matched", "peerCode": B, "peerPublicKey": key_of(B), "isInitiator": true, "payload": [2],
        })).await;
    }

    optional_fields_are_left_out_and_the_registered_payload_stands_in(place, quick_no_limits) {
        let mut a = Raw::connect(&place.a).await;
        a.send(json!({"type": "register", "pairingCode": A, "publicKey": key_of(A), "payload": "from a"})).await;
        a.expect("registered").await;
        let mut b = Raw::register(&place.b, B).await;
        a.send(json!({"type": "pair_request", "targetCode": B})).await;
        b.expect_exactly(json!({
            "type": "pair_incoming", "fromCode": A, "fromPublicKey": key_of(A), "expiresIn": 2500,
            "payload": "from a",
        })).await;
        b.send(json!({"type": "pair_response", "targetCode": A, "accepted": true})).await;
        a.expect_exactly(json!({
            "type": "pair_matched", "peerCode": B, "peerPublicKey": key_of(B), "isInitiator": true,
        })).await;
    }

    a_declined_pair_request_is_told_to_the_requester_alone(place, quick_no_limits) {
        let (mut a, mut b) = place.two().await;
        a.send(json!({"type": "pair_request", "targetCode": B})).await;
        b.expect("pair_incoming").await;
        b.send(json!({"type": "pair_response", "targetCode": A, "accepted": false})).await;
        a.expect_exactly(json!({"type": "pair_rejected", "peerCode": B})).await;
        b.expect_silence().await;
        // It is answered, so a second answer finds nothing.
        b.send(json!({"type": "pair_response", "targetCode": A, "accepted": true})).await;
        b.expect_exactly(json!({"type": "pair_error", "error": "No pending request from this peer"})).await;
    }

    every_forwarded_kind_reaches_the_peer_as_it_was_sent(place, quick_no_limits) {
        let (mut a, mut b) = place.paired().await;
        for kind in
            ["offer", "answer", "ice_candidate", "call_offer", "call_answer", "call_reject", "call_hangup", "call_ice"]
        {
            let payload = json!({"kind": kind, "sdp": "v=0\r\n", "list": [1, null, {"x": "ü"}]});
            a.send(json!({"type": kind, "target": B, "payload": payload})).await;
            b.expect_exactly(json!({"type": kind, "from": A, "payload": payload})).await;
            b.send(json!({"type": kind, "target": A, "payload": "back"})).await;
            a.expect_exactly(json!({"type": kind, "from": B, "payload": "back"})).await;
        }
        // The bytes of a payload are not rewritten.
        a.send_text(format!("{{\"type\":\"offer\",\"target\":\"{B}\",\"payload\":{{ \"b\" : 1.0,\"a\":\"\\u0041\" }} }}")).await;
        assert_eq!(b.next_text().await, format!("{{\"type\":\"offer\",\"from\":\"{A}\",\"payload\":{{ \"b\" : 1.0,\"a\":\"\\u0041\" }}}}"));
    }

    messages_of_one_sender_stay_in_order(place, quick_no_limits) {
        let (mut a, mut b) = place.paired().await;
        for n in 0..300 {
            a.send(json!({"type": "ice_candidate", "target": B, "payload": n})).await;
        }
        for n in 0..300 {
            b.expect_exactly(json!({"type": "ice_candidate", "from": A, "payload": n})).await;
        }
    }

    a_forwarded_message_with_an_id_has_exactly_one_outcome(place, quick_no_limits) {
        let (mut a, mut b) = place.paired().await;
        a.send(json!({"type": "call_offer", "target": B, "payload": 1, "id": "one"})).await;
        b.expect("call_offer").await;
        a.expect_exactly(json!({"type": "delivered", "id": "one"})).await;
        a.send(json!({"type": "call_offer", "target": C, "payload": 1, "id": "two"})).await;
        a.expect_exactly(json!({
            "type": "error", "code": "peer_offline", "message": format!("Peer not found: {C}"), "id": "two",
        })).await;
        a.expect_silence().await;
    }

    without_a_pairing_nothing_is_forwarded(place, quick_no_limits) {
        let (mut a, mut b) = place.two().await;
        for target in [B, C, "nonsense"] {
            a.send(json!({"type": "offer", "target": target, "payload": 1})).await;
            a.expect_error("peer_offline", &format!("Peer not found: {target}")).await;
        }
        b.expect_silence().await;
    }

    a_pairing_ends_with_the_session_of_either_side(place, quick_no_limits) {
        let (mut a, b) = place.paired().await;
        drop(b);
        until_offline(&mut a, B).await;
        // Under the same code somebody else is a stranger.
        let mut stranger = register_eventually(&place.b, B).await;
        a.send(json!({"type": "offer", "target": B, "payload": 1})).await;
        a.expect_error("peer_offline", &format!("Peer not found: {B}")).await;
        stranger.expect_silence().await;
    }

    what_is_wrong_with_a_pair_request_is_not_told_and_takes_the_same_time(place, |config: &mut NodeConfig| {
        quick_no_limits(config);
        config.times.pair_request = Duration::from_secs(60);
    }) {
        let mut a = Raw::register(&place.a, A).await;
        let mut target = Raw::register(&place.b, B).await;
        let mut others = Vec::new();
        for letter in "ABCDEFGHJK".chars() {
            let mut other = Raw::register(&place.a, &format!("DDDDD{letter}")).await;
            other.send(json!({"type": "pair_request", "targetCode": B})).await;
            target.expect("pair_incoming").await;
            others.push(other);
        }
        let mut times = Vec::new();
        for (what, code) in [("nobody's code", C), ("one's own code", A), ("a target with ten requests", B)] {
            let asked = Instant::now();
            a.send(json!({"type": "pair_request", "targetCode": code})).await;
            let error = a.next().await;
            assert_eq!(error, json!({"type": "pair_error", "error": PAIR_ERROR}), "{what}");
            times.push(asked.elapsed());
        }
        for time in &times {
            assert!(*time >= Duration::from_millis(390), "{times:?}");
        }
        target.expect_silence().await;
        // A repeated request by one of the ten replaces its own.
        others[3].send(json!({"type": "pair_request", "targetCode": B, "proposedName": "again"})).await;
        assert_eq!(target.expect("pair_incoming").await["proposedName"], "again");
    }

    a_pair_request_warns_both_and_ends_for_the_requester(place, quick_no_limits) {
        let (mut a, mut b) = place.two().await;
        let asked = Instant::now();
        a.send(json!({"type": "pair_request", "targetCode": B})).await;
        b.expect("pair_incoming").await;
        a.expect_exactly(json!({"type": "pair_expiring", "peerCode": B, "remainingSeconds": 1})).await;
        assert!(asked.elapsed() >= Duration::from_millis(990));
        b.expect_exactly(json!({"type": "pair_expiring", "peerCode": A, "remainingSeconds": 1})).await;
        a.expect_exactly(json!({"type": "pair_timeout", "peerCode": B})).await;
        assert!(asked.elapsed() >= Duration::from_millis(2490));
        tokio::time::sleep(Duration::from_millis(100)).await;
        b.send(json!({"type": "pair_response", "targetCode": A, "accepted": true})).await;
        b.expect_exactly(json!({"type": "pair_error", "error": "No pending request from this peer"})).await;
    }

    a_request_ends_with_the_session_that_made_it(place, quick_no_limits) {
        let (mut a, mut b) = place.two().await;
        a.send(json!({"type": "pair_request", "targetCode": B})).await;
        b.expect("pair_incoming").await;
        drop(a);
        tokio::time::sleep(Duration::from_millis(500)).await;
        b.send(json!({"type": "pair_response", "targetCode": A, "accepted": true})).await;
        b.expect_exactly(json!({"type": "pair_error", "error": "No pending request from this peer"})).await;
    }

    an_accepted_link_request_matches_both_devices_and_they_can_talk(place, quick_no_limits) {
        let (mut web, mut phone) = place.two().await;
        let web_key = key_of("W");
        web.send(json!({"type": "link_request", "linkCode": B, "publicKey": web_key, "deviceName": "Browser"})).await;
        phone.expect_exactly(json!({
            "type": "link_request", "linkCode": B, "publicKey": web_key, "deviceName": "Browser", "expiresIn": 2500,
        })).await;
        phone.send(json!({"type": "link_response", "linkCode": B, "accepted": true, "deviceId": "dev-1"})).await;
        phone.expect_exactly(json!({
            "type": "link_matched", "linkCode": B, "peerPublicKey": web_key, "isInitiator": false,
            "webClientCode": A, "deviceName": "Browser",
        })).await;
        web.expect_exactly(json!({
            "type": "link_matched", "linkCode": B, "peerPublicKey": key_of(B), "isInitiator": true, "deviceId": "dev-1",
        })).await;
        web.send(json!({"type": "offer", "target": B, "payload": 1})).await;
        phone.expect_exactly(json!({"type": "offer", "from": A, "payload": 1})).await;
        phone.send(json!({"type": "answer", "target": A, "payload": 2})).await;
        web.expect_exactly(json!({"type": "answer", "from": B, "payload": 2})).await;
    }

    a_declined_link_request_is_told_to_the_asking_device(place, quick_no_limits) {
        let (mut web, mut phone) = place.two().await;
        web.send(json!({"type": "link_request", "linkCode": B, "publicKey": key_of(A)})).await;
        phone.expect("link_request").await;
        phone.send(json!({"type": "link_response", "linkCode": B, "accepted": false})).await;
        web.expect_exactly(json!({"type": "link_rejected", "linkCode": B})).await;
        phone.expect_silence().await;
    }

    a_link_request_ends_for_both(place, quick_no_limits) {
        let (mut web, mut phone) = place.two().await;
        web.send(json!({"type": "link_request", "linkCode": B, "publicKey": key_of(A)})).await;
        phone.expect("link_request").await;
        web.expect_exactly(json!({"type": "link_timeout", "linkCode": B})).await;
        phone.expect_exactly(json!({"type": "link_timeout", "linkCode": B})).await;
    }

    what_is_wrong_with_a_link_request_or_response_is_not_told(place, quick_no_limits) {
        let (mut web, mut phone) = place.two().await;
        let error = json!({"type": "link_error", "error": LINK_ERROR});
        for code in [C, A] {
            web.send(json!({"type": "link_request", "linkCode": code, "publicKey": key_of(A)})).await;
            web.expect_exactly(error.clone()).await;
        }
        for code in [B, A] {
            phone.send(json!({"type": "link_response", "linkCode": code, "accepted": true})).await;
            phone.expect_exactly(error.clone()).await;
        }
        // One device's request waits: another's can't.
        web.send(json!({"type": "link_request", "linkCode": B, "publicKey": key_of(A)})).await;
        phone.expect("link_request").await;
        let mut other = Raw::register(&place.a, C).await;
        other.send(json!({"type": "link_request", "linkCode": B, "publicKey": key_of(C)})).await;
        other.expect_exactly(error).await;
    }
}

/// Registers a code that its former session is about to give back.
async fn register_eventually(url: &str, code: &str) -> Raw {
    let mut raw = Raw::connect(url).await;
    for _ in 0..100 {
        raw.send(json!({"type": "register", "pairingCode": code, "publicKey": key_of(code)})).await;
        if raw.next().await["type"] == "registered" {
            return raw;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the code never became free");
}

/// Sends until the peer is known to be gone.
async fn until_offline(raw: &mut Raw, target: &str) {
    for n in 0..100 {
        raw.send(json!({"type": "offer", "target": target, "payload": 1, "id": n.to_string()})).await;
        let outcome = raw.next().await;
        if outcome["type"] == "error" {
            assert_eq!(
                (&outcome["code"], &outcome["message"]),
                (&json!("peer_offline"), &json!(format!("Peer not found: {target}")),)
            );
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the peer never went offline");
}

async fn one_node(change: impl Fn(&mut NodeConfig)) -> (Federation, Raw) {
    let federation = Federation::start(1, change).await;
    let raw = Raw::connect(federation.nodes[0].client_url()).await;
    (federation, raw)
}

#[tokio::test]
async fn a_node_identifies_itself_on_both_paths() {
    let (federation, raw) = one_node(|config| config.node.region = "eu-west".into()).await;
    let node = &federation.nodes[0];
    assert_eq!(raw.server_info["serverId"], node.id().to_server_id());
    assert_eq!(raw.server_info["endpoint"], node.client_url());
    assert_eq!(raw.server_info["region"], "eu-west");
    assert_eq!(raw.server_info["protocol"], 1);
    assert_ne!(raw.nonce(), [0; 32]);
    let other = Raw::connect(&format!("{}/ws", node.client_url())).await;
    assert_ne!(other.nonce(), raw.nonce());
    federation.shutdown().await;
}

#[tokio::test]
async fn every_error_has_its_text_and_leaves_the_connection_open() {
    let (federation, mut raw) = one_node(quick_no_limits).await;
    let key = key_of(A);
    let not_registered = ("not_registered", "Not registered. Send register message first.");
    let unregistered: Vec<(Value, (&str, &str))> = vec![
        (json!({"type": "register"}), ("bad_message", "Missing required field: pairingCode")),
        (json!({"type": "register", "pairingCode": A}), ("bad_message", "Missing required field: publicKey")),
        (
            json!({"type": "register", "pairingCode": "abc", "publicKey": key}),
            ("bad_message", "Invalid pairing code format"),
        ),
        (
            json!({"type": "register", "pairingCode": "AAAAA0", "publicKey": key}),
            ("bad_message", "Invalid pairing code format"),
        ),
        (
            json!({"type": "register", "pairingCode": A, "publicKey": "?!"}),
            ("bad_message", "Invalid public key format"),
        ),
        (
            json!({"type": "register", "pairingCode": A, "publicKey": "AAAA"}),
            ("bad_message", "Invalid public key length"),
        ),
        (json!({"type": "pair_request", "targetCode": B}), not_registered),
        (json!({"type": "pair_response", "targetCode": B, "accepted": true}), not_registered),
        (json!({"type": "link_request", "linkCode": B, "publicKey": key}), not_registered),
        (json!({"type": "link_response", "linkCode": B, "accepted": true}), not_registered),
        (json!({"type": "offer", "target": B, "payload": 1}), not_registered),
        (json!({"type": "call_ice", "target": B, "payload": 1}), not_registered),
        (json!({"type": "teapot"}), ("unknown_type", "Unknown message type: teapot")),
        (json!({"type": "server_info"}), ("unknown_type", "Unknown message type: server_info")),
        (json!({"no": "type"}), ("bad_message", "Missing required field: type")),
        (json!(["not an object"]), ("bad_message", "Invalid message format: JSON parse error")),
        (json!({"type": "heartbeat"}), ("bad_message", "Missing required field: peerId")),
    ];
    for (message, (code, text)) in unregistered {
        raw.send(message.clone()).await;
        let answer = raw.next().await;
        assert_eq!(answer, json!({"type": "error", "code": code, "message": text}), "{message}");
    }
    for text in ["", "{", "nonsense", "{\"type\":\"ping\"}{}", "{\"type\":\"ping\",\"type\":\"ping\"}"] {
        raw.send_text(text).await;
        raw.expect_error("bad_message", "Invalid message format: JSON parse error").await;
    }
    let deep = format!("{{\"type\":\"ping\",\"x\":{}{}}}", "[".repeat(16), "]".repeat(16));
    raw.send_text(deep).await;
    raw.expect_error("bad_message", "Invalid message format: nested too deeply").await;
    raw.send_frame(Message::binary(vec![1, 2, 3])).await;
    raw.expect_error("bad_message", "Invalid message format: JSON parse error").await;

    raw.send(json!({"type": "register", "pairingCode": A, "publicKey": key})).await;
    raw.expect("registered").await;
    let registered: Vec<(Value, &str)> = vec![
        (json!({"type": "pair_request"}), "Missing required field: targetCode"),
        (json!({"type": "pair_request", "targetCode": "x"}), "Invalid target code format"),
        (json!({"type": "pair_response", "accepted": true}), "Missing required field: targetCode"),
        (json!({"type": "pair_response", "targetCode": "x", "accepted": true}), "Invalid target code format"),
        (json!({"type": "pair_response", "targetCode": B}), "Missing required field: accepted"),
        (json!({"type": "link_request", "publicKey": key}), "Missing required field: linkCode"),
        (json!({"type": "link_request", "linkCode": "x", "publicKey": key}), "Invalid pairing code format"),
        (json!({"type": "link_request", "linkCode": B}), "Missing required field: publicKey"),
        (json!({"type": "link_request", "linkCode": B, "publicKey": "AAAA"}), "Invalid public key length"),
        (json!({"type": "link_response", "accepted": true}), "Missing required field: linkCode"),
        (json!({"type": "link_response", "linkCode": A}), "Missing required field: accepted"),
        (json!({"type": "offer", "payload": 1}), "Missing required field: target"),
        (json!({"type": "offer", "target": B}), "Missing required field: payload"),
    ];
    for (message, text) in registered {
        raw.send(message.clone()).await;
        let answer = raw.next().await;
        assert_eq!(answer, json!({"type": "error", "code": "bad_message", "message": text}), "{message}");
    }
    raw.expect_silence().await;
    federation.shutdown().await;
}

#[tokio::test]
async fn pings_and_heartbeats_are_answered() {
    let (federation, mut raw) = one_node(|_| {}).await;
    raw.send(json!({"type": "ping", "unknown": {"field": 1}})).await;
    raw.expect_exactly(json!({"type": "pong"})).await;
    let before = chappe_testkit::raw::now_ms();
    raw.send(json!({"type": "heartbeat", "peerId": "me"})).await;
    let ack = raw.expect("heartbeat_ack").await;
    let after = chappe_testkit::raw::now_ms();
    assert!((before..=after).contains(&ack["timestamp"].as_u64().expect("a number")));
    federation.shutdown().await;
}

#[tokio::test]
async fn payloads_that_are_kept_are_counted_among_all_and_short_ones_are_not() {
    let (federation, mut first) = one_node(|config| {
        quick_no_limits(config);
        (config.limits.max_queued, config.limits.memory_budget) = (64 * 1024, 64 * 1024);
    })
    .await;
    let register = |code: &str, kib: usize| {
        let payload = "p".repeat(kib * 1024 - 2);
        json!({"type": "register", "pairingCode": code, "publicKey": key_of(code), "payload": payload})
    };
    first.send(register("FFFFFF", 50)).await;
    first.expect("registered").await;
    let mut second = Raw::connect(federation.nodes[0].client_url()).await;
    second.send(register("SSSSSS", 50)).await;
    assert_eq!(second.expect("error").await["code"], "congested");
    second.send(register("SSSSSS", 1)).await;
    second.expect("registered").await;
    drop(first);
    eventually("the first is gone", || federation.nodes[0].stats().sessions == 1).await;
    second.send(register("SSSSSS", 50)).await;
    second.expect("registered").await;
    federation.shutdown().await;
}

#[tokio::test]
async fn a_message_over_64_kib_is_refused_and_closes_with_1009() {
    let (federation, mut raw) = one_node(quick_no_limits).await;
    let room = 64 * 1024 - r#"{"type":"ping","pad":""}"#.len();
    raw.send_text(format!(r#"{{"type":"ping","pad":"{}"}}"#, "x".repeat(room))).await;
    raw.expect_exactly(json!({"type": "pong"})).await;
    raw.send_text(format!(r#"{{"type":"ping","pad":"{}"}}"#, "x".repeat(room + 1))).await;
    raw.expect_error("too_large", "Message too large").await;
    assert_eq!(raw.close_code().await, Some(1009));
    federation.shutdown().await;
}

#[tokio::test]
async fn a_clients_close_is_answered_before_the_connection_ends() {
    let (federation, mut raw) = one_node(quick_no_limits).await;
    raw.send_frame(Message::Close(Some(CloseFrame { code: CloseCode::Away, reason: "".into() }))).await;
    assert_eq!(raw.close_code().await, Some(1001));
    assert!(raw.next_frame().await.is_none(), "the end of the connection");
    federation.shutdown().await;
}

#[tokio::test]
async fn unsolicited_pongs_are_limited() {
    let (federation, mut raw) = one_node(quick_no_limits).await;
    for _ in 0..12 {
        raw.send_frame(Message::Pong(Vec::new().into())).await;
    }
    assert_eq!(raw.close_code().await, Some(1008));
    federation.shutdown().await;
}

#[tokio::test]
async fn messages_over_a_rate_are_refused_and_the_connection_stays_open() {
    let (federation, mut raw) = one_node(|config| {
        quick(config);
        config.limits.messages_per_minute = 6;
        // One for the registration.
        config.limits.pair_requests_per_minute = 3;
    })
    .await;
    raw.send(json!({"type": "register", "pairingCode": A, "publicKey": key_of(A)})).await;
    raw.expect("registered").await;
    for _ in 0..3 {
        raw.send(json!({"type": "pair_request", "targetCode": B})).await;
    }
    // The third is refused at once; the first two are answered in their time.
    raw.expect_error("rate_limited", "Too many pair requests. Please slow down.").await;
    raw.expect("pair_error").await;
    raw.send(json!({"type": "ping"})).await;
    raw.expect_exactly(json!({"type": "pong"})).await;
    raw.send(json!({"type": "ping"})).await;
    raw.expect_exactly(json!({"type": "pong"})).await;
    raw.send(json!({"type": "ping", "id": "7"})).await;
    raw.expect_exactly(json!({
        "type": "error", "code": "rate_limited", "message": "Rate limit exceeded. Please slow down.", "id": "7",
    }))
    .await;
    federation.shutdown().await;
}

#[tokio::test]
async fn a_silent_session_is_pinged_and_then_closed_and_one_that_answers_stays() {
    let (federation, mut answering) = one_node(|config| {
        config.times.idle = Duration::from_millis(400);
        config.times.pong = Duration::from_millis(300);
    })
    .await;
    let url = federation.nodes[0].client_url();
    // A client that never reads answers no ping.
    let silent = Raw::connect(url).await;
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut pings = 0;
    while Instant::now() < deadline && (pings < 3 || federation.nodes[0].stats().sessions > 1) {
        if answering.next_frame().await.expect("an open connection").is_ping() {
            pings += 1;
        }
    }
    assert_eq!((pings >= 3, federation.nodes[0].stats().sessions), (true, 1));
    drop(silent);
    federation.shutdown().await;
}
