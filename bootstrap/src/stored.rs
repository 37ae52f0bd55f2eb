//! Reading what a registry has stored, beside it.

use bytes::Bytes;

use crate::{
    config::BootstrapConfig,
    storage::{self, StoreError},
};

/// Why a registry's store gives no directory. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// The store can't be opened; an embedded one belongs to the registry while that runs.
    #[error(transparent)]
    Open(#[from] StoreError),
    /// It can't be read. Another try may work.
    #[error("the store cannot be read")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The registry has never run.
    #[error("the store holds no directory; start the registry first")]
    Nothing,
}

/// The newest directory of all public nodes that a registry with this config has signed.
///
/// # Errors
/// There is none, or it can't be read.
pub async fn directory(config: &BootstrapConfig) -> Result<Bytes, StoredError> {
    let mut store = storage::open(config).await?;
    let news = store.news(None).await.map_err(|error| StoredError::Read(Box::new(error)))?;
    news.and_then(|news| news.head).map(|head| head.bundle).ok_or(StoredError::Nothing)
}
