//! The members' engines. Messages among them arrive immediately and are never lost; messages to the real node are
//! returned by `poll_outside`. Takes the time as an argument and uses no sockets.
//!
//! Other outputs of an engine (close a link, forget leases, place by a new view) are ignored: no member ever leaves,
//! and none has clients.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use chappe_common::{
    federation::FederationId,
    keys::{NodeId, PublicKey, SecretKey},
    record::SignedRecord,
};
use chappe_node::membership::{
    Engine, Greeting, Now, Output, Settings, Verdict, beacons::Beacons, exchange::ExchangeMessage, records::Records,
};
use rand::RngExt as _;

/// Messages of one side in one exchange; the node's own bound.
pub(super) const MESSAGES: usize = 2;

/// A member's request to the real node.
#[derive(Debug)]
pub(super) enum Outside {
    /// Send this packet.
    Packet(Bytes),
    /// Dial a link.
    Dial,
    /// Open an exchange.
    Exchange,
}

/// One member.
struct Member {
    id: NodeId,
    engine: Engine,
    greeting: Greeting,
    /// Its engine isn't woken before.
    begins: Instant,
    /// The time of its queued wake-up.
    wake_at: Option<Instant>,
}

/// All simulated members.
pub(super) struct Engines {
    settings: Settings,
    root: PublicKey,
    members: Vec<Member>,
    places: HashMap<NodeId, usize>,
    /// Members whose engines may have output. Each input adds its member once.
    touched: VecDeque<usize>,
    /// Queued wake-ups. An entry that differs from its member's `wake_at` is stale and skipped.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    outside: VecDeque<(usize, Outside)>,
}

impl Engines {
    pub(super) fn new(settings: Settings, root: PublicKey) -> Self {
        Self {
            settings,
            root,
            members: Vec::new(),
            places: HashMap::new(),
            touched: VecDeque::new(),
            due: BinaryHeap::new(),
            outside: VecDeque::new(),
        }
    }

    /// Adds a member that knows nobody yet.
    pub(super) fn add(&mut self, now: Now, key: SecretKey, record: SignedRecord) {
        let id = key.node_id();
        let federation = FederationId::of_roots(&[self.root]);
        let engine = Engine::new(
            now,
            self.settings.clone(),
            key,
            record.clone(),
            Arc::new(Records::new(federation)),
            Beacons::new([self.root].into()),
            rand::rng().random(),
        );
        let greeting = Greeting { record, ticket: None };
        self.places.insert(id, self.members.len());
        self.members.push(Member { id, engine, greeting, begins: now.at, wake_at: None });
    }

    /// Introduces the members to each other: all greet the first, learn of the others from it, and greet them. This
    /// leaves almost no gossip. Had each joined alone, they would gossip about it for minutes.
    pub(super) fn introduce(&mut self, now: impl Fn() -> Now) {
        for member in 1..self.members.len() {
            self.link(now(), 0, member);
        }
        for member in 1..self.members.len() {
            self.exchange(now(), member, 0);
        }
        self.carry(&now);
        // All engines began at the same time. Spread their probes over the period, as those of separate machines are.
        let (begin, period) = (now().at, self.settings.probe_period);
        for member in &mut self.members {
            member.begins = begin + period.mul_f64(rand::rng().random());
        }
        self.touched.extend(0..self.members.len());
        self.carry(&now);
    }

    /// Whether each member has this node as a member.
    pub(super) fn all_know(&self, node: &NodeId) -> bool {
        self.members.iter().all(|member| member.engine.is_up(node))
    }

    /// When [`Engines::wake`] is to be called next.
    pub(super) fn wake_at(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, member))) = self.due.peek() {
            if self.members[*member].wake_at == Some(*at) {
                return Some(*at);
            }
            self.due.pop();
        }
        None
    }

    /// Wakes the engines that are due.
    pub(super) fn wake(&mut self, now: impl Fn() -> Now) {
        let until = now().at;
        while let Some(at) = self.wake_at().filter(|at| *at <= until) {
            let Some(Reverse((_, member))) = self.due.pop() else { break };
            debug_assert_eq!(self.members[member].wake_at, Some(at), "the wake that was looked at");
            self.members[member].wake_at = None;
            self.members[member].engine.handle_timeout(now());
            self.touched.push_back(member);
        }
        self.carry(&now);
    }

    /// Passes an input to one engine, and handles the resulting outputs.
    pub(super) fn tell<T>(
        &mut self,
        now: impl Fn() -> Now,
        member: usize,
        what: impl FnOnce(&mut Engine, Now) -> T,
    ) -> T {
        let answer = what(&mut self.members[member].engine, now());
        self.touched.push_back(member);
        self.carry(&now);
        answer
    }

    /// The next request of a member to the real node. Call it until it returns `None`.
    pub(super) fn poll_outside(&mut self) -> Option<(usize, Outside)> {
        self.outside.pop_front()
    }

    fn carry(&mut self, now: &impl Fn() -> Now) {
        while let Some(member) = self.touched.pop_front() {
            while let Some(output) = self.members[member].engine.poll_output() {
                self.carry_one(now(), member, output);
            }
            self.queue_wake(member);
        }
    }

    fn queue_wake(&mut self, place: usize) {
        let member = &mut self.members[place];
        let wake_at = member.engine.poll_timeout().map(|at| at.max(member.begins));
        if member.wake_at != wake_at {
            member.wake_at = wake_at;
            self.due.extend(wake_at.map(|at| Reverse((at, place))));
        }
    }

    fn carry_one(&mut self, now: Now, from: usize, output: Output) {
        let (to, outside) = match output {
            Output::Send { to, packet } => (to, Outside::Packet(packet)),
            Output::Dial { record } => (record.node, Outside::Dial),
            Output::Exchange { with } => (with, Outside::Exchange),
            Output::Lost { .. } | Output::Gone { .. } | Output::View => return,
        };
        let Some(&to) = self.places.get(&to) else { return self.outside.push_back((from, outside)) };
        match outside {
            Outside::Packet(packet) => {
                let sender = self.members[from].id;
                self.members[to].engine.handle_packet(now, sender, &packet);
                self.touched.push_back(to);
            }
            Outside::Dial => self.link(now, from, to),
            Outside::Exchange => self.exchange(now, from, to),
        }
    }

    /// Links two members: each greets the other, from the address in its record.
    fn link(&mut self, now: Now, from: usize, to: usize) {
        for (own, other) in [(to, from), (from, to)] {
            let shown = self.members[other].greeting.clone();
            let verdict = self.members[own].engine.handle_greeting(now, &shown, true);
            debug_assert_eq!(verdict, Verdict::Welcome, "members of one federation");
            self.touched.push_back(own);
        }
    }

    /// Runs an exchange between two members.
    fn exchange(&mut self, now: Now, from: usize, with: usize) {
        let (asker, answerer) = (self.members[from].id, self.members[with].id);
        let mut next: Option<ExchangeMessage> = Some(self.members[from].engine.open_exchange(now, answerer));
        for _ in 0..MESSAGES {
            let Some(ours) = next else { break };
            let Some(theirs) = self.members[with].engine.handle_exchange(now, asker, ours) else { break };
            next = self.members[from].engine.handle_exchange(now, answerer, theirs);
        }
        self.touched.extend([from, with]);
    }
}
