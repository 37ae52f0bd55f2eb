//! News: the signed notes that travel with the membership packets, a kind in one byte in front of each.
//!
//! The engine takes them out of a packet before the library sees it, and gives the library those that are to be passed
//! on; the library is only told which replaces which.

use chappe_common::{
    keys::NodeId,
    record::{NodeLeave, NodeRecord},
    time::UnixTime,
};
use foca::{BroadcastHandler, Invalidates};

use super::{accusation::Accusation, member::MemberId};

/// Which kind of note an item is: its first byte.
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
    /// An item's kind and note; none, where there is no such kind.
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

    /// An item of this kind.
    pub fn item(self, note: &[u8]) -> Vec<u8> {
        let mut item = Vec::with_capacity(1 + note.len());
        item.push(self as u8);
        item.extend_from_slice(note);
        item
    }
}

/// What an item is known by among those that wait to be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewsKey {
    /// A record, of this version.
    Record(NodeId, (u64, u64)),
    /// A leave, of this version.
    Leave(NodeId, (u64, u64)),
    /// An accusation by the first about the second.
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
            // What ended is of no interest any more, whoever said that it doesn't answer.
            (Self::Leave(node, _), Self::Accusation(_, about, _)) => node == about,
            _ => false,
        }
    }
}

/// Not one of this node's own items.
#[derive(Debug, thiserror::Error)]
#[error("not an item of news")]
pub struct BadNews;

/// The library's side.
#[derive(Debug)]
pub(super) struct NewsHandler;

impl BroadcastHandler<MemberId> for NewsHandler {
    type Key = NewsKey;
    type Error = BadNews;

    fn receive_item(&mut self, item: &[u8], sender: Option<&MemberId>) -> Result<Option<NewsKey>, BadNews> {
        if sender.is_some() {
            // The engine shows the library no news of others.
            return Err(BadNews);
        }
        let (kind, note) = NewsKind::split(item).ok_or(BadNews)?;
        // Verified already, or this node's own.
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
                let (said, _) = postcard::take_from_bytes::<Accusation>(note).map_err(|_| BadNews)?;
                NewsKey::Accusation(said.accuser, said.accused, said.at)
            }
        };
        Ok(Some(key))
    }
}

/// What is checked of every input, by the tests and by the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// An item of news, as the engine and then the library look at it.
    pub const NEWS: (&str, fn(&[u8]) -> bool) = ("news", |item| {
        let Some((kind, note)) = NewsKind::split(item) else { return false };
        assert_eq!(kind.item(note), item);
        let Ok(Some(key)) = NewsHandler.receive_item(item, None) else { return false };
        assert!(key.invalidates(&key), "a later copy takes the place of an earlier");
        true
    });
}

#[cfg(test)]
mod tests {
    use chappe_common::{federation::FederationId, keys::SecretKey, signed::Signed};

    use super::*;
    use crate::{federation::members_file::fuzzed::record, membership::accusation};

    #[test]
    fn mutated_news_are_known_by_what_they_are_about_or_are_none() {
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
