//! What comes goes again: sessions, members, and the node itself.

use std::time::{Duration, Instant};

use chappe_common::keys::SecretKey;
use chappe_node::NodeConfig;
use chappe_testkit::{
    eventually,
    federation::{Federation, no_limits},
    raw::{Raw, inbox, now_ms},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::frame::{
        Frame,
        coding::{CloseCode, Data, OpCode},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_is_gone_from_the_federation() {
    // The default times are 60 s and 30 s; here a hundredth of them.
    let federation = Federation::start(3, |config| {
        config.times.idle = Duration::from_millis(600);
        config.times.pong = Duration::from_millis(300);
    })
    .await;
    let (key, address) = inbox(1);
    let mut vanishing = Raw::register(federation.nodes[1].client_url(), "VVVVVV").await;
    vanishing.attach(&key, now_ms()).await;
    let since = Instant::now();
    // Still connected, but it reads and answers nothing any more: no close frame, no FIN.
    eventually("the session is gone with its lease and its code", || {
        federation
            .nodes
            .iter()
            .all(|node| (node.stats().sessions, node.stats().leases, node.stats().codes) == (0, 0, 0))
    })
    .await;
    assert!(since.elapsed() >= Duration::from_millis(800), "closed before its time: {:?}", since.elapsed());
    let mut caller = Raw::connect(federation.nodes[0].client_url()).await;
    caller.send(json!({"type": "resolve", "id": "r", "address": address})).await;
    assert_eq!(caller.expect("error").await["code"], "peer_offline");
    drop(vanishing);
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_must_be_complete_within_the_idle_time_despite_other_frames() {
    let idle = Duration::from_secs(2);
    let federation = Federation::start(1, |config| config.times.idle = idle).await;
    let begins = |text: &'static str| Message::Frame(Frame::message(text, OpCode::Data(Data::Text), false));
    let ends = |text: &'static str| Message::Frame(Frame::message(text, OpCode::Data(Data::Continue), true));
    let url = federation.nodes[0].client_url();
    let (mut never, mut slow) = (Raw::connect(url).await, Raw::connect(url).await);
    let since = Instant::now();
    never.send_frame(begins(r#"{"type":"#)).await;
    let (never, slow) = tokio::join!(
        async {
            loop {
                never.send_frame(Message::Ping(Vec::new().into())).await;
                match never.next_frame().await.expect("a pong or a close frame") {
                    Message::Close(close) => break (close.expect("a code"), since.elapsed()),
                    _ => tokio::time::sleep(idle / 4).await,
                }
            }
        },
        async {
            // Each takes a quarter of the time, and all together twice as much as one may.
            for _ in 0..8 {
                slow.send_frame(begins(r#"{"type":"pi"#)).await;
                tokio::time::sleep(idle / 4).await;
                slow.send_frame(ends(r#"ng"}"#)).await;
                slow.expect("pong").await;
            }
        }
    );
    let () = slow;
    let (close, after) = never;
    assert_eq!((close.code, close.reason.as_str()), (CloseCode::Policy, "too slow"));
    assert!(after >= idle, "closed before its time: {after:?}");
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_within_its_deadline_though_a_client_stays() {
    let mut federation = Federation::start(2, |config| config.times.drain = Duration::from_millis(700)).await;
    let staying = Raw::connect(federation.nodes[1].client_url()).await;
    let node = federation.nodes.pop().expect("two nodes");
    let since = Instant::now();
    node.shutdown().await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    // Its signed leave is instant: no suspicion, no probes.
    federation.settle().await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    drop(staying);
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_and_started_again_is_a_member_with_a_higher_epoch() {
    let mut federation = Federation::start(3, no_limits).await;
    let killed = federation.nodes.pop().expect("three nodes");
    let id = killed.id();
    drop(killed);
    let again = federation.start_node(2, no_limits).await;
    assert_eq!(again.id(), id);
    federation.nodes.push(again);
    federation.settle().await;
    let (key, address) = inbox(2);
    let mut callee = Raw::connect(federation.nodes[2].client_url()).await;
    callee.attach(&key, now_ms()).await;
    let mut caller = Raw::connect(federation.nodes[0].client_url()).await;
    // A message that went to the former self is unreachable; as soon as the new one is known, it arrives.
    let deadline = Instant::now() + chappe_testkit::PATIENCE;
    loop {
        caller.send(json!({"type": "call_ice", "to": address, "payload": "x", "id": "o"})).await;
        let outcome = caller.next().await;
        if outcome["type"] == "delivered" {
            break;
        }
        assert!(Instant::now() < deadline, "{outcome}");
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_at_once_find_each_other() {
    let mut federation = Federation::start(0, no_limits).await;
    let started = (0..8).map(|number| federation.start_node(number, no_limits));
    federation.nodes = futures_util::future::join_all(started).await;
    federation.settle().await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_closed_and_costs_no_more_than_its_queue() {
    let federation = Federation::start(1, no_limits).await;
    let (key, address) = inbox(3);
    let mut callee = Raw::connect(federation.nodes[0].client_url()).await;
    callee.attach(&key, now_ms()).await;
    let mut caller = Raw::connect(federation.nodes[0].client_url()).await;
    // The sockets' buffers hold some MiB; then the queue fills, and the session ends. What was sent to it meanwhile has
    // an outcome all the same.
    let payload = "x".repeat(40 * 1024);
    let (mut sent, mut refused) = (0, None);
    while refused.is_none() {
        assert!(sent < 2000, "80 MB went somewhere");
        for _ in 0..20 {
            caller.send(json!({"type": "call_ice", "to": address, "payload": payload, "id": sent.to_string()})).await;
            sent += 1;
        }
        for _ in 0..20 {
            let outcome = caller.next().await;
            refused = refused.or(outcome["code"].as_str().map(str::to_owned));
        }
    }
    assert!(matches!(refused.as_deref(), Some("congested" | "peer_offline" | "unreachable")), "{refused:?}");
    assert_eq!(callee.close_code().await, Some(1013));
    eventually("the slow session is closed", || federation.nodes[0].stats().sessions == 1).await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_messages_of_all_clients_are_held_up_to_a_bound_and_short_ones_beyond() {
    let federation = Federation::start(1, |config| {
        no_limits(config);
        (config.limits.max_queued, config.limits.memory_budget) = (64 * 1024, 64 * 1024);
    })
    .await;
    let url = federation.nodes[0].client_url();
    let begins = |text: String| Message::Frame(Frame::message(text, OpCode::Data(Data::Text), false));
    let ends = || Message::Frame(Frame::message(r#""}"#, OpCode::Data(Data::Continue), true));
    let long = format!(r#"{{"type":"ping","x":"{}"#, "x".repeat(50 * 1024));
    let short = format!(r#"{{"type":"ping","x":"{}"#, "x".repeat(7 * 1024));
    let mut holder = Raw::connect(url).await;
    holder.send_frame(begins(long.clone())).await;
    // What is held is counted when all that was read is answered: the first pong can be of the same read.
    let ping = async |raw: &mut Raw| {
        raw.send_frame(Message::Ping(Vec::new().into())).await;
        assert!(raw.next_frame().await.expect("a pong").is_pong());
    };
    ping(&mut holder).await;
    ping(&mut holder).await;
    let (mut other, mut brief) = (Raw::connect(url).await, Raw::connect(url).await);
    other.send_frame(begins(long.clone())).await;
    assert_eq!(other.close_code().await, Some(1013));
    brief.send_frame(begins(short)).await;
    for raw in [&mut brief, &mut holder] {
        raw.send_frame(ends()).await;
        raw.expect("pong").await;
    }
    ping(&mut holder).await;
    // What has become whole is held no more.
    brief.send_frame(begins(long)).await;
    brief.send_frame(ends()).await;
    brief.expect("pong").await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_never_becomes_a_session_is_dropped_in_time() {
    let federation = Federation::start(1, |config| config.times.upgrade = Duration::from_millis(300)).await;
    let addr = federation.nodes[0].addrs().client;
    for first_words in ["", "GET / HTTP/1.1\r\nHost: x\r\nX-Drip: "] {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        stream.write_all(first_words.as_bytes()).await.expect("sent");
        let since = Instant::now();
        let mut answer = Vec::new();
        // Whatever it answers, it hangs up.
        let read = tokio::time::timeout(chappe_testkit::PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "still open after {:?}", since.elapsed());
        assert!(since.elapsed() >= Duration::from_millis(250));
    }
    assert_eq!(federation.nodes[0].stats().sessions, 0);
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_connects_no_more_often_than_it_may_and_reconnecting_resets_nothing() {
    let federation = Federation::start(1, |config| {
        config.limits.source_connections_per_minute = 5;
        config.limits.messages_per_minute = 2;
        config.limits.source_factor = 2;
    })
    .await;
    let url = federation.nodes[0].client_url();
    let mut answered = 0;
    for _ in 0..5 {
        let mut raw = Raw::connect(url).await;
        for _ in 0..2 {
            raw.send(json!({"type": "ping"})).await;
            answered += usize::from(raw.next().await["type"] == "pong");
        }
    }
    assert_eq!(answered, 4, "two messages a session, and twice that for their source");
    let refused = tokio_tungstenite::connect_async(url).await;
    assert!(refused.is_err());
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_has_no_more_connections_at_once_than_it_may() {
    let federation = Federation::start(1, |config| config.limits.source_connections = 2).await;
    let url = federation.nodes[0].client_url();
    let (one, other) = (Raw::connect(url).await, Raw::connect(url).await);
    assert!(tokio_tungstenite::connect_async(url).await.is_err());
    drop(one);
    eventually("the session is gone", || federation.nodes[0].stats().sessions == 1).await;
    // Its place is free a moment later.
    let mut again = tokio_tungstenite::connect_async(url).await;
    let deadline = Instant::now() + chappe_testkit::PATIENCE;
    while again.is_err() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
        again = tokio_tungstenite::connect_async(url).await;
    }
    assert!(again.is_ok());
    drop(other);
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_home_gets_all_leases_again() {
    // More than are looked at before others have their turn, and than one session may have.
    const SESSIONS: u8 = 4;
    const LEASES: u8 = 150;
    let mut federation = Federation::start(3, no_limits).await;
    let mut sessions = Vec::new();
    for session in 0..SESSIONS {
        let mut raw = Raw::connect(federation.nodes[0].client_url()).await;
        let items = (0..LEASES).map(|number| {
            let mut key = [number; 32];
            key[0] = session;
            raw.attachment(&SecretKey::from_bytes(&key), now_ms(), Duration::from_secs(600))
        });
        let inboxes: Vec<_> = items.collect();
        raw.send(json!({"type": "attach", "id": "attach", "inboxes": inboxes})).await;
        assert_eq!(raw.expect("attached").await["rejected"], json!([]));
        sessions.push(raw);
    }
    let all = usize::from(SESSIONS) * usize::from(LEASES);
    // Each of three members is a home of everything.
    let have_all = |federation: &Federation| federation.nodes.iter().all(|node| node.stats().leases == all);
    eventually("every home has all leases", || have_all(&federation)).await;
    drop(federation.nodes.pop());
    let again = federation.start_node(2, no_limits).await;
    federation.nodes.push(again);
    // Not when they are due again, which is after a minute and a half.
    eventually("the home has all leases again", || have_all(&federation)).await;
    drop(sessions);
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_outlive_a_rolling_restart_of_their_homes() {
    let mut federation = Federation::start(4, no_limits).await;
    let mut callee = Raw::connect(federation.nodes[0].client_url()).await;
    let mut addresses = Vec::new();
    for n in 140..152 {
        let (key, address) = inbox(n);
        callee.attach(&key, now_ms()).await;
        addresses.push(address);
    }
    let leases = |federation: &Federation| federation.nodes.iter().map(|node| node.stats().leases).sum::<usize>();
    assert_eq!(leases(&federation), 3 * addresses.len());
    // Each is back before anybody has found it down, with an empty table.
    for number in 1..4 {
        drop(federation.nodes.remove(number));
        let again = federation.start_node(number, no_limits).await;
        federation.nodes.insert(number, again);
        eventually("the restarted home has its leases again", || leases(&federation) == 3 * addresses.len()).await;
    }
    let mut caller = Raw::connect(federation.nodes[1].client_url()).await;
    for address in &addresses {
        caller.send(json!({"type": "resolve", "id": "r", "address": address})).await;
        caller.expect("resolved").await;
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_left_is_in_no_view_and_no_directory_any_more() {
    let mut federation = Federation::start(3, |config| {
        config.registry.renew_every = Duration::from_secs(1);
        config.membership.exchange_every = Duration::from_millis(200);
        config.times.drain = Duration::from_secs(2);
    })
    .await;
    let http = chappe_testkit::http::client();
    let servers = format!("{}/servers", federation.registry_url());
    let listed = async || {
        let body = http.get(&servers).send().await.expect("an answer").text().await.expect("a body");
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        body["servers"].as_array().expect("a list").len()
    };
    assert_eq!(listed().await, 3);
    let leaving = federation.nodes.pop().expect("three nodes");
    // A client that stays keeps the node draining, while records are renewed and views exchanged around it.
    let staying = Raw::connect(leaving.client_url()).await;
    leaving.shutdown().await;
    federation.settle().await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(listed().await, 2);
        assert!(federation.nodes.iter().all(|node| node.members() == 2));
    }
    drop(staying);
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_finds_back_though_the_registry_is_gone_and_its_records_are_old() {
    let short = |config: &mut NodeConfig| {
        config.registry.record_lifetime = Duration::from_secs(2);
        config.registry.renew_every = Duration::from_secs(1);
    };
    let mut federation = Federation::start(3, short).await;
    federation.stop_registry().await;
    let stopped = federation.nodes.pop().expect("three nodes");
    stopped.shutdown().await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let again = federation.start_node(2, short).await;
    federation.nodes.push(again);
    federation.settle().await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_is_no_member_any_more_while_its_clients_are_still_leaving() {
    let mut federation = Federation::start(3, |config| config.times.drain = Duration::from_secs(60)).await;
    let stopping = federation.nodes.remove(2);
    let mut client = Raw::connect(stopping.client_url()).await;
    let stopped = tokio::spawn(stopping.shutdown());
    client.expect("going_away").await;
    // Members draw homes, observers and witnesses of addresses from their members alone.
    federation.settle().await;
    assert!(!stopped.is_finished(), "it waits for its client");
    drop(client);
    stopped.await.expect("a clean stop");
    federation.shutdown().await;
}
