//! Reads the store of a registry without running it.

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;

use crate::{
    config::BootstrapConfig,
    storage::{self, Embedded, StoreError},
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
    /// The store is missing, or contains no directory.
    #[error("{store} contains no directory of a registry; start the registry first, or set its URL with --registry")]
    Nothing {
        /// The store's file or database.
        store: String,
    },
}

/// The newest directory of all public nodes that a registry with this configuration has signed. Blocks on the disk.
///
/// # Errors
/// There is none, or the store cannot be read.
pub async fn read_directory(config: &BootstrapConfig) -> Result<Bytes, StoredError> {
    let dir = &config.bootstrap.data_dir;
    // Opening creates a missing store, and sets its backup copy aside as if the registry had started without it.
    if config.storage.url.is_none() && Embedded::is_missing(dir) {
        return Err(StoredError::Nothing { store: dir.display().to_string() });
    }
    let mut store = storage::open(config, Counter::default()).await?;
    let updates = store.read_updates(None).await.map_err(|error| StoredError::Read(Box::new(error)))?;
    updates
        .and_then(|updates| updates.head)
        .map(|head| head.bundle)
        .ok_or_else(|| StoredError::Nothing { store: store.name() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_store_is_not_created() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut config = BootstrapConfig::default();
        for data_dir in [dir.path().to_owned(), dir.path().join("of-another-name")] {
            config.bootstrap.data_dir = data_dir;
            assert!(matches!(read_directory(&config).await, Err(StoredError::Nothing { .. })));
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
        // What cannot be read is not missing.
        let file = dir.path().join("a-file");
        std::fs::write(&file, "").expect("a writable folder");
        config.bootstrap.data_dir = file;
        assert!(matches!(read_directory(&config).await, Err(StoredError::Open(_))));
    }
}
