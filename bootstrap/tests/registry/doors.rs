//! What members state about a node whose door the registry does not reach.

use std::{net::Ipv4Addr, time::Duration};

use chappe_common::{
    keys::SecretKey,
    reachability::{self, Family, Finding, Outcome, Reachability, SignedReachability, Transport},
    record::SignedRecord,
    signed::Signed,
};
use reqwest::StatusCode;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::fixture::{Fixture, TestNode, eventually, now};

/// A node in a network of its own.
fn node(seed: u8, network: u8) -> TestNode {
    TestNode::start_at(SecretKey::from_bytes(&[seed; 32]), (Ipv4Addr::new(127, network, 0, seed), 0).into())
}

/// A statement of `observer` that it reaches the door.
fn state(observer: &TestNode, record: &SignedRecord, change: impl FnOnce(&mut Reachability)) -> SignedReachability {
    let findings = vec![
        Finding { transport: Transport::Tcp, place: 0, outcome: Outcome::Works },
        Finding { transport: Transport::Client, place: 0, outcome: Outcome::Works },
    ];
    let mut statement = Reachability {
        federation: record.federation,
        observer: observer.key.node_id(),
        subject: record.node,
        epoch: record.epoch,
        seq: record.seq,
        at: now(),
        family: Family::V4,
        clock_ahead: 0,
        round_trip: 1,
        mtu: 1200,
        certificate_until: None,
        findings,
    };
    change(&mut statement);
    Signed::sign(statement, &observer.key).expect("a statement")
}

/// Registers with statements. Returns why the node is hidden.
async fn register(fixture: &Fixture, record: &SignedRecord, header: &str) -> Value {
    let request = fixture.http.post(format!("{}/v1/nodes", fixture.base)).header(reachability::HEADER, header);
    let response = request.body(record.as_bytes().clone()).send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let answer: Value = response.json().await.expect("JSON");
    assert_eq!(answer["listed"], true, "{answer}");
    answer["hidden"].clone()
}

async fn metric(fixture: &Fixture, name: &str) -> i64 {
    let admin = fixture.registry.as_ref().and_then(|registry| registry.admin_addr()).expect("an address");
    let text = fixture.http.get(format!("http://{admin}/metrics")).send().await.expect("an answer");
    let text = text.text().await.expect("text");
    let name = format!("chappe_bootstrap_{name} ");
    text.lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn three_networks_overrule_and_fewer_forged_or_old_statements_do_not() {
    let fixture = Fixture::start_with(|config| {
        config.probing.interval = Duration::from_secs(1);
        config.probing.door_grace = Duration::from_secs(2);
        config.limits.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
    })
    .await;
    let observers = [node(1, 1), node(2, 2), node(3, 3), node(4, 3), node(5, 9)];
    for observer in &observers {
        let mut record = fixture.record(observer, 1, u64::from(observer.key.public().as_bytes()[0]) + 100).into_value();
        record.client_urls.clear();
        let record = Signed::sign(record, &observer.key).expect("a record within its bounds");
        assert_eq!(fixture.register(&record).await.0, StatusCode::OK);
    }
    let [a, b, c, also_c, neighbour] = &observers;
    let stranger = node(6, 6);

    let subject = node(9, 9);
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let mut record = fixture.record(&subject, 1, 7).into_value();
    record.client_urls = vec![format!("ws://{closed}")];
    let record = Signed::sign(record, &subject.key).expect("a record within its bounds");
    assert_eq!(register(&fixture, &record, "").await, Value::Null, "it is new");
    let is_listed = async || fixture.listed().await.contains(&(1, 7));
    assert!(is_listed().await);
    eventually("its closed door hides it", async || !is_listed().await).await;

    let honest = |observer| state(observer, &record, |_| {});
    let header = |statements: &[SignedReachability]| reachability::to_header(statements);
    let fails = |observer| {
        state(observer, &record, |made| made.findings.iter_mut().for_each(|found| found.outcome = Outcome::Refused))
    };
    let old = state(c, &record, |made| made.at = (std::time::SystemTime::now() - 2 * reachability::MAX_AGE).into());
    let former = state(c, &record, |made| made.epoch = 0);
    let other = state(c, &record, |made| made.subject = a.key.node_id());
    let forged = {
        let text = header(&[honest(c)]);
        // The last characters are of the signature.
        let (start, end) = text.split_at(text.len() - 3);
        format!("{start}{}{}", if end.starts_with('A') { 'B' } else { 'A' }, &end[1..])
    };
    let two = header(&[honest(a), honest(b)]);
    for (what, header) in [
        ("two networks", two.clone()),
        ("two of three in one network", header(&[honest(a), honest(c), honest(also_c)])),
        ("a third that fails in a network that works", header(&[honest(a), fails(b), honest(c), fails(also_c)])),
        ("an old one", format!("{two},{}", header(&[old]))),
        ("one about an earlier run", format!("{two},{}", header(&[former]))),
        ("one about another node", format!("{two},{}", header(&[other]))),
        ("one of a stranger", format!("{two},{}", header(&[honest(&stranger)]))),
        ("one of a neighbour", format!("{two},{}", header(&[honest(neighbour)]))),
        ("a forged one", format!("{two},{forged}")),
        ("one that is none", format!("{two},x")),
    ] {
        let hidden = register(&fixture, &record, &header).await;
        assert_eq!((&hidden["outcome"], &hidden["place"]), (&"refused".into(), &0.into()), "{what}");
    }
    assert!(!is_listed().await);
    for (outcome, count) in
        [("time", 1), ("record", 1), ("subject", 1), ("observer", 2), ("signature", 1), ("malformed", 1)]
    {
        assert_eq!(metric(&fixture, &format!("statements_total{{outcome=\"{outcome}\"}}")).await, count, "{outcome}");
    }
    assert_eq!(register(&fixture, &record, &header(&[honest(a), honest(b), honest(c)])).await, Value::Null);
    assert!(is_listed().await);
    eventually("it is hidden without further statements", async || !is_listed().await).await;
}

#[tokio::test]
async fn statements_alone_hide_nobody_and_nothing_is_read_for_a_door_that_works() {
    let fixture = Fixture::start_with(|config| {
        config.limits.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
    })
    .await;
    let liars = [node(1, 1), node(2, 2), node(3, 3)];
    for liar in &liars {
        assert_eq!(fixture.register(&fixture.record(liar, 1, 1)).await.0, StatusCode::OK);
    }
    let subject = node(9, 9);
    let record = fixture.record(&subject, 1, 7);
    let lies: Vec<_> = liars
        .iter()
        .map(|liar| {
            state(liar, &record, |made| {
                made.findings.iter_mut().for_each(|found| found.outcome = Outcome::CertificateExpired);
            })
        })
        .collect();
    assert_eq!(register(&fixture, &record, "").await, Value::Null);
    for _ in 0..3 {
        assert_eq!(register(&fixture, &record, &reachability::to_header(&lies)).await, Value::Null);
    }
    assert!(fixture.listed().await.contains(&(1, 7)));
    assert_eq!(metric(&fixture, "statements_total{outcome=\"accepted\"}").await, 0);
}
