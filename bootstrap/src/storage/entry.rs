//! The entries of a store: each has a kind and a node, and a body that only this module can decode.

use bytes::Bytes;
use chappe_common::{keys::NodeId, list_request::Load, signed::Signed, time::UnixTime};
use serde::{Deserialize, Serialize};

use crate::rules::{Change, KeptLeave, KeptRemoval, Listing, Millis, Probes};

/// The kind of an entry. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Listing = 0,
    Leave = 1,
    Removal = 2,
}

/// An entry. Without a body, the entry is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) node: [u8; 32],
    pub(super) body: Option<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct StoredListing {
    record: Bytes,
    registered_at: u64,
    last_seen: u64,
    proved: std::net::IpAddr,
    probes: Probes,
    load: Load,
    asked: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredNote {
    note: Bytes,
    until: UnixTime,
}

impl Kind {
    /// The kind with this number.
    pub(super) const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Listing),
            1 => Some(Self::Leave),
            2 => Some(Self::Removal),
            _ => None,
        }
    }
}

impl Entry {
    /// The entry that stores a change.
    pub(super) fn of(change: &Change) -> Self {
        let (kind, node, body) = match change {
            Change::List(listing) => (Kind::Listing, listing.record.node, Some(encode_listing(listing))),
            Change::Delist(node) => (Kind::Listing, *node, None),
            Change::KeepLeave(kept) => {
                (Kind::Leave, kept.leave.node, Some(encode_note(kept.leave.as_bytes(), kept.until)))
            }
            Change::ForgetLeave(node) => (Kind::Leave, *node, None),
            Change::KeepRemoval(kept) => {
                (Kind::Removal, kept.removal.node, Some(encode_note(kept.removal.as_bytes(), kept.until)))
            }
            Change::ForgetRemoval(node) => (Kind::Removal, *node, None),
        };
        Self { kind, node: *node.as_bytes(), body }
    }

    /// The change that the entry stores, or `None` if it is damaged.
    pub(super) fn change(&self) -> Option<Change> {
        let Some(body) = &self.body else {
            let node = NodeId::new(chappe_common::keys::PublicKey::from_bytes(self.node));
            return Some(match self.kind {
                Kind::Listing => Change::Delist(node),
                Kind::Leave => Change::ForgetLeave(node),
                Kind::Removal => Change::ForgetRemoval(node),
            });
        };
        Some(match self.kind {
            Kind::Listing => Change::List(Box::new(decode_listing(body)?)),
            Kind::Leave => {
                let StoredNote { note, until } = postcard::from_bytes(body).ok()?;
                Change::KeepLeave(KeptLeave { leave: Signed::decode(note).ok()?, until })
            }
            Kind::Removal => {
                let StoredNote { note, until } = postcard::from_bytes(body).ok()?;
                Change::KeepRemoval(KeptRemoval { removal: Signed::decode(note).ok()?, until })
            }
        })
    }
}

fn encode_listing(listing: &Listing) -> Vec<u8> {
    let Listing { record, registered_at, last_seen, proved, probes, load, asked } = listing;
    let stored = StoredListing {
        record: record.as_bytes().clone(),
        registered_at: registered_at.0,
        last_seen: last_seen.0,
        proved: *proved,
        probes: *probes,
        load: *load,
        asked: *asked,
    };
    postcard::to_allocvec(&stored).expect("bytes and numbers always encode")
}

fn decode_listing(bytes: &[u8]) -> Option<Listing> {
    let StoredListing { record, registered_at, last_seen, proved, probes, load, asked } =
        postcard::from_bytes(bytes).ok()?;
    Some(Listing {
        record: Signed::decode(record).ok()?,
        registered_at: Millis(registered_at),
        last_seen: Millis(last_seen),
        proved,
        probes,
        load,
        asked,
    })
}

fn encode_note(note: &Bytes, until: UnixTime) -> Vec<u8> {
    postcard::to_allocvec(&StoredNote { note: note.clone(), until }).expect("bytes and numbers always encode")
}
