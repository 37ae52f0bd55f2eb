//! The membership task. Drives the engine with this node's clocks, links and streams.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_common::{
    keys::NodeId,
    record::{Abilities, SignedRecord},
};
use rand::{RngExt as _, seq::IteratorRandom as _};
use tokio::sync::mpsc;

use super::{exchange, join::ANCHORS};
use crate::{
    config::NodeConfig,
    core::Core,
    health::Unfit,
    identity::{self, Identity},
    links::DialError,
    membership::{
        Engine, Now, Output,
        admission::AdmissionRefusal,
        beacons::Beacons,
        event::{Event, Known},
        overtaken::{Belief, Overtaken},
    },
};

/// Pause before storing a new epoch is retried: a full disk takes about this long to be noticed.
const STORE_RETRY: Duration = Duration::from_secs(30);

/// Capacity of the event channel: a burst of packets of a thousand members.
pub(crate) const EVENTS: usize = 1024;

pub(crate) struct Membership {
    core: Arc<Core>,
    engine: Engine,
    epoch: u64,
    seq: u64,
    overtaken: Overtaken,
    /// A new run whose epoch could not be stored yet.
    pending: Option<PendingRun>,
}

/// A scheduled start of a new run.
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
    /// A stranger knows a later run, or the addresses have changed. Clients stay.
    Other,
}

/// Returns the abilities of this node, with or without an own relay for media, in public lists or not.
pub(crate) fn abilities(config: &NodeConfig, offers_relay: bool, is_reserve: bool) -> Abilities {
    let has_ice_servers = offers_relay || !config.ice.servers.is_empty();
    let offered = [(has_ice_servers, Abilities::ICE_SERVERS), (is_reserve, Abilities::RESERVE)];
    let offered = offered.into_iter().filter(|(offers, _)| *offers);
    offered.fold(Abilities::CHECKS, |all, (_, ability)| all.union(ability))
}

impl Membership {
    /// Creates the task's state after the node has signed its first record.
    pub(crate) fn new(core: Arc<Core>, identity: &Identity) -> Self {
        let own = (**core.members.own_record.load()).clone();
        let seq = own.seq;
        let engine = engine(&core, own);
        Self { core, engine, epoch: identity.epoch(), seq, overtaken: Overtaken::new(Instant::now()), pending: None }
    }

