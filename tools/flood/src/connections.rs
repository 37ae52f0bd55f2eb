//! Connections that never become sessions: half-open, dripping, and with an abandoned TLS handshake.

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

/// Connections of one process: its limit on open files, less some for itself.
const OPEN: u32 = 19_500;
/// Connections opened in a second: enough to fill all of a node's places within the timeout of one.
const RATE: u32 = 4_500;

/// Connections in a second that send HTTP requests, and the requests on each.
const HTTP_RATE: u32 = 1_000;
const REQUESTS: usize = 200;

/// Holds as many connections as the process may. Half of them send nothing, and half of them half a request. A closed
/// connection is replaced.
pub async fn half_open(plan: &Plan) {
    hold(plan, OPEN, RATE, |number| if number % 2 == 0 { Vec::new() } else { UPGRADE.as_bytes()[..80].to_vec() }).await;
}

/// Begins TLS handshakes with a whole or truncated `ClientHello`, and sends no more.
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

/// Sends a byte of a request's head every half second, on two thousand connections at once.
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
                    // A write to a closed connection fails at the second byte.
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

/// Sends requests without an upgrade, as many as each connection takes, from many addresses.
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
            // Unread bytes make the node end the connection with a reset.
            let _ = timeout_at(plan.listens_until(), stream.read_to_end(&mut answers)).await;
            let count = String::from_utf8_lossy(&answers).matches("HTTP/1.1 200").count();
            plan.tally.count(if count > 0 { "connections with requests" } else { "not connected" });
            plan.tally.add("requests answered", count as u64);
        }
    })
    .await;
}

/// The `ClientHello` of rustls.
fn client_hello() -> Vec<u8> {
    let config = Ca::new("nobody's").trusted();
    let name = "relay.example".try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(config, name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a vector takes all");
    hello
}
