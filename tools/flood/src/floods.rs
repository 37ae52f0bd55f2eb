//! Floods of messages that honest clients send, too, from one address and from thousands.

use std::{sync::Arc, time::Duration};

use chappe_common::{code::PairingCode, keys::SecretKey};
use chappe_testkit::raw::{attachment, key_of, lease, now_ms, random_address};
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{MANY, client::Client, hostile_source, plan::Plan, wire::frame};

/// Connections from one address: a minute's worth of the rate limit.
const OF_ONE: u32 = 250;
/// Messages of all connections in a second.
const RATE: u32 = 10_000;
/// Messages of all connections in a second, of the largest size.
const RATE_FULL: u32 = 500;
/// Leases of one message: the most that it may contain.
const LEASES: u8 = 150;
/// Sessions that register and leave in a second.
const REGISTRATIONS: u32 = 5_000;
/// The most of them at once.
const AT_ONCE: u32 = 2_000;

/// A flood: its messages, their rate and the number of addresses.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    kind: Kind,
    many: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    PairRandom,
    PairOne,
    Attach,
    AttachFull,
    Proofs,
    Resolve,
    CallOffer,
}

/// The code that all requests are for, and the number of its owner's address.
const ASKED: &str = "ASKED2";
const ASKED_SOURCE: u32 = MANY - 1;

impl Flood {
    /// The flood of the attack of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let (kind, many) = match name.strip_suffix("-one-source") {
            Some(kind) => (kind, false),
            None => (name.strip_suffix("-many")?, true),
        };
        let kind = match kind {
            "pair-random" => Kind::PairRandom,
            "pair-one-code" => Kind::PairOne,
            "attach" => Kind::Attach,
            "attach-full" => Kind::AttachFull,
            "proofs" => Kind::Proofs,
            "resolve" => Kind::Resolve,
            "call-offer" => Kind::CallOffer,
            _ => return None,
        };
        Some(Self { kind, many })
    }

    /// Messages of all connections in a second.
    const fn rate(self) -> u32 {
        match self.kind {
            Kind::AttachFull => RATE_FULL,
            // One a second from each session: its rate limit.
            Kind::Proofs => {
                if self.many {
                    MANY
                } else {
                    OF_ONE
                }
            }
            _ => RATE,
        }
    }

    fn message(self, plan: &Plan, number: u64, full: &Value) -> Value {
        let id = number.to_string();
        match self.kind {
            Kind::PairRandom => json!({"type": "pair_request", "targetCode": random_code()}),
            Kind::PairOne => json!({"type": "pair_request", "targetCode": ASKED}),
            // A lease of valid length that doesn't decode.
            Kind::Attach => {
                json!({"type": "attach", "id": id, "inboxes": [{"lease": "A".repeat(240), "proof": "A".repeat(86)}]})
            }
            Kind::AttachFull => json!({"type": "attach", "id": id, "inboxes": full}),
            Kind::Proofs => {
                let (challenge, url) = (random_inbox(), format!("ws://{}", plan.node));
                json!({"type": "prove", "id": id, "challenge": challenge, "url": url})
            }
            Kind::Resolve => json!({"type": "resolve", "id": id, "address": random_address().to_base64url()}),
            Kind::CallOffer => {
                json!({"type": "call_offer", "to": random_address().to_base64url(), "payload": "x".repeat(1_000), "id": id})
            }
        }
    }
}

/// A random code.
pub fn random_code() -> String {
    PairingCode::from_random(rand::rng().random()).as_str().to_owned()
}

fn random_inbox() -> String {
    SecretKey::from_bytes(&rand::rng().random()).public().to_base64url()
}

/// Valid leases with proofs of another session: the node has to verify both signatures.
fn leases_unproven(plan: &Plan) -> Value {
    let lasts = Duration::from_secs(3_000);
    let leases = (0..LEASES).map(|number| {
        let key = SecretKey::from_bytes(&[number; 32]);
        attachment(&key, &[0; 32], &lease(&key, plan.node_id(), now_ms(), lasts))
    });
    leases.collect()
}

