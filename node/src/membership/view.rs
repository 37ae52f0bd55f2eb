//! The live members as the rest of the node sees them: a snapshot that changes as a whole.

use chappe_common::{keys::NodeId, record::NodeRecord};

use crate::placement::{Beacon, Homes, Network, Place, Tag};

/// The live members, this node among them. Cheap to read from any task.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Sorted by node, each with its epoch.
    members: Vec<(Place, u64)>,
    /// The places alone, in the same order: what placement scans.
    places: Vec<Place>,
}

impl View {
    /// A view of the nodes that these records are of.
    pub fn new<'a>(beacon: &Beacon, records: impl Iterator<Item = &'a NodeRecord>) -> Self {
        let mut members: Vec<_> = records
            .filter_map(|record| {
                let network = Network::of(record.quic_addrs.first()?);
                Some((Place::new(beacon, record.node, network), record.epoch))
            })
            .collect();
        members.sort_unstable_by_key(|(place, _)| place.node());
        members.dedup_by_key(|(place, _)| place.node());
        let places = members.iter().map(|(place, _)| *place).collect();
        Self { members, places }
    }

    /// How many members there are: a node's own view has at least itself.
    #[expect(clippy::len_without_is_empty, reason = "no view is empty")]
    pub const fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether `node` is a live member.
    pub fn contains(&self, node: &NodeId) -> bool {
        self.places.binary_search_by_key(node, Place::node).is_ok()
    }

    /// The epoch of a live member.
    pub fn epoch(&self, node: &NodeId) -> Option<u64> {
        let index = self.members.binary_search_by_key(node, |(place, _)| place.node()).ok()?;
        Some(self.members[index].1)
    }

    /// The homes of a tag.
    pub fn homes(&self, tag: Tag) -> Homes {
        Homes::of(&self.places, tag)
    }

    /// The members.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.places.iter().map(Place::node)
    }
}
