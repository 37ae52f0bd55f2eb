//! The node's key and epoch on disk.
//!
//! The folder contains `node.key` (the seed as 64 hexadecimal digits, mode 0600) and `epoch`. The epoch is raised and
//! stored at the start, before anything is signed, so that a node is never confused with its former run.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use chappe_common::{
    keys::SecretKey,
    private_dir::{self, DirError},
    time::UnixTime,
};
use chappe_discovery::private_file;
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

/// Why the identity cannot be used. Nothing was overwritten.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or the folder cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The folder cannot be used, or other users can change its content.
    #[error("node.data_dir cannot be used")]
    Dir(#[from] DirError),
    /// The key file does not contain a key.
    #[error("{path} does not contain a key of 64 hexadecimal digits")]
    Key {
        /// The key file.
        path: PathBuf,
    },
    /// The epoch file does not contain a number.
    #[error(
        "{path} does not contain a number; check the clock and delete the file: the epoch will be the time in seconds"
    )]
    Epoch {
        /// The epoch file.
        path: PathBuf,
    },
    /// Another process uses the folder. Two nodes with one key would each replace the other.
    #[error("another process uses {path}; each node needs a folder of its own (node.data_dir)")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The system's random number generator failed.
    #[error("no random bytes for a key")]
    Random(#[source] getrandom::Error),
}

/// A lock on a folder, released on drop.
#[derive(Debug)]
pub struct LockedDir {
    _file: fs::File,
}

/// Retries for the lock: a node that was just killed releases it within moments.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

impl LockedDir {
    /// Creates the folder if needed, and locks it against other processes.
    ///
    /// # Errors
    /// Returns an error if another process holds the lock, or the folder cannot be used.
    pub async fn lock(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join("lock");
        let io = |source| IdentityError::Io { path: path.clone(), source };
        private_dir::prepare(dir)?;
        let file = private_file::open_lock(&path).map_err(io)?;
        for _ in 0..LOCK_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_PAUSE).await,
                Err(fs::TryLockError::Error(source)) => return Err(io(source)),
            }
        }
        Err(IdentityError::InUse { path: dir.to_owned() })
    }
}

/// A node's key and epoch, and their folder.
#[derive(Debug)]
pub struct Identity {
    key: SecretKey,
    epoch: u64,
    dir: PathBuf,
}

impl Identity {
    /// Loads the identity in `dir`, creates missing files, and raises the epoch. The new epoch is above the last one
    /// and at least the time in seconds, so that a run after a lost file does not look older than an earlier one. The
    /// folder must exist.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read or written, or has invalid content.
    pub fn load(dir: &Path, now: UnixTime) -> Result<Self, IdentityError> {
        let key = load_or_create_key(dir)?;
        let path = dir.join("epoch");
        let last: u64 = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| IdentityError::Epoch { path: path.clone() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => return Err(IdentityError::Io { path, source }),
        };
        let epoch = raise_epoch(dir, last, now)?;
        Ok(Self { key, epoch, dir: dir.to_owned() })
    }

    /// Returns the node's key.
    pub const fn key(&self) -> &SecretKey {
        &self.key
    }

    /// Returns the current epoch.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns the folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Stores and returns the epoch after `last`, which is at least the time in seconds.
///
/// # Errors
/// Returns an error if the file cannot be written.
pub(crate) fn raise_epoch(dir: &Path, last: u64, now: UnixTime) -> Result<u64, IdentityError> {
    let path = dir.join("epoch");
    let epoch = last.saturating_add(1).max(now.as_secs());
    private_file::write_own(&path, epoch.to_string().as_bytes())
        .map_err(|source| IdentityError::Io { path, source })?;
    Ok(epoch)
}

/// Reads `node.key` in `dir`, or creates it.
///
/// # Errors
/// Returns an error if the file cannot be read or written, or contains no key.
pub fn load_or_create_key(dir: &Path) -> Result<SecretKey, IdentityError> {
    let path = dir.join("node.key");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let text = Zeroizing::new(text);
            let mut seed = Zeroizing::new([0; 32]);
            hex::decode_to_slice(text.trim(), &mut *seed).map_err(|_| IdentityError::Key { path })?;
            Ok(SecretKey::from_bytes(&seed))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = SecretKey::generate().map_err(IdentityError::Random)?;
            let text = Zeroizing::new(hex::encode(*key.to_bytes()));
            create(dir, &path, text.as_bytes()).map_err(|source| IdentityError::Io { path, source })?;
            Ok(key)
        }
        Err(source) => Err(IdentityError::Io { path, source }),
    }
}

/// Creates `path` atomically with mode 0600. Never replaces an existing file.
fn create(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_restart_keeps_the_key_and_raises_the_epoch_even_after_a_lost_file_or_a_clock_step() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let load = |secs| Identity::load(dir.path(), UnixTime::from_secs(secs)).expect("an identity");
        let first = load(1000);
        let second = load(1000);
        let behind = load(5);
        assert_eq!(first.key().node_id(), second.key().node_id());
        assert_eq!((first.epoch(), second.epoch(), behind.epoch()), (1000, 1001, 1002));
        fs::remove_file(dir.path().join("epoch")).expect("an epoch file");
        assert_eq!(load(2000).epoch(), 2000);
        let mode = fs::metadata(dir.path().join("node.key")).expect("a key file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_folder_that_is_in_use_is_named_and_free_again_afterwards() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let lock = LockedDir::lock(dir.path()).await.expect("a free folder");
        let second = LockedDir::lock(dir.path()).await;
        assert!(matches!(second, Err(IdentityError::InUse { path }) if path == dir.path()));
        drop(lock);
        LockedDir::lock(dir.path()).await.expect("a free folder again");
    }

    #[test]
    fn a_broken_key_file_is_named_and_not_overwritten() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("node.key");
        fs::write(&path, "not a key").expect("a writable folder");
        assert!(
            matches!(Identity::load(dir.path(), UnixTime::from_secs(1)), Err(IdentityError::Key { path: named }) if named == path)
        );
        assert_eq!(fs::read_to_string(&path).expect("still there"), "not a key");
    }
}