    /// Runs until all event senders are gone.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        self.apply_outputs();
        loop {
            let wake_at = self.engine.poll_timeout();
            let pending = self.pending;
            tokio::select! {
                biased;
                () = sleep_until(pending.map(|pending| pending.at)) => {
                    if let Some(pending) = pending {
                        self.start_new_run(pending.reason);
                    }
                }
                () = sleep_until(wake_at) => self.engine.handle_timeout(now(&self.core)),
                event = events.recv() => match event {
                    Some(event) => self.handle_event(event),
                    None => return,
                },
            }
            self.apply_outputs();
        }
    }

    /// Handles an event. Send errors of replies are ignored, because the requester is gone.
    fn handle_event(&mut self, event: Event) {
        let now = now(&self.core);
        match event {
            Event::Datagram { from, packet } => self.engine.handle_packet(now, from, &packet),
            Event::Greet { greeting, reached, reply } => {
                let _ = reply.send(self.engine.handle_greeting(now, &greeting, reached));
            }
            Event::Unreachable(node) => self.engine.handle_dial_failed(now, node),
            Event::Undialled(node) => self.engine.handle_dial_aborted(now, node),
            Event::Seek(record) => self.engine.seek(now, record),
            Event::Beacon(beacon) => {
                // The succession by which a new root counts may have arrived with the beacon.
                self.engine.set_roots(self.core.trust.roots());
                self.engine.learn_beacon(now, &beacon);
            }
            Event::LastBeacon(beacon) => self.engine.restore_beacon(now, &beacon),
            Event::RootsChanged => self.engine.set_roots(self.core.trust.roots()),
            Event::Remember(members) => {
                for (node, since) in members {
                    self.engine.remember(node, since);
                }
            }
            Event::OpenExchange { with, reply } => {
                let _ = reply.send(self.engine.open_exchange(now, with));
            }
            Event::Exchange { from, message, reply } => {
                let _ = reply.send(self.engine.handle_exchange(now, from, message));
            }
            Event::Known(reply) => {
                let known =
                    Known { since: self.engine.since(), members: self.engine.known(), beacon: self.engine.beacon() };
                let _ = reply.send(known);
            }
            Event::RenewRecord => self.renew_record(),
            Event::Overtaken(by) => self.handle_overtaken(now, by),
            // A run stays at the address of its first record. After a move, members tell each other about the new run
            // and dial it at once.
            Event::Moved | Event::Returned => self.start_new_run(NewRun::Other),
            Event::ClockSet => {
                self.renew_record();
                self.engine.compare_clocks();
            }
            Event::Leave(reply) => match self.engine.leave(now) {
                Ok(leave) => {
                    self.pending = None;
                    let _ = reply.send(leave);
                }
                Err(error) => tracing::error!(%error, "cannot sign this node's leave"),
            },
        }
    }

    /// Handles a member that refused a link because it knows a later run, or the end of this one.
    fn handle_overtaken(&mut self, now: Now, by: NodeId) {
        // While this node drains, its clients' requests open links, and each is refused.
        if self.engine.has_left() {
            return;
        }
        self.core.health.warn_refused(by, AdmissionRefusal::Stale);
        let others = self.engine.members().count();
        let is_member = self.engine.members().any(|(node, _)| node == by);
        let reason = match self.overtaken.handle_refusal(now.at, by, is_member, others) {
            Belief::Doubted => return,
            Belief::Alone => NewRun::Other,
            Belief::Members => NewRun::Overtaken,
        };
        if self.overtaken.try_take(now.at) {
            tracing::warn!("other nodes know a later run with this node's key; beginning a new one");
            self.start_new_run(reason);
        }
    }

    fn renew_record(&mut self) {
        self.seq += 1;
        match self.core.context.sign_record(self.epoch, self.seq) {
            Ok(record) => {
                self.engine.renew(record.clone());
                self.core.members.set_own_record(record);
            }
            // Cannot happen: the first record was signed from the same fields.
            Err(error) => tracing::error!(%error, "cannot sign this node's record"),
        }
    }

    /// Starts a new run, because others know a later one or the addresses have changed. The clients' attached inboxes
    /// stay, and are registered again as members are found.
    fn start_new_run(&mut self, reason: NewRun) {
        self.pending = None;
        let time = now(&self.core);
        let epoch = match identity::raise_epoch(&self.core.context.config.node.data_dir, self.epoch, time.clock) {
            Ok(epoch) => epoch,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "cannot store a new epoch; retrying");
                self.pending = Some(PendingRun { at: time.at + STORE_RETRY, reason });
                return;
            }
        };
        let own = match self.core.context.sign_record(epoch, 1) {
            Ok(own) => own,
            // Cannot happen: the first record was signed from the same fields.
            Err(error) => return tracing::error!(%error, "cannot sign this node's record"),
        };
        tracing::info!(epoch, "started a new run");
        if reason == NewRun::Overtaken {
            self.core.health.set_unfit(Unfit::Overtaken, true);
        }
        (self.epoch, self.seq) = (epoch, 1);
        let (since, known, beacon) = (self.engine.since(), self.engine.known(), self.engine.beacon());
        let counts = *self.engine.counts();
        self.engine = engine(&self.core, own.clone());
        self.engine.continue_counts(counts);
        if let Some(beacon) = beacon {
            self.engine.restore_beacon(time, &beacon);
        }
        self.engine.remember(self.core.context.me, since);
        for (record, since) in &known {
            self.engine.remember(record.node, *since);
        }
        self.core.members.set_own_record(own);
        for (record, _) in known.into_iter().sample(&mut rand::rng(), ANCHORS) {
            self.engine.seek(time, (*record).clone());
        }
    }

    /// Executes the engine's outputs.
    fn apply_outputs(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Send { to, packet } => self.core.links.send_datagram(to, packet),
                Output::Dial { record } => {
                    let core = self.core.clone();
                    self.core.context.tasks.spawn(async move {
                        let event = match core.links.redial(&record).await {
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
                    self.core.context.tasks.spawn(async move { exchange::run(&core, with).await });
                }
                Output::Lost { node } => {
                    self.core.homes.forget_codes_of(node);
                    self.core.links.close(&node);
                }
                Output::Gone { node, epoch } => {
                    self.core.homes.forget_before(node, epoch);
                    self.core.links.close_former(&node, epoch);
                }
                Output::View => {
                    let view = self.engine.view(now(&self.core));
                    if view.len() > 1 {
                        self.core.health.set_unfit(Unfit::Overtaken, false);
                        self.core.health.set_unfit(Unfit::CutOff, false);
                    }
                    self.core.homes.share_among(view.len());
                    self.core.members.set_view(view);
                    // The new members count as witnesses of the time.
                    self.core.health.update_clock_fitness();
                }
            }
        }
        self.core.context.metrics.set_membership(*self.engine.counts());
    }
}

fn engine(core: &Core, own: SignedRecord) -> Engine {
    Engine::new(
        now(core),
        core.context.config.membership_settings(),
        core.context.key.clone(),
        own,
        core.members.records.clone(),
        Beacons::new(core.trust.roots()),
        rand::rng().random(),
    )
}

fn now(core: &Core) -> Now {
    Now { at: Instant::now(), clock: core.context.clock.now() }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
