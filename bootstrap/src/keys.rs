//! The key files of a federation: a root key, an online key, and the root's delegation to the online key.
//!
//! The root key should be kept offline, because it is only needed for new delegations, beacons and revocations. Keys
//! are 64 hexadecimal digits in files of mode 0600. The delegation is in hexadecimal as well. Keys are never
//! overwritten.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use chappe_common::{
    directory::{Delegation, MAX_DELEGATION},
    federation::FederationId,
    keys::{PublicKey, SecretKey},
    revocation::{Revocations, SignedRevocation},
    signed::Signed,
    time::UnixTime,
};
use chappe_discovery::private_file;
use zeroize::Zeroizing;

/// File name of the root key.
pub const ROOT_KEY_FILE: &str = "root.key";
/// File name of the online key.
pub const ONLINE_KEY_FILE: &str = "online.key";
/// File name of the delegation.
pub const DELEGATION_FILE: &str = "delegation";
/// File name of the beacon. It contains the bytes that are served.
pub const BEACON_FILE: &str = "beacon";
/// File name of the revocations of online keys. It contains the bytes that are served.
pub const REVOCATIONS_FILE: &str = "revocations";

/// Why a key file cannot be used. Nothing was overwritten.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file exists, and keys are never overwritten.
    #[error("{path} already exists and is not overwritten")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file does not contain a key.
    #[error("{path} does not contain a key (64 hexadecimal digits)")]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The file does not contain a delegation with a valid signature.
    #[error("{path} does not contain a valid delegation")]
    Delegation {
        /// The file.
        path: PathBuf,
    },
    /// The file does not contain a list of revocations.
    #[error("{path} does not contain a list of revocations")]
    Revocations {
        /// The file.
        path: PathBuf,
    },
    /// The key is not the root that signed the delegation.
    #[error("{path} is not the root key that signed the delegation")]
    Root {
        /// The key's file.
        path: PathBuf,
    },
    /// The system returned no random bytes.
    #[error("cannot generate a key: no random bytes")]
    Random(#[source] getrandom::Error),
}

/// Creates a federation with one root in `dir`: root key, online key, and a delegation for 90 days from `now`. Returns
/// the root's public key.
///
/// # Errors
/// One of the files exists or cannot be written. Files that were written before the failure stay.
pub fn create_federation(dir: &Path, now: UnixTime) -> Result<PublicKey, KeyFileError> {
    for file in [ROOT_KEY_FILE, ONLINE_KEY_FILE, DELEGATION_FILE] {
        let path = dir.join(file);
        if path.exists() {
            return Err(KeyFileError::Exists { path });
        }
    }
    fs::create_dir_all(dir).map_err(|source| KeyFileError::Io { path: dir.to_owned(), source })?;
    let root = SecretKey::generate().map_err(KeyFileError::Random)?;
    let online = SecretKey::generate().map_err(KeyFileError::Random)?;
    create_secret_key(&dir.join(ROOT_KEY_FILE), &root)?;
    create_secret_key(&dir.join(ONLINE_KEY_FILE), &online)?;
    let delegation = delegate(&root, FederationId::of_roots(&[root.public()]), online.public(), now);
    create_file(&dir.join(DELEGATION_FILE), hex::encode(delegation.as_bytes()).as_bytes())?;
    Ok(root.public())
}

/// Signs a new delegation to the same online key for 90 days from `now`, with the root key in the file `root`. Replaces
/// the file `delegation` and returns the new delegation.
///
/// # Errors
/// A file cannot be read or written, or another root signed the old delegation. The old delegation stays.
pub fn renew_delegation(root: &Path, delegation: &Path, now: UnixTime) -> Result<Signed<Delegation>, KeyFileError> {
    let key = load_secret_key(root)?;
    let old = load_delegation(delegation)?;
    if old.root != key.public() {
        return Err(KeyFileError::Root { path: root.to_owned() });
    }
    let new = delegate(&key, old.federation, old.key, now);
    replace_delegation(delegation, &new)?;
    Ok(new)
}

/// Creates a new online key in the file `online`, and a delegation to it with the root key in the file `root`. Replaces
/// the file `delegation` and returns the new delegation.
///
/// # Errors
/// A file cannot be read or written, another root signed the old delegation, or the file `online` exists. The old
/// delegation stays.
pub fn delegate_to_new_key(
    root: &Path,
    delegation: &Path,
    online: &Path,
    now: UnixTime,
) -> Result<Signed<Delegation>, KeyFileError> {
    let key = load_secret_key(root)?;
    let old = load_delegation(delegation)?;
    if old.root != key.public() {
        return Err(KeyFileError::Root { path: root.to_owned() });
    }
    let new_key = SecretKey::generate().map_err(KeyFileError::Random)?;
    create_secret_key(online, &new_key)?;
    let new = delegate(&key, old.federation, new_key.public(), now);
    replace_delegation(delegation, &new)?;
    Ok(new)
}

fn replace_delegation(path: &Path, new: &Signed<Delegation>) -> Result<(), KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.to_owned(), source };
    let text = format!("{}\n", hex::encode(new.as_bytes()));
    private_file::write(path, text.as_bytes()).map_err(io)
}

