//! The engine: one node's membership, on the time that its driver passes.
//!
//! One rule holds it together: the state of a node changes only by what this node itself has observed. A greeting on a
//! link to the first address of the signed record makes a node a member. Two series of unanswered probes, or the
//! member's own signed leave, end that. Statements of other members only cause a dial or a check.

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

pub use self::{
    greetings::{Greeting, Verdict},
    queries::OpenCounts,
};
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

/// A driver that is later than this has stalled. Answers that are missing after a stall prove nothing.
const STALLED: Duration = Duration::from_secs(1);
/// The interval of periodic work.
const TICK: Duration = Duration::from_secs(1);
/// The interval at which old state is removed, in ticks.
const EXPIRE_EVERY: u64 = 30;
/// The maximum jitter before an accusation is checked, so that a thousand members don't probe the accused at once.
const CHECK_JITTER: Duration = Duration::from_secs(1);
/// A node that has received nothing for this time accuses no one, since most likely its own network has failed.
const ISOLATED_AFTER: Duration = Duration::from_secs(3);
/// A record is refreshed when less than one part in this many of its lifetime is left.
const REFRESH_FRACTION: u32 = 4;
/// The maximum number of records that are refreshed for each tick.
const REFRESHED_PER_TICK: usize = 2;
/// How often a leave is sent to a few random members.
const LEAVE_BROADCASTS: usize = 5;
/// Probation applies only after this many members are past it, so that a young federation works too.
pub const MATURE: usize = 3;

/// Settings of the operator.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The probe period. One member is probed in each.
    pub probe_period: Duration,
    /// The timeout of a direct probe, after which indirect probes are sent. Less than half the period.
    pub probe_timeout: Duration,
    /// The interval of exchanges with a random member.
    pub exchange_every: Duration,
    /// The admission rules.
    pub admission: Admission,
    /// The probation time of a new member.
    pub probation: Duration,
}

/// What the driver has to do.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a packet over the existing link, or over a new one.
    Send {
        /// The receiver.
        to: NodeId,
        /// The encoded packet.
        packet: Bytes,
    },
    /// Dial a new link, even if one exists. The driver then passes the peer's greeting, or reports the failure.
    Dial {
        /// The record of the node to dial. It may have expired, but its addresses are still the best known ones.
        record: Arc<SignedRecord>,
    },
    /// Begin an exchange over the existing link, or over a new one.
    Exchange {
        /// The member to exchange with.
        with: NodeId,
    },
    /// A member is down. The driver closes its link, and forgets the codes of its sessions. Leases stay, since the
    /// member may soon be back.
    Lost {
        /// The member.
        node: NodeId,
    },
    /// A member has left or restarted. The driver forgets what earlier runs have registered, and closes links to them.
    Gone {
        /// The member.
        node: NodeId,
        /// The first epoch that is still valid.
        epoch: u64,
    },
    /// The view has changed. The driver gets it by [`Engine::view`].
    View,
}

/// The membership state of one node.
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
    last_received: Option<Instant>,
    counts: Counts,
}

/// This node's identity.
#[derive(Debug)]
struct OwnNode {
    id: NodeId,
    key: SecretKey,
    record: SignedRecord,
    /// Whether the node has left. It sends nothing more.
    has_left: bool,
}

impl Engine {
    /// Creates the engine of a node with its signed record. `seed` determines all random choices.
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
            last_received: None,
            counts: Counts::default(),
        };
        engine.spread_own_record();
        engine
    }

    /// Returns when [`Engine::handle_timeout`] is due next, or `None` after the node has left.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.own.has_left {
            return None;
        }
        let due = [self.swim.poll_timeout(), self.checks.poll_timeout(), self.table.poll_timeout()];
        due.into_iter().flatten().chain([self.next_tick, self.exchanges.next()]).min()
    }

    /// Does all work that is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let Some(due) = self.poll_timeout() else { return };
        let stalled = now.at.saturating_duration_since(due) > STALLED;
        if stalled {
            self.counts.stalls += 1;
            self.checks.restart(now.at);
            self.swim.forget_probe();
            self.last_received = None;
        }
        if let Some(failed) = self.swim.handle_timeout(now.at) {
            self.handle_probe_failed(now, failed);
        }
        for step in self.checks.handle_timeout(now.at) {
            match step {
                Step::Probe(node) => self.probe(node),
                Step::Redial(node) => {
                    self.dial(&node);
                    self.probe(node);
                }
                Step::Failed(node) => self.declare_down(now, node),
            }
        }
        for node in self.table.take_overdue(now.at) {
            self.end_dial(now, node, !stalled);
        }
        if now.at >= self.next_tick {
            self.next_tick = now.at + TICK;
            self.tick(now);
        }
        if now.at >= self.exchanges.next() {
            self.exchange_with_any(now);
        }
        self.push_outputs(now);
    }

    fn tick(&mut self, now: Now) {
        self.ticks += 1;
        self.record_expiry.check_clocks(now);
        self.view_changed |= self.beacons.poll_change(now.clock);
        if self.table.has_lost() {
            for node in self.table.take_retries(now.at, &mut self.rng) {
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
            for node in self.table.remove_expired(now.at) {
                self.records.remove(&node);
            }
            self.view_changed |= self.ages.count_mature(&self.table, now.clock);
            self.refresh_records(now);
        }
    }

    /// Replaces this node's record by a newly signed one. It is gossiped only if its addresses differ, since each new
    /// link shows the current record.
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

    /// Leaves the federation: sends a signed leave to the members. The engine does nothing more.
    ///
    /// # Errors
    /// The leave can't be signed. Nothing was sent.
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
        for _ in 0..LEAVE_BROADCASTS {
            self.swim.broadcast(now.at);
        }
        self.push_outputs(now);
        self.own.has_left = true;
        Ok(leave)
    }

    /// Produces the outputs that the last input has caused.
    fn push_outputs(&mut self, now: Now) {
        while let Some(node) = self.table.next_dial(now.at) {
            self.dial(&node);
        }
        for (to, packet) in self.swim.take_packets() {
            self.outputs.push_back(Output::Send { to: to.node, packet });
        }
        if std::mem::take(&mut self.view_changed) {
            self.outputs.push_back(Output::View);
        }
    }

    /// Returns the next output. The driver calls this until it returns `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

#[cfg(test)]
mod tests;
