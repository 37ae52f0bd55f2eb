//! The node's key and epoch on disk.
//!
//! The folder holds `node.key` (the seed as 64 hexadecimal digits, mode 0600) and `epoch`. The epoch is raised and
//! stored when the node starts, before anything is signed with it, so a node is never confused with its former self.

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
        /// The system's reason.
        source: io::Error,
    },
    /// The folder can't be used, or others may change what stands in it.
    #[error("node.data_dir can't be used")]
    Dir(#[from] DirError),
    /// The key file holds something else than a key.
    #[error("{path} holds no key: 64 hexadecimal digits are expected")]
    Key {
        /// The key file.
        path: PathBuf,
    },
    /// The epoch file holds something else than a number.
    #[error(
        "{path} holds no number; check that the clock is right, and delete the file: the epoch is then the time in seconds"
    )]
    Epoch {
        /// The epoch file.
        path: PathBuf,
    },
    /// Another process uses the folder: two nodes with one key would take each other for down.
    #[error("another process uses {path}; each node needs a folder of its own (node.data_dir)")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The system has no random bytes to give.
    #[error("no random bytes for a key")]
    Random(#[source] getrandom::Error),
}

/// A folder that no other process uses, for as long as this is held.
#[derive(Debug)]
pub struct LockedDir {
    _file: fs::File,
}

/// How often, and after how long, a folder is tried again: a node that has just been killed lets go of it in a moment.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

impl LockedDir {
    /// Makes the folder if it isn't there, and keeps other processes out.
    ///
    /// # Errors
    /// Another process uses it, or the disk refuses.
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

/// A node's key and epoch, and where they are kept.
#[derive(Debug)]
pub struct Identity {
    key: SecretKey,
    epoch: u64,
    dir: PathBuf,
}

impl Identity {
    /// Loads the identity in `dir`, making what isn't there, and raises the epoch: above the last one, and to the time
    /// in seconds where that is higher, so that a lost file makes no run look older than one before. The folder is
    /// there already.
    ///
    /// # Errors
    /// A file cannot be read or written, or holds something else.
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

    /// The node's key.
    pub const fn key(&self) -> &SecretKey {
        &self.key
    }

    /// The epoch in force.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The epoch after `last`, which is at least the time, and is stored.
///
/// # Errors
/// It can't be written.
pub(crate) fn raise_epoch(dir: &Path, last: u64, now: UnixTime) -> Result<u64, IdentityError> {
    let path = dir.join("epoch");
    let epoch = last.saturating_add(1).max(now.as_secs());
    private_file::write_own(&path, epoch.to_string().as_bytes())
        .map_err(|source| IdentityError::Io { path, source })?;
    Ok(epoch)
}

/// Reads `node.key` in `dir`, or makes it.
///
/// # Errors
/// The file cannot be read or written, or holds no key.
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

/// Creates `path` whole and with mode 0600; never replaces what is there.
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
    fn a_restart_keeps_the_key_and_raises_the_epoch_also_where_its_file_is_lost_or_the_clock_goes_back() {
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
        let held = LockedDir::lock(dir.path()).await.expect("a free folder");
        let second = LockedDir::lock(dir.path()).await;
        assert!(matches!(second, Err(IdentityError::InUse { path }) if path == dir.path()));
        drop(held);
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
