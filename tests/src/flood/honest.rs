//! People who call while others attack: pairs that send each other what a call consists of, by inbox, at times that were
//! fixed before. Latency counts from when a message was due, so that a node that stands still is seen to.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chappe_common::keys::SecretKey;
use futures_util::{SinkExt as _, StreamExt as _};
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config, tungstenite::Message,
};

use super::{honest_source, wire::dial};
use crate::raw::{attachment, lease, now_ms};

/// A call of a pair: as often as an inbox may be called.
const CALL_EVERY: Duration = Duration::from_secs(10);
/// Messages of each side in a call: an offer or an answer, and candidates.
const OF_CALL: u32 = 10;
/// Payload of a message in bytes: a sealed one of the second size.
const PAYLOAD: usize = 2_800;

/// What the honest notice in one stretch of time.
#[derive(Clone, Debug, Default)]
pub struct Notice {
    /// Messages that were due and sent.
    pub sent: u64,
    /// Those that arrived, whole, once, and in their order.
    pub arrived: u64,
    /// What arrived twice, altered, or out of order, and connections that broke.
    pub wrong: u64,
    /// Refusals by the node.
    pub refused: u64,
    /// Milliseconds from when each was due until it was there.
    pub latencies: Vec<f64>,
    /// People who came anew, and those of them who weren't let in within two seconds.
    pub came: u64,
    /// See [`Self::came`].
    pub not_let_in: u64,
}

#[derive(Debug, Default)]
struct Shared {
    stretches: Vec<Notice>,
}

/// The honest, until this is dropped.
#[derive(Debug)]
pub struct Honest {
    shared: Arc<Mutex<Shared>>,
    _tasks: JoinSet<()>,
}

type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

impl Honest {
    /// Lets `pairs` pairs connect and call until the end. `url` is the node's, at `addr`.
    ///
    /// # Panics
    /// One can't connect.
    pub async fn start(pairs: u32, url: &str, addr: SocketAddr, trusted: Option<Arc<ClientConfig>>) -> Self {
        let shared = Arc::new(Mutex::new(Shared { stretches: vec![Notice::default()] }));
        let mut tasks = JoinSet::new();
        let begin = Instant::now() + Duration::from_secs(2);
        for pair in 0..pairs {
            let keys = [0, 1].map(|side| key(pair * 2 + side));
            for side in 0..2 {
                let own = &keys[side as usize];
                let mut socket = open(url, addr, honest_source(pair * 2 + side), trusted.clone()).await;
                attach(&mut socket, own).await;
                let person = Person {
                    socket,
                    peer: keys[1 - side as usize].public().to_base64url(),
                    kind: if side == 0 { "call_offer" } else { "call_answer" },
                    begin: begin + CALL_EVERY.mul_f64(f64::from(pair) / f64::from(pairs)),
                    // The callee speaks half a step after the caller.
                    late: CALL_EVERY / OF_CALL / 2 * side,
                    shared: shared.clone(),
                };
                tasks.spawn(person.call());
            }
        }
        // Somebody new comes twice a second.
        let (url, newcomers) = (url.to_owned(), shared.clone());
        tasks.spawn(async move {
            for number in 0.. {
                sleep_until(begin + Duration::from_millis(500) * number).await;
                let source = honest_source(1_000 + number % 1_000);
                let opened =
                    tokio::time::timeout(Duration::from_secs(2), try_open(&url, addr, source, trusted.clone()));
                let is_in = opened.await.is_ok_and(|opened| opened.is_some());
                notice(&newcomers, None, |now| {
                    now.came += 1;
                    now.not_let_in += u64::from(!is_in);
                });
            }
        });
        sleep_until(begin).await;
        Self { shared, _tasks: tasks }
    }

    /// A new stretch begins; its number.
    pub fn next_stretch(&self) -> usize {
        let stretches = &mut lock(&self.shared).stretches;
        stretches.push(Notice::default());
        stretches.len() - 1
    }

