//! A malicious member that tries everything in turn.

use std::time::Duration;

use bytes::Bytes;
use chappe_common::keys::NodeId;
use chappe_node::membership::{Now, exchange::ExchangeMessage};

use super::{Behaviour, Puppet};

/// Does what each of its parts does, one after the other.
pub struct Versatile {
    parts: Vec<Box<dyn Behaviour>>,
    next: usize,
}

impl Versatile {
    /// Of these parts.
    pub fn new(parts: Vec<Box<dyn Behaviour>>) -> Self {
        Self { parts, next: 0 }
    }
}

impl Behaviour for Versatile {
    fn every(&self) -> Duration {
        Duration::from_millis(200)
    }

    fn act(&mut self, me: &mut Puppet<'_>) {
        let count = self.parts.len();
        if let Some(part) = self.parts.get_mut(self.next % count.max(1)) {
            part.act(me);
        }
        self.next += 1;
    }

    fn hears(&mut self, now: Now, from: NodeId, packet: &Bytes) -> bool {
        self.parts.iter_mut().all(|part| part.hears(now, from, packet))
    }

    fn says(&mut self, message: &mut ExchangeMessage) -> bool {
        self.parts.iter_mut().all(|part| part.says(message))
    }
}
