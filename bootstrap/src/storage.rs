//! What outlives the process: listings, kept leaves, and the highest `seq` of a directory.
//!
//! A commit that returned has reached the disk. The registry's owner is the only writer.

mod embedded;

use crate::rules::{Change, KeptLeave, Listing};

pub(crate) use embedded::Embedded;
pub use embedded::OpenError;

/// What a store held when it was opened. Signatures have been verified again: a disk is not to be trusted more than a
/// network.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// The listed nodes.
    pub(crate) listings: Vec<Listing>,
    /// The kept leaves.
    pub(crate) leaves: Vec<KeptLeave>,
    /// The highest `seq` that any directory had.
    pub(crate) directory_seq: u64,
    /// Entries that did not decode.
    pub(crate) damaged: usize,
}

/// The changes did not reach the disk, or may not have: they must not be acted on. Another try may work.
#[derive(Debug, thiserror::Error)]
#[error("the store refused a commit")]
pub(crate) struct CommitError(#[source] pub(crate) Box<dyn std::error::Error + Send + Sync>);

/// A place to keep the state in.
pub(crate) trait Store: Send + 'static {
    /// Stores all changes and the directory's `seq`, or none of them.
    fn commit(&self, changes: Vec<Change>, directory_seq: u64) -> impl Future<Output = Result<(), CommitError>> + Send;
}
