//! Processes: nodes that are made, start, join, crash, leave, are stopped and go on.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use chappe_common::{record::SignedRecord, roots::Roots};
use chappe_node::membership::{Engine, Greeting, beacons::Beacons, records::Records};
use rand::{RngExt as _, seq::IteratorRandom as _};

use super::{
    attack::Behaviour,
    event::Event,
    node::{Ix, Node, sign_record},
    world::World,
};

/// How many nodes a joiner seeks at once, the pauses between its tries, and how often a node looks at what the registry
/// lists, as the node has them.
const ANCHORS: usize = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const REGISTRY_EVERY: Duration = Duration::from_secs(600);

impl World {
    /// Makes a node in a network of its own. It doesn't run yet.
    ///
    /// # Panics
    /// There are more nodes than addresses.
    pub fn add(&mut self) -> Ix {
        let [_, _, high, low] = u32::try_from(self.nodes.len()).expect("few nodes").to_be_bytes();
        self.add_at(SocketAddr::from((Ipv4Addr::new(20, high, low, 1), 8711)), None)
    }

    /// Makes a node at an address; it may show another.
    ///
    /// # Panics
    /// There are more nodes than numbers.
    pub fn add_at(&mut self, addr: SocketAddr, shown: Option<SocketAddr>) -> Ix {
        let ix = Ix(u32::try_from(self.nodes.len()).expect("few nodes"));
        let node = Node::new(self.rng.random(), self.federation, shown.unwrap_or(addr), self.now());
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
        let beacons = Beacons::new(Roots::pinned(Vec::new(), Some(federation)));
        node.engine = Some(Engine::new(now, settings, key, record, records, beacons, seed));
        node.wake_at = None;
        node.links.clear();
        node.dials = Default::default();
        (node.incoming, node.dial_backs) = (0, 0);
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

    /// Seeks whom the node would seek when it is alone.
    pub(super) fn join(&mut self, ix: Ix, epoch: u32, attempt: u32) {
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

    pub(super) fn consult_registry(&mut self, ix: Ix, epoch: u32) {
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
}
