//! The world: nodes, the network between them, and what happens next.

use std::{
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use chappe_common::{federation::FederationId, keys::NodeId};
use chappe_node::membership::{
    Engine, Now, Output, Settings,
    admission::{Admission, Policy},
};
use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    attack::Known,
    dial::Want,
    event::{Event, Queue},
    network::Network,
    node::{Ix, Node},
    time::Time,
    watch::{Unjust, Watch},
};

/// A member that was stopped or cut off so lately may be taken for down with good reason: a check takes that long.
const STEADY: Duration = Duration::from_secs(10);

/// What a world is like.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// Makes everything random.
    pub seed: u64,
    /// The part of all packets that is lost.
    pub loss: f64,
    /// How long a new member is on probation.
    pub probation: Duration,
    /// Whether nodes look at what a registry lists after they have joined.
    pub registry: bool,
    /// Round trips of a handshake: two with a Retry, which the node sends to everybody, and one without.
    pub handshake_round_trips: u32,
}

impl Conditions {
    /// Loss of 2 %, nobody on probation, a registry to join by and for nothing else.
    pub const fn new(seed: u64) -> Self {
        Self { seed, loss: 0.02, probation: Duration::ZERO, registry: false, handshake_round_trips: 2 }
    }
}

/// A federation on virtual time.
pub struct World {
    pub(super) time: Time,
    pub(super) base: Instant,
    pub(super) federation: FederationId,
    pub(super) settings: Settings,
    pub(super) registry: bool,
    pub(super) handshake_round_trips: u32,
    pub(super) nodes: Vec<Node>,
    pub(super) ids: HashMap<NodeId, Ix>,
    pub(super) addrs: HashMap<SocketAddr, Ix>,
    pub(super) network: Network,
    pub(super) queue: Queue,
    pub(super) watch: Watch,
    pub(super) rng: StdRng,
    /// Since when nobody has been cut off from anybody.
    pub(super) whole_since: Time,
    pub(super) census: Option<Rc<[Known]>>,
    pub(super) events: u64,
    pub(super) hash: u64,
}

