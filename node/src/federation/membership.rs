//! The membership task: drives the engine with this node's clocks, links and streams.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_common::{
    record::{Abilities, NodeRecord, SignedRecord},
    signed::{SignError, Signed},
};
use rand::{RngExt as _, seq::IteratorRandom as _};
use tokio::sync::mpsc;

use super::{
    exchange,
    join::ANCHORS,
    links::{self, DialError},
};
use crate::{
    config::NodeConfig,
    core::{Basics, Core, Unfit},
    identity::{self, Identity},
    membership::{
        Engine, Now, Output,
        beacons::Beacons,
        event::{Event, Known},
        overtaken::{Belief, Overtaken},
    },
};

/// How long after a failure a new epoch is stored again: as long as a full disk takes to be noticed.
const STORE_AGAIN: Duration = Duration::from_secs(30);

/// What may wait for this task: a burst of packets of a thousand members.
pub(crate) const EVENTS: usize = 1024;

/// The state of the membership task.
pub(crate) struct Membership {
    core: Arc<Core>,
    engine: Engine,
    epoch: u64,
    seq: u64,
    overtaken: Overtaken,
    /// A new run that couldn't be stored.
    pending: Option<PendingRun>,
}

/// A new run that is to be begun.
#[derive(Clone, Copy, Debug)]
struct PendingRun {
    at: Instant,
    reason: NewRun,
}

/// Why a new run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NewRun {
    /// Members know a later run.
    Overtaken,
    /// A stranger knows one, or the addresses have changed. Clients stay.
    Other,
}

/// Signs this node's record.
pub(crate) fn sign_record(core: &Basics, epoch: u64, seq: u64) -> Result<SignedRecord, SignError> {
    let now = core.clock.now();
    let record = NodeRecord {
        federation: core.federation,
        node: core.me,
        epoch,
        seq,
        issued_at: now,
        expires_at: now + core.record_lifetime,
        client_urls: core.client_urls.clone(),
        quic_addrs: core.quic_addrs.load().to_vec(),
        region: core.region.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abilities: core.abilities,
    };
    Signed::sign(record, &core.key)
}

/// What a node offers, by its configuration.
pub(crate) fn abilities(config: &NodeConfig) -> Abilities {
    let offered = [(!config.ice.servers.is_empty(), Abilities::ICE_SERVERS), (config.node.reserve, Abilities::RESERVE)];
    let offered = offered.into_iter().filter(|(offers, _)| *offers);
    offered.fold(Abilities::default(), |all, (_, ability)| all.union(ability))
}

impl Membership {
    /// The membership of a node that has signed its first record.
    pub(crate) fn new(core: Arc<Core>, identity: &Identity) -> Self {
        let own = (**core.own_record.load()).clone();
        let seq = own.seq;
        let engine = engine(&core, own);
        Self { core, engine, epoch: identity.epoch(), seq, overtaken: Overtaken::new(Instant::now()), pending: None }
    }

