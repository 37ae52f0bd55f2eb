//! A hostile node: a member with a valid record and link that sends what no honest node sends, without limits on its
//! rate, and counts the answers.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use chappe_common::{
    code::PairingCode,
    federation::FederationId,
    keys::SecretKey,
    record::{Abilities, NodeRecord},
    signed::Signed,
    time::UnixTime,
};
use chappe_testkit::link::{
    self,
    frames::{self, Header, LeaseResult, Note, Outcome, Request, Response},
    open_lane,
    words::{self, Hello},
};
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig};
use rand::RngExt as _;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    node::root,
    plan::{Plan, Tally},
};

/// The close code of a link after a protocol violation.
const BREACH: u32 = 3;

/// The pause before a hostile node whose link was closed dials again.
const PAUSE: Duration = Duration::from_secs(1);

/// The hostile node's end of a link.
#[derive(Debug)]
pub struct Link {
    connection: Connection,
    /// Its key.
    pub key: SecretKey,
    answers: Arc<Answers>,
    _endpoint: Endpoint,
    _answering: JoinSet<()>,
}

/// Outstanding answers, and the result of a lookup.
#[derive(Debug, Default)]
struct Answers {
    /// The number of messages, notes and requests without an answer yet.
    open: AtomicU64,
    /// The result of the last lookup: the code's session, or `None` inside if nobody has the code.
    found: Mutex<Option<Option<u64>>>,
}

impl Link {
    /// Dials the node, greets, and receives from then on. A refusal is counted.
    async fn dial(plan: &Plan) -> Option<Self> {
        let key = SecretKey::from_bytes(&rand::rng().random());
        let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
        let record = record(&key, endpoint.local_addr().expect("a bound socket"));
        let node = (plan.node_id(), plan.quic);
        let Some(connection) = link::connect(&endpoint, &key, node, TransportConfig::default()).await else {
            plan.tally.count("link refused");
            return None;
        };
        let hello = Hello::Record(record.as_bytes().clone(), None, SystemTime::now().into());
        let Some(Hello::Record(..)) = words::greet(&connection, &hello).await else {
            plan.tally.count("link refused");
            return None;
        };
        plan.tally.count("linked");
        let (mut answering, answers) = (JoinSet::new(), Arc::new(Answers::default()));
        answering.spawn(answer_probes(connection.clone()));
        answering.spawn(hear(connection.clone(), plan.tally.clone(), answers.clone()));
        Some(Self { connection, key, answers, _endpoint: endpoint, _answering: answering })
    }

    /// Opens a lane.
    pub async fn lane(&self, first: u8) -> Option<SendStream> {
        open_lane(&self.connection, first).await
    }

    /// Writes frames, `answered` of which will be answered. Returns `None` if the link has ended, or isn't read in
    /// time.
    pub async fn write(&self, plan: &Plan, lane: &mut SendStream, frames: &[u8], answered: u64) -> Option<()> {
        self.answers.open.fetch_add(answered, Ordering::Relaxed);
        timeout_at(plan.listens_until(), lane.write_all(frames)).await.ok()?.ok()
    }

    /// Looks up the session that has a code. A failure is counted.
    pub async fn find(&self, plan: &Plan, lane: &mut SendStream, code: PairingCode) -> Option<u64> {
        plan.tally.count("sent over a link");
        self.write(plan, lane, &frames::frame(&Header::Request(u64::MAX, Request::FindCode(code)), b""), 1).await?;
        while !plan.is_over() {
            let found = *self.answers.found.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = found {
                if found.is_none() {
                    plan.tally.count("codes not found");
                }
                return found;
            }
            sleep(Duration::from_millis(5)).await;
        }
        None
    }

    /// Sends nothing more, and receives the remaining answers.
    pub async fn listen_on(self, plan: &Plan) {
        let is_open = || self.connection.close_reason().is_none();
        while self.answers.open.load(Ordering::Relaxed) > 0 && is_open() && Instant::now() < plan.listens_until() {
            sleep(Duration::from_millis(5)).await;
        }
        if let Some(ConnectionError::ApplicationClosed(close)) = self.connection.close_reason()
            && close.error_code == BREACH.into()
        {
            return plan.tally.count("links ended for a breach");
        }
        plan.tally.add("unanswered by the node", self.answers.open.load(Ordering::Relaxed));
    }
}