impl World {
    /// A world without nodes.
    pub fn new(conditions: Conditions) -> Self {
        let defaults = chappe_node::NodeConfig::default().membership_settings();
        let admission = Admission { policy: Policy::Open, exempt: Vec::new() };
        Self {
            time: Time::ZERO,
            base: Instant::now(),
            federation: FederationId::of_roots(&[]),
            settings: Settings { admission, probation: conditions.probation, ..defaults },
            registry: conditions.registry,
            handshake_round_trips: conditions.handshake_round_trips,
            nodes: Vec::new(),
            ids: HashMap::new(),
            addrs: HashMap::new(),
            network: Network::new(conditions.seed, conditions.loss),
            queue: Queue::default(),
            watch: Watch::default(),
            rng: StdRng::seed_from_u64(conditions.seed),
            whole_since: Time::ZERO,
            census: None,
            events: 0,
            hash: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// Cuts off those on one side from those on the other.
    pub fn partition(&mut self, side: impl Fn(Ix) -> u8) {
        for n in 0..self.nodes.len() {
            let ix = Ix(u32::try_from(n).unwrap_or(u32::MAX));
            self.network.put(ix, side(ix));
        }
        self.whole_since = Time::from_far();
    }

    /// Ends all partitions.
    pub fn heal(&mut self) {
        self.partition(|_| 0);
        self.whole_since = self.time;
    }

    /// From now on, this part of all packets is lost.
    pub const fn set_loss(&mut self, loss: f64) {
        self.network.loss = loss;
    }

    /// The virtual time.
    pub const fn time(&self) -> Time {
        self.time
    }

    /// The virtual time, as engines are told.
    pub(super) fn now(&self) -> Now {
        self.time.now(self.base)
    }

    /// Lets virtual time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let until = self.time + duration;
        while let Some((at, event)) = self.queue.pop(until) {
            self.time = at;
            self.events += 1;
            self.note(at, &event);
            if self.nodes[event.node().index()].stopped {
                self.put_off(event.node(), event);
            } else {
                self.happen(event);
            }
        }
        self.time = until;
    }

    /// Lets virtual time pass until the condition holds, at most for so long. Whether it does.
    pub fn run_until(&mut self, longest: Duration, mut condition: impl FnMut(&Self) -> bool) -> bool {
        let end = self.time + longest;
        while !condition(self) {
            if self.time >= end {
                return false;
            }
            self.run_for(Duration::from_millis(500));
        }
        true
    }

    /// Two runs with the same seed have the same hash.
    fn note(&mut self, at: Time, event: &Event) {
        for value in [at.as_micros(), event.kind(), u64::from(event.node().0)] {
            self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Wake(node) => self.wake(node),
            Event::Packet { to, to_epoch, from, from_epoch, packet } => {
                if self.network.connects(to, from) {
                    self.packet(to, to_epoch, from, from_epoch, packet);
                }
            }
            Event::Closed { to, from, from_epoch } => self.close_side(to, from, from_epoch),
            Event::Flight { dial, attempt } => self.flight(dial, attempt),
            Event::Connected { dial, to } => self.connected(dial, to),
            Event::Greeting { dial, to, greeting, packets } => self.greeted(dial, to, greeting, packets),
            Event::Seen { dial, to, greeting, packets, reached } => self.seen(dial, to, &greeting, packets, reached),
            Event::Answer { dial, from, reply } => self.answered(dial, from, reply),
            Event::GiveUp(dial) => self.fail(dial),
            Event::Failed { node, epoch, peer } => self.failed(node, epoch, peer),
            Event::Exchange(exchange) => self.handle_exchange(*exchange),
            Event::Join { node, epoch, attempt } => self.join(node, epoch, attempt),
            Event::Registry { node, epoch } => self.consult_registry(node, epoch),
            Event::Act(node) => self.misbehave(node),
        }
    }

    pub(super) fn wake(&mut self, ix: Ix) {
        let (now, time) = (self.now(), self.time);
        let node = &mut self.nodes[ix.index()];
        if node.wake_at.is_none_or(|at| at <= time) {
            node.wake_at = None;
        }
        let Some(engine) = &mut node.engine else { return };
        if engine.poll_timeout().is_some_and(|due| due <= now.at) {
            engine.handle_timeout(now);
        }
        self.act(ix);
    }

    /// Does what a node's engine wants, and has it woken in time.
    pub(super) fn act(&mut self, ix: Ix) {
        let i = ix.index();
        while let Some(output) = self.nodes[i].engine.as_mut().and_then(Engine::poll_output) {
            match output {
                Output::Send { to, packet } => self.send_of_engine(ix, to, packet),
                Output::Dial { record } => self.dial(ix, &record, Want::Link),
                Output::Exchange { with } => match self.ids.get(&with) {
                    Some(&peer) if self.nodes[i].links.find(peer, self.time).is_some() => self.begin_exchange(ix, peer),
                    _ => {
                        if let Some(record) = self.record_to_dial(ix, &with) {
                            self.dial(ix, &record, Want::Exchange);
                        }
                    }
                },
                Output::Lost { node } => self.lost(ix, node),
                Output::Gone { node, epoch } => self.gone(ix, node, epoch),
                Output::View => self.view_changed(ix),
            }
        }
        let node = &mut self.nodes[i];
        let due = node.engine.as_ref().and_then(Engine::poll_timeout).map(|at| Time::at_or_after(at, self.base));
        if let Some(due) = due.map(|due| due.max(self.time))
            && node.wake_at.is_none_or(|at| due < at)
        {
            node.wake_at = Some(due);
            self.queue.push(due, Event::Wake(ix));
        }
    }

    fn view_changed(&mut self, ix: Ix) {
        let node = &mut self.nodes[ix.index()];
        let Some(engine) = &node.engine else { return };
        self.watch.look(ix, engine, self.time);
        if engine.is_empty() && !node.joining && node.is_honest() {
            node.joining = true;
            let epoch = node.epoch;
            self.queue.push(self.time, Event::Join { node: ix, epoch, attempt: 0 });
        }
    }

    fn lost(&mut self, observer: Ix, node: NodeId) {
        let Some(&subject) = self.ids.get(&node) else { return };
        self.watch.lost += 1;
        self.close_link(observer, subject, u32::MAX);
        let at = &self.nodes[subject.index()];
        let steady = at.steady_since.max(self.whole_since) + STEADY <= self.time;
        let just = !at.is_running() || at.stopped || !steady || !self.network.connects(observer, subject);
        if !just && at.is_honest() && self.nodes[observer.index()].is_honest() {
            self.watch.unjust.push(Unjust { at: self.time, observer, subject });
        }
    }

    fn gone(&mut self, observer: Ix, node: NodeId, epoch: u64) {
        let Some(&subject) = self.ids.get(&node) else { return };
        let at = &self.nodes[subject.index()];
        // A run that has ended is ended; who left is still running for a moment, and no engine then.
        if epoch > u64::from(at.epoch)
            && at.is_honest()
            && at.engine.as_ref().is_some_and(|e| e.poll_timeout().is_some())
        {
            self.watch.ended += 1;
        }
        self.close_link(observer, subject, u32::try_from(epoch).unwrap_or(u32::MAX));
    }
}
