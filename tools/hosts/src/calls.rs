//! Continuous calls: an offer through two nodes and its answer back, twice a second for each pair.
//!
//! Each call is to another inbox of the callee, so that the caller's node has to look it up, as for most real calls.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chappe_common::keys::SecretKey;
use chappe_testkit::raw::{Raw, address_of, now_ms};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, interval, timeout},
};

/// How often a pair calls.
const CALL_EVERY: Duration = Duration::from_millis(500);
/// How long a caller waits for the answer: a lookup, a second one, and both ways.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How long a callee waits for a message before it sends a ping.
const QUIET: Duration = Duration::from_secs(5);
/// The inboxes of a callee: nearly one for each call of the longest scenario, and as many as a session may have.
const INBOXES: usize = 250;
/// Inboxes attached by one message, which is at most 64 KiB.
const BATCH: usize = 50;
/// How long an inbox stays attached: longer than any scenario.
const LEASE: Duration = Duration::from_secs(3600);

/// One attempt to call.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The index of the pair.
    pub pair: usize,
    /// When it began.
    pub at: Instant,
    /// How long the answer took; `None` without an answer.
    pub took: Option<Duration>,
}

/// Pairs that call each other.
#[derive(Debug)]
pub struct Calls {
    attempts: Arc<Mutex<Vec<Attempt>>>,
    tasks: JoinSet<()>,
}

impl Calls {
    /// Connects a caller and a callee for each pair of URLs, and begins.
    ///
    /// # Panics
    /// A node accepts no clients.
    pub async fn start(pairs: &[(String, String)]) -> Self {
        let attempts = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for (pair, (from, to)) in pairs.iter().enumerate() {
            let (callee, inboxes) = attached(to, INBOXES).await;
            let (caller, own) = attached(from, 1).await;
            tasks.spawn(answer(callee));
            tasks.spawn(call(pair, caller, own[0].clone(), inboxes, Arc::clone(&attempts)));
        }
        Self { attempts, tasks }
    }

    /// The attempts that began in this time.
    pub fn between(&self, from: Instant, until: Instant) -> Vec<Attempt> {
        let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.iter().filter(|attempt| attempt.at >= from && attempt.at < until).copied().collect()
    }

    /// Ends all.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// A client with so many inboxes.
async fn attached(url: &str, count: usize) -> (Raw, Vec<String>) {
    let mut raw = Raw::connect(url).await;
    let mut inboxes = Vec::new();
    while inboxes.len() < count {
        let keys: Vec<_> =
            (0..BATCH.min(count - inboxes.len())).map(|_| SecretKey::generate().expect("random bytes")).collect();
        let items: Vec<_> = keys.iter().map(|key| raw.attachment(key, now_ms(), LEASE)).collect();
        raw.send(json!({"type": "attach", "id": "attach", "inboxes": items})).await;
        assert_eq!(raw.expect("attached").await["rejected"], json!([]));
        inboxes.extend(keys.iter().map(|key| address_of(key).to_base64url()));
    }
    (raw, inboxes)
}

async fn answer(mut callee: Raw) {
    loop {
        let Ok(message) = timeout(QUIET, callee.next()).await else {
            callee.send(json!({"type": "ping"})).await;
            continue;
        };
        if message["type"] == "call_offer" {
            // The offer names the caller and the call.
            let offer: Value = serde_json::from_str(message["payload"].as_str().unwrap_or("")).unwrap_or_default();
            callee.send(json!({"type": "call_answer", "to": offer["from"], "payload": offer["call"]})).await;
        }
    }
}

async fn call(pair: usize, mut caller: Raw, own: String, inboxes: Vec<String>, attempts: Arc<Mutex<Vec<Attempt>>>) {
    let mut tick = interval(CALL_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for (number, to) in inboxes.iter().cycle().enumerate() {
        tick.tick().await;
        let at = Instant::now();
        let call = number.to_string();
        let payload = json!({"from": own, "call": call}).to_string();
        caller.send(json!({"type": "call_offer", "to": to, "id": call, "payload": payload})).await;
        let answered = timeout(ANSWER_WITHIN, answer_of(&mut caller, &call)).await.unwrap_or(false);
        let took = answered.then(|| at.elapsed());
        attempts.lock().unwrap_or_else(PoisonError::into_inner).push(Attempt { pair, at, took });
    }
}

/// Waits for the answer. Returns `false` if the node reports that the offer can't be delivered.
async fn answer_of(caller: &mut Raw, call: &str) -> bool {
    loop {
        let message = caller.next().await;
        match message["type"].as_str() {
            Some("call_answer") if message["payload"] == call => return true,
            Some("error") if message["id"] == call => return false,
            _ => {}
        }
    }
}