    /// What was noticed in a stretch until now: what was sent in it may arrive later.
    pub fn stretch(&self, number: usize) -> Notice {
        lock(&self.shared).stretches.get(number).cloned().unwrap_or_default()
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes something down in a stretch, the present one where none is named.
fn notice(shared: &Mutex<Shared>, stretch: Option<usize>, write: impl FnOnce(&mut Notice)) {
    let mut shared = lock(shared);
    let at = stretch.unwrap_or(shared.stretches.len() - 1);
    if let Some(stretch) = shared.stretches.get_mut(at) {
        write(stretch);
    }
}

fn key(number: u32) -> SecretKey {
    let mut seed = [0xAB; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_bytes(&seed)
}

async fn try_open(
    url: &str,
    addr: SocketAddr,
    source: IpAddr,
    trusted: Option<Arc<ClientConfig>>,
) -> Option<(Socket, Value)> {
    let stream = dial(source, addr, None).await.ok()?;
    let connector = trusted.map_or(Connector::Plain, Connector::Rustls);
    let (mut socket, _) = client_async_tls_with_config(url, stream, None, Some(connector)).await.ok()?;
    let Some(Ok(Message::Text(text))) = socket.next().await else { return None };
    Some((socket, serde_json::from_str(text.as_str()).ok()?))
}

async fn open(url: &str, addr: SocketAddr, source: IpAddr, trusted: Option<Arc<ClientConfig>>) -> (Socket, Value) {
    try_open(url, addr, source, trusted).await.expect("a node that takes clients")
}

async fn attach((socket, info): &mut (Socket, Value), key: &SecretKey) {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let node = chappe_common::keys::NodeId::from_server_id(info["serverId"].as_str().expect("an id")).expect("an id");
    let nonce = STANDARD.decode(info["nonce"].as_str().expect("a nonce")).expect("base64");
    let lease = lease(key, node, now_ms(), Duration::from_secs(3_600));
    let item = attachment(key, &nonce.try_into().expect("32 bytes"), &lease);
    let attach = json!({"type": "attach", "id": "a", "inboxes": [item]}).to_string();
    socket.send(Message::text(attach)).await.expect("an open connection");
    let answer = socket.next().await.expect("an answer").expect("an answer").into_text().expect("a text");
    assert!(answer.contains("\"rejected\":[]"), "{answer}");
}

/// One side of a pair.
struct Person {
    socket: (Socket, Value),
    peer: String,
    kind: &'static str,
    begin: Instant,
    late: Duration,
    shared: Arc<Mutex<Shared>>,
}

impl Person {
    async fn call(mut self) {
        let (mut number, mut next) = (0_u32, 0_u32);
        let fill = "x".repeat(PAYLOAD);
        loop {
            let due = self.begin + self.late + CALL_EVERY / OF_CALL * number;
            tokio::select! {
                biased;
                heard = self.socket.0.next() => match heard {
                    Some(Ok(Message::Text(text))) => self.hear(text.as_str(), &mut next),
                    Some(Ok(_)) => {}
                    None | Some(Err(_)) => break,
                },
                () = sleep_until(due) => {
                    let kind = if number.is_multiple_of(OF_CALL) { self.kind } else { "call_ice" };
                    let stretch = lock(&self.shared).stretches.len() - 1;
                    let since = due.duration_since(self.begin).as_nanos();
                    let payload = format!("{stretch} {number} {since} {fill}");
                    let message = json!({"type": kind, "to": self.peer, "payload": payload, "id": stretch.to_string()});
                    notice(&self.shared, Some(stretch), |now| now.sent += 1);
                    if self.socket.0.send(Message::text(message.to_string())).await.is_err() {
                        break;
                    }
                    number += 1;
                }
            }
        }
        // Nobody closes an honest client.
        notice(&self.shared, None, |now| now.wrong += 1);
    }

    fn hear(&self, text: &str, next: &mut u32) {
        let message: Value = serde_json::from_str(text).expect("JSON");
        if message["type"] == "error" {
            let stretch = message["id"].as_str().and_then(|id| id.parse().ok());
            notice(&self.shared, stretch, |now| now.refused += 1);
        }
        let Some(payload) = message["payload"].as_str() else { return };
        let words: Vec<_> = payload.split(' ').collect();
        let [stretch, number, since, fill] = words[..] else {
            return notice(&self.shared, None, |now| now.wrong += 1);
        };
        let (stretch, number, since) = (stretch.parse().ok(), number.parse().ok(), since.parse().ok());
        // Whoever lost one goes on behind it: the loss shows in the sum.
        let is_right = number.is_some_and(|number| number >= *next) && fill.len() == PAYLOAD;
        *next = number.map_or(*next, |number: u32| number + 1);
        let due = self.begin + Duration::from_nanos(since.unwrap_or(0));
        notice(&self.shared, stretch, |now| {
            if is_right {
                now.arrived += 1
            } else {
                now.wrong += 1
            }
            now.latencies.push(due.elapsed().as_secs_f64() * 1000.0);
        });
    }
}
