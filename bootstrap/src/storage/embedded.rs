//! The embedded store: one redb file in the data folder.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use chappe_common::{signed::Signed, time::UnixTime};
use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{CommitError, Snapshot, Store};
use crate::rules::{Change, KeptLeave, Listing, Millis};

const FILE: &str = "registry.redb";
const LISTINGS: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("listings");
const LEAVES: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("leaves");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const DIRECTORY_SEQ: &str = "directory_seq";
/// The whole state is under 2 MB; redb's default of a gigabyte is for other uses.
const CACHE: usize = 4 * 1024 * 1024;

/// Why the store cannot be opened. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made.
    #[error("cannot use the folder {path} (bootstrap.data_dir)")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is in use by another registry, or is damaged, or no store.
    #[error("cannot open the store {path} (bootstrap.data_dir)")]
    File {
        /// The file.
        path: PathBuf,
        /// The store's reason.
        source: Box<redb::Error>,
    },
}

#[derive(Serialize, Deserialize)]
struct StoredListing {
    record: Bytes,
    registered_at: u64,
    last_seen: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredLeave {
    leave: Bytes,
    until: UnixTime,
}

/// An open store; it holds the file's lock.
#[derive(Clone)]
pub(crate) struct Embedded {
    database: Arc<Database>,
}

impl Embedded {
    /// Opens or makes the store in `dir` and reads what it holds. Blocks.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Snapshot), OpenError> {
        fs::create_dir_all(dir).map_err(|source| OpenError::Folder { path: dir.to_owned(), source })?;
        let path = dir.join(FILE);
        let open = || -> Result<_, redb::Error> {
            let store = Self { database: Arc::new(Database::builder().set_cache_size(CACHE).create(&path)?) };
            // Makes the tables, so that reading needs no case for a store without them.
            store.write(Vec::new(), 0)?;
            let snapshot = store.read()?;
            Ok((store, snapshot))
        };
        open().map_err(|source| OpenError::File { path: path.clone(), source: Box::new(source) })
    }

    fn read(&self) -> Result<Snapshot, redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut snapshot = Snapshot {
            directory_seq: transaction.open_table(NUMBERS)?.get(DIRECTORY_SEQ)?.map_or(0, |seq| seq.value()),
            ..Snapshot::default()
        };
        for entry in transaction.open_table(LISTINGS)?.iter()? {
            match decode_listing(entry?.1.value()) {
                Some(listing) => snapshot.listings.push(listing),
                None => snapshot.damaged += 1,
            }
        }
        for entry in transaction.open_table(LEAVES)?.iter()? {
            match decode_leave(entry?.1.value()) {
                Some(leave) => snapshot.leaves.push(leave),
                None => snapshot.damaged += 1,
            }
        }
        Ok(snapshot)
    }

    fn write(&self, changes: Vec<Change>, directory_seq: u64) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut listings = transaction.open_table(LISTINGS)?;
            let mut leaves = transaction.open_table(LEAVES)?;
            let mut numbers = transaction.open_table(NUMBERS)?;
            for change in changes {
                match change {
                    Change::List(listing) => {
                        listings.insert(*listing.record.node.as_bytes(), encode_listing(&listing).as_slice())?;
                    }
                    Change::Delist(node) => {
                        listings.remove(*node.as_bytes())?;
                    }
                    Change::KeepLeave(kept) => {
                        leaves.insert(*kept.leave.node.as_bytes(), encode_leave(&kept).as_slice())?;
                    }
                    Change::ForgetLeave(node) => {
                        leaves.remove(*node.as_bytes())?;
                    }
                }
            }
            let last = numbers.get(DIRECTORY_SEQ)?.map_or(0, |seq| seq.value());
            numbers.insert(DIRECTORY_SEQ, last.max(directory_seq))?;
        }
        transaction.commit()?;
        Ok(())
    }
}

impl Store for Embedded {
    async fn commit(&self, changes: Vec<Change>, directory_seq: u64) -> Result<(), CommitError> {
        let store = self.clone();
        // A commit waits for the disk.
        match tokio::task::spawn_blocking(move || store.write(changes, directory_seq)).await {
            Ok(written) => written.map_err(|error| CommitError(Box::new(error))),
            Err(error) => Err(CommitError(Box::new(error))),
        }
    }
}

fn encode_listing(listing: &Listing) -> Vec<u8> {
    let stored = StoredListing {
        record: listing.record.as_bytes().clone(),
        registered_at: listing.registered_at.0,
        last_seen: listing.last_seen.0,
    };
    postcard::to_allocvec(&stored).expect("bytes and numbers always encode")
}

fn decode_listing(bytes: &[u8]) -> Option<Listing> {
    let stored: StoredListing = postcard::from_bytes(bytes).ok()?;
    Some(Listing {
        record: Signed::decode(stored.record).ok()?,
        registered_at: Millis(stored.registered_at),
        last_seen: Millis(stored.last_seen),
    })
}

fn encode_leave(kept: &KeptLeave) -> Vec<u8> {
    let stored = StoredLeave { leave: kept.leave.as_bytes().clone(), until: kept.until };
    postcard::to_allocvec(&stored).expect("bytes and numbers always encode")
}

fn decode_leave(bytes: &[u8]) -> Option<KeptLeave> {
    let stored: StoredLeave = postcard::from_bytes(bytes).ok()?;
    Some(KeptLeave { leave: Signed::decode(stored.leave).ok()?, until: stored.until })
}
