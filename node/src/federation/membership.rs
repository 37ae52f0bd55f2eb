//! Membership: the one task that owns the SWIM state, and what the library expects of its host.
//!
//! The host delivers every timer in due order, drains what the library wants after each call, and decides what counts
//! as a member: one that the library calls active and whose own signed record is known.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    num::NonZeroU32,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use chappe_common::{
    keys::NodeId,
    record::{Abilities, NodeLeave, NodeRecord, SignedRecord},
    signed::{SignError, Signed},
};
use foca::{AccumulatingRuntime, Foca, Header, OwnedNotification, PostcardCodec, Timer};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::sync::{mpsc, oneshot};

use super::{
    exchange::Exchange,
    links,
    news::{self, News, NewsHandler, NewsKind},
};
use crate::{
    config::NodeConfig,
    core::{Basics, Core},
    identity::Identity,
    membership::{member::MemberId, view::View},
};

/// The largest packet in bytes: always fits a QUIC datagram at the smallest MTU.
const MAX_PACKET: usize = 1162;
/// What may wait for this task: a burst of packets of a thousand members.
pub(crate) const EVENTS: usize = 1024;
/// For how many members suspicion and retransmission are sized. More only makes rumours live a little shorter.
const SIZED_FOR: NonZeroU32 = NonZeroU32::new(1000).expect("not zero");

/// What reaches the membership task.
#[derive(Debug)]
pub(crate) enum Event {
    /// A packet from the node that the link proves.
    Datagram {
        /// The link's peer.
        from: NodeId,
        /// The packet.
        packet: Bytes,
    },
    /// A verified record that was new.
    Learned(SignedRecord),
    /// What a peer told in a full exchange; `reply` asks for ours.
    Exchange {
        /// The link's peer.
        from: NodeId,
        /// All that it knows.
        theirs: Exchange,
        /// Where ours goes.
        reply: Option<oneshot::Sender<Exchange>>,
    },
    /// All that this node knows is wanted.
    Snapshot(oneshot::Sender<Exchange>),
    /// Tell this node that we are here.
    Announce(NodeId),
    /// Sign a fresh record.
    RenewRecord,
    /// The node stops: tell everybody, and give the signed leave back.
    Leave(oneshot::Sender<Signed<NodeLeave>>),
}

type Swim = Foca<MemberId, PostcardCodec, StdRng, NewsHandler>;

/// A timer of the library. The order is by time, then by the library's own.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Instant,
    timer: Timer<MemberId>,
    /// Tells equal timers apart, in the order in which they were set.
    number: u64,
}

/// The state of the membership task.
pub(crate) struct Membership {
    core: Arc<Core>,
    identity: Identity,
    seq: u64,
    swim: Swim,
    runtime: AccumulatingRuntime<MemberId>,
    news: News,
    timers: BinaryHeap<Reverse<Due>>,
    timers_set: u64,
    /// The members that the library calls active, and their epochs.
    active: HashMap<NodeId, u64>,
    /// This node has said that it leaves. It says nothing more: the library would come back at the first word that it
    /// is down.
    left: bool,
}

/// How long a suspect has to refute.
const SUSPECT_FOR: std::time::Duration = std::time::Duration::from_secs(4);

fn swim_config(config: &NodeConfig) -> foca::Config {
    let membership = &config.membership;
    let mut swim = foca::Config::new_lan(SIZED_FOR);
    swim.probe_period = membership.probe_period;
    swim.probe_rtt = membership.probe_timeout;
    swim.suspect_to_down_after = SUSPECT_FOR;
    swim.max_packet_size = MAX_PACKET.try_into().expect("not zero");
    swim
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
        quic_addrs: core.quic_addrs.clone(),
        region: core.region.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abilities: core.abilities,
    };
    Signed::sign(record, &core.key)
}

impl Membership {
    /// The membership of a node that has signed its first record.
    pub(crate) fn new(core: Arc<Core>, identity: Identity) -> Self {
        let (news, handler) = News::new(core.records.clone());
        let me = MemberId { node: core.me, epoch: identity.epoch() };
        let swim = Foca::with_custom_broadcast(
            me,
            swim_config(&core.config),
            StdRng::from_rng(&mut rand::rng()),
            PostcardCodec,
            handler,
        );
        Self {
            seq: core.own_record.load().seq,
            core,
            identity,
            swim,
            runtime: AccumulatingRuntime::new(),
            news,
            timers: BinaryHeap::new(),
            timers_set: 0,
            active: HashMap::new(),
            left: false,
        }
    }

