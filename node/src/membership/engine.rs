//! The engine: one node's membership, on time that its driver gives.
//!
//! One rule holds it together: what this node holds of another changes only by what it has itself seen. A greeting on a
//! link to the first address of the signed record makes a member; two series of unanswered probes, or the member's own signed
//! leave, unmake it. All that others say is where to look.

mod dialling;
mod exchanges;
mod greetings;
mod news;
mod packets;
mod probing;
mod queries;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe_common::{
    keys::{NodeId, SecretKey},
    record::{NodeLeave, SignedRecord},
    signed::{SignError, Signed},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

pub use self::greetings::{Greeting, Verdict};
use super::{
    admission::Admission,
    ages::Ages,
    beacons::Beacons,
    checks::{Checks, Step},
    counts::Counts,
    exchange_schedule::ExchangeSchedule,
    member::MemberId,
    member_table::MemberTable,
    news::NewsKind,
    now::Now,
    record_expiry::RecordExpiry,
    records::Records,
    reputation::Reputation,
    swim::Swim,
};

/// A driver that is later than this was not running: what it then has not heard proves nothing.
const STALLED: Duration = Duration::from_secs(1);
/// How often the roster is looked over.
const TICK: Duration = Duration::from_secs(1);
/// How often what is over is forgotten, in ticks.
const EXPIRE_EVERY: u64 = 30;
/// The most jitter before an accusation is checked: a thousand members don't probe the accused in the same instant.
const CHECK_JITTER: Duration = Duration::from_secs(1);
/// Who has heard nobody for this long accuses nobody: its own network is the nearest cause.
const DEAF: Duration = Duration::from_secs(3);
/// A record that has less than this part of its life left is asked for anew, by a new link.
const RECORD_OLD: u32 = 4;
/// Records that are asked for anew in one tick.
const REFRESHED_PER_TICK: usize = 2;
/// How often a leave is told to a few members.
const FAREWELLS: usize = 5;
/// Probation counts only once so many members are past it: a young federation works all the same.
pub const MATURE: usize = 3;

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One member is probed in every period.
    pub probe_period: Duration,
    /// How long a direct probe may take before others are asked to probe; less than half the period.
    pub probe_timeout: Duration,
    /// How often views are compared with one random member.
    pub exchange_every: Duration,
    /// Who may become a member.
    pub admission: Admission,
    /// How long a new member is on probation.
    pub probation: Duration,
}

/// What the driver is to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send this packet; over the link that is there, or else over a new one.
    Send {
        /// To whom.
        to: NodeId,
        /// The packet.
        packet: Bytes,
    },
    /// Make a new link by this record, even where there is one: greet, or say that it failed.
    Dial {
        /// Whose record; it may have expired, and its addresses hold all the same.
        record: Arc<SignedRecord>,
    },
    /// Begin an exchange, over the link that is there or else over a new one.
    Exchange {
        /// With whom.
        with: NodeId,
    },
    /// This member doesn't answer any more: close its link, and keep no name for its sessions. What is signed by others
    /// stays, since it may be back in a moment.
    Lost {
        /// Who.
        node: NodeId,
    },
    /// Forget what this node registered before the epoch, and close links to its selves before it.
    Gone {
        /// Who.
        node: NodeId,
        /// Its first epoch that still counts.
        epoch: u64,
    },
    /// The view has changed: ask for it.
    View,
}

/// One node's membership.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    own: OwnNode,
    ages: Ages,
    exchanges: ExchangeSchedule,
    records: Arc<Records>,
    record_expiry: RecordExpiry,
    beacons: Beacons,
    rng: StdRng,
    swim: Swim,
    table: MemberTable,
    checks: Checks,
    reputation: Reputation,
    outputs: VecDeque<Output>,
    view_changed: bool,
    ticks: u64,
    next_tick: Instant,
    last_heard: Option<Instant>,
    counts: Counts,
}

/// This node, as others know it.
#[derive(Debug)]
struct OwnNode {
    id: NodeId,
    key: SecretKey,
    record: SignedRecord,
    /// It has said that it leaves. It says nothing more.
    has_left: bool,
}

