//! A backup of a registry: one tar file with what cannot be created again, and without the root key.
//!
//! Reading one takes only regular files with the known names, each of them once and within its length. Nothing is unpacked to
//! a path from the file.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use chappe_common::{
    beacon::{Beacon, BeaconError, MAX_BEACON},
    root_statements::MAX_STATEMENT_LIST,
    roots::Roots,
};
use tar::{Archive, Builder, EntryType, Header};
use zeroize::Zeroizing;

use crate::{
    config::BootstrapConfig,
    keys::{BEACON_FILE, DELEGATION_FILE, KeyFileError, ONLINE_KEY_FILE, REVOCATIONS_FILE, load_statements},
    owner::clock,
    service::{StartError, load_online_key},
    storage::{self, Embedded, MAX_SNAPSHOT, OpenError, Snapshot, SnapshotError},
};

/// The most bytes of a config file. The template has 4 KB.
const MAX_CONFIG: usize = 256 * 1024;
/// The most bytes of a key or a delegation, in hexadecimal.
const MAX_KEY: usize = 4096;
/// The most bytes that are read of a backup: all parts, and the headers of the format.
const MAX_BACKUP: usize = MAX_CONFIG + 2 * MAX_KEY + MAX_BEACON + MAX_STATEMENT_LIST + MAX_SNAPSHOT + 64 * 1024;

/// A part of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Config,
    OnlineKey,
    Delegation,
    Beacon,
    Revocations,
    Store,
}

impl Part {
    const ALL: [Self; 6] =
        [Self::Config, Self::OnlineKey, Self::Delegation, Self::Beacon, Self::Revocations, Self::Store];

    /// Its name in the tar file.
    const fn name(self) -> &'static str {
        match self {
            Self::Config => "bootstrap.toml",
            Self::OnlineKey => ONLINE_KEY_FILE,
            Self::Delegation => DELEGATION_FILE,
            Self::Beacon => BEACON_FILE,
            Self::Revocations => REVOCATIONS_FILE,
            Self::Store => "store",
        }
    }

    const fn max_len(self) -> usize {
        match self {
            Self::Config => MAX_CONFIG,
            Self::OnlineKey | Self::Delegation => MAX_KEY,
            Self::Beacon => MAX_BEACON,
            Self::Revocations => MAX_STATEMENT_LIST,
            Self::Store => MAX_SNAPSHOT,
        }
    }

    /// Whether each registry has it.
    const fn is_required(self) -> bool {
        matches!(self, Self::Config | Self::OnlineKey | Self::Delegation)
    }
}

