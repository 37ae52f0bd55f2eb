//! Floods of what honest clients send too, from one address and from thousands.

use chappe_common::{code::PairingCode, keys::SecretKey};
use rand::RngExt as _;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use super::{
    MANY,
    attack::Plan,
    hostile_source,
    wire::{Said, Wire},
};
use crate::raw::key_of;

/// How many connections one address opens: a minute's worth.
const OF_ONE: u32 = 250;
/// What all send in a second.
const RATE: u32 = 10_000;
/// How many register and leave in a second.
const REGISTRATIONS: u32 = 5_000;
/// How many of them are under way at most.
const AT_ONCE: usize = 2_000;

/// What is sent how often, and from how many addresses.
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
    Resolve,
    CallOffer,
}

/// The code that everybody asks for: somebody has it.
const ASKED: &str = "ASKED2";

impl Flood {
    /// By the attack's name.
    pub fn from_name(name: &str) -> Option<Self> {
        let (kind, many) = match name.strip_suffix("-one-source") {
            Some(kind) => (kind, false),
            None => (name.strip_suffix("-many")?, true),
        };
        let kind = match kind {
            "pair-random" => Kind::PairRandom,
            "pair-one-code" => Kind::PairOne,
            "attach" => Kind::Attach,
            "resolve" => Kind::Resolve,
            "call-offer" => Kind::CallOffer,
            _ => return None,
        };
        Some(Self { kind, many })
    }

    fn message(self, number: u64) -> Value {
        let id = number.to_string();
        match self.kind {
            Kind::PairRandom => json!({"type": "pair_request", "targetCode": random_code()}),
            Kind::PairOne => json!({"type": "pair_request", "targetCode": ASKED}),
            // A lease of the right length, which has to be decoded, and of nobody.
            Kind::Attach => {
                json!({"type": "attach", "id": id, "inboxes": [{"lease": "A".repeat(240), "proof": "A".repeat(86)}]})
            }
            Kind::Resolve => json!({"type": "resolve", "id": id, "inbox": random_inbox()}),
            Kind::CallOffer => {
                json!({"type": "call_offer", "to": random_inbox(), "payload": "x".repeat(1_000), "id": id})
            }
        }
    }
}

/// Any code.
pub fn random_code() -> String {
    PairingCode::from_random(rand::rng().random()).as_str().to_owned()
}

fn random_inbox() -> String {
    SecretKey::from_bytes(&rand::rng().random()).public().to_base64url()
}

/// What an answer is counted as: an error's code, or its type.
pub fn code_of(text: &str) -> String {
    let answer: Value = serde_json::from_str(text).unwrap_or_default();
    answer["code"].as_str().or(answer["type"].as_str()).unwrap_or("no JSON").to_owned()
}

/// Sends until the time is over. Whoever is closed comes again.
pub async fn run(plan: &Plan, flood: Flood) {
    let mut clients = JoinSet::new();
    let since = Instant::now();
    if flood.kind == Kind::PairOne {
        let plan = plan.clone();
        // Asked, and silent.
        clients.spawn(async move {
            if let Some(mut wire) = registered(&plan, 3_999, ASKED).await {
                while let Ok(Ok(Said::Text(_))) = tokio::time::timeout_at(plan.until, wire.next()).await {}
            }
        });
    }
    let count = plan.some(if flood.many { MANY - 1 } else { OF_ONE });
    for number in 0..count {
        let plan = plan.clone();
        clients.spawn(async move {
            // All are there within two seconds.
            plan.turn(since, u64::from(number), count.div_ceil(2)).await;
            while !plan.is_over() {
                let source = if flood.many { number } else { 0 };
                if client(&plan, flood, source, since, u64::from(number), count).await.is_none() {
                    plan.tally.count("not opened or closed");
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                }
            }
        });
    }
    clients.join_all().await;
}

async fn client(plan: &Plan, flood: Flood, source: u32, since: Instant, number: u64, count: u32) -> Option<()> {
    let mut wire = match flood.kind {
        Kind::PairRandom | Kind::PairOne => registered(plan, source, &random_code()).await?,
        _ => Wire::open(hostile_source(source), plan.node, None).await.ok()?.0,
    };
    let rate = plan.some(RATE);
    // The first turn that is still to come.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "turns of some seconds")]
    let passed = (since.elapsed().as_secs_f64() * f64::from(rate)) as u64;
    let mut turn = passed - passed % u64::from(count) + number;
    while !plan.is_over() {
        let due = plan.turn(since, turn, rate);
        tokio::select! {
            biased;
            said = wire.next() => match said.ok()? {
                Said::Text(text) => plan.tally.count(&code_of(&text)),
                Said::Close(code) => {
                    plan.tally.count(&format!("closed with {code}"));
                    return None;
                }
                Said::End => return None,
                Said::Other => {}
            },
            () = due => {
                wire.say(&flood.message(turn).to_string()).await.ok()?;
                plan.tally.count("messages sent");
                turn += u64::from(count);
            }
        }
    }
    Some(())
}

/// A session with a code.
pub async fn registered(plan: &Plan, source: u32, code: &str) -> Option<Wire> {
    let (mut wire, _) = Wire::open(hostile_source(source), plan.node, None).await.ok()?;
    let register = json!({"type": "register", "pairingCode": code, "publicKey": key_of(code)});
    wire.say(&register.to_string()).await.ok()?;
    match wire.next().await.ok()? {
        Said::Text(text) if code_of(&text) == "registered" => Some(wire),
        _ => None,
    }
}

/// Sessions that register a code and leave at once, each from another address.
pub async fn register_and_leave(plan: &Plan) {
    let mut clients = JoinSet::new();
    let since = Instant::now();
    for number in 0.. {
        plan.turn(since, number, plan.some(REGISTRATIONS)).await;
        while clients.try_join_next().is_some() {}
        if plan.is_over() {
            break;
        }
        if clients.len() >= AT_ONCE {
            plan.tally.count("put off: too many under way");
            continue;
        }
        let plan = plan.clone();
        clients.spawn(async move {
            let registered = registered(&plan, (number % u64::from(MANY)) as u32, &random_code()).await;
            plan.tally.count(if registered.is_some() { "registered" } else { "not registered" });
        });
    }
    clients.join_all().await;
}