    /// Runs until the queue's senders are gone.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        self.spread_own_record();
        self.publish_view();
        loop {
            let next = self.timers.peek().map(|Reverse(due)| due.at);
            tokio::select! {
                biased;
                () = sleep_until(next) => self.handle_due_timers(Instant::now()),
                event = events.recv() => match event {
                    Some(event) => self.handle_event(event),
                    None => return,
                },
            }
        }
    }

    fn handle_due_timers(&mut self, now: Instant) {
        while self.timers.peek().is_some_and(|Reverse(due)| due.at <= now) {
            let Some(Reverse(due)) = self.timers.pop() else { break };
            if self.left {
                continue;
            }
            let suspicion = matches!(due.timer, Timer::ChangeSuspectToDown { .. });
            if let Err(error) = self.swim.handle_timer(due.timer, &mut self.runtime) {
                tracing::debug!(%error, "a membership timer failed");
            }
            self.drain(suspicion);
        }
    }

    fn handle_event(&mut self, event: Event) {
        if self.left {
            return;
        }
        match event {
            Event::Datagram { from, packet } => self.handle_packet(from, &packet),
            Event::Learned(record) => {
                self.add_news(NewsKind::Record, record.as_bytes());
                self.publish_view();
            }
            Event::Exchange { from, theirs, reply } => {
                if let Some(reply) = reply {
                    // Ours goes out as it was before theirs came: they know theirs.
                    let _ = reply.send(self.snapshot());
                }
                self.handle_exchange(from, theirs);
            }
            Event::Snapshot(reply) => {
                // Whoever asked may be gone.
                let _ = reply.send(self.snapshot());
            }
            Event::Announce(node) => {
                let epoch = self.core.records.find(&node, self.core.clock.now()).map_or(0, |record| record.epoch);
                if let Err(error) = self.swim.announce(MemberId { node, epoch }, &mut self.runtime) {
                    tracing::debug!(%error, "an announcement failed");
                }
                self.drain(false);
            }
            Event::RenewRecord => self.renew_record(),
            Event::Leave(reply) => self.leave(reply),
        }
    }

    /// Judges a packet before the library sees it: the sender named inside has to be the key of the link, and has to
    /// be known by its record.
    fn handle_packet(&mut self, from: NodeId, packet: &[u8]) {
        let header = postcard::take_from_bytes::<Header<MemberId>>(packet);
        let honest = header.is_ok_and(|(header, _)| header.src.node == from && header.dst.node == self.core.me);
        if !honest || packet.len() > MAX_PACKET || self.core.records.find(&from, self.core.clock.now()).is_none() {
            self.core.metrics.packets_refused.inc();
            return;
        }
        if let Err(error) = self.swim.handle_data(packet, &mut self.runtime) {
            self.core.metrics.packets_refused.inc();
            tracing::debug!(%error, peer = from.short(), "a membership packet was refused");
        }
        self.drain(false);
    }

    fn handle_exchange(&mut self, from: NodeId, theirs: Exchange) {
        for bytes in theirs.records {
            // What is known already costs no signature check.
            if let Ok((record, _)) = postcard::take_from_bytes::<NodeRecord>(&bytes)
                && self.core.records.knows(&record.node, record.epoch, record.seq)
            {
                continue;
            }
            let Ok(record) = Signed::<NodeRecord>::decode(bytes) else {
                self.core.metrics.packets_refused.inc();
                tracing::debug!(peer = from.short(), "an exchange with a bad record was cut short");
                return;
            };
            self.core.records.learn(record, self.core.clock.now());
        }
        // No member without its record: nothing is applied of whom no record is known.
        let known = theirs.members.into_iter().filter(|member| {
            member.id().node == self.core.me
                || self.core.records.find(&member.id().node, self.core.clock.now()).is_some()
        });
        if let Err(error) = self.swim.apply_many(known, true, &mut self.runtime) {
            tracing::debug!(%error, peer = from.short(), "an exchange was refused");
        }
        self.drain(false);
        self.publish_view();
    }

    fn snapshot(&self) -> Exchange {
        let me = foca::Member::new(*self.swim.identity(), 0, foca::State::Alive);
        Exchange {
            members: self.swim.iter_membership_state().cloned().chain([me]).collect(),
            records: self
                .core
                .records
                .all(self.core.clock.now())
                .iter()
                .chain([&**self.core.own_record.load()])
                .map(|record| record.as_bytes().clone())
                .collect(),
        }
    }

    fn renew_record(&mut self) {
        if let Err(error) = self.identity.store_epoch() {
            tracing::error!(%error, "cannot store the raised epoch; a restart may be taken for this run");
        }
        self.seq += 1;
        match sign_record(&self.core.basics, self.identity.epoch(), self.seq) {
            Ok(record) => {
                self.core.set_own_record(record);
                self.spread_own_record();
                self.publish_view();
            }
            // The first record was signed from the same fields.
            Err(error) => tracing::error!(%error, "cannot sign this node's record"),
        }
    }

    fn spread_own_record(&mut self) {
        let record = self.core.own_record.load().as_bytes().clone();
        self.add_news(NewsKind::Record, &record);
    }

    fn add_news(&mut self, kind: NewsKind, note: &[u8]) {
        if let Err(error) = self.swim.add_broadcast(&news::item(kind, note)) {
            tracing::debug!(%error, "news could not be added");
        }
    }

    fn leave(&mut self, reply: oneshot::Sender<Signed<NodeLeave>>) {
        let leave = NodeLeave {
            federation: self.core.federation,
            node: self.core.me,
            epoch: self.identity.epoch(),
            seq: self.seq,
            issued_at: self.core.clock.now(),
        };
        match Signed::sign(leave, self.identity.key()) {
            Ok(leave) => {
                self.add_news(NewsKind::Leave, leave.as_bytes());
                // The caller may have stopped waiting; the members are told all the same.
                let _ = reply.send(leave);
            }
            Err(error) => tracing::error!(%error, "cannot sign this node's leave"),
        }
        if let Err(error) = self.swim.broadcast(&mut self.runtime) {
            tracing::debug!(%error, "the leave could not be spread");
        }
        self.drain(false);
        if let Err(error) = self.swim.leave_cluster(&mut self.runtime) {
            tracing::debug!(%error, "cannot leave");
        }
        self.drain(false);
        self.left = true;
    }

    /// Does what the library wants after a call. `suspicion`: the call was the end of a suspicion.
    fn drain(&mut self, suspicion: bool) {
        let mut changed = false;
        let mut down = false;
        while let Some(notification) = self.runtime.to_notify() {
            match notification {
                OwnedNotification::MemberUp(id) => {
                    self.active.insert(id.node, id.epoch);
                    changed = true;
                    if self
                        .core
                        .records
                        .find(&id.node, self.core.clock.now())
                        .is_none_or(|record| record.epoch < id.epoch)
                    {
                        // Whoever told has its record too; without it the member can't even be probed.
                        self.core.wants_exchange.notify_one();
                    }
                }
                OwnedNotification::MemberDown(id) => {
                    down = true;
                    changed |= self.handle_down(id);
                }
                OwnedNotification::Rename(before, after) => {
                    // The library renames members that are down as well; one that comes up besides is told as such.
                    if self.active.remove(&before.node).is_some() {
                        self.active.insert(after.node, after.epoch);
                    }
                    // A restart: whatever the former self kept is gone.
                    self.core.forget_before(before.node, after.epoch);
                    self.core.links.close_former(&after.node, after.epoch);
                    changed = true;
                }
                OwnedNotification::Rejoin(id) => self.handle_rejoin(id),
                OwnedNotification::Active | OwnedNotification::Idle | OwnedNotification::Defunct => {}
            }
        }
        // foca 2.0 tells a member that it is down when the suspicion's timer fires, also where the suspicion was
        // refuted in time: healthy nodes would renew their identity for nothing.
        let discard = suspicion && !down;
        while let Some((to, packet)) = self.runtime.to_send() {
            if !discard {
                links::send_datagram(&self.core, to.node, packet);
            }
        }
        let now = Instant::now();
        while let Some((after, timer)) = self.runtime.to_schedule() {
            self.timers_set += 1;
            self.timers.push(Reverse(Due { at: now + after, timer, number: self.timers_set }));
        }
        let fresh = self.news.take();
        changed |= fresh.records;
        for leave in fresh.left {
            // The member's own signed word: instant.
            let id = MemberId { node: leave.node, epoch: leave.epoch };
            changed |= self.handle_down(id);
            let gone = std::iter::once(foca::Member::down(id));
            if self.swim.apply_many(gone, true, &mut self.runtime).is_ok() {
                self.drain(false);
            }
        }
        if changed {
            self.publish_view();
        }
    }

    /// Whether the member was known to be up.
    fn handle_down(&mut self, id: MemberId) -> bool {
        if self.active.get(&id.node).is_none_or(|epoch| *epoch > id.epoch) {
            return false;
        }
        self.active.remove(&id.node);
        self.core.metrics.members_down.inc();
        tracing::info!(member = id.node.short(), "member down");
        self.core.links.close(&id.node);
        self.core.forget_before(id.node, id.epoch + 1);
        true
    }

    /// This node was called down, and comes back with a higher epoch.
    fn handle_rejoin(&mut self, id: MemberId) {
        self.identity.raise_epoch(id.epoch);
        tracing::warn!(epoch = id.epoch, "this node was taken for down and joins again");
        self.seq = 0;
        self.renew_record();
    }

    /// Shows the rest of the node who is there: members with a record of their epoch or a later one.
    fn publish_view(&self) {
        let own = self.core.own_record.load();
        let records: Vec<_> = self
            .active
            .iter()
            .filter_map(|(node, epoch)| {
                self.core.records.find(node, self.core.clock.now()).filter(|record| record.epoch >= *epoch)
            })
            .collect();
        let all = records.iter().map(|record| &**record).chain([&***own]);
        self.core.set_view(View::new(&self.core.beacon, all));
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// What a node offers, by its configuration.
pub(crate) fn abilities(config: &NodeConfig) -> Abilities {
    if config.ice.servers.is_empty() { Abilities::default() } else { Abilities::ICE_SERVERS }
}