/// The turns of a hostile node.
#[derive(Debug)]
pub struct Turns<'a> {
    plan: &'a Plan,
    since: Instant,
    rate: u32,
    next: u64,
}

impl Turns<'_> {
    /// Waits for the next turn, and returns its number; `None` once the time is over.
    pub async fn next(&mut self) -> Option<u64> {
        self.plan.turn(self.since, self.next, self.rate).await;
        self.next += 1;
        (!self.plan.is_over()).then_some(self.next)
    }
}

/// Links and runs `flood` until the time is over, at `rate` turns a second. If the link is closed, links again within a
/// second as another node.
pub async fn attack(plan: &Plan, rate: u32, flood: impl AsyncFn(&Link, &mut Turns<'_>) -> Option<()>) {
    let (since, rate) = (Instant::now(), plan.some(rate));
    while !plan.is_over() {
        if let Ok(Some(link)) = timeout_at(plan.until, Link::dial(plan)).await {
            let next = plan.first_turn(since, 0, 1, rate);
            flood(&link, &mut Turns { plan, since, rate, next }).await;
            link.listen_on(plan).await;
        }
        let pause = if plan.quick { PAUSE / 20 } else { PAUSE };
        sleep_until(plan.until.min(Instant::now() + pause)).await;
    }
}

fn record(key: &SecretKey, addr: SocketAddr) -> Signed<NodeRecord> {
    let now = UnixTime::from(SystemTime::now());
    let record = NodeRecord {
        federation: FederationId::of_roots(&[root().public()]),
        node: key.node_id(),
        epoch: 1,
        seq: 1,
        issued_at: now,
        expires_at: now + Duration::from_secs(3_600),
        client_urls: vec!["ws://127.0.0.1:1".to_owned()],
        quic_addrs: vec![addr],
        region: String::new(),
        version: "0".to_owned(),
        abilities: Abilities::default(),
    };
    Signed::sign(record, key).expect("a record")
}

/// Answers probes with their number.
async fn answer_probes(connection: Connection) {
    while let Ok(packet) = connection.read_datagram().await {
        if let Some((1, number)) = packet.split_first() {
            let _ = connection.send_datagram([&[2], number].concat().into());
        }
    }
}

async fn hear(connection: Connection, tally: Tally, answers: Arc<Answers>) {
    let mut lanes = JoinSet::new();
    while let Ok(lane) = connection.accept_uni().await {
        lanes.spawn(hear_lane(lane, tally.clone(), answers.clone()));
    }
}

async fn hear_lane(mut lane: RecvStream, tally: Tally, answers: Arc<Answers>) {
    let mut read = Vec::new();
    if lane.read_exact(&mut [0]).await.is_err() {
        return;
    }
    while let Ok(Some(chunk)) = lane.read_chunk(64 * 1024, true).await {
        read.extend_from_slice(&chunk.bytes);
        while let Some(header) = frames::take(&mut read) {
            if let Some((what, count)) = heard(header, &tally, &answers) {
                tally.add(&format!("told {what}"), count);
                let left = |open: u64| Some(open.saturating_sub(count));
                let _ = answers.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
            }
        }
    }
}

/// The kind of an answer, and how many messages it answers.
fn heard(header: Header, tally: &Tally, answers: &Answers) -> Option<(&'static str, u64)> {
    Some(match header {
        Header::Outcome(_, Outcome::Delivered) => ("delivered", 1),
        Header::Outcome(_, Outcome::NotHere) => ("not here", 1),
        Header::Outcome(_, Outcome::Refused(code)) => (code.as_str(), 1),
        Header::Delivered(_, count) => ("delivered", count.into()),
        Header::Note(_, _, Note::PairRequestRefused(_)) => ("pair request refused", 1),
        Header::Note(_, _, Note::Closed) => ("closed", 1),
        Header::Response(_, Response::Leases(puts)) => {
            for put in puts {
                tally.count(match put {
                    LeaseResult::Kept => "leases kept",
                    LeaseResult::Stale(_) => "leases older than what is kept",
                    LeaseResult::Refused => "leases refused",
                });
            }
            ("leases", 1)
        }
        Header::Response(_, Response::Code(found)) => {
            *answers.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.map(|(_, session)| session));
            ("code", 1)
        }
        Header::Response(_, Response::Lease(_)) => ("lease", 1),
        Header::Response(_, Response::Refused) => ("request refused", 1),
        // Requests by the node itself.
        _ => return None,
    })
}
