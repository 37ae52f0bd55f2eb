//! News: signed notes in the packets of the SWIM library. One byte before each note is its kind.
//!
//! The engine removes the news from a packet before the library sees it, and gives the library the news to spread. The
//! library only learns which item replaces which.

use chappe_common::{
    keys::NodeId,
    record::{NodeLeave, NodeRecord},
    time::UnixTime,
};
use foca::{BroadcastHandler, Invalidates};

use super::{accusation::Accusation, member::MemberId};

/// The kind of a note: the first byte of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewsKind {
    /// A signed record.
    Record = 0,
    /// A signed leave.
    Leave = 1,
    /// A signed accusation.
    Accusation = 2,
}

impl NewsKind {
    /// Splits an item into its kind and note. Returns `None` if the kind is unknown.
    pub fn split(item: &[u8]) -> Option<(Self, &[u8])> {
        let (kind, note) = item.split_first()?;
        let kind = match kind {
            0 => Self::Record,
            1 => Self::Leave,
            2 => Self::Accusation,
            _ => return None,
        };
        Some((kind, note))
    }

    /// Encodes an item of this kind.
    pub fn item(self, note: &[u8]) -> Vec<u8> {
        let mut item = Vec::with_capacity(1 + note.len());
        item.push(self as u8);
        item.extend_from_slice(note);
        item
    }
}

/// The key of an item in the library's queue of news to spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewsKey {
    /// A record: node, and version (epoch and seq).
    Record(NodeId, (u64, u64)),
    /// A leave: node, and version (epoch and seq).
    Leave(NodeId, (u64, u64)),
    /// An accusation: accuser, accused, and time.
    Accusation(NodeId, NodeId, UnixTime),
}

impl Invalidates for NewsKey {
    fn invalidates(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Record(node, version), Self::Record(of, older)) => node == of && version >= older,
            (Self::Record(node, version), Self::Leave(of, older)) => node == of && version > older,
            (Self::Leave(node, version), Self::Record(of, older) | Self::Leave(of, older)) => {
                node == of && version >= older
            }
            (Self::Accusation(by, about, at), Self::Accusation(other_by, other_about, before)) => {
                by == other_by && about == other_about && at >= before
            }
            // After a leave, it no longer matters who accused the node.
            (Self::Leave(node, _), Self::Accusation(_, about, _)) => node == about,
            _ => false,
        }
    }
}

/// The item is malformed, or not from this node's engine.
#[derive(Debug, thiserror::Error)]
#[error("not an item of news")]
pub struct BadNews;

/// Tells the library the keys of news.
#[derive(Debug)]
pub(super) struct NewsHandler;

impl BroadcastHandler<MemberId> for NewsHandler {
    type Key = NewsKey;
    type Error = BadNews;

    fn receive_item(&mut self, item: &[u8], sender: Option<&MemberId>) -> Result<Option<NewsKey>, BadNews> {
        if sender.is_some() {
            // The engine removes the news from packets of others.
            return Err(BadNews);
        }
        let (kind, note) = NewsKind::split(item).ok_or(BadNews)?;
        // The note is verified already, or is this node's own.
        let key = match kind {
            NewsKind::Record => {
                let (record, _) = postcard::take_from_bytes::<NodeRecord>(note).map_err(|_| BadNews)?;
                NewsKey::Record(record.node, (record.epoch, record.seq))
            }
            NewsKind::Leave => {
                let (leave, _) = postcard::take_from_bytes::<NodeLeave>(note).map_err(|_| BadNews)?;
                NewsKey::Leave(leave.node, (leave.epoch, leave.seq))
            }
            NewsKind::Accusation => {
                let (accusation, _) = postcard::take_from_bytes::<Accusation>(note).map_err(|_| BadNews)?;
                NewsKey::Accusation(accusation.accuser, accusation.accused, accusation.at)
            }
        };
        Ok(Some(key))
    }
}

/// Properties that the tests and the fuzzer check for every input.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// An item of news, as the engine and then the library parse it.
    pub const NEWS: (&str, fn(&[u8]) -> bool) = ("news", |item| {
        let Some((kind, note)) = NewsKind::split(item) else { return false };
        assert_eq!(kind.item(note), item);
        let Ok(Some(key)) = NewsHandler.receive_item(item, None) else { return false };
        assert!(key.invalidates(&key), "a later copy replaces an earlier one");
        true
    });
}

#[cfg(test)]
mod tests {
    use chappe_common::{federation::FederationId, keys::SecretKey, signed::Signed};

    use super::*;
    use crate::{federation::members_file::fuzzed::record, membership::accusation};

    #[test]
    fn mutated_news_keep_their_subject_or_do_not_decode() {
        let key = SecretKey::from_bytes(&[1; 32]);
        let (federation, issued_at) = (FederationId::of_roots(&[]), UnixTime::from_secs(1_800_000_000));
        let leave = NodeLeave { federation, node: key.node_id(), epoch: 3, seq: 7, issued_at };
        let leave = Signed::sign(leave, &key).expect("a leave");
        let corpus = [
            NewsKind::Record.item(record(&key).as_bytes()),
            NewsKind::Leave.item(leave.as_bytes()),
            NewsKind::Accusation.item(accusation::fuzzed::VALID.as_bytes()),
        ];
        chappe_mutations::run(fuzzed::NEWS, &corpus);
    }
}
