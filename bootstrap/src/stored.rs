//! Reads the store of a registry without running it.

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;

use crate::{
    config::BootstrapConfig,
    storage::{self, StoreError},
};

/// Why the store returned no directory. The store is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// The store cannot be opened. A running registry has exclusive use of an embedded store.
    #[error(transparent)]
    Open(#[from] StoreError),
    /// The store cannot be read. Retrying may help.
    #[error("cannot read the store")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The registry has never run.
    #[error("the store contains no directory; start the registry first")]
    Nothing,
}

/// The newest directory of all public nodes that a registry with this configuration has signed.
///
/// # Errors
/// There is none, or the store cannot be read.
pub async fn read_directory(config: &BootstrapConfig) -> Result<Bytes, StoredError> {
    let mut store = storage::open(config, Counter::default()).await?;
    let updates = store.read_updates(None).await.map_err(|error| StoredError::Read(Box::new(error)))?;
    updates.and_then(|updates| updates.head).map(|head| head.bundle).ok_or(StoredError::Nothing)
}