/// Why a backup cannot be made, read or restored. Existing files are unchanged.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file of the registry cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The embedded store has no copy yet.
    #[error("there is no copy of the store at {dir}: start the registry once, which writes one")]
    NeverRun {
        /// The data folder.
        dir: PathBuf,
    },
    /// The registry signs with a root key, which no backup may contain.
    #[error("federation.online_key is a root key, which must not be in a backup: delegate to an online key first")]
    RootKey,
    /// The file is not a backup.
    #[error("{path} is not a backup of a registry: {problem}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// Keys and delegation do not fit, or have expired.
    #[error(transparent)]
    Keys(#[from] StartError),
    /// The statements of roots are damaged.
    #[error(transparent)]
    Statements(#[from] KeyFileError),
    /// The beacon is damaged or for other roots.
    #[error("the beacon is not valid")]
    Beacon(#[from] BeaconError),
    /// The online key is revoked.
    #[error(
        "the online key of the backup is revoked: start a registry with a new one (chappe bootstrap delegate --new-key)"
    )]
    Revoked,
    /// The copy of the store is damaged.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store cannot be created.
    #[error(transparent)]
    Store(#[from] OpenError),
}

/// The parts of a registry, in memory.
#[derive(Debug)]
pub struct Backup(BTreeMap<Part, Zeroizing<Vec<u8>>>);

impl Backup {
    /// Reads the files of a registry, which may be running. With a database, the backup has no store.
    ///
    /// # Errors
    /// A file cannot be read, or keys and delegation do not fit.
    pub fn collect(config: &BootstrapConfig, config_file: &Path) -> Result<Self, BackupError> {
        let known = load_statements(&config.federation.revocations, config.federation.roots())?;
        let roots = known.roots.clone();
        match load_online_key(config, known.into()) {
            Ok(online) if roots.knows(&online.key.public()) => return Err(BackupError::RootKey),
            // It can be restored with a newer delegation.
            Ok(_) | Err(StartError::DelegationTime) => {}
            Err(error) => return Err(error.into()),
        }
        let mut parts = BTreeMap::new();
        for part in Part::ALL {
            if part == Part::Store {
                continue;
            }
            let path = if part == Part::Config { config_file } else { file_of(part, config) };
            match read_bounded(path, part.max_len()) {
                Ok(bytes) => {
                    parts.insert(part, bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound && !part.is_required() => {}
                Err(source) => return Err(BackupError::Read { path: path.to_owned(), source }),
            }
        }
        if config.storage.url.is_none() {
            let dir = &config.bootstrap.data_dir;
            let snapshot = storage::read_snapshot(dir).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => BackupError::NeverRun { dir: dir.clone() },
                _ => BackupError::Read { path: dir.clone(), source },
            })?;
            Snapshot::decode(&snapshot)?;
            parts.insert(Part::Store, snapshot.into());
        }
        Ok(Self(parts))
    }

    /// Writes the backup to a new file of mode 0600.
    ///
    /// # Errors
    /// The file exists or cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), BackupError> {
        let failed = |source| BackupError::Write { path: path.to_owned(), source };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let written = self.write_to(&mut file).and_then(|()| file.sync_all());
        if written.is_err() {
            // Half a backup is none.
            let _ = fs::remove_file(path);
        }
        written.map_err(failed)
    }

    fn write_to(&self, file: &mut File) -> io::Result<()> {
        let mut tar = Builder::new(file);
        for (part, bytes) in &self.0 {
            let mut header = Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(clock().secs().as_secs());
            tar.append_data(&mut header, part.name(), bytes.as_slice())?;
        }
        tar.finish()
    }

    /// Reads a backup.
    ///
    /// # Errors
    /// The file cannot be read, or is not a backup.
    pub fn read(path: &Path) -> Result<Self, BackupError> {
        let failed = |source| BackupError::Read { path: path.to_owned(), source };
        let wrong = |problem| BackupError::Format { path: path.to_owned(), problem };
        let file = File::open(path).map_err(failed)?.take(MAX_BACKUP as u64);
        let mut parts = BTreeMap::new();
        for entry in Archive::new(file).entries().map_err(failed)? {
            let mut entry = entry.map_err(failed)?;
            let name = entry.path_bytes();
            let part = Part::ALL.into_iter().find(|part| part.name().as_bytes() == &*name);
            let part = part.ok_or_else(|| wrong("it contains an unknown file"))?;
            if entry.header().entry_type() != EntryType::Regular {
                return Err(wrong("it contains something that is not a regular file"));
            }
            let size = entry.size();
            if size > part.max_len() as u64 {
                return Err(wrong("a file in it is too long"));
            }
            let mut bytes = Zeroizing::new(Vec::new());
            entry.read_to_end(&mut bytes).map_err(failed)?;
            if bytes.len() as u64 != size {
                return Err(wrong("it ends too early"));
            }
            if parts.insert(part, bytes).is_some() {
                return Err(wrong("it contains a file twice"));
            }
        }
        if Part::ALL.into_iter().any(|part| part.is_required() && !parts.contains_key(&part)) {
            return Err(wrong("a file is missing"));
        }
        Ok(Self(parts))
    }

    /// Uses this delegation instead of the one in the backup, which may have expired.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn replace_delegation(&mut self, path: &Path) -> Result<(), BackupError> {
        let read = read_bounded(path, Part::Delegation.max_len());
        let bytes = read.map_err(|source| BackupError::Read { path: path.to_owned(), source })?;
        self.0.insert(Part::Delegation, bytes);
        Ok(())
    }

    /// The bytes of the config file.
    pub fn config_file(&self) -> &[u8] {
        &self.0[&Part::Config]
    }

    /// Whether the embedded store is part of it.
    pub fn has_store(&self) -> bool {
        self.0.contains_key(&Part::Store)
    }

    /// Writes everything but the config file to the paths of `config`, which must be in a new folder, and checks it as a start
    /// of the registry would. Blocks on the disk.
    ///
    /// # Errors
    /// A file cannot be written, or something is not valid. Files that were written before the failure stay.
    pub fn restore(&self, config: &BootstrapConfig) -> Result<(), BackupError> {
        for (part, bytes) in &self.0 {
            if !matches!(part, Part::Config | Part::Store) {
                write_new(file_of(*part, config), bytes)?;
            }
        }
        let federation = &config.federation;
        let known = load_statements(&federation.revocations, federation.roots())?;
        let online = load_online_key(config, known.clone().into())?.key.public();
        if known.roots.knows(&online) {
            return Err(BackupError::RootKey);
        }
        if known.revocations.revokes(&online) {
            return Err(BackupError::Revoked);
        }
        self.check_beacon(&known.roots)?;
        if let Some(bytes) = self.0.get(&Part::Store) {
            Embedded::restore(&config.bootstrap.data_dir, &Snapshot::decode(bytes)?)?;
        }
        Ok(())
    }

    fn check_beacon(&self, roots: &Roots) -> Result<(), BeaconError> {
        match self.0.get(&Part::Beacon) {
            Some(bytes) => Beacon::decode(bytes.to_vec(), roots, clock().secs()).map(drop),
            None => Ok(()),
        }
    }
}

/// The path of a part that has a file of its own beside the config.
fn file_of(part: Part, config: &BootstrapConfig) -> &Path {
    let federation = &config.federation;
    match part {
        Part::OnlineKey => &federation.online_key,
        Part::Delegation => &federation.delegation,
        Part::Beacon => &federation.beacon,
        Part::Revocations => &federation.revocations,
        Part::Config | Part::Store => unreachable!("handled by the callers"),
    }
}

fn read_bounded(path: &Path, longest: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path)?.take(longest as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > longest { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let write = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| BackupError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
