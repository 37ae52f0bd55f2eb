//! The engine: one node's membership, on time that its driver gives.
//!
//! One rule holds it together: what this node holds of another changes only by what it has itself seen. A greeting on a
//! link to an address of the signed record makes a member; two series of unanswered probes, or the member's own signed
//! leave, unmake it. All that others say is where to look.

mod compare;
mod greet;
mod hear;
mod news;

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
    time::UnixTime,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};

pub use self::greet::{Greeting, Verdict};
use super::{
    accusation::Accusation,
    admission::Admission,
    checks::{Checks, Step},
    conduct::Conduct,
    counts::{Counts, Reason},
    member::MemberId,
    news::NewsKind,
    packet::Packet,
    records::Records,
    roster::{Claimed, Roster, State},
    since::Since,
    swim::Swim,
    view::View,
};
use crate::placement::Placement;

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
/// A record that has less than this part of its life left is asked for anew, by a new link.
const RECORD_OLD: u32 = 4;
/// Records that are asked for anew in one tick.
const REFRESHED_PER_TICK: usize = 2;
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
    own_since: Since,
    records: Arc<Records>,
    rng: StdRng,
    swim: Swim,
    roster: Roster,
    checks: Checks,
    conduct: Conduct,
    outputs: VecDeque<Output>,
    view_changed: bool,
    /// Members past probation at the last look, this node among them.
    mature: usize,
    ticks: u64,
    next_tick: Instant,
    next_exchange: Instant,
    last_exchange: Option<Instant>,
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
        seed: u64,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let id = MemberId { node: own.node, epoch: own.epoch };
        let swim = Swim::new(id, settings.probe_period, settings.probe_timeout, StdRng::from_rng(&mut rng));
        let mut own_since = Since::default();
        own_since.seen(now.clock);
        let mut engine = Self {
            next_exchange: now.at + settings.exchange_every.mul_f64(rng.random_range(0.5..1.0)),
            settings,
            me: own.node,
            key,
            own,
            own_since,
            records,
            rng,
            swim,
            roster: Roster::default(),
            checks: Checks::default(),
            conduct: Conduct::new(now.at),
            outputs: VecDeque::new(),
            view_changed: true,
            mature: 0,
            ticks: 0,
            next_tick: now.at + TICK,
            last_exchange: None,
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
        let due = [self.swim.wake_at(), self.checks.wake_at(), self.roster.wake_at()];
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
            self.doubt(now, failed);
        }
        for step in self.checks.step(now.at) {
            match step {
                Step::Probe(node) => self.probe(node),
                Step::Redial(node) => {
                    self.dial(&node);
                    self.probe(node);
                }
                Step::Failed(node) => self.lose(now, node),
            }
        }
        for node in self.roster.overdue(now.at) {
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
        if self.roster.has_lost() {
            for node in self.roster.retry(now.at) {
                self.dial(&node);
            }
        }
        if self.ticks.is_multiple_of(EXPIRE_EVERY) {
            self.conduct.expire(now.at);
            self.records.expire(now.clock);
            for node in self.roster.forget_lost(now.at) {
                self.records.forget(&node);
            }
            self.count_mature(now);
            self.refresh_records(now);
        }
    }

    /// Asks members for their records that will expire soon. Where links come and go, each has shown a fresh one.
    fn refresh_records(&mut self, now: Now) {
        let up = self.roster.all_up().map(|(node, _)| node);
        let old: Vec<_> = up
            .filter(|node| self.is_old(now, node))
            .take(REFRESHED_PER_TICK * usize::try_from(EXPIRE_EVERY).unwrap_or(usize::MAX))
            .collect();
        for with in old {
            self.outputs.push_back(Output::Exchange { with });
        }
    }

    /// Whether the record of a member has little of its life left.
    fn is_old(&self, now: Now, node: &NodeId) -> bool {
        self.records.any(node).is_some_and(|record| {
            let life = record.expires_at.saturating_since(record.issued_at);
            record.expires_at.saturating_since(now.clock) < life / RECORD_OLD
        })
    }

    fn count_mature(&mut self, now: Now) {
        let mature = self.members_since().filter(|since| self.is_mature(*since, now.clock)).count();
        if mature != self.mature {
            self.mature = mature;
            self.view_changed = true;
        }
    }

    fn members_since(&self) -> impl Iterator<Item = Option<UnixTime>> {
        self.roster.all_up().map(|(_, entry)| entry.since.get()).chain([self.own_since.get()])
    }

    fn is_mature(&self, since: Option<UnixTime>, clock: UnixTime) -> bool {
        since.is_some_and(|since| since + self.settings.probation <= clock)
    }

    /// Whether a member's accusations count.
    fn is_believed(&self, node: &NodeId, clock: UnixTime) -> bool {
        let Some(entry) = self.roster.get(node).filter(|entry| entry.state == State::Up) else { return false };
        self.mature < MATURE || self.is_mature(entry.since.get(), clock)
    }

    /// This node's own probe of a member has failed.
    fn doubt(&mut self, now: Now, id: MemberId) {
        if self.roster.up(&id.node) != Some(id.epoch) {
            return;
        }
        self.counts.checks += u64::from(!self.checks.is_open(&id.node));
        self.checks.open(id.node, None, now.at);
        let deaf = self.last_heard.is_none_or(|last| last + DEAF <= now.at);
        // What others would refuse isn't said.
        if deaf
            || !self.conduct.may_accuse(now.at, &self.me, &id.node, now.clock)
            || !self.conduct.accuses(now.at, self.me, id.node, now.clock)
        {
            return;
        }
        let accusation = Accusation {
            federation: self.own.federation,
            accuser: self.me,
            accused: id.node,
            epoch: id.epoch,
            at: now.clock,
        };
        match Signed::sign(accusation, &self.key) {
            Ok(accusation) => {
                self.counts.accused += 1;
                self.swim.spread(&NewsKind::Accusation.item(accusation.as_bytes()));
            }
            Err(error) => tracing::error!(%error, "cannot sign an accusation"),
        }
    }

    fn probe(&mut self, node: NodeId) {
        self.probes += 1;
        let packet = Packet::Probe(self.probes).encode();
        self.outputs.push_back(Output::Send { to: node, packet });
    }

    fn dial(&mut self, node: &NodeId) {
        if let Some(record) = self.records.any(node) {
            self.outputs.push_back(Output::Dial { record });
        }
    }

    /// A member has said something, of whatever kind: it is there.
    fn heard(&mut self, now: Now, node: NodeId) {
        self.last_heard = Some(now.at);
        if self.checks.is_open(&node) {
            self.close_check(now, node, true);
        }
    }

    fn close_check(&mut self, now: Now, node: NodeId, there: bool) {
        self.conduct.closed(now.at, self.me, &node, false);
        for accuser in self.checks.close(&node) {
            self.counts.disproved += u64::from(there);
            if self.conduct.closed(now.at, accuser, &node, there) {
                self.counts.muted += 1;
                tracing::warn!(
                    member = accuser.short(),
                    "a member accused others falsely too often, and is not believed for an hour"
                );
            }
        }
    }

    /// This node's own probes have failed.
    fn lose(&mut self, now: Now, node: NodeId) {
        self.close_check(now, node, false);
        let Some(epoch) = self.roster.lose(now.at, &node) else { return };
        self.counts.down += 1;
        tracing::info!(member = node.short(), "member down");
        self.swim.remove(now.at, MemberId { node, epoch });
        self.outputs.push_back(Output::Lost { node });
        self.view_changed = true;
    }

    /// A dial, or a dial-back, has failed.
    pub fn unreachable(&mut self, now: Now, node: NodeId) {
        self.dial_failed(now, node, true);
        self.settle(now);
    }

    fn dial_failed(&mut self, now: Now, node: NodeId, blame: bool) {
        let (by, forgotten) = self.roster.failed(&node);
        if forgotten {
            self.records.forget(&node);
        }
        if let Some(by) = by.filter(|_| blame) {
            self.counts.false_claims += 1;
            self.conduct.claim_failed(now.at, by);
        }
    }

    /// Takes in a node that was heard of outside of gossip, from a registry or the last run: it is dialled, and asked
    /// for all that it knows.
    pub fn seek(&mut self, now: Now, record: SignedRecord) {
        if record.node == self.me || self.left {
            return;
        }
        self.records.keep(record.clone());
        self.claim(now, &record, None);
        self.settle(now);
    }

    /// Since when a node was a member, by what this one wrote down in its last run.
    pub fn remember(&mut self, node: NodeId, since: UnixTime) {
        if node == self.me {
            self.own_since.remembered(since);
        } else if let Some(known) = self.roster.since_mut(&node) {
            known.remembered(since);
        }
    }

    /// Has the node of a known record dialled, unless it is up.
    fn claim(&mut self, now: Now, record: &SignedRecord, by: Option<NodeId>) {
        let networks: Vec<_> = self.settings.admission.networks(&record.quic_addrs).collect();
        let known = self.roster.get(&record.node).is_some();
        if !known && !self.roster.has_room(&record.node, &networks) {
            self.counts.refuse(Reason::Admission);
            self.records.forget(&record.node);
            return;
        }
        if self.roster.claim(now.at, record.node, record.epoch, networks, by) == Claimed::Full {
            self.counts.refuse(Reason::Full);
            self.records.forget(&record.node);
        }
    }

    fn exchange_with_any(&mut self, now: Now) {
        self.next_exchange = now.at + self.settings.exchange_every.mul_f64(self.rng.random_range(0.75..1.25));
        let with = self.roster.all_up().map(|(node, _)| node).choose(&mut self.rng);
        if let Some(with) = with {
            self.last_exchange = Some(now.at);
            self.outputs.push_back(Output::Exchange { with });
        }
    }

    /// There is reason to think that much is new: not later than in a moment.
    fn hurry_exchange(&mut self, now: Now) {
        let soonest = self.last_exchange.map_or(now.at, |last| last + EXCHANGE_PAUSE);
        self.next_exchange = self.next_exchange.min(soonest.max(now.at));
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
        while let Some(node) = self.roster.dial_next(now.at) {
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

    /// The live members and how the leases are placed among them, this node among them.
    pub fn view(&self) -> View {
        let records: Vec<_> = self.roster.all_up().filter_map(|(node, _)| self.records.any(&node)).collect();
        let all = records.iter().map(|record| (&***record, true)).chain([(&*self.own, true)]);
        View::new(&Placement::genesis(self.own.federation), all)
    }

    /// Since when this node has been a member.
    pub fn since(&self) -> UnixTime {
        self.own_since.get().unwrap_or_default()
    }

    /// The members' records and since when they have been members: what is worth writing down.
    pub fn known(&self) -> Vec<(Arc<SignedRecord>, UnixTime)> {
        let known = self.roster.all_up();
        known.filter_map(|(node, entry)| Some((self.records.any(&node)?, entry.since.get()?))).collect()
    }

    /// The members that are up and their epochs, this node not among them.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        self.roster.all_up().map(|(node, entry)| (node, entry.epoch))
    }

    /// How many members are up, this node not counted.
    pub const fn len(&self) -> usize {
        self.roster.len_up()
    }

    /// Whether this node knows no other member.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this member is up here.
    pub fn is_up(&self, node: &NodeId) -> bool {
        self.roster.up(node).is_some()
    }

    /// What was counted since the start.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Open checks, claims that wait, and dials under way: all bounded.
    pub fn open(&self) -> (usize, usize, usize) {
        let (claimed, dialling) = self.roster.waiting();
        (self.checks.len(), claimed, dialling)
    }
}
