//! News: the signed records and leaves that travel with the membership packets.
//!
//! The library carries them as opaque items, asks here whether one is new, and passes on what is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chappe_common::{
    keys::NodeId,
    record::{NodeLeave, NodeRecord},
    signed::Signed,
};
use foca::{BroadcastHandler, Invalidates};

use crate::membership::{
    member::MemberId,
    records::{Learned, Records},
};

/// Which kind of note an item is: its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewsKind {
    /// A signed record.
    Record = 0,
    /// A signed leave.
    Leave = 1,
}

/// An item of this kind, as the library carries it.
pub(crate) fn item(kind: NewsKind, note: &[u8]) -> Vec<u8> {
    let mut item = Vec::with_capacity(1 + note.len());
    item.push(kind as u8);
    item.extend_from_slice(note);
    item
}

/// What a record or leave is known by in the library's backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewsKey {
    node: NodeId,
    version: (u64, u64),
    leave: bool,
}

impl Invalidates for NewsKey {
    fn invalidates(&self, other: &Self) -> bool {
        self.node == other.node && (self.version, self.leave) >= (other.version, other.leave)
    }
}

/// Not a record or leave that verifies: the rest of the packet is not read.
#[derive(Debug, thiserror::Error)]
#[error("a member passed on what is no signed record")]
pub(crate) struct BadNews;

/// What was new since the last look.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    /// Whether a record was.
    pub(crate) records: bool,
    /// The nodes that left.
    pub(crate) left: Vec<Signed<NodeLeave>>,
}

/// The news as the membership task sees them.
#[derive(Clone, Debug)]
pub(crate) struct News(Arc<Mutex<Fresh>>);

/// The news as the library sees them: it owns this half.
#[derive(Debug)]
pub(crate) struct NewsHandler {
    records: Arc<Records>,
    news: News,
}

impl News {
    /// No news yet, and the library's half, which takes records into `records`.
    pub(crate) fn new(records: Arc<Records>) -> (Self, NewsHandler) {
        let news = Self(Arc::default());
        (news.clone(), NewsHandler { records, news })
    }

    /// What was new since the last look.
    pub(crate) fn take(&self) -> Fresh {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Fresh> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NewsHandler {
    fn handle_record(&self, body: &[u8], own: bool) -> Result<Option<NewsKey>, BadNews> {
        // What is known already costs no signature check.
        if !own
            && let Ok((record, _)) = postcard::take_from_bytes::<NodeRecord>(body)
            && self.records.knows(&record.node, record.epoch, record.seq)
        {
            return Ok(None);
        }
        let record = Signed::<NodeRecord>::decode(body.to_vec()).map_err(|_| BadNews)?;
        let key = NewsKey { node: record.node, version: (record.epoch, record.seq), leave: false };
        if own {
            return Ok(Some(key));
        }
        // A record that doesn't count here is no fault of who passed it on: clocks differ.
        let new = self.records.learn(record, crate::clock::Clock::default().now()) == Learned::New;
        self.news.lock().records |= new;
        Ok(new.then_some(key))
    }

    fn handle_leave(&self, body: &[u8], own: bool) -> Result<Option<NewsKey>, BadNews> {
        let leave = Signed::<NodeLeave>::decode(body.to_vec()).map_err(|_| BadNews)?;
        let key = NewsKey { node: leave.node, version: (leave.epoch, leave.seq), leave: true };
        if own {
            return Ok(Some(key));
        }
        let new = self.records.leave(leave.clone());
        if new {
            self.news.lock().left.push(leave);
        }
        Ok(new.then_some(key))
    }
}

impl BroadcastHandler<MemberId> for NewsHandler {
    type Key = NewsKey;
    type Error = BadNews;

    fn receive_item(&mut self, data: &[u8], sender: Option<&MemberId>) -> Result<Option<NewsKey>, BadNews> {
        let (&kind, body) = data.split_first().ok_or(BadNews)?;
        // Without a sender it is this node's own word, or one that it has taken in already.
        let own = sender.is_none();
        match kind {
            0 => self.handle_record(body, own),
            1 => self.handle_leave(body, own),
            _ => Err(BadNews),
        }
    }
}
