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
    time::Duration,
};

use chappe_common::{
    directory::{Delegation, MAX_DELEGATION},
    federation::FederationId,
    keys::{PublicKey, SecretKey},
    root_statements::{ListOrigin, RootStatement, RootStatements},
    roots::Roots,
    signed::Signed,
    succession::RootSuccessor,
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
/// File name of the roots' statements. It contains the bytes that are served, and its name is from the time when there were
/// only revocations.
pub const REVOCATIONS_FILE: &str = "revocations";

/// How long before an old root's end a registry signs under the new one, so that clients with other clocks accept it.
const SWITCH_BEFORE: Duration = Duration::from_secs(3600);

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
    /// The file does not contain a list of root statements.
    #[error("{path} does not contain a list of revocations and successions")]
    Statements {
        /// The file.
        path: PathBuf,
    },
    /// The file does not contain a root's statement about its successor.
    #[error("{path} does not contain a root's statement about its successor")]
    Successor {
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
/// that root's delegation in the file `delegation` and returns the new one.
///
/// # Errors
/// A file cannot be read or written, or the file has no delegation of this root. The old delegations stay.
pub fn renew_delegation(root: &Path, delegation: &Path, now: UnixTime) -> Result<Signed<Delegation>, KeyFileError> {
    let key = load_secret_key(root)?;
    let mut all = load_delegations(delegation)?;
    let old = all.iter_mut().find(|old| old.root == key.public());
    let old = old.ok_or_else(|| KeyFileError::Root { path: root.to_owned() })?;
    let new = delegate(&key, old.federation, old.key, now);
    *old = new.clone();
    write_delegations(delegation, &all)?;
    Ok(new)
}

/// Creates a new online key in the file `online`, and a delegation to it with the root key in the file `root`. Replaces
/// the content of the file `delegation`, since no other delegation is for this key, and returns the new delegation.
///
/// # Errors
/// A file cannot be read or written, the file has no delegation of this root, or the file `online` exists. The old
/// delegations stay.
pub fn delegate_to_new_key(
    root: &Path,
    delegation: &Path,
    online: &Path,
    now: UnixTime,
) -> Result<Signed<Delegation>, KeyFileError> {
    let key = load_secret_key(root)?;
    let all = load_delegations(delegation)?;
    let old = all.iter().find(|old| old.root == key.public());
    let old = old.ok_or_else(|| KeyFileError::Root { path: root.to_owned() })?;
    let new_key = SecretKey::generate().map_err(KeyFileError::Random)?;
    create_secret_key(online, &new_key)?;
    let new = delegate(&key, old.federation, new_key.public(), now);
    write_delegations(delegation, std::slice::from_ref(&new))?;
    Ok(new)
}

/// Signs delegations by these roots to the online key of the file `delegation`, for 90 days from `now`, and writes them to
/// it. Delegations of other roots stay.
///
/// # Errors
/// The file cannot be read or written. The old delegations stay.
pub fn delegate_by_roots(roots: &[&SecretKey], delegation: &Path, now: UnixTime) -> Result<(), KeyFileError> {
    let mut all = load_delegations(delegation)?;
    let (federation, online) = (all[0].federation, all[0].key);
    all.retain(|old| roots.iter().all(|root| root.public() != old.root));
    all.extend(roots.iter().map(|root| delegate(root, federation, online, now)));
    write_delegations(delegation, &all)
}

fn write_delegations(path: &Path, all: &[Signed<Delegation>]) -> Result<(), KeyFileError> {
    let io = |source| KeyFileError::Io { path: path.to_owned(), source };
    let text: String = all.iter().map(|one| hex::encode(one.as_bytes()) + "\n").collect();
    private_file::write(path, text.as_bytes()).map_err(io)
}

/// The delegation under which to sign at `now`, and when what is signed under it ends: an old root's as long as it lasts,
/// because earlier versions know no other. `None` if there is none.
pub fn delegation_at<'a>(
    all: &'a [Signed<Delegation>],
    roots: &Roots,
    now: UnixTime,
) -> Option<(&'a Signed<Delegation>, UnixTime)> {
    let with_end = |one: &'a Signed<Delegation>| {
        let end = roots.ends_at(&one.root).map_or(one.expires_at, |end| end.min(one.expires_at));
        (one, end)
    };
    let lasting = all.iter().map(with_end).filter(|(_, end)| *end > now + SWITCH_BEFORE);
    let oldest = lasting.min_by_key(|(one, _)| roots.ends_at(&one.root).map_or(u64::MAX, UnixTime::as_secs));
    oldest.or_else(|| all.iter().map(with_end).max_by_key(|(_, end)| *end))
}

