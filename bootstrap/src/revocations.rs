//! The revocations of online keys that the registry serves. They come from a file, which is read again when it changes,
//! and from requests with a root's signature.

use std::{path::PathBuf, sync::Arc, time::Duration};

use chappe_common::{
    keys::PublicKey,
    revocation::{RevocationError, SignedRevocation},
};
use chappe_discovery::revocations::KnownRevocations;
use tokio::{
    sync::Mutex,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::keys::{self, KeyFileError, load_revocations};

/// How often the file is checked. It has at most 12 KiB.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Why a revocation was not added.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddRevocationError {
    /// The revocation is invalid.
    #[error(transparent)]
    Revocation(#[from] RevocationError),
    /// The revocation cannot be stored.
    #[error(transparent)]
    File(#[from] KeyFileError),
}

/// The file and the revocations that are served.
#[derive(Debug)]
pub(crate) struct RevocationsFile {
    path: PathBuf,
    roots: Vec<PublicKey>,
    /// The registry's own online key, which may itself be revoked.
    online: PublicKey,
    known: KnownRevocations,
    /// Serializes writes.
    write_lock: Mutex<()>,
}

impl RevocationsFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub(crate) fn load(path: PathBuf, roots: Vec<PublicKey>, online: PublicKey) -> Result<Self, KeyFileError> {
        let known = KnownRevocations::new(load_revocations(&path, &roots)?);
        Ok(Self { path, roots, online, known, write_lock: Mutex::default() })
    }

    /// The revocations that are served.
    pub(crate) const fn known(&self) -> &KnownRevocations {
        &self.known
    }

    /// Verifies a revocation, stores it, and serves it.
    pub(crate) async fn add_revocation(
        self: &Arc<Self>,
        revocation: SignedRevocation,
    ) -> Result<(), AddRevocationError> {
        revocation.check(&self.roots)?;
        let _writing = self.write_lock.lock().await;
        let (file, stored) = (Arc::clone(self), revocation.clone());
        let written = tokio::task::spawn_blocking(move || keys::add_revocation(&file.path, stored, &file.roots)).await;
        // A panic here is a bug. The revocation was not stored then.
        written.expect("write_lock a file does not panic")?;
        self.add([revocation]);
        Ok(())
    }

    fn add(&self, revocation: impl IntoIterator<Item = SignedRevocation>) {
        if self.known.add(revocation) && self.known.revokes(&self.online) {
            tracing::error!(
                "this registry's online key is revoked, so clients reject its lists; create a new key with \
                                 `chappe bootstrap delegate --new-key`, and restart the registry with it"
            );
        }
    }

    /// Checks the file at intervals of [`CHECK_INTERVAL`] until `stop`.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut every = interval(CHECK_INTERVAL);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_readable = true;
        while stop.run_until_cancelled(every.tick()).await.is_some() {
            let file = Arc::clone(&self);
            let read = tokio::task::spawn_blocking(move || load_revocations(&file.path, &file.roots)).await;
            let Ok(read) = read else { return };
            match read {
                Ok(list) => {
                    was_readable = true;
                    self.add(list.iter().cloned());
                }
                Err(error) if was_readable => {
                    was_readable = false;
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "cannot use the revocations file; still serving the previous revocations");
                }
                Err(_) => {}
            }
        }
    }
}
