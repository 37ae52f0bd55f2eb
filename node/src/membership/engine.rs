//! The engine: one node's membership, on time that its driver gives.
//!
//! One rule holds it together: what this node holds of another changes only by what it has itself seen. A greeting on a
//! link to the first address of the signed record makes a member; two series of unanswered probes, or the member's own signed
//! leave, unmake it. All that others say is where to look.

mod compare;
mod greet;
mod hear;
mod news;
mod seek;
mod show;
mod watch;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe_common::{
    keys::{NodeId, SecretKey},
    record::{NodeLeave, SignedRecord},
    signed::{SignError, Signed},
    time::UnixTime,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

pub use self::greet::{Greeting, Verdict};
use super::{
    admission::Admission,
    beacons::Beacons,
    checks::{Checks, Step},
    counts::Counts,
    member::MemberId,
    member_age::{AGE_WITNESSES, MemberAge},
    member_table::MemberTable,
    news::NewsKind,
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
/// Exchanges that something gives reason for follow each other by at least this much.
const EXCHANGE_PAUSE: Duration = Duration::from_secs(2);
/// How long the answer to an exchange may take.
const EXCHANGE_WAIT: Duration = Duration::from_secs(10);
/// A record that has less than this part of its life left is asked for anew, by a new link.
const RECORD_OLD: u32 = 4;
/// Records that are asked for anew in one tick.
const REFRESHED_PER_TICK: usize = 2;
/// A wall clock that differs by more than this from the monotonic one since the last look was set. Until it is known which was
/// right, for [`SET_PATIENCE`], no record expires: without the others' records a node can't find back.
const SET: Duration = Duration::from_secs(60);
const SET_PATIENCE: Duration = Duration::from_secs(600);
/// How often a leave is told to a few members.
const FAREWELLS: usize = 5;
/// Probation counts only once so many members are past it: a young federation works all the same.
pub const MATURE: usize = 3;

/// The time, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The monotonic clock: for waiting.
    pub at: Instant,
    /// The wall clock: for signed notes.
    pub clock: UnixTime,
}

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
    me: NodeId,
    key: SecretKey,
    own: SignedRecord,
    own_age: MemberAge,
    /// Who has told this node how long all others have been members; three are asked after the start.
    tellers: Vec<NodeId>,
    /// With whom this node has begun an exchange, until its answer or for a moment.
    asked: HashMap<NodeId, Instant>,
    /// What they told of nodes that weren't up then.
    reported_ages: HashMap<NodeId, MemberAge>,
    records: Arc<Records>,
    beacons: Beacons,
    /// When placement changes by itself.
    beacon_change: Option<UnixTime>,
    rng: StdRng,
    swim: Swim,
    table: MemberTable,
    checks: Checks,
    reputation: Reputation,
    outputs: VecDeque<Output>,
    view_changed: bool,
    /// Members past probation at the last look, this node among them.
    mature: usize,
    ticks: u64,
    next_tick: Instant,
    next_exchange: Instant,
    last_exchange: Option<Instant>,
    /// The time of the last look at the clocks, and until when no record expires.
    looked: Now,
    keep_until: Instant,
    last_heard: Option<Instant>,
    probes: u64,
    counts: Counts,
    /// This node has said that it leaves. It says nothing more.
    left: bool,
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
        let mut own_age = MemberAge::default();
        own_age.seen(now.clock);
        let mut engine = Self {
            next_exchange: now.at + settings.exchange_every.mul_f64(rng.random_range(0.5..1.0)),
            settings,
            me: own.node,
            key,
            own,
            own_age,
            tellers: Vec::new(),
            asked: HashMap::new(),
            reported_ages: HashMap::new(),
            records,
            beacon_change: beacons.next_change(now.clock),
            beacons,
            rng,
            swim,
            table,
            checks: Checks::default(),
            reputation: Reputation::new(now.at),
            outputs: VecDeque::new(),
            view_changed: true,
            mature: 0,
            ticks: 0,
            next_tick: now.at + TICK,
            last_exchange: None,
            looked: now,
            keep_until: now.at,
            last_heard: None,
            probes: 0,
            counts: Counts::default(),
            left: false,
        };
        engine.spread_own_record();
        engine
    }

    /// When [`Engine::wake`] is to be called next.
    pub fn wake_at(&self) -> Option<Instant> {
        if self.left {
            return None;
        }
        let due = [self.swim.wake_at(), self.checks.wake_at(), self.table.wake_at()];
        due.into_iter().flatten().chain([self.next_tick, self.next_exchange]).min()
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
        if now.at >= self.next_exchange {
            self.exchange_with_any(now);
        }
        self.settle(now);
    }

    fn tick(&mut self, now: Now) {
        self.ticks += 1;
        let expected = self.looked.clock + now.at.saturating_duration_since(self.looked.at);
        if now.clock.saturating_since(expected).max(expected.saturating_since(now.clock)) > SET {
            self.keep_until = now.at + SET_PATIENCE;
        }
        self.looked = now;
        if self.beacon_change.is_some_and(|change| change <= now.clock) {
            self.beacon_change = self.beacons.next_change(now.clock);
            self.view_changed = true;
        }
        if self.table.has_lost() {
            for node in self.table.retry(now.at, &mut self.rng) {
                self.dial(&node);
            }
        }
        if self.ticks.is_multiple_of(EXPIRE_EVERY) {
            self.reputation.expire(now.at);
            self.asked.retain(|_, at| *at + EXCHANGE_WAIT > now.at);
            if self.tellers.len() >= AGE_WITNESSES {
                self.reported_ages.clear();
            }
            if now.at >= self.keep_until {
                self.records.expire(now.clock);
            }
            for node in self.table.forget_lost(now.at) {
                self.records.forget(&node);
            }
            self.count_mature(now);
            self.refresh_records(now);
        }
    }

    /// Shows a record that was signed anew from now on. It is told by gossip only where its addresses are others: links
    /// show it as they are made.
    pub fn renew(&mut self, own: SignedRecord) {
        let moved = own.quic_addrs != self.own.quic_addrs;
        self.own = own;
        self.view_changed = true;
        if moved {
            self.spread_own_record();
        }
    }

    fn spread_own_record(&mut self) {
        self.swim.spread(&NewsKind::Record.item(self.own.as_bytes()));
    }

    /// Tells the members that this node leaves, and does nothing more.
    ///
    /// # Errors
    /// The leave can't be signed.
    pub fn leave(&mut self, now: Now) -> Result<Signed<NodeLeave>, SignError> {
        let leave = NodeLeave {
            federation: self.own.federation,
            node: self.me,
            epoch: self.own.epoch,
            seq: self.own.seq,
            issued_at: now.clock,
        };
        let leave = Signed::sign(leave, &self.key)?;
        self.swim.spread(&NewsKind::Leave.item(leave.as_bytes()));
        for _ in 0..FAREWELLS {
            self.swim.broadcast(now.at);
        }
        self.settle(now);
        self.left = true;
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
