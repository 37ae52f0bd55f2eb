//! The persistent state: listings, leaves, removals, and the newest signed directory.
//!
//! Several registries may share one store. A commit names the version of the state on which it was decided, and fails
//! if another registry has committed in the meantime. A directory is stored in the same commit as the changes that it
//! reflects, so no `seq` ever has two contents. A successful commit is on disk.

mod embedded;
mod entry;
mod postgres;
mod snapshot;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use chappe_common::time::UnixTime;
use futures_util::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;

use crate::{
    config::{BootstrapConfig, StorageSection},
    rules::Change,
};

pub(crate) use embedded::Embedded;
pub use embedded::OpenError;
pub(crate) use postgres::Postgres;
pub use postgres::{ConnectError, DatabaseError};
pub use snapshot::SnapshotError;
pub(crate) use snapshot::{MAX_SNAPSHOT, Snapshot, read as read_snapshot};

/// The version of the state, which each commit increments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u64);

/// A signed directory with the values from which its parts are signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignedDirectory {
    /// Its number. The parts have the same number.
    pub(crate) seq: u64,
    /// When it was signed.
    pub(crate) issued_at: UnixTime,
    /// When it expires.
    pub(crate) expires_at: UnixTime,
    /// The encoded directory of all public nodes, with its delegation.
    pub(crate) bundle: Bytes,
}

/// What was committed since the reader's version.
#[derive(Debug, Default)]
pub(crate) struct StoreUpdate {
    /// The version of the state that includes all of this.
    pub(crate) version: Version,
    /// Whether `changes` is the complete state. The reader must then drop its old state.
    pub(crate) complete: bool,
    /// The changes. Their signatures were verified again, because a disk is not trusted more than the network.
    pub(crate) changes: Vec<Change>,
    /// The newest directory, if there is one.
    pub(crate) head: Option<SignedDirectory>,
    /// Number of entries that could not be decoded.
    pub(crate) damaged: usize,
    /// Number of listings whose door's history could not be decoded, so that it starts again.
    pub(crate) lost_door_histories: usize,
}

/// The store cannot be read. Retrying may help.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the store")]
pub(crate) struct ReadError(#[source] pub(crate) Box<dyn std::error::Error + Send + Sync>);

/// Why a commit failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// Another registry has committed in the meantime. Nothing was stored: read the updates and decide again.
    #[error("another registry has changed the store in the meantime")]
    Conflict,
    /// The changes may not be on disk, so they must not be applied. Retrying may help.
    #[error("the store rejected a commit")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a store cannot be opened. It is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The embedded store.
    #[error(transparent)]
    Embedded(#[from] OpenError),
    /// PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] ConnectError),
    /// The task that opens the store failed.
    #[error("the task that opens the store failed")]
    Thread(#[from] tokio::task::JoinError),
}

/// A store for the state. It has one user in a process.
pub(crate) trait Store: Send + 'static {
    /// The file, or the key that names the database. For logs.
    fn name(&self) -> String;

    /// Returns what was committed since `known`, or `None` if nothing was. Without `known`, returns the complete state.
    fn read_updates(&mut self, known: Option<Version>) -> BoxFuture<'_, Result<Option<StoreUpdate>, ReadError>>;

    /// Stores all changes, and the new directory if there is one, or nothing. Fails if the state's version is not
    /// `base`. Returns the new version.
    fn commit<'a>(
        &'a mut self,
        base: Version,
        changes: &'a [Change],
        head: Option<&'a SignedDirectory>,
    ) -> BoxFuture<'a, Result<Version, CommitError>>;
}

/// Opens the configured store. `failed_snapshots` counts what the embedded store could not copy for backups.
///
/// # Errors
/// It cannot be opened.
pub(crate) async fn open(config: &BootstrapConfig, failed_snapshots: Counter) -> Result<Box<dyn Store>, StoreError> {
    let StorageSection { url, ca } = &config.storage;
    if let Some(url) = url {
        let federation = config.federation.roots().federation();
        return Ok(Box::new(Postgres::connect(url.as_str(), ca.as_deref(), federation).await?));
    }
    let dir = config.bootstrap.data_dir.clone();
    Ok(Box::new(tokio::task::spawn_blocking(move || Embedded::open(&dir, failed_snapshots)).await??))
}
