//! Drives the members' engines with the clock and with messages from the real node.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant, SystemTime},
};

use chappe_common::{
    federation::FederationId,
    keys::{NodeId, SecretKey},
    record::{Abilities, NodeRecord, SignedRecord},
    signed::Signed,
    time::UnixTime,
};
use chappe_node::{NodeConfig, membership::Now};
use quinn::Connection;
use rand::RngExt as _;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::sleep_until,
};

use super::{
    Members,
    end::{self, End, Event},
    engines::{Engines, Outside},
    home::Conduct,
};

/// Capacity of the event queue: a few events for each of a thousand members. Senders wait while it is full.
const EVENTS: usize = 4096;
/// The shortest time between two wake-ups. Hundreds of engines are due about two thousand times a second, and each
/// wake-up would interrupt the generator on the same core. The delay is short compared with a probe's timeout.
const GRAIN: Duration = Duration::from_millis(5);
/// The epoch of each record: no member restarts.
const EPOCH: u64 = 1;
/// How long a member's record is valid, as a node has it.
const RECORD_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The members, their links, and the queue of events.
pub(super) struct Driver {
    /// The real node.
    node: NodeId,
    engines: Engines,
    ends: Vec<Arc<End>>,
    /// Each member's newest link with the node.
    links: Vec<Option<Connection>>,
    events: mpsc::Receiver<(usize, Event)>,
    /// Dials, exchanges, and tasks that accept and serve links.
    tasks: JoinSet<()>,
}

fn now() -> Now {
    Now { at: Instant::now(), clock: SystemTime::now().into() }
}

impl Driver {
    /// Creates members that know each other and not the real node.
    ///
    /// # Panics
    /// A socket can't be bound.
    pub(super) fn start(plan: &Members, misled: &Arc<AtomicUsize>) -> Self {
        let mut config = NodeConfig::default();
        config.federation.exempt = vec!["127.0.0.0/8".parse().expect("a network")];
        let mut engines = Engines::new(config.membership_settings(), plan.root);
        let (sender, events) = mpsc::channel(EVENTS);
        let (mut ends, mut tasks) = (Vec::new(), JoinSet::new());
        let federation = FederationId::of_roots(&[plan.root]);
        let mut attacker = None;
        for member in 0..plan.count {
            let key = SecretKey::from_bytes(&rand::rng().random());
            let endpoint = end::bind(&key);
            let addr = endpoint.local_addr().expect("a bound socket");
            let record = sign_record(&key, federation, addr, now().clock);
            let shown = record.as_bytes().clone();
            engines.add(now(), key.clone(), record);
            let lies = member < plan.liars;
            let named = lies.then(|| *attacker.get_or_insert(key.node_id()));
            let home = Conduct { attacker: named, misled: misled.clone() };
            let end = Arc::new(End::new(member, key, endpoint, (plan.node, plan.quic), shown, home, sender.clone()));
            tasks.spawn(end.clone().accept());
            ends.push(end);
        }
        engines.introduce(now);
        let links = vec![None; plan.count];
        Self { node: plan.node, engines, ends, links, events, tasks }
    }

    /// Has the first member dial the real node, which learns of the others from it, as any joiner does.
    ///
    /// # Panics
    /// A member's task panics: without it, the federation is smaller than configured.
    pub(super) async fn run(mut self, whole: oneshot::Sender<()>) {
        let mut whole = Some(whole);
        let mut soonest = Instant::now();
        self.dial(0);
        loop {
            let wake_at = self.engines.wake_at().map(|at| at.max(soonest));
            tokio::select! {
                biased;
                () = sleep_until(wake_at.unwrap_or_else(Instant::now).into()), if wake_at.is_some() => {
                    self.engines.wake(now);
                    soonest = Instant::now() + GRAIN;
                }
                Some((member, event)) = self.events.recv() => self.handle_event(member, event),
                Some(joined) = self.tasks.join_next() => joined.expect("a member that makes no mistake"),
            }
            while let Some((member, wanted)) = self.engines.poll_outside() {
                self.act(member, wanted);
            }
            if let Some(whole) = whole.take_if(|_| self.engines.all_know(&self.node)) {
                // The receiver may be gone: ignore the error.
                let _ = whole.send(());
            }
        }
    }

    /// The requester of a reply may be gone: ignore the error.
    fn handle_event(&mut self, member: usize, event: Event) {
        let (engines, node) = (&mut self.engines, self.node);
        match event {
            Event::Greet { greeting, reached, reply } => {
                let verdict = engines.tell(now, member, |engine, now| engine.handle_greeting(now, &greeting, reached));
                let _ = reply.send(verdict);
            }
            Event::Up(connection) => self.links[member] = Some(connection),
            Event::Unreachable => engines.tell(now, member, |engine, now| engine.handle_dial_failed(now, node)),
            Event::Undialled => engines.tell(now, member, |engine, now| engine.handle_dial_aborted(now, node)),
            Event::Packet(packet) => engines.tell(now, member, |engine, now| engine.handle_packet(now, node, &packet)),
            Event::OpenExchange(reply) => {
                let _ = reply.send(engines.tell(now, member, |engine, now| engine.open_exchange(now, node)));
            }
            Event::Exchange(message, reply) => {
                let _ = reply.send(engines.tell(now, member, |engine, now| engine.handle_exchange(now, node, message)));
            }
        }
    }

    /// Sends over the member's link, or dials one. The message is lost in that case, as a packet may be, and is
    /// repeated.
    fn act(&mut self, member: usize, wanted: Outside) {
        let link = self.links[member].as_ref().filter(|link| link.close_reason().is_none());
        match (wanted, link) {
            (Outside::Packet(packet), Some(link)) => {
                // A datagram may be lost: ignore the error.
                let _ = link.send_datagram(packet);
            }
            (Outside::Exchange, Some(link)) => {
                self.tasks.spawn(self.ends[member].clone().exchange(link.clone()));
            }
            (Outside::Dial, _) | (_, None) => self.dial(member),
        }
    }

    fn dial(&mut self, member: usize) {
        self.tasks.spawn(self.ends[member].clone().dial());
    }
}

/// A member's record.
///
/// # Panics
/// It can't be signed: the fields are in bounds.
fn sign_record(key: &SecretKey, federation: FederationId, addr: SocketAddr, clock: UnixTime) -> SignedRecord {
    let record = NodeRecord {
        federation,
        node: key.node_id(),
        epoch: EPOCH,
        seq: 1,
        issued_at: clock,
        expires_at: clock + RECORD_LIFETIME,
        client_urls: vec![format!("wss://{}.relay.example", addr.ip())],
        quic_addrs: vec![addr],
        region: "eu-west".to_owned(),
        version: "0.1.0".to_owned(),
        abilities: Abilities::ICE_SERVERS,
    };
    Signed::sign(record, key).expect("a record whose fields are in bounds")
}
