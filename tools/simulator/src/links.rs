//! The links of one node: which are up, and since when.

use std::time::Duration;

use super::{node::Ix, time::Time};

/// After this silence a link is closed, as the node has it.
// The node keeps links for half an hour now (decision 10, on main): at N = 1,000 a new link for nearly every probe was
// most of the load and of the false alarms.
const IDLE: Duration = Duration::from_secs(30 * 60);

/// One side of a link.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    /// The run of the peer that the link goes to; 0: there is no link.
    pub(super) epoch: u32,
    /// When something was heard over it last.
    heard: Time,
    /// When it was made.
    pub(super) made: Time,
    /// Whether this side has dialled.
    pub(super) dialled: bool,
}

/// The links of one node, by peer.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<Link>);

impl Links {
    /// The link to a peer, if it is up.
    pub(super) fn find(&self, peer: Ix, now: Time) -> Option<Link> {
        self.0.get(peer.index()).copied().filter(|link| link.epoch != 0 && now - link.heard < IDLE)
    }

    /// A link is up.
    pub(super) fn insert(&mut self, peer: Ix, epoch: u32, dialled: bool, now: Time) {
        if self.0.len() <= peer.index() {
            self.0.resize(peer.index() + 1, Link::default());
        }
        self.0[peer.index()] = Link { epoch, heard: now, made: now, dialled };
    }

    /// Something came over the link to this run of a peer, or was acknowledged. Whether there is such a link.
    pub(super) fn touch(&mut self, peer: Ix, epoch: u32, now: Time) -> bool {
        match self.0.get_mut(peer.index()) {
            Some(link) if link.epoch == epoch && now - link.heard < IDLE => {
                link.heard = now;
                true
            }
            _ => false,
        }
    }

    /// Closes the link to a peer, if it goes to a run before `epoch`. The run that it went to.
    pub(super) fn close_before(&mut self, peer: Ix, epoch: u32) -> Option<u32> {
        let link = self.0.get_mut(peer.index()).filter(|link| (1..epoch).contains(&link.epoch))?;
        Some(std::mem::take(link).epoch)
    }

    /// All links vanish: the process has ended.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// How many are up.
    pub(super) fn len(&self, now: Time) -> usize {
        self.0.iter().filter(|link| link.epoch != 0 && now - link.heard < IDLE).count()
    }
}