    /// Runs until the queue's senders are gone.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        self.act();
        loop {
            let wake_at = self.engine.wake_at();
            let pending = self.pending;
            tokio::select! {
                biased;
                () = sleep_until(pending.map(|pending| pending.at)) => {
                    if let Some(pending) = pending {
                        self.take_new_epoch(pending.reason);
                    }
                }
                () = sleep_until(wake_at) => self.engine.wake(now(&self.core)),
                event = events.recv() => match event {
                    Some(event) => self.handle_event(event),
                    None => return,
                },
            }
            self.act();
        }
    }

    /// A reply that nobody waits for any more is none that is missed.
    fn handle_event(&mut self, event: Event) {
        let now = now(&self.core);
        match event {
            Event::Datagram { from, packet } => self.engine.packet(now, from, &packet),
            Event::Greet { greeting, reached, reply } => {
                let _ = reply.send(self.engine.greet(now, &greeting, reached));
            }
            Event::Unreachable(node) => self.engine.unreachable(now, node),
            Event::Undialled(node) => self.engine.undialled(now, node),
            Event::Seek(record) => self.engine.seek(now, record),
            Event::Beacon(note) => self.engine.learn_beacon(now, &note),
            Event::Remember(members) => {
                for (node, since) in members {
                    self.engine.remember(node, since);
                }
            }
            Event::OpenExchange { with, reply } => {
                let _ = reply.send(self.engine.open_exchange(now, with));
            }
            Event::Exchange { from, message, reply } => {
                let _ = reply.send(self.engine.exchange(now, from, message));
            }
            Event::Known(reply) => {
                let known =
                    Known { since: self.engine.since(), members: self.engine.known(), beacon: self.engine.beacon() };
                let _ = reply.send(known);
            }
            Event::RenewRecord => self.renew_record(),
            Event::Overtaken(by) => {
                let (others, is_member) =
                    (self.engine.members().count(), self.engine.members().any(|(node, _)| node == by));
                let reason = match self.overtaken.told(now.at, by, is_member, others) {
                    Belief::Doubted => return,
                    Belief::Alone => NewRun::Other,
                    Belief::Members => NewRun::Overtaken,
                };
                if self.overtaken.try_take(now.at) {
                    tracing::warn!("other nodes know a later run with this node's key; beginning a new one");
                    self.take_new_epoch(reason);
                }
            }
            // A run is where its first record says. What moves is a new one, which members tell each other and dial at once.
            Event::Moved => self.take_new_epoch(NewRun::Other),
            Event::ClockSet => {
                self.renew_record();
                self.engine.compare_clocks();
            }
            Event::Leave(reply) => match self.engine.leave(now) {
                Ok(leave) => {
                    let _ = reply.send(leave);
                }
                Err(error) => tracing::error!(%error, "cannot sign this node's leave"),
            },
        }
    }

    fn renew_record(&mut self) {
        self.seq += 1;
        match sign_record(&self.core.basics, self.epoch, self.seq) {
            Ok(record) => {
                self.engine.renew(record.clone());
                self.core.set_own_record(record);
            }
            // The first record was signed from the same fields.
            Err(error) => tracing::error!(%error, "cannot sign this node's record"),
        }
    }

    /// Begins a new run: others know a later one than this, or its addresses have changed. What its clients have attached stays, and is registered again as
    /// members are met.
    fn take_new_epoch(&mut self, reason: NewRun) {
        self.pending = None;
        let time = now(&self.core);
        let epoch = match identity::raise_epoch(&self.core.config.node.data_dir, self.epoch, time.clock) {
            Ok(epoch) => epoch,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "cannot store a new epoch; trying again");
                self.pending = Some(PendingRun { at: time.at + STORE_AGAIN, reason });
                return;
            }
        };
        let own = match sign_record(&self.core.basics, epoch, 1) {
            Ok(own) => own,
            // The first record was signed from the same fields.
            Err(error) => return tracing::error!(%error, "cannot sign this node's record"),
        };
        tracing::info!(epoch, "beginning a new run");
        if reason == NewRun::Overtaken {
            self.core.set_unfit(Unfit::Overtaken, true);
        }
        (self.epoch, self.seq) = (epoch, 1);
        let (since, known, beacon) = (self.engine.since(), self.engine.known(), self.engine.beacon());
        let counts = *self.engine.counts();
        self.engine = engine(&self.core, own.clone());
        self.engine.continue_counts(counts);
        if let Some(beacon) = beacon {
            self.engine.learn_beacon(time, &beacon);
        }
        self.engine.remember(self.core.me, since);
        for (record, since) in &known {
            self.engine.remember(record.node, *since);
        }
        self.core.set_own_record(own);
        for (record, _) in known.into_iter().sample(&mut rand::rng(), ANCHORS) {
            self.engine.seek(time, (*record).clone());
        }
    }

    /// Does what the engine wants.
    fn act(&mut self) {
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Send { to, packet } => links::send_datagram(&self.core, to, packet),
                Output::Dial { record } => {
                    let core = self.core.clone();
                    self.core.tasks.spawn(async move {
                        let event = match links::redial(&core, &record).await {
                            Ok(_) => return,
                            Err(DialError::Unreachable) => Event::Unreachable(record.node),
                            Err(DialError::Unknown | DialError::Refused(_) | DialError::Busy) => {
                                Event::Undialled(record.node)
                            }
                        };
                        // The membership task ends only with the node.
                        let _ = core.membership.send(event).await;
                    });
                }
                Output::Exchange { with } => {
                    let core = self.core.clone();
                    self.core.tasks.spawn(async move { exchange::ask(&core, with).await });
                }
                Output::Lost { node } => {
                    self.core.homes().drop_codes_of(node);
                    self.core.links.close(&node);
                }
                Output::Gone { node, epoch } => {
                    self.core.forget_before(node, epoch);
                    self.core.links.close_former(&node, epoch);
                }
                Output::View => {
                    let view = self.engine.view(now(&self.core));
                    if view.len() > 1 {
                        self.core.set_unfit(Unfit::Overtaken, false);
                        self.core.set_unfit(Unfit::CutOff, false);
                    }
                    self.core.set_view(view);
                }
            }
        }
        self.core.metrics.set_membership(*self.engine.counts());
    }
}

fn engine(core: &Core, own: SignedRecord) -> Engine {
    Engine::new(
        now(core),
        core.config.membership_settings(),
        core.key.clone(),
        own,
        core.records.clone(),
        Beacons::new(core.federation, core.roots.clone()),
        rand::rng().random(),
    )
}

fn now(core: &Core) -> Now {
    Now { at: Instant::now(), clock: core.clock.now() }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
