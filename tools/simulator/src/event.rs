//! What waits to happen, in the order of time.

use std::{cmp::Ordering, collections::BinaryHeap, sync::Arc};

use bytes::Bytes;
use chappe_common::keys::NodeId;
use chappe_node::membership::{Greeting, admission::AdmissionRefusal};

use super::{exchange::Exchange, node::Ix, time::Time};

/// A dial, by who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DialKey {
    /// Who dials.
    pub(super) from: Ix,
    /// In which of its runs.
    pub(super) epoch: u32,
    /// Which of its dials.
    pub(super) number: u32,
}

/// The other side's first words.
#[derive(Debug)]
pub(super) enum Reply {
    /// Its own greeting, and its run.
    Taken(Arc<Greeting>, u32),
    /// The link is refused.
    Refused(AdmissionRefusal),
}

/// What happens at a node.
#[derive(Debug)]
pub(super) enum Event {
    /// Its engine is due.
    Wake(Ix),
    /// A packet arrives.
    Packet { to: Ix, to_epoch: u32, from: Ix, from_epoch: u32, packet: Bytes },
    /// The peer has closed the link.
    Closed { to: Ix, from: Ix, from_epoch: u32 },
    /// The first flight of a handshake is sent, for the first time or again.
    Flight { dial: DialKey, attempt: u32 },
    /// The dialler's side of the handshake is done.
    Connected { dial: DialKey, to: Ix },
    /// The dialler's greeting arrives, and packets with it.
    Greeting { dial: DialKey, to: Ix, greeting: Arc<Greeting>, packets: Vec<Bytes> },
    /// The dial-back of a dialler has ended.
    Seen { dial: DialKey, to: Ix, greeting: Arc<Greeting>, packets: Vec<Bytes>, reached: bool },
    /// The other side's first words arrive at the dialler.
    Answer { dial: DialKey, from: Ix, reply: Reply },
    /// A dial has taken too long, or met another key.
    GiveUp(DialKey),
    /// The engine hears that a dial has failed.
    Failed { node: Ix, epoch: u32, peer: NodeId },
    /// A message of an exchange arrives.
    Exchange(Box<Exchange>),
    /// A node that may still be alone tries to join again.
    Join { node: Ix, epoch: u32, attempt: u32 },
    /// A node looks at what the registry lists.
    Registry { node: Ix, epoch: u32 },
    /// A malicious member does what it came for.
    Act(Ix),
}

impl Event {
    /// The node at which it happens.
    pub(super) const fn node(&self) -> Ix {
        match self {
            Self::Wake(node)
            | Self::Act(node)
            | Self::Join { node, .. }
            | Self::Registry { node, .. }
            | Self::Failed { node, .. } => *node,
            Self::Packet { to, .. } | Self::Closed { to, .. } | Self::Greeting { to, .. } | Self::Seen { to, .. } => {
                *to
            }
            Self::Flight { dial, .. }
            | Self::Connected { dial, .. }
            | Self::Answer { dial, .. }
            | Self::GiveUp(dial) => dial.from,
            Self::Exchange(exchange) => exchange.to(),
        }
    }

    /// Tells kinds apart, for hashes.
    pub(super) const fn kind(&self) -> u64 {
        match self {
            Self::Wake(_) => 0,
            Self::Packet { .. } => 1,
            Self::Closed { .. } => 2,
            Self::Flight { .. } => 3,
            Self::Connected { .. } => 4,
            Self::Greeting { .. } => 5,
            Self::Seen { .. } => 6,
            Self::Answer { .. } => 7,
            Self::GiveUp(_) => 8,
            Self::Exchange(_) => 9,
            Self::Join { .. } => 10,
            Self::Registry { .. } => 11,
            Self::Act(_) => 12,
            Self::Failed { .. } => 13,
        }
    }
}

struct Queued {
    at: Time,
    /// The order of events of the same time is the order in which they were queued.
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    /// The earliest is the greatest: the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// The queue.
#[derive(Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Queued>,
    numbers: u64,
}

impl Queue {
    /// Queues an event.
    pub(super) fn push(&mut self, at: Time, event: Event) {
        self.numbers += 1;
        self.heap.push(Queued { at, number: self.numbers, event });
    }

    /// The next event, if it is due by `until`.
    pub(super) fn pop(&mut self, until: Time) -> Option<(Time, Event)> {
        if self.heap.peek()?.at > until {
            return None;
        }
        self.heap.pop().map(|queued| (queued.at, queued.event))
    }
}
