//! The members' engines, and what they say to each other, which arrives at once and always. Knows the time as it is told,
//! and no sockets: what goes to the node that is measured is handed out.
//!
//! What an engine has its process do besides (close a link, forget leases, place by a new view) is left out: none of the
//! members ever ends, and none has clients.

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

/// Messages of one side in one exchange, as the node has it.
pub(super) const MESSAGES: usize = 2;

/// What a member wants of the node that is measured.
#[derive(Debug)]
pub(super) enum Outside {
    /// Send it this packet.
    Packet(Bytes),
    /// Make a link to it.
    Dial,
    /// Begin an exchange with it.
    Exchange,
}

/// One member.
struct Member {
    id: NodeId,
    engine: Engine,
    greeting: Greeting,
    /// Before, its engine isn't woken.
    begins: Instant,
    /// For when its wake is queued.
    wake_at: Option<Instant>,
}

/// All members of this process.
pub(super) struct Engines {
    settings: Settings,
    root: PublicKey,
    members: Vec<Member>,
    places: HashMap<NodeId, usize>,
    /// Whose engines may have something to do; for each once for every word that it was told, so bounded by these.
    touched: VecDeque<usize>,
    /// Wakes; one that is no longer its member's is passed over.
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
            Beacons::new(federation, vec![self.root]),
            rand::rng().random(),
        );
        let greeting = Greeting { record, ticket: None };
        self.places.insert(id, self.members.len());
        self.members.push(Member { id, engine, greeting, begins: now.at, wake_at: None });
    }

    /// Makes them a federation: all greet the first, hear from it of all others, and greet them. Nobody is news to anybody
    /// then but to the first; had each joined alone, they would gossip of it for minutes.
    pub(super) fn introduce(&mut self, now: impl Fn() -> Now) {
        for member in 1..self.members.len() {
            self.link(now(), 0, member);
        }
        for member in 1..self.members.len() {
            self.exchange(now(), member, 0);
        }
        self.carry(&now);
        // They began at once; from here on they probe at moments of their own, as nodes on machines of their own do.
        let (begin, period) = (now().at, self.settings.probe_period);
        for member in &mut self.members {
            member.begins = begin + period.mul_f64(rand::rng().random());
        }
        self.touched.extend(0..self.members.len());
        self.carry(&now);
    }

    /// Whether each member has this node for one.
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

    /// Wakes those engines whose time has come.
    pub(super) fn wake(&mut self, now: impl Fn() -> Now) {
        let until = now().at;
        while let Some(at) = self.wake_at().filter(|at| *at <= until) {
            let Some(Reverse((_, member))) = self.due.pop() else { break };
            debug_assert_eq!(self.members[member].wake_at, Some(at), "the wake that was looked at");
            self.members[member].wake_at = None;
            self.members[member].engine.wake(now());
            self.touched.push_back(member);
        }
        self.carry(&now);
    }

    /// Tells one engine something, and carries what comes of it.
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

    /// The next thing that a member wants of the node; to be asked until there is none.
    pub(super) fn poll_outside(&mut self) -> Option<(usize, Outside)> {
        self.outside.pop_front()
    }

    fn carry(&mut self, now: &impl Fn() -> Now) {
        while let Some(member) = self.touched.pop_front() {
            while let Some(output) = self.members[member].engine.poll() {
                self.carry_one(now(), member, output);
            }
            self.queue_wake(member);
        }
    }

    fn queue_wake(&mut self, place: usize) {
        let member = &mut self.members[place];
        let wake_at = member.engine.wake_at().map(|at| at.max(member.begins));
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
                self.members[to].engine.packet(now, sender, &packet);
                self.touched.push_back(to);
            }
            Outside::Dial => self.link(now, from, to),
            Outside::Exchange => self.exchange(now, from, to),
        }
    }

    /// A link between two members: each shows the other its record, and both are where they say.
    fn link(&mut self, now: Now, from: usize, to: usize) {
        for (own, other) in [(to, from), (from, to)] {
            let shown = self.members[other].greeting.clone();
            let verdict = self.members[own].engine.greet(now, &shown, true);
            debug_assert_eq!(verdict, Verdict::Welcome, "members of one federation");
            self.touched.push_back(own);
        }
    }

    /// An exchange of two members.
    fn exchange(&mut self, now: Now, from: usize, with: usize) {
        let (asker, answerer) = (self.members[from].id, self.members[with].id);
        let mut next: Option<ExchangeMessage> = Some(self.members[from].engine.open_exchange(now, answerer));
        for _ in 0..MESSAGES {
            let Some(ours) = next else { break };
            let Some(theirs) = self.members[with].engine.exchange(now, asker, ours) else { break };
            next = self.members[from].engine.exchange(now, answerer, theirs);
        }
        self.touched.extend([from, with]);
    }
}
