//! The revocations of online keys that the registry serves: read from their file, again when it changes, and added to by
//! whoever sends one that a root has signed.

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

use crate::keys::{KeyFileError, add_revocation, load_revocations};

/// How often the file is looked at. It has 12 KiB at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a revocation was not taken in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    /// It does not count.
    #[error(transparent)]
    Revocation(#[from] RevocationError),
    /// It cannot be stored.
    #[error(transparent)]
    File(#[from] KeyFileError),
}

/// The file and what is served of it.
#[derive(Debug)]
pub(crate) struct RevocationsFile {
    path: PathBuf,
    roots: Vec<PublicKey>,
    /// The registry's own key, which may be among them.
    online: PublicKey,
    known: KnownRevocations,
    /// One writer at a time.
    writing: Mutex<()>,
}

impl RevocationsFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// It is there, and cannot be read.
    pub(crate) fn load(path: PathBuf, roots: Vec<PublicKey>, online: PublicKey) -> Result<Self, KeyFileError> {
        let known = KnownRevocations::new(load_revocations(&path, &roots)?);
        Ok(Self { path, roots, online, known, writing: Mutex::default() })
    }

    /// What is served.
    pub(crate) const fn known(&self) -> &KnownRevocations {
        &self.known
    }

    /// Takes one in and stores it.
    pub(crate) async fn take(self: &Arc<Self>, note: SignedRevocation) -> Result<(), TakeError> {
        note.check(&self.roots)?;
        let _writing = self.writing.lock().await;
        let (file, stored) = (Arc::clone(self), note.clone());
        let written = tokio::task::spawn_blocking(move || add_revocation(&file.path, stored, &file.roots)).await;
        // A panic in there is a bug; the note is not stored then.
        written.expect("writing a file does not panic")?;
        self.add([note]);
        Ok(())
    }

    fn add(&self, notes: impl IntoIterator<Item = SignedRevocation>) {
        if self.known.add(notes) && self.known.revokes(&self.online) {
            tracing::error!(
                "this registry's online key is revoked: nobody takes its lists any more; make a new one by \
                 `chappe bootstrap delegate --new-key`, and start the registry with it"
            );
        }
    }

    /// Looks at the file every few seconds until `stop`.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut every = interval(LOOK_EVERY);
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
                    tracing::warn!(error, "the revocations' file is of no use; what was served stays");
                }
                Err(_) => {}
            }
        }
    }
}
