//! Connections that never become sessions: half open, dripping, and with a handshake of TLS that is abandoned.

use std::{sync::Arc, time::Duration};

use chappe_testkit::ca::Ca;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout_at},
};

use super::{
    MANY, hostile_source,
    plan::Plan,
    wire::{Takes, UPGRADE, dial},
};

/// The most that one process may have open, with room for what else it needs.
const OPEN: u32 = 19_500;
/// How many are begun in a second: all places of a node within the time that it gives each.
const RATE: u32 = 4_500;

/// Connections in a second on which HTTP is asked, and how often it is asked on each.
const HTTP_RATE: u32 = 1_000;
const REQUESTS: usize = 200;

/// As many connections as a process may hold, of which a half say nothing at all and the others a half of a request.
/// Whoever is closed comes again.
pub async fn half_open(plan: &Plan) {
    hold(plan, OPEN, RATE, |number| if number % 2 == 0 { Vec::new() } else { UPGRADE.as_bytes()[..80].to_vec() }).await;
}

/// Handshakes of TLS: the first words, whole or cut, and no more.
pub async fn abandon_tls(plan: &Plan) {
    let hello = client_hello();
    hold(plan, OPEN / 4, RATE / 3, |number| {
        let part = [hello.len(), hello.len() / 2, 5][number as usize % 3];
        hello[..part].to_vec()
    })
    .await;
}

async fn hold(plan: &Plan, most: u32, rate: u32, words: impl Fn(u32) -> Vec<u8>) {
    plan.at_each_turn(rate, most, |number| {
        let (plan, words) = (plan.clone(), words(number));
        async move {
            let Ok(mut stream) = dial(hostile_source(number % MANY), plan.node, Takes::All).await else {
                return plan.tally.count("not connected");
            };
            plan.tally.count("connected");
            let _ = stream.write_all(&words).await;
            let mut end = Vec::new();
            match timeout_at(plan.until, stream.read_to_end(&mut end)).await {
                Ok(_) => plan.tally.count("closed by the node"),
                Err(_) => {
                    plan.tally.count("open at the end");
                    plan.leave(number % most, most).await;
                }
            }
        }
    })
    .await;
}

/// A byte of a request's head every half second, by two thousand at once.
pub async fn drip(plan: &Plan) {
    let count = plan.some(2_000);
    plan.all(count, RATE, |number| {
        let plan = plan.clone();
        async move {
            while !plan.is_over() {
                let Ok(mut stream) = dial(hostile_source(number % MANY), plan.node, Takes::All).await else {
                    plan.tally.count("not connected");
                    sleep(Duration::from_millis(500)).await;
                    continue;
                };
                plan.tally.count("connected");
                for byte in UPGRADE.bytes() {
                    // A write to what the node has closed fails at the second byte.
                    if plan.is_over() || stream.write_all(&[byte]).await.is_err() {
                        break;
                    }
                    plan.tally.count("bytes dripped");
                    sleep(Duration::from_millis(500)).await;
                }
                if plan.is_over() {
                    plan.leave(number, count).await;
                }
            }
        }
    })
    .await;
}

/// Requests that are no upgrade, as many as fit down each connection, from everywhere.
pub async fn http_requests(plan: &Plan) {
    let requests = "GET /stats HTTP/1.1\r\nHost: x\r\n\r\n".repeat(REQUESTS);
    let requests: Arc<str> = requests.into();
    plan.at_each_turn(HTTP_RATE, HTTP_RATE, |number| {
        let (plan, requests) = (plan.clone(), requests.clone());
        async move {
            let Ok(mut stream) = dial(hostile_source(number % MANY), plan.node, Takes::All).await else {
                return plan.tally.count("not connected");
            };
            let _ = stream.write_all(requests.as_bytes()).await;
            let mut answers = Vec::new();
            // What the node doesn't read any more makes it end with a reset.
            let _ = timeout_at(plan.listens_until(), stream.read_to_end(&mut answers)).await;
            let count = String::from_utf8_lossy(&answers).matches("HTTP/1.1 200").count();
            plan.tally.count(if count > 0 { "connections with requests" } else { "not connected" });
            plan.tally.add("requests answered", count as u64);
        }
    })
    .await;
}

/// The first words of a client, as its library writes them.
fn client_hello() -> Vec<u8> {
    let config = Ca::new("nobody's").trusted();
    let name = "relay.example".try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(config, name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a vector takes all");
    hello
}
