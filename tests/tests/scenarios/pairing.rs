//! Pairing over relays that lose, forge or delay its messages, guess, and go away; each played for real.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chappe_client::{PairError, Paired, pairing::Requester, phrase::Phrase};
use chappe_common::{
    code::PairingCode,
    code_claim::CodeClaim,
    keys::{NodeId, SecretKey},
    signed::Signed,
};
use chappe_discovery::race::AVOIDED_AFTER;
use chappe_node::{Node, NodeConfig};
use chappe_testkit::{
    PATIENCE,
    altered::Altered,
    federation::{Federation, no_limits},
    people::{Finds, Person, answer, call, paired, person, start},
    raw::{Raw, key_of, now_ms},
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// What happens to a message on its way to a client.
type Change = Arc<Mutex<dyn FnMut(&mut Value) + Send>>;

/// Nodes, each behind a way on which `change` sees all that the node says, with the node's number.
async fn behind_ways(
    count: usize,
    change: impl Fn(usize, &mut Value) + Clone + Send + Sync + 'static,
) -> (Federation, Vec<AbortOnDropHandle<()>>) {
    let mut ways = Vec::new();
    for _ in 0..count {
        ways.push(Altered::bind().await);
    }
    let urls: Vec<_> = ways.iter().map(Altered::url).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let federation = Federation::start(count, |config: &mut NodeConfig| {
        no_limits(config);
        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        config.client.urls = vec![urls[number].clone()];
    })
    .await;
    let leading = ways.into_iter().zip(&federation.nodes).enumerate().map(|(number, (way, node))| {
        let change = change.clone();
        way.lead_to(node.addrs().client, move |_| {
            let change = change.clone();
            move |answer: &mut Value| change(number, answer)
        })
    });
    let leading = leading.collect();
    (federation, leading)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_node_sees_a_code_and_the_inboxes_of_one_client() {
    // 200 take three minutes in a debug build, and show no more than this.
    let pairings = std::env::var("CHAPPE_TEST_PAIRINGS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let registered = Arc::new(Mutex::new(Vec::new()));
    let seen = registered.clone();
    let (federation, leading) = behind_ways(3, move |node, answer| {
        if answer["type"] == "registered" {
            let code = answer["pairingCode"].as_str().expect("a code").to_owned();
            seen.lock().expect("no test has panicked").push((node, code));
        }
    })
    .await;
    let number_of = |id: NodeId| federation.nodes.iter().position(|node: &Node| node.id() == id).expect("a node");
    let (mut together, mut again, mut by_node) = (0, 0, [0; 3]);
    let mut slow = 0;
    for _ in 0..pairings {
        let began = Instant::now();
        let former = (together, again);
        let (ada, bob) = tokio::join!(person(&federation, "Ada", Finds::Any), person(&federation, "Bob", Finds::Any));
        registered.lock().expect("no test has panicked").clear();
        let shown = timeout(PATIENCE, bob.client.show_code()).await.expect("in time").expect("a code");
        let code: Phrase = shown.code().parse().expect("the code reads back");
        let both = async { tokio::join!(ada.client.pair(&code), shown.paired()) };
        let (at_ada, at_bob) = timeout(PATIENCE, both).await.expect("in time");
        assert!(at_ada.is_ok() && at_bob.is_ok_and(|paired| paired.confirmed));
        for (node, registered) in registered.lock().expect("no test has panicked").iter() {
            // Bob's code is the one he shows; the other is Ada's.
            let owner = if code.reveal().starts_with(registered.as_str()) { &bob } else { &ada };
            by_node[*node] += 1;
            together += usize::from(number_of(owner.node()) == *node);
        }
        // The next client with the profile, for inboxes and for a code.
        let node_of = |code: &Phrase| {
            let registered = registered.lock().expect("no test has panicked");
            let found = registered.iter().find(|(_, registered)| code.reveal().starts_with(registered.as_str()));
            found.expect("a registered code").0
        };
        let (first_code, first_inboxes) = (node_of(&code), number_of(bob.node()));
        tokio::join!(ada.client.shutdown(), bob.client.shutdown());
        let bob = start(&federation, bob.profile, "Bob", Finds::Any).await;
        let shown = timeout(PATIENCE, bob.client.show_code()).await.expect("in time").expect("a code");
        let code = shown.code().parse().expect("the code reads back");
        again += usize::from(number_of(bob.node()) == first_code)
            + usize::from([first_inboxes, number_of(bob.node())].contains(&node_of(&code)));
        drop(shown);
        bob.client.shutdown().await;
        // On a machine that stalls, a search may have taken so long that it accepts any node.
        if began.elapsed() >= AVOIDED_AFTER {
            (together, again) = former;
            slow += 1;
        }
    }
    println!(
        "{pairings} pairings, codes registered by node {by_node:?}; at the node of the client's inboxes: {together}, and of \
         the next client's: {again}; too slow to count: {slow}"
    );
    assert!(slow < pairings / 2);
    assert_eq!((together, again, by_node.iter().sum::<usize>()), (0, 0, 2 * pairings));
    drop(leading);
    federation.shutdown().await;
}

/// Both call each other, and both calls are answered.
async fn call_both_ways(
    ada: &mut Person,
    bob: &mut Person,
    ids: (chappe_client::contact::ContactId, chappe_client::contact::ContactId),
) {
    let (to_bob, to_ada) = ids;
    for outward in [true, false] {
        let (from, to, contact) = if outward { (&mut *ada, &mut *bob, to_bob) } else { (&mut *bob, &mut *ada, to_ada) };
        let outgoing = call(from, contact).await;
        let (incoming, _) = to.incoming().await;
        incoming.accept("the answer").await.expect("it rings");
        assert_eq!(answer(&outgoing).await.as_deref(), Ok("the answer"));
        outgoing.hang_up().await.expect("a call");
        timeout(PATIENCE, incoming.ended()).await.expect("ended in time");
    }
}

/// Two people pair, and again in each of these cases. After each of them, both can call.
async fn pair_again(cases: Vec<(String, Change)>) {
    let change: Change = Arc::new(Mutex::new(|_: &mut Value| {}));
    let current = Arc::new(Mutex::new(change));
    let used = current.clone();
    let (federation, leading) = behind_ways(2, move |_, answer| {
        let change = used.lock().expect("no test has panicked").clone();
        (change.lock().expect("no test has panicked"))(answer);
    })
    .await;
    let set = |change: Change| *current.lock().expect("no test has panicked") = change;
    let ((mut ada, to_bob), (mut bob, to_ada)) = paired(&federation, (Finds::Any, Finds::Any)).await;
    call_both_ways(&mut ada, &mut bob, (to_bob, to_ada)).await;

    for (name, change) in cases {
        set(change);
        let shown = timeout(PATIENCE, bob.client.show_code()).await.expect("in time").expect("a code");
        let code = shown.code().parse().expect("the code reads back");
        // Whoever would wait for two minutes stops sooner here.
        let limit = Duration::from_secs(8);
        let (at_ada, at_bob) = tokio::join!(timeout(limit, ada.client.pair(&code)), timeout(limit, shown.paired()));
        set(Arc::new(Mutex::new(|_: &mut Value| {})));
        let told = |paired: &Result<Result<Paired, PairError>, _>| match paired {
            Ok(Ok(paired)) => format!("paired, confirmed: {}", paired.confirmed),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "still waiting".to_owned(),
        };
        println!("{name}: Ada «{}», Bob «{}»", told(&at_ada), told(&at_bob));
        assert_eq!(
            (
                ada.client.contacts().await.expect("contacts").len(),
                bob.client.contacts().await.expect("contacts").len()
            ),
            (1, 1)
        );
        call_both_ways(&mut ada, &mut bob, (to_bob, to_ada)).await;
        // What both have used is all that is left.
        if name.starts_with("nothing") {
            for person in [&ada, &bob] {
                assert!(person.client.contacts().await.expect("contacts")[0].is_confirmed());
            }
        }
    }
    drop(leading);
    federation.shutdown().await;
}

fn dropped(kind: &'static str) -> (String, Change) {
    let change = move |answer: &mut Value| {
        if answer["type"] == kind {
            *answer = Value::Null;
        }
    };
    (format!("{kind} is lost"), Arc::new(Mutex::new(change)))
}

fn forged(kind: &'static str, by: Value) -> (String, Change) {
    let name = format!("{kind} becomes {by}");
    let change = move |answer: &mut Value| {
        if answer["type"] == kind {
            let from = answer["from"].clone();
            *answer = by.clone();
            if by.get("from").is_some() {
                answer["from"] = from;
            }
        }
    };
    (name, Arc::new(Mutex::new(change)))
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_or_forgery_in_a_second_pairing_leaves_both_able_to_call() {
    let offline = json!({"type": "error", "code": "peer_offline", "message": "Peer not found: AAAAAA"});
    let sealed = json!({"type": "answer", "from": "", "payload": {"sealed": "AAAA", "possession": "AAAA"}});
    let stored = json!({"type": "ice_candidate", "from": "", "payload": {"stored": true}});
    let refused = json!({"type": "offer", "from": "", "payload": {"refused": true}});
    // A federation for each list: its people wait for what never comes.
    tokio::join!(
        pair_again(vec![dropped("pair_incoming"), dropped("pair_matched"), dropped("nothing")]),
        pair_again(vec![dropped("offer"), dropped("answer"), dropped("nothing")]),
        pair_again(vec![
            dropped("ice_candidate"),
            forged("answer", offline.clone()),
            forged("answer", sealed),
            dropped("nothing"),
        ]),
        pair_again(vec![
            forged("ice_candidate", offline),
            forged("ice_candidate", stored),
            forged("offer", refused),
            dropped("nothing"),
        ]),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tested_guess_is_reported_as_a_guess() {
    let federation = Federation::start(1, no_limits).await;
    let bob = person(&federation, "Bob", Finds::Only(0)).await;
    let shown = timeout(PATIENCE, bob.client.show_code()).await.expect("in time").expect("a code");
    let locator = shown.code()[..6].to_owned();
    let waits = tokio::spawn(shown.paired());
    // The guesser gets Bob's confirmation, by which it checks its guess, and leaves.
    let own: PairingCode = "QQQQQQ".parse().expect("a code");
    let guess: Phrase = format!("{locator}-AAAA").parse().expect("a code");
    let (_, request) = Requester::new(&guess, own, &mut rand::rng());
    let mut guesser = Raw::register(federation.nodes[0].client_url(), "QQQQQQ").await;
    guesser.send(json!({"type": "pair_request", "targetCode": locator, "payload": request})).await;
    let matched = guesser.expect("pair_matched").await;
    assert!(matched["payload"]["confirmation"].is_string());
    drop(guesser);
    let ended = timeout(PATIENCE * 2, waits).await.expect("in time").expect("no panic");
    let Err(error) = ended else { panic!("nobody has paired") };
    println!("Bob is told: {error}");
    assert!(matches!(error, PairError::Unproven), "{error:?}");
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shown_code_moves_to_another_node_when_its_node_stops_or_dies() {
    for dies in [true, false] {
        let mut federation = Federation::start(4, no_limits).await;
        let bob = person(&federation, "Bob", Finds::Any).await;
        let ada = person(&federation, "Ada", Finds::Any).await;
        let shown = timeout(PATIENCE, bob.client.show_code()).await.expect("in time").expect("a code");
        let code: Phrase = shown.code().parse().expect("the code reads back");
        let index = federation.nodes.iter().position(|node| node.id() == shown.node()).expect("its node");
        let waits = tokio::spawn(shown.paired());
        let node = federation.nodes.remove(index);
        let began = Instant::now();
        if dies {
            drop(node);
        } else {
            node.shutdown().await;
        }
        // Until the code is there again, it is as if nobody had it.
        let paired = async {
            loop {
                match ada.client.pair(&code).await {
                    Err(PairError::NoSuchCode | PairError::Connection(_) | PairError::Discover(_)) => {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    other => return other,
                }
            }
        };
        let at_ada = timeout(PATIENCE * 2, paired).await.expect("in time").expect("paired");
        let at_bob = timeout(PATIENCE, waits).await.expect("in time").expect("no panic").expect("paired");
        assert_eq!(at_ada.words, at_bob.words);
        println!("its node {}: paired {:?} later", if dies { "dies" } else { "stops" }, began.elapsed());
        drop((ada, bob));
        federation.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_moves_while_a_code_is_shown_avoids_the_node_of_the_code() {
    // With the node of the session gone, there is one other than the code's: chance would choose it each time in one of 16.
    for dies in [true, false, true, false] {
        let mut federation = Federation::start(3, no_limits).await;
        let mut bob = person(&federation, "Bob", Finds::Any).await;
        let shown = timeout(PATIENCE, bob.client.show_code()).await.expect("in time").expect("a code");
        let code_at = shown.node();
        let waits = tokio::spawn(shown.paired());
        let left = bob.node();
        let index = federation.nodes.iter().position(|node| node.id() == left).expect("its node");
        let node = federation.nodes.remove(index);
        if dies {
            drop(node);
        } else {
            node.shutdown().await;
        }
        let came_to = timeout(PATIENCE, bob.connected()).await.expect("in time");
        assert!(came_to != left && came_to != code_at, "the session came to the node of the code");
        // And if no other is left, the code's node serves both.
        let index = federation.nodes.iter().position(|node| node.id() == came_to).expect("its node");
        drop(federation.nodes.remove(index));
        assert_eq!(timeout(PATIENCE * 2, bob.connected()).await.expect("in time"), code_at);
        waits.abort();
        drop(bob);
        federation.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_at_a_node_that_dies_ends() {
    let mut federation = Federation::start(3, no_limits).await;
    let _target = Raw::register(federation.nodes[2].client_url(), "BBBBBB").await;
    let mut requester = Raw::register(federation.nodes[0].client_url(), "AAAAAA").await;
    requester.send(json!({"type": "pair_request", "targetCode": "BBBBBB"})).await;
    requester.expect_nothing_for(Duration::from_secs(1)).await;
    let began = Instant::now();
    drop(federation.nodes.pop());
    requester.expect("pair_error").await;
    println!("told {:?} after the node died", began.elapsed());
    federation.shutdown().await;
}

/// A registration that names a key, and claims the code for it.
fn claim(raw: &Raw, code: &str, key: &SecretKey, seq: u64) -> Value {
    let parsed = code.parse().expect("a code");
    let claim = CodeClaim { code: parsed, key: key.public(), node: raw.node(), seq };
    let claim = Signed::sign(claim, key).expect("a claim");
    let public_key = STANDARD.encode(key.public().as_bytes());
    let claim = URL_SAFE_NO_PAD.encode(claim.as_bytes());
    json!({"type": "register", "pairingCode": code, "publicKey": public_key, "claim": claim})
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_client_that_lost_its_network_reclaims_its_code_at_once() {
    let federation = Federation::start(3, no_limits).await;
    let (key, other) = (SecretKey::from_bytes(&[1; 32]), SecretKey::from_bytes(&[2; 32]));
    let seq = now_ms();
    // The first connection stays open, as it does to a node that has not noticed.
    let mut lost = Raw::connect(federation.nodes[0].client_url()).await;
    lost.send(claim(&lost, "CCCCCC", &key, seq)).await;
    lost.expect("registered").await;
    for (node, key, seq) in [(1, &other, seq + 1), (1, &key, seq), (2, &key, seq - 1)] {
        let mut raw = Raw::connect(federation.nodes[node].client_url()).await;
        raw.send(claim(&raw, "CCCCCC", key, seq)).await;
        raw.expect("code_collision").await;
    }
    let mut field = Raw::connect(federation.nodes[1].client_url()).await;
    field
        .send(
            json!({"type": "register", "pairingCode": "CCCCCC", "publicKey": STANDARD.encode(key.public().as_bytes())}),
        )
        .await;
    field.expect("code_collision").await;
    // A claim that was made for another node, or that the key has not signed, is refused.
    for (made_at, by) in [(2, &key), (1, &other)] {
        let elsewhere = Raw::connect(federation.nodes[made_at].client_url()).await;
        let mut registration = claim(&elsewhere, "CCCCCC", by, seq + 1);
        registration["publicKey"] = json!(STANDARD.encode(key.public().as_bytes()));
        field.send(registration).await;
        assert_eq!(field.expect("error").await["code"], "bad_message");
    }
    let mut back = Raw::connect(federation.nodes[1].client_url()).await;
    back.send(claim(&back, "CCCCCC", &key, seq + 1)).await;
    let began = Instant::now();
    back.expect("registered").await;
    println!("taken back after {:?}", began.elapsed());
    // Requests go to the new connection.
    let mut requester = Raw::register(federation.nodes[2].client_url(), "DDDDDD").await;
    requester.send(json!({"type": "pair_request", "targetCode": "CCCCCC"})).await;
    back.expect("pair_incoming").await;
    lost.expect_silence().await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_finds_codes_no_faster_than_a_request_to_pair() {
    let federation = Federation::start(2, |config| config.limits.pair_requests_per_minute = 4).await;
    let _holder = Raw::register(federation.nodes[0].client_url(), "EEEEEE").await;
    let mut raw = Raw::connect(federation.nodes[1].client_url()).await;
    let register = |code: &str| json!({"type": "register", "pairingCode": code, "publicKey": key_of(code)});
    let mut codes = HashSet::new();
    for _ in 0..3 {
        let began = Instant::now();
        raw.send(register("EEEEEE")).await;
        raw.expect("code_collision").await;
        assert!(began.elapsed() >= Duration::from_millis(850), "{:?}", began.elapsed());
        codes.insert(began.elapsed().as_millis() / 100);
    }
    println!("collisions are told after {codes:?} tenths of a second");
    // Both kinds count together.
    raw.send(register("FFFFFF")).await;
    raw.expect("registered").await;
    raw.send(json!({"type": "pair_request", "targetCode": "EEEEEE"})).await;
    raw.expect_error("rate_limited", "Too many pair requests. Please slow down.").await;
    raw.send(register("GGGGGG")).await;
    raw.expect_error("rate_limited", "Too many pair requests. Please slow down.").await;
    // The same code again finds nothing out.
    raw.send(register("FFFFFF")).await;
    raw.expect("registered").await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn null_is_a_payload_like_any_other() {
    let federation = Federation::start(2, no_limits).await;
    // On one node and on two.
    for (of_a, code_a, of_b, code_b) in [(0, "AAAAAA", 0, "BBBBBB"), (0, "CCCCCC", 1, "DDDDDD")] {
        let mut a = Raw::register(federation.nodes[of_a].client_url(), code_a).await;
        let mut b = Raw::register(federation.nodes[of_b].client_url(), code_b).await;
        a.send(json!({"type": "pair_request", "targetCode": code_b, "payload": null})).await;
        let incoming = b.expect("pair_incoming").await;
        assert_eq!(incoming.get("payload"), Some(&Value::Null));
        b.send(json!({"type": "pair_response", "targetCode": code_a, "accepted": true, "payload": null})).await;
        b.expect("pair_matched").await;
        assert_eq!(a.expect("pair_matched").await.get("payload"), Some(&Value::Null));
        a.send(json!({"type": "offer", "target": code_b, "payload": null, "id": "1"})).await;
        b.expect_exactly(json!({"type": "offer", "from": code_a, "payload": null})).await;
        a.expect_exactly(json!({"type": "delivered", "id": "1"})).await;
        a.send(json!({"type": "offer", "target": code_b})).await;
        a.expect_error("bad_message", "Missing required field: payload").await;
    }
    federation.shutdown().await;
}
