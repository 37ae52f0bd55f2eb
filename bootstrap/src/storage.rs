//! What outlives the process: listings, kept leaves and removals, and the newest signed directory.
//!
//! Several registries may share one store. Two rules keep them together: a commit names the version of the state that it
//! was decided on and fails where another was faster; and a directory is stored in the commit that makes it true, so
//! that no `seq` is ever seen with two contents. A commit that returned has reached the disk.

mod embedded;
mod entry;
mod postgres;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use chappe_common::{federation::FederationId, time::UnixTime};
use futures_util::future::BoxFuture;

use crate::{
    config::{BootstrapConfig, StorageSection},
    rules::Change,
};

pub(crate) use embedded::Embedded;
pub use embedded::OpenError;
pub(crate) use postgres::Postgres;
pub use postgres::{ConnectError, DatabaseError};

/// The state's number: one more with each commit of anybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u64);

/// A signed directory with what its parts are made by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its number; the parts have the same.
    pub(crate) seq: u64,
    /// When it was signed.
    pub(crate) issued_at: UnixTime,
    /// From when on it counts no more.
    pub(crate) expires_at: UnixTime,
    /// The directory of all public nodes with its delegation, encoded.
    pub(crate) bundle: Bytes,
}

/// What a store has that its reader hasn't seen.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// The state's version with all of this.
    pub(crate) version: Version,
    /// Whether `changes` is all that there is, rather than what is new: the reader forgets what it had.
    pub(crate) complete: bool,
    /// The changes. Signatures have been verified again: a disk is not to be trusted more than a network.
    pub(crate) changes: Vec<Change>,
    /// The newest directory, if any was ever signed.
    pub(crate) head: Option<Head>,
    /// Entries that did not decode.
    pub(crate) damaged: usize,
}

/// The store can't be read. Another try may work.
#[derive(Debug, thiserror::Error)]
#[error("the store cannot be read")]
pub(crate) struct ReadError(#[source] pub(crate) Box<dyn std::error::Error + Send + Sync>);

/// Why a commit was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// Another registry was faster. Nothing was stored: read the news and decide anew.
    #[error("another registry has changed the store meanwhile")]
    Overtaken,
    /// The changes did not reach the disk, or may not have: they must not be acted on. Another try may work.
    #[error("the store refused a commit")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a store cannot be opened. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The embedded one.
    #[error(transparent)]
    Embedded(#[from] OpenError),
    /// PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] ConnectError),
    /// No thread could be had to open it.
    #[error("no thread to open the store")]
    Thread(#[from] tokio::task::JoinError),
}

/// A place to keep the state in. It has one user in a process.
pub(crate) trait Store: Send + 'static {
    /// What was committed since `known`; `None` where nothing was. Without `known`, everything.
    fn news(&mut self, known: Option<Version>) -> BoxFuture<'_, Result<Option<News>, ReadError>>;

    /// Stores all changes, and the directory that they lead to if it is a new one, or nothing. The state has to be at
    /// `base` still; where that is, the number of the state after it is given back.
    fn commit<'a>(
        &'a mut self,
        base: Version,
        changes: &'a [Change],
        head: Option<&'a Head>,
    ) -> BoxFuture<'a, Result<Version, CommitError>>;
}

/// Opens the store that the config names.
///
/// # Errors
/// It can't be opened.
pub(crate) async fn open(config: &BootstrapConfig) -> Result<Box<dyn Store>, StoreError> {
    let StorageSection { url, ca } = &config.storage;
    if let Some(url) = url {
        let federation = FederationId::of_roots(&config.federation.roots);
        return Ok(Box::new(Postgres::connect(url.as_str(), ca.as_deref(), federation).await?));
    }
    let dir = config.bootstrap.data_dir.clone();
    Ok(Box::new(tokio::task::spawn_blocking(move || Embedded::open(&dir)).await??))
}
