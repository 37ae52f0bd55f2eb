//! The world: nodes, the network between them, and what happens next.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_common::{federation::FederationId, keys::NodeId, record::SignedRecord};
use chappe_node::membership::{
    Engine, Greeting, Now, Output, Settings,
    admission::{Admission, Policy},
    beacons::Beacons,
    member::MemberId,
    records::Records,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};

use super::{
    attack::{Behaviour, Known},
    dial::Want,
    event::{Event, Queue},
    network::Network,
    node::{Ix, Load, Node, sign_record},
    time::Time,
    watch::{Fact, Unjust, Watch},
};

/// How many nodes a joiner seeks at once, the pauses between its tries, and how often a node looks at what the registry
/// lists, as the node has them.
const ANCHORS: usize = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const REGISTRY_EVERY: Duration = Duration::from_secs(600);
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
    base: Instant,
    federation: FederationId,
    settings: Settings,
    registry: bool,
    pub(super) handshake_round_trips: u32,
    pub(super) nodes: Vec<Node>,
    pub(super) ids: HashMap<NodeId, Ix>,
    pub(super) addrs: HashMap<SocketAddr, Ix>,
    pub(super) network: Network,
    pub(super) queue: Queue,
    pub(super) watch: Watch,
    pub(super) rng: StdRng,
    /// Since when nobody has been cut off from anybody.
    whole_since: Time,
    census: Option<Rc<[Known]>>,
    events: u64,
    hash: u64,
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

    /// Makes a node in a network of its own. It doesn't run yet.
    ///
    /// # Panics
    /// There are more nodes than addresses.
    pub fn add(&mut self) -> Ix {
        let [_, _, high, low] = u32::try_from(self.nodes.len()).expect("few nodes").to_be_bytes();
        self.add_at(SocketAddr::from((Ipv4Addr::new(10, high, low, 1), 8711)), None)
    }

    /// Makes a node at an address; it may show another.
    ///
    /// # Panics
    /// There are more nodes than numbers.
    pub fn add_at(&mut self, addr: SocketAddr, shown: Option<SocketAddr>) -> Ix {
        let ix = Ix(u32::try_from(self.nodes.len()).expect("few nodes"));
        let node = Node::new(self.rng.random(), self.federation, addr, shown.unwrap_or(addr), self.now());
        self.ids.insert(node.id, ix);
        self.addrs.insert(addr, ix);
        self.nodes.push(node);
        ix
    }

    /// Starts a node's process: its epoch is raised, and it joins by its anchors, or by whom the registry lists.
    pub fn start(&mut self, ix: Ix) {
        let (now, time, federation, seed) = (self.now(), self.time, self.federation, self.rng.random());
        self.census = None;
        let node = &mut self.nodes[ix.index()];
        node.epoch += 1;
        let record = sign_record(&node.key, federation, node.epoch, node.shown, now.clock);
        node.records = Arc::new(Records::new(federation));
        node.greeting = Arc::new(Greeting { record: record.clone(), ticket: None });
        let (settings, key, records) = (self.settings.clone(), node.key.clone(), node.records.clone());
        let beacons = Beacons::new(federation, Vec::new());
        node.engine = Some(Engine::new(now, settings, key, record, records, beacons, seed));
        node.wake_at = None;
        node.links.clear();
        node.dials = Default::default();
        node.stopped = false;
        node.backlog.clear();
        node.steady_since = time;
        node.joining = true;
        let epoch = node.epoch;
        self.queue.push(time, Event::Join { node: ix, epoch, attempt: 0 });
        if self.registry {
            self.queue.push(time + REGISTRY_EVERY, Event::Registry { node: ix, epoch });
        }
        if let Some(behaviour) = &self.nodes[ix.index()].behaviour {
            self.queue.push(time + behaviour.every(), Event::Act(ix));
        }
        self.act(ix);
    }

    /// Has a node join by these members, and not by the registry.
    pub fn set_anchors(&mut self, node: Ix, anchors: Vec<Ix>) {
        self.nodes[node.index()].anchors = Some(anchors);
    }

    /// Makes a node malicious from now on.
    pub fn corrupt(&mut self, ix: Ix, behaviour: Box<dyn Behaviour>) {
        self.census = None;
        let (at, node) = (self.time + behaviour.every(), &mut self.nodes[ix.index()]);
        let acts_already = node.behaviour.replace(behaviour).is_some();
        if !acts_already && node.is_running() {
            self.queue.push(at, Event::Act(ix));
        }
    }

    /// A malicious node does what it should from now on.
    pub fn cure(&mut self, ix: Ix) {
        self.census = None;
        self.nodes[ix.index()].behaviour = None;
    }

    /// Ends a node's process without a word.
    pub fn crash(&mut self, ix: Ix) {
        self.census = None;
        let node = &mut self.nodes[ix.index()];
        if let Some(engine) = node.engine.take() {
            (node.last, node.last_since) = (engine.known(), Some(engine.since()));
        }
        node.links.clear();
        node.stopped = false;
        node.backlog.clear();
    }

    /// Has a node tell the others that it leaves; it still runs.
    ///
    /// # Panics
    /// It isn't running.
    pub fn leave(&mut self, ix: Ix) {
        let now = self.now();
        let engine = self.nodes[ix.index()].engine.as_mut().expect("a running node");
        engine.leave(now).expect("a leave");
        self.act(ix);
    }

    /// Stops a process, as SIGSTOP does.
    pub fn stop(&mut self, ix: Ix) {
        self.nodes[ix.index()].stopped = true;
    }

    /// Has a stopped process go on: its timers first, then what waits in its socket.
    pub fn go_on(&mut self, ix: Ix) {
        let node = &mut self.nodes[ix.index()];
        node.stopped = false;
        node.steady_since = self.time;
        node.wake_at = None;
        let backlog = std::mem::take(&mut node.backlog);
        self.happen(Event::Wake(ix));
        for event in backlog {
            self.happen(event);
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

    fn happen(&mut self, event: Event) {
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
            Event::Talk(talk) => self.hear_talk(talk),
            Event::Join { node, epoch, attempt } => self.join(node, epoch, attempt),
            Event::Registry { node, epoch } => self.consult_registry(node, epoch),
            Event::Act(node) => self.misbehave(node),
        }
    }

    fn wake(&mut self, ix: Ix) {
        let (now, time) = (self.now(), self.time);
        let node = &mut self.nodes[ix.index()];
        if node.wake_at.is_none_or(|at| at <= time) {
            node.wake_at = None;
        }
        let Some(engine) = &mut node.engine else { return };
        if engine.wake_at().is_some_and(|due| due <= now.at) {
            engine.wake(now);
        }
        self.act(ix);
    }

    /// Does what a node's engine wants, and has it woken in time.
    pub(super) fn act(&mut self, ix: Ix) {
        let i = ix.index();
        while let Some(output) = self.nodes[i].engine.as_mut().and_then(Engine::poll) {
            match output {
                Output::Send { to, packet } => self.send_of_engine(ix, to, packet),
                Output::Dial { record } => self.dial(ix, &record, Want::Link),
                Output::Exchange { with } => match self.ids.get(&with) {
                    Some(&peer) if self.nodes[i].links.find(peer, self.time).is_some() => self.begin_talk(ix, peer),
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
        let due = node.engine.as_ref().and_then(Engine::wake_at).map(|at| Time::at_or_after(at, self.base));
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
        if epoch > u64::from(at.epoch) && at.is_honest() && at.engine.as_ref().is_some_and(|e| e.wake_at().is_some()) {
            self.watch.ended += 1;
        }
        self.close_link(observer, subject, u32::try_from(epoch).unwrap_or(u32::MAX));
    }

    /// Seeks whom the node would seek when it is alone.
    fn join(&mut self, ix: Ix, epoch: u32, attempt: u32) {
        let now = self.now();
        let node = &self.nodes[ix.index()];
        let Some(engine) = node.engine.as_ref().filter(|_| node.epoch == epoch) else { return };
        if !engine.is_empty() {
            self.nodes[ix.index()].joining = false;
            return;
        }
        let mut sought: Vec<_> = match &node.anchors {
            Some(anchors) => anchors.iter().map(|ix| self.nodes[ix.index()].greeting.record.clone()).collect(),
            None => Vec::new(),
        };
        let last = node.last.iter().map(|(record, _)| (**record).clone()).sample(&mut self.rng, ANCHORS);
        sought.extend(last);
        if node.anchors.is_none() {
            sought.extend(self.listed(ix));
        }
        let node = &mut self.nodes[ix.index()];
        let Some(engine) = &mut node.engine else { return };
        for record in sought {
            engine.seek(now, record);
        }
        if let Some(since) = node.last_since {
            engine.remember(node.id, since);
        }
        for (record, since) in &node.last {
            engine.remember(record.node, *since);
        }
        let pause = (FIRST_PAUSE * (1 << attempt.min(8))).min(LONGEST_PAUSE).mul_f64(self.rng.random_range(0.5..1.0));
        self.queue.push(self.time + pause, Event::Join { node: ix, epoch, attempt: attempt + 1 });
        self.act(ix);
    }

    /// A few of the nodes that the registry lists, and that this one doesn't know as members.
    fn listed(&mut self, ix: Ix) -> Vec<SignedRecord> {
        let Some(engine) = &self.nodes[ix.index()].engine else { return Vec::new() };
        let me = self.nodes[ix.index()].id;
        let strangers = self.nodes.iter().filter(|node| node.is_running() && node.id != me && !engine.is_up(&node.id));
        strangers.map(|node| node.greeting.record.clone()).sample(&mut self.rng, ANCHORS)
    }

    fn consult_registry(&mut self, ix: Ix, epoch: u32) {
        if self.nodes[ix.index()].epoch != epoch {
            return;
        }
        let (now, listed) = (self.now(), self.listed(ix));
        let Some(engine) = &mut self.nodes[ix.index()].engine else { return };
        for record in listed {
            engine.seek(now, record);
        }
        self.queue.push(self.time + REGISTRY_EVERY, Event::Registry { node: ix, epoch });
        self.act(ix);
    }

    /// Watches for a fact from now on.
    pub fn watch_for(&mut self, fact: Fact) -> usize {
        let number = self.watch.ask(fact, self.time);
        for (n, node) in self.nodes.iter().enumerate() {
            if let Some(engine) = &node.engine {
                self.watch.look(Ix(u32::try_from(n).unwrap_or(u32::MAX)), engine, self.time);
            }
        }
        number
    }

    /// After how long each of these nodes knew a fact that was watched for; none: it doesn't yet. The last come last.
    pub fn known_after(&self, number: usize, nodes: &[Ix]) -> Vec<Option<Duration>> {
        self.watch.answers(number, nodes.iter().copied())
    }

    /// Nothing is watched for any more.
    pub fn stop_watching(&mut self) {
        self.watch.clear();
    }

    /// The honest members that were taken for down though they were there and reachable.
    pub fn unjust(&self) -> &[Unjust] {
        &self.watch.unjust
    }

    /// How often a run of an honest member was ended that had not ended.
    pub const fn ended(&self) -> u64 {
        self.watch.ended
    }

    /// How often members were taken for down, with reason or without.
    pub const fn lost_ever(&self) -> u64 {
        self.watch.lost
    }

    /// The honest nodes whose processes run.
    pub fn honest(&self) -> Vec<Ix> {
        self.all().filter(|ix| self.nodes[ix.index()].is_honest() && self.nodes[ix.index()].is_running()).collect()
    }

    /// All nodes that were ever made.
    pub fn all(&self) -> impl Iterator<Item = Ix> + use<> {
        (0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).map(Ix)
    }

    /// A random honest node that runs.
    ///
    /// # Panics
    /// There is none.
    pub fn any_honest(&mut self) -> Ix {
        let honest = self.honest();
        honest.into_iter().choose(&mut self.rng).expect("an honest node")
    }

    /// The key of a node.
    pub fn id(&self, ix: Ix) -> NodeId {
        self.nodes[ix.index()].id
    }

    /// The record that a node shows.
    pub fn record(&self, ix: Ix) -> SignedRecord {
        self.nodes[ix.index()].greeting.record.clone()
    }

    /// A node and its run.
    pub fn member(&self, ix: Ix) -> MemberId {
        MemberId { node: self.id(ix), epoch: self.epoch(ix) }
    }

    /// Whether a node has another as a member.
    pub fn sees(&self, observer: Ix, other: Ix) -> bool {
        self.engine(observer).is_up(&self.id(other))
    }

    /// How many of a node's members were never made.
    pub fn strangers(&self, observer: Ix) -> usize {
        self.engine(observer).members().filter(|(node, _)| !self.ids.contains_key(node)).count()
    }

    /// The run of a node.
    pub fn epoch(&self, ix: Ix) -> u64 {
        self.nodes[ix.index()].epoch.into()
    }

    /// The engine of a node that runs.
    ///
    /// # Panics
    /// It doesn't.
    pub fn engine(&self, ix: Ix) -> &Engine {
        self.nodes[ix.index()].engine.as_ref().expect("a running node")
    }

    /// What a node has sent.
    pub fn load(&self, ix: Ix) -> Load {
        self.nodes[ix.index()].load
    }

    /// How many links of a node are up.
    pub fn links(&self, ix: Ix) -> usize {
        self.nodes[ix.index()].links.len(self.time)
    }

    /// Whether every honest node has every other as a member, in its present run.
    pub fn is_whole(&self) -> bool {
        let honest = self.honest();
        honest.iter().all(|observer| self.missing(*observer, &honest) == 0)
    }

    /// How many of these a node lacks.
    pub fn missing(&self, observer: Ix, others: &[Ix]) -> usize {
        let engine = self.engine(observer);
        let up: HashMap<NodeId, u64> = engine.members().collect();
        let lacks =
            |ix: &&Ix| **ix != observer && up.get(&self.id(**ix)).is_none_or(|epoch| *epoch != self.epoch(**ix));
        others.iter().filter(lacks).count()
    }

    /// How many events have happened, and a hash of them all.
    pub const fn trace(&self) -> (u64, u64) {
        (self.events, self.hash)
    }

    /// Everybody who runs, as malicious members know them.
    pub(super) fn census(&mut self) -> Rc<[Known]> {
        let nodes = &self.nodes;
        let everybody = || nodes.iter().filter(|node| node.is_running()).map(Known::of).collect();
        self.census.get_or_insert_with(everybody).clone()
    }

    pub(super) const fn federation(&self) -> FederationId {
        self.federation
    }
}