/// Reads the statements of the roots. There are none if the file does not exist.
///
/// # Errors
/// The file cannot be read, or is not a list of statements.
pub fn load_statements(path: &Path, pinned: Roots) -> Result<RootStatements, KeyFileError> {
    let wrong = |_| KeyFileError::Statements { path: path.to_owned() };
    let mut known = RootStatements::from(pinned);
    match fs::read(path) {
        Ok(bytes) => known.learn_list(bytes, ListOrigin::Stored).map_err(wrong)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(known),
        Err(source) => return Err(KeyFileError::Io { path: path.to_owned(), source }),
    };
    Ok(known)
}

/// Adds statements to the file at `path`.
///
/// # Errors
/// The file cannot be read or written, or is not a list of statements.
pub fn add_statements(
    path: &Path,
    statements: impl IntoIterator<Item = RootStatement>,
    pinned: Roots,
) -> Result<(), KeyFileError> {
    let mut known = load_statements(path, pinned)?;
    let _ = known.learn(statements, ListOrigin::Stored);
    // The pinned roots may come with successions that the file lacks.
    let content = known.encode();
    // What is stored is not written again: each write waits for the disk.
    if fs::read(path).is_ok_and(|stored| stored == content) {
        return Ok(());
    }
    private_file::write(path, &content).map_err(|source| KeyFileError::Io { path: path.to_owned(), source })
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

/// Reads the delegations of a file, of which there is at least one, and verifies their signatures. The caller checks the
/// federation, the roots and the times.
///
/// # Errors
/// The file cannot be read, or does not contain valid delegations.
pub fn load_delegations(path: &Path) -> Result<Vec<Signed<Delegation>>, KeyFileError> {
    let wrong = || KeyFileError::Delegation { path: path.to_owned() };
    let text = read(path)?;
    let decode = |line: &str| Signed::<Delegation>::decode(hex::decode(line.trim()).ok()?).ok();
    let all: Option<Vec<_>> = text.lines().filter(|line| !line.trim().is_empty()).map(decode).collect();
    all.filter(|all| !all.is_empty()).ok_or_else(wrong)
}

/// Writes what an old root has signed about its successor to a new file.
///
/// # Errors
/// The file exists or cannot be written.
pub fn create_successor(path: &Path, successor: &Signed<RootSuccessor>) -> Result<(), KeyFileError> {
    create_file(path, hex::encode(successor.as_bytes()).as_bytes())
}

/// Reads what an old root has signed about its successor.
///
/// # Errors
/// The file cannot be read, or has something else.
pub fn load_successor(path: &Path) -> Result<Signed<RootSuccessor>, KeyFileError> {
    let wrong = || KeyFileError::Successor { path: path.to_owned() };
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
        let first = load_delegations(&delegation).expect("a delegation").remove(0);
        let later = now + MAX_DELEGATION;
        assert!(matches!(renew_delegation(&online, &delegation, later), Err(KeyFileError::Root { .. })));
        let renewed = renew_delegation(&root, &delegation, later).expect("a new delegation");
        assert_eq!((renewed.key, renewed.federation), (first.key, first.federation));
        assert_eq!(load_delegations(&delegation).expect("the new one")[0].expires_at, later + MAX_DELEGATION);
    }

    #[test]
    fn a_new_federation_reads_back_and_is_not_overwritten() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let now = UnixTime::from_secs(1_800_000_000);
        let root = create_federation(dir.path(), now).expect("a new federation");
        let delegation = load_delegations(&dir.path().join(DELEGATION_FILE)).expect("a delegation").remove(0);
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
        assert!(matches!(load_delegations(&path), Err(KeyFileError::Delegation { .. })));
    }
}
