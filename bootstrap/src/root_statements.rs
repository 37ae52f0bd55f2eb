//! The statements of roots that the registry serves: successions, and revocations of online keys. They come from a file,
//! which is read again when it changes. Revocations also come from requests with a root's signature.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chappe_common::{
    keys::PublicKey,
    revocation::{RevocationError, SignedRevocation},
    root_statements::{ListOrigin, RootStatement},
};
use chappe_discovery::trust::Trust;
use tokio::{
    sync::Mutex,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    keys::{KeyFileError, add_statements, load_statements},
    owner::clock,
};

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

/// The file and the statements that are served.
#[derive(Debug)]
pub(crate) struct StatementsFile {
    path: PathBuf,
    /// The registry's own online key, which may itself be revoked.
    online: PublicKey,
    known: Trust,
    /// Serializes writes.
    write_lock: Mutex<()>,
    /// Whether the last write failed. The log has reported it.
    has_failed: AtomicBool,
}

impl StatementsFile {
    /// The file at `path`, whose statements are known.
    pub(crate) fn new(path: PathBuf, known: Trust, online: PublicKey) -> Self {
        Self { path, online, known, write_lock: Mutex::default(), has_failed: AtomicBool::new(false) }
    }

    /// The statements that are served.
    pub(crate) const fn known(&self) -> &Trust {
        &self.known
    }

    /// Checks a revocation, stores it unless the file has it, and serves it. Returns whether it is new.
    pub(crate) async fn add_revocation(
        self: &Arc<Self>,
        revocation: SignedRevocation,
    ) -> Result<bool, AddRevocationError> {
        revocation.check(&self.known.roots(), clock().secs())?;
        let _writing = self.write_lock.lock().await;
        let is_new = self.known.all().revocations.iter().all(|known| *known != revocation);
        let (file, statement) = (Arc::clone(self), RootStatement::Revocation(revocation));
        let stored = statement.clone();
        let written =
            tokio::task::spawn_blocking(move || add_statements(&file.path, [stored], file.known.roots())).await;
        // A panic here is a bug. The revocation was not stored then.
        let written = written.expect("writing a file does not panic");
        self.report(written.as_ref().err());
        written?;
        self.learn([statement], ListOrigin::Peer(clock().secs()));
        Ok(is_new)
    }

    /// Logs the first of a row of failed writes, and its end.
    fn report(&self, error: Option<&KeyFileError>) {
        let had_failed = self.has_failed.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !had_failed => {
                let error: &dyn std::error::Error = error;
                tracing::error!(
                    error,
                    "cannot store a revocation, so it has no effect; send it again when the disk is in order"
                );
            }
            None if had_failed => tracing::info!("revocations are stored again"),
            _ => {}
        }
    }

    fn learn(&self, statements: impl IntoIterator<Item = RootStatement>, origin: ListOrigin) {
        let learned = self.known.learn(statements, origin);
        if learned.revoked.contains(&self.online) {
            tracing::error!(
                "this registry's online key is revoked, so clients reject its lists; create a new key with \
                                 `chappe bootstrap delegate --new-key`, and restart the registry with it"
            );
        }
        if learned.successions {
            tracing::warn!(
                "a root key of the federation was rotated; copy the delegations of both roots beside this registry's config, \
                 and restart it"
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
            let read = tokio::task::spawn_blocking(move || load_statements(&file.path, file.known.roots())).await;
            let Ok(read) = read else { return };
            match read {
                Ok(list) => {
                    was_readable = true;
                    self.learn(list.all(), ListOrigin::Stored);
                }
                Err(error) if was_readable => {
                    was_readable = false;
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, "cannot use the file of root statements; still serving the previous ones");
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _};

    use chappe_common::{federation::FederationId, keys::SecretKey, revocation::KeyRevocation, signed::Signed};

    use super::*;

    fn revocation(root: &SecretKey, of: u8) -> SignedRevocation {
        let key = SecretKey::from_bytes(&[of; 32]).public();
        let federation = FederationId::of_roots(&[root.public()]);
        let value = KeyRevocation { federation, root: root.public(), key, issued_at: clock().secs() };
        Signed::sign(value, root).expect("a revocation")
    }

    #[tokio::test]
    async fn a_known_revocation_is_not_stored_again_and_a_failed_write_is_over_with_the_next() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("folder/revocations");
        let root = SecretKey::from_bytes(&[1; 32]);
        let online = SecretKey::from_bytes(&[2; 32]).public();
        let file = Arc::new(StatementsFile::new(path.clone(), vec![root.public()].into(), online));
        let first = revocation(&root, 3);
        for _ in 0..2 {
            assert!(matches!(file.add_revocation(first.clone()).await, Err(AddRevocationError::File(_))));
            assert!(file.has_failed.load(Ordering::Relaxed));
        }
        assert!(!file.known().revokes(&first.key), "what is not on disk is not served");
        fs::create_dir(dir.path().join("folder")).expect("a folder");
        assert!(file.add_revocation(first.clone()).await.expect("it is stored"));
        assert!(file.known().revokes(&first.key) && !file.has_failed.load(Ordering::Relaxed));
        // A write replaces the file.
        let inode = || fs::metadata(&path).expect("the file").ino();
        let written = inode();
        assert!(!file.add_revocation(first.clone()).await.expect("it is known"));
        assert_eq!(inode(), written, "nothing was written");
        fs::remove_file(&path).expect("the file");
        assert!(!file.add_revocation(first).await.expect("it is known"));
        assert!(path.exists(), "a lost file is repaired");
    }
}
