//! What there is to see of a world.

use std::{collections::HashMap, rc::Rc, time::Duration};

use chappe_common::{federation::FederationId, keys::NodeId, record::SignedRecord};
use chappe_node::membership::{Engine, member::MemberId};
use rand::seq::IteratorRandom as _;

use super::{
    attack::Known,
    node::{Ix, Load},
    watch::{Fact, Unjust},
    world::World,
};

impl World {
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
