//! The beacon that the registry serves. It is read from a file, and again when the file changes.
//!
//! Only a root can sign a beacon, offline. A file with an older beacon than the served one is ignored.

use std::{
    fs::Metadata,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use chappe_common::{
    beacon::{Beacon, BeaconError, MAX_BEACON, SignedBeacon},
    roots::Roots,
};
use chappe_discovery::trust::Trust;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::owner::clock;

/// How often the file is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
enum BeaconFileError {
    #[error("cannot read the file")]
    Io(#[from] io::Error),
    #[error("too long for a beacon")]
    TooLong,
    #[error(transparent)]
    Beacon(#[from] BeaconError),
}

/// Watches the file and updates `served`.
pub(crate) struct BeaconFile {
    path: PathBuf,
    trust: Trust,
    served: Arc<ArcSwapOption<SignedBeacon>>,
    /// Length and modification time of the file when it was last read.
    read: Option<(u64, SystemTime)>,
    /// Length and modification time of the file when its last error was logged. Such a file is read again each time,
    /// because a disk error or a wrong clock may be the cause.
    logged: Option<(u64, SystemTime)>,
}

impl BeaconFile {
    pub(crate) const fn new(path: PathBuf, trust: Trust, served: Arc<ArcSwapOption<SignedBeacon>>) -> Self {
        Self { path, trust, served, read: None, logged: None }
    }

    /// Checks the file now, and then at intervals of [`CHECK_INTERVAL`] until `stop`.
    pub(crate) async fn watch(mut self, stop: CancellationToken) {
        let mut every = interval(CHECK_INTERVAL);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(every.tick()).await.is_some() {
            self.check_file().await;
        }
    }

    async fn check_file(&mut self) {
        let found = tokio::fs::metadata(&self.path).await.and_then(|file| file_version(&file));
        let version = match found {
            Ok(version) => version,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.log_error(&error.into()),
        };
        if self.read == Some(version) {
            return;
        }
        match read(&self.path, &self.trust.roots()).await {
            Ok(beacon) => {
                if self.served.load().as_ref().is_none_or(|served| served.number < beacon.number) {
                    tracing::info!(number = beacon.number, from = %beacon.from, "serving a new beacon");
                    self.served.store(Some(Arc::new(beacon)));
                }
                self.read = Some(version);
            }
            Err(error) => {
                if self.logged.replace(version) != Some(version) {
                    self.log_error(&error);
                }
            }
        }
    }

    fn log_error(&self, error: &BeaconFileError) {
        let error: &dyn std::error::Error = error;
        tracing::warn!(file = %self.path.display(), error, "cannot use the beacon file; still serving the previous beacon");
    }
}

fn file_version(file: &Metadata) -> io::Result<(u64, SystemTime)> {
    Ok((file.len(), file.modified()?))
}

async fn read(path: &Path, roots: &Roots) -> Result<SignedBeacon, BeaconFileError> {
    if tokio::fs::metadata(path).await?.len() > MAX_BEACON as u64 {
        return Err(BeaconFileError::TooLong);
    }
    let bytes = tokio::fs::read(path).await?;
    Ok(Beacon::decode(bytes, roots, clock().secs())?)
}

#[cfg(test)]
mod tests {
    use chappe_common::{beacon::Term, federation::FederationId, keys::SecretKey, signed::Signed};

    use super::*;

    fn signed_beacon(number: u64, key: &SecretKey) -> SignedBeacon {
        let root = key.public();
        let term = Term { value: [7; 32], eligible: vec![key.node_id()] };
        let federation = FederationId::of_roots(&[root]);
        let beacon = Beacon { federation, root, number, from: clock().secs(), before: None, term };
        Signed::sign(beacon, key).expect("a beacon within its bounds")
    }

    #[tokio::test]
    async fn a_newer_note_in_the_file_replaces_the_old_one_and_nothing_else_does() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("beacon");
        let root = SecretKey::from_bytes(&[1; 32]);
        let served: Arc<ArcSwapOption<SignedBeacon>> = Arc::default();
        let mut file = BeaconFile::new(path.clone(), vec![root.public()].into(), Arc::clone(&served));
        let mut check_file = async |content: &[u8]| {
            std::fs::write(&path, content).expect("a writable folder");
            // A second write within one tick of the file system's clock would look unchanged.
            file.read = None;
            file.check_file().await;
            served.load().as_ref().map(|beacon| beacon.number)
        };
        let stranger = SecretKey::from_bytes(&[2; 32]);
        assert_eq!(check_file(b"nonsense").await, None);
        assert_eq!(check_file(signed_beacon(9, &stranger).as_bytes()).await, None);
        assert_eq!(check_file(signed_beacon(5, &root).as_bytes()).await, Some(5));
        assert_eq!(check_file(signed_beacon(4, &root).as_bytes()).await, Some(5));
        assert_eq!(check_file(&vec![0; MAX_BEACON + 1]).await, Some(5));
        assert_eq!(check_file(signed_beacon(6, &root).as_bytes()).await, Some(6));
    }

    #[tokio::test]
    async fn a_file_that_could_not_be_read_is_read_again_without_a_change() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("beacon");
        let root = SecretKey::from_bytes(&[1; 32]);
        let beacon = signed_beacon(5, &root);
        let served: Arc<ArcSwapOption<SignedBeacon>> = Arc::default();
        let mut file = BeaconFile::new(path.clone(), vec![root.public()].into(), Arc::clone(&served));
        // A half-written file with the length and time of the complete one.
        std::fs::write(&path, vec![0; beacon.as_bytes().len()]).expect("a writable folder");
        let written = std::fs::metadata(&path).and_then(|file| file.modified()).expect("a file");
        file.check_file().await;
        assert!(served.load().is_none());
        std::fs::write(&path, beacon.as_bytes()).expect("a writable folder");
        let open = std::fs::File::options().write(true).open(&path).expect("a file");
        open.set_modified(written).expect("a file of ours");
        file.check_file().await;
        assert_eq!(served.load().as_ref().map(|beacon| beacon.number), Some(5));
    }
}
