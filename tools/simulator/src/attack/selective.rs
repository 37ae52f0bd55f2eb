//! Members that answer some and not others.

use std::time::Duration;

use bytes::Bytes;
use chappe_common::keys::NodeId;
use chappe_node::membership::Now;

use super::{Behaviour, Puppet};

/// Is there for half of the others, and silent to the rest, who then accuse it in vain.
#[derive(Clone, Copy, Debug)]
pub struct Selective;

impl Behaviour for Selective {
    fn every(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn act(&mut self, _me: &mut Puppet<'_>) {}

    fn hears(&mut self, _now: Now, from: NodeId, _packet: &Bytes) -> bool {
        from.key().as_bytes()[0].is_multiple_of(2)
    }
}
