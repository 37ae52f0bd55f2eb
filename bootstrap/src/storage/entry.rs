//! The entries of a store: each has a kind and a node, and a body that only this module can decode.

use bytes::Bytes;
use chappe_common::{keys::NodeId, list_request::Load, signed::Signed, time::UnixTime};
use serde::{Deserialize, Serialize};

use crate::rules::{Change, DoorHistory, Listing, Millis, ProbeHistory, StoredLeave, StoredRemoval};

/// The kind of an entry. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    Listing = 0,
    Leave = 1,
    Removal = 2,
}

/// An entry. Without a body, the entry is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoreEntry {
    pub(super) kind: EntryKind,
    pub(super) node: [u8; 32],
    pub(super) body: Option<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct StoredListing {
    record: Bytes,
    registered_at: u64,
    last_seen: u64,
    proved: std::net::IpAddr,
    probes: ProbeHistory,
    load: Load,
    asked: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredObject {
    object: Bytes,
    until: UnixTime,
}

impl EntryKind {
    /// The kind with this number.
    pub(super) const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Listing),
            1 => Some(Self::Leave),
            2 => Some(Self::Removal),
            _ => None,
        }
    }
}

impl StoreEntry {
    /// The entry that stores a change.
    pub(super) fn from_change(change: &Change) -> Self {
        let (kind, node, body) = match change {
            Change::List(listing) => (EntryKind::Listing, listing.record.node, Some(encode_listing(listing))),
            Change::Delist(node) => (EntryKind::Listing, *node, None),
            Change::StoreLeave(stored) => {
                (EntryKind::Leave, stored.leave.node, Some(encode_object(stored.leave.as_bytes(), stored.until)))
            }
            Change::DeleteLeave(node) => (EntryKind::Leave, *node, None),
            Change::StoreRemoval(stored) => {
                (EntryKind::Removal, stored.removal.node, Some(encode_object(stored.removal.as_bytes(), stored.until)))
            }
            Change::DeleteRemoval(node) => (EntryKind::Removal, *node, None),
        };
        Self { kind, node: *node.as_bytes(), body }
    }

    /// The change that the entry stores, or `None` if it is damaged.
    pub(super) fn to_change(&self) -> Option<Change> {
        let Some(body) = &self.body else {
            let node = NodeId::new(chappe_common::keys::PublicKey::from_bytes(self.node));
            return Some(match self.kind {
                EntryKind::Listing => Change::Delist(node),
                EntryKind::Leave => Change::DeleteLeave(node),
                EntryKind::Removal => Change::DeleteRemoval(node),
            });
        };
        Some(match self.kind {
            EntryKind::Listing => Change::List(Box::new(decode_listing(body)?)),
            EntryKind::Leave => {
                let StoredObject { object, until } = postcard::from_bytes(body).ok()?;
                Change::StoreLeave(StoredLeave { leave: Signed::decode(object).ok()?, until })
            }
            EntryKind::Removal => {
                let StoredObject { object, until } = postcard::from_bytes(body).ok()?;
                Change::StoreRemoval(StoredRemoval { removal: Signed::decode(object).ok()?, until })
            }
        })
    }
}

impl StoreEntry {
    /// Whether the history of the listed node's door is damaged, or was stored by an earlier version in another form. The listing
    /// is read without it.
    pub(super) fn lacks_door_history(&self) -> bool {
        let (EntryKind::Listing, Some(body)) = (self.kind, &self.body) else { return false };
        postcard::take_from_bytes::<StoredListing>(body)
            .is_ok_and(|(_, rest)| !rest.is_empty() && postcard::from_bytes::<DoorHistory>(rest).is_err())
    }
}

fn encode_listing(listing: &Listing) -> Vec<u8> {
    let Listing { record, registered_at, last_seen, proved, probes, load, asked, door } = listing;
    let stored = StoredListing {
        record: record.as_bytes().clone(),
        registered_at: registered_at.0,
        last_seen: last_seen.0,
        proved: *proved,
        probes: *probes,
        load: *load,
        asked: *asked,
    };
    // Earlier versions ignore what follows a listing.
    postcard::to_allocvec(&(stored, door)).expect("bytes and numbers always encode")
}

fn decode_listing(bytes: &[u8]) -> Option<Listing> {
    let (stored, rest) = postcard::take_from_bytes(bytes).ok()?;
    let StoredListing { record, registered_at, last_seen, proved, probes, load, asked } = stored;
    // Earlier versions have stored no history of the door, or one without its last field: such a history starts again, and so
    // does a damaged one. The owner reports it.
    let door: DoorHistory = postcard::from_bytes(rest).unwrap_or_default();
    Some(Listing {
        record: Signed::decode(record).ok()?,
        registered_at: Millis(registered_at),
        last_seen: Millis(last_seen),
        proved,
        probes,
        load,
        asked,
        door,
    })
}

fn encode_object(object: &Bytes, until: UnixTime) -> Vec<u8> {
    postcard::to_allocvec(&StoredObject { object: object.clone(), until }).expect("bytes and numbers always encode")
}