/// Sends until the time is over. A closed connection is replaced.
pub async fn run(plan: &Plan, flood: Flood) {
    let full = Arc::new(if flood.kind == Kind::AttachFull { leases_unproven(plan) } else { Value::Null });
    // The code's owner, which never answers and stays until all others have left.
    let asked = async {
        let Some(mut client) =
            (if flood.kind == Kind::PairOne { registered(plan, ASKED_SOURCE, ASKED).await } else { None })
        else {
            return;
        };
        client.hear_until(plan, sleep_until(plan.listens_until())).await;
        plan.leave(1, 1).await;
    };
    let (since, count) = (Instant::now(), plan.some(if flood.many { MANY - 1 } else { OF_ONE }));
    // All connect within two seconds.
    let clients = plan.all(count, count.div_ceil(2), |number| {
        let (plan, full) = (plan.clone(), full.clone());
        async move {
            let source = if flood.many { number } else { 0 };
            while !plan.is_over() {
                if client(&plan, flood, &full, source, since, number, count).await.is_none() {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    });
    tokio::join!(asked, clients);
}

async fn client(
    plan: &Plan,
    flood: Flood,
    full: &Value,
    source: u32,
    since: Instant,
    number: u32,
    count: u32,
) -> Option<()> {
    let mut client = match flood.kind {
        Kind::PairRandom | Kind::PairOne => registered(plan, source, &random_code()).await?,
        _ => Client::open(plan, hostile_source(source), false).await.ok()?,
    };
    let rate = plan.some(flood.rate());
    let mut turn = plan.first_turn(since, number, count, rate);
    loop {
        if !client.hear_until(plan, plan.turn(since, turn, rate)).await {
            return None;
        }
        if plan.is_over() {
            break;
        }
        let message = text(&flood.message(plan, turn, full));
        plan.tally.add("leases to attach", full.as_array().map_or(0, |leases| leases.len() as u64));
        if !client.write(plan, &message, 1).await {
            return None;
        }
        // A request replaces an earlier one to the same code whose lookup is in progress, without an answer to that.
        // Once the fence is answered, the request has been forwarded or refused.
        if flood.kind == Kind::PairOne && !client.write_and_hear(plan, &text(&json!({"type": "fence"}))).await {
            return None;
        }
        turn += u64::from(count);
    }
    client.listen_on(plan).await;
    plan.leave(number, count).await;
    Some(())
}

fn text(message: &Value) -> Vec<u8> {
    frame(0x81, message.to_string().as_bytes())
}

/// Registers a session with this code.
async fn registered(plan: &Plan, source: u32, code: &str) -> Option<Client> {
    let mut client = Client::open(plan, hostile_source(source), false).await.ok()?;
    let register = json!({"type": "register", "pairingCode": code, "publicKey": key_of(code)});
    let is_there = client.write(plan, &text(&register), 1).await;
    (is_there && (!client.is_unanswered() || client.hear(plan, plan.listens_until()).await)).then_some(client)
}

/// Sessions that register a code and leave immediately, each from another address.
pub async fn register_and_leave(plan: &Plan) {
    plan.at_each_turn(REGISTRATIONS, AT_ONCE, |number| {
        let plan = plan.clone();
        async move {
            if let Some(mut client) = registered(&plan, number % MANY, &random_code()).await {
                client.listen_on(&plan).await;
            }
        }
    })
    .await;
}

/// Sessions with a code that all leave at the same time, in the middle of the attack.
pub async fn leave_at_once(plan: &Plan) {
    let count = plan.some(MANY);
    let leave = Instant::now() + plan.until.saturating_duration_since(Instant::now()) / 2;
    plan.all(count, count.div_ceil(3), |number| {
        let plan = plan.clone();
        async move {
            if let Some(mut client) = registered(&plan, number, &random_code()).await {
                client.hear_until(&plan, sleep_until(leave)).await;
            }
        }
    })
    .await;
    sleep_until(plan.until).await;
}