impl Engine {
    /// The membership of a node that has signed its record. `seed` makes every choice of the engine.
    pub fn new(
        now: Now,
        settings: Settings,
        key: SecretKey,
        own: SignedRecord,
        records: Arc<Records>,
        beacons: Beacons,
        seed: u64,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let id = MemberId { node: own.node, epoch: own.epoch };
        let swim = Swim::new(id, settings.probe_period, settings.probe_timeout, StdRng::from_rng(&mut rng));
        let table = MemberTable::new(settings.admission.network(&own));
        let mut engine = Self {
            exchanges: ExchangeSchedule::new(now.at, settings.exchange_every, rng.random_range(0.5..1.0)),
            ages: Ages::new(settings.probation, now.clock),
            settings,
            own: OwnNode { id: own.node, key, record: own, has_left: false },
            records,
            record_expiry: RecordExpiry::new(now),
            beacons,
            rng,
            swim,
            table,
            checks: Checks::default(),
            reputation: Reputation::new(now.at),
            outputs: VecDeque::new(),
            view_changed: true,
            ticks: 0,
            next_tick: now.at + TICK,
            last_heard: None,
            counts: Counts::default(),
        };
        engine.spread_own_record();
        engine
    }

    /// When [`Engine::wake`] is to be called next.
    pub fn wake_at(&self) -> Option<Instant> {
        if self.own.has_left {
            return None;
        }
        let due = [self.swim.wake_at(), self.checks.wake_at(), self.table.wake_at()];
        due.into_iter().flatten().chain([self.next_tick, self.exchanges.next()]).min()
    }

    /// Does what is due.
    pub fn wake(&mut self, now: Now) {
        let Some(due) = self.wake_at() else { return };
        let stalled = now.at.saturating_duration_since(due) > STALLED;
        if stalled {
            self.counts.stalls += 1;
            self.checks.restart(now.at);
            self.swim.forget_probe();
            self.last_heard = None;
        }
        if let Some(failed) = self.swim.wake(now.at) {
            self.handle_probe_failed(now, failed);
        }
        for step in self.checks.step(now.at) {
            match step {
                Step::Probe(node) => self.probe(node),
                Step::Redial(node) => {
                    self.dial(&node);
                    self.probe(node);
                }
                Step::Failed(node) => self.declare_down(now, node),
            }
        }
        for node in self.table.overdue(now.at) {
            self.dial_failed(now, node, !stalled);
        }
        if now.at >= self.next_tick {
            self.next_tick = now.at + TICK;
            self.tick(now);
        }
        if now.at >= self.exchanges.next() {
            self.exchange_with_any(now);
        }
        self.settle(now);
    }

    fn tick(&mut self, now: Now) {
        self.ticks += 1;
        self.record_expiry.check_clocks(now);
        self.view_changed |= self.beacons.poll_change(now.clock);
        if self.table.has_lost() {
            for node in self.table.retry(now.at, &mut self.rng) {
                self.dial(&node);
            }
        }
        if self.ticks.is_multiple_of(EXPIRE_EVERY) {
            self.reputation.expire(now.at);
            self.exchanges.expire(now.at);
            self.ages.expire();
            if self.record_expiry.is_allowed(now.at) {
                self.records.expire(now.clock);
            }
            for node in self.table.forget_lost(now.at) {
                self.records.forget(&node);
            }
            self.view_changed |= self.ages.count_mature(&self.table, now.clock);
            self.refresh_records(now);
        }
    }

    /// Shows a record that was signed anew from now on. It is told by gossip only where its addresses are others: links
    /// show it as they are made.
    pub fn renew(&mut self, own: SignedRecord) {
        let moved = own.quic_addrs != self.own.record.quic_addrs;
        self.own.record = own;
        self.view_changed = true;
        if moved {
            self.spread_own_record();
        }
    }

    fn spread_own_record(&mut self) {
        self.swim.spread(&NewsKind::Record.item(self.own.record.as_bytes()));
    }

    /// Tells the members that this node leaves, and does nothing more.
    ///
    /// # Errors
    /// The leave can't be signed.
    pub fn leave(&mut self, now: Now) -> Result<Signed<NodeLeave>, SignError> {
        let leave = NodeLeave {
            federation: self.own.record.federation,
            node: self.own.id,
            epoch: self.own.record.epoch,
            seq: self.own.record.seq,
            issued_at: now.clock,
        };
        let leave = Signed::sign(leave, &self.own.key)?;
        self.swim.spread(&NewsKind::Leave.item(leave.as_bytes()));
        for _ in 0..FAREWELLS {
            self.swim.broadcast(now.at);
        }
        self.settle(now);
        self.own.has_left = true;
        Ok(leave)
    }

    /// Does what the last input gave reason for.
    fn settle(&mut self, now: Now) {
        while let Some(node) = self.table.dial_next(now.at) {
            self.dial(&node);
        }
        for (to, packet) in self.swim.take_packets() {
            self.outputs.push_back(Output::Send { to: to.node, packet });
        }
        if std::mem::take(&mut self.view_changed) {
            self.outputs.push_back(Output::View);
        }
    }

    /// The next thing to do; to be asked until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

#[cfg(test)]
mod tests;