/// Reads the revocations of a federation. The list is empty if the file does not exist.
///
/// # Errors
/// The file cannot be read, or is not a list of revocations.
pub fn load_revocations(path: &Path, roots: &[PublicKey]) -> Result<Revocations, KeyFileError> {
    let wrong = || KeyFileError::Revocations { path: path.to_owned() };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Revocations::default()),
        Err(source) => return Err(KeyFileError::Io { path: path.to_owned(), source }),
    };
    Revocations::decode(bytes, roots).map_err(|_| wrong())
}

/// Adds a revocation to the file at `path`.
///
/// # Errors
/// The file cannot be read or written, or is not a list of revocations.
pub fn add_revocation(path: &Path, note: SignedRevocation, roots: &[PublicKey]) -> Result<(), KeyFileError> {
    let mut known = load_revocations(path, roots)?;
    if known.add(note) {
        private_file::write(path, &known.encode())
            .map_err(|source| KeyFileError::Io { path: path.to_owned(), source })?;
    }
    Ok(())
}

fn delegate(root: &SecretKey, federation: FederationId, key: PublicKey, now: UnixTime) -> Signed<Delegation> {
    let delegation =
        Delegation { federation, root: root.public(), key, not_before: now, expires_at: now + MAX_DELEGATION };
    Signed::sign(delegation, root).expect("the fields are within their bounds and the root signs")
}

/// Writes `key` to a new file.
///
/// # Errors
/// The file exists or cannot be written.
pub fn create_secret_key(path: &Path, key: &SecretKey) -> Result<(), KeyFileError> {
    create_file(path, Zeroizing::new(hex::encode(*key.to_bytes())).as_bytes())
}

/// Reads a key.
///
/// # Errors
/// The file cannot be read, or does not contain a key.
pub fn load_secret_key(path: &Path) -> Result<SecretKey, KeyFileError> {
    let text = Zeroizing::new(read(path)?);
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), &mut *seed).map_err(|_| KeyFileError::Key { path: path.to_owned() })?;
    Ok(SecretKey::from_bytes(&seed))
}

/// Reads a delegation and verifies its signature. The caller checks the federation, the root and the times.
///
/// # Errors
/// The file cannot be read, or does not contain a valid delegation.
pub fn load_delegation(path: &Path) -> Result<Signed<Delegation>, KeyFileError> {
    let wrong = || KeyFileError::Delegation { path: path.to_owned() };
    let bytes = hex::decode(read(path)?.trim()).map_err(|_| wrong())?;
    Signed::decode(bytes).map_err(|_| wrong())
}

fn read(path: &Path) -> Result<String, KeyFileError> {
    fs::read_to_string(path).map_err(|source| KeyFileError::Io { path: path.to_owned(), source })
}

fn create_file(path: &Path, content: &[u8]) -> Result<(), KeyFileError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists { path: path.to_owned() },
        _ => KeyFileError::Io { path: path.to_owned(), source },
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_the_root_renews_a_delegation() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let now = UnixTime::from_secs(1_800_000_000);
        create_federation(dir.path(), now).expect("a new federation");
        let [root, online, delegation] =
            [ROOT_KEY_FILE, ONLINE_KEY_FILE, DELEGATION_FILE].map(|file| dir.path().join(file));
        let first = load_delegation(&delegation).expect("a delegation");
        let later = now + MAX_DELEGATION;
        assert!(matches!(renew_delegation(&online, &delegation, later), Err(KeyFileError::Root { .. })));
        let renewed = renew_delegation(&root, &delegation, later).expect("a new delegation");
        assert_eq!((renewed.key, renewed.federation), (first.key, first.federation));
        assert_eq!(load_delegation(&delegation).expect("the new one").expires_at, later + MAX_DELEGATION);
    }

    #[test]
    fn a_new_federation_reads_back_and_is_not_overwritten() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let now = UnixTime::from_secs(1_800_000_000);
        let root = create_federation(dir.path(), now).expect("a new federation");
        let delegation = load_delegation(&dir.path().join(DELEGATION_FILE)).expect("a delegation");
        let online = load_secret_key(&dir.path().join(ONLINE_KEY_FILE)).expect("a key");
        assert_eq!((delegation.root, delegation.key), (root, online.public()));
        assert_eq!(delegation.expires_at, now + MAX_DELEGATION);
        let mode = fs::metadata(dir.path().join(ROOT_KEY_FILE)).expect("a key file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(create_federation(dir.path(), now), Err(KeyFileError::Exists { .. })));
        assert_eq!(load_secret_key(&dir.path().join(ROOT_KEY_FILE)).expect("a key").public(), root);
    }

    #[test]
    fn an_altered_delegation_does_not_load() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        create_federation(dir.path(), UnixTime::from_secs(1)).expect("a new federation");
        let path = dir.path().join(DELEGATION_FILE);
        let mut bytes = hex::decode(fs::read_to_string(&path).expect("a file").trim()).expect("hexadecimal digits");
        bytes[20] ^= 1;
        fs::write(&path, hex::encode(bytes)).expect("a writable file");
        assert!(matches!(load_delegation(&path), Err(KeyFileError::Delegation { .. })));
    }
}
