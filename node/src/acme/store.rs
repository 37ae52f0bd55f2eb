//! What is kept on disk: the account's key, the order in progress, the certificate, and the failed attempts.
//!
//! Invariant: nothing is asked of the authority before what it needs is stored. So a crash at any time neither makes a second
//! account nor loses a certificate. Files of different directories are in different folders.

use std::{
    io,
    path::{Path, PathBuf},
};

use chappe_common::private_dir;
use chappe_discovery::private_file;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::{
    identifiers::Identifier,
    schedule::{Attempts, Renewal},
};
use crate::state_file;

/// The folder in the data folder.
const FOLDER: &str = "acme";
/// Maximum length of a file: a chain of ten certificates, and a key.
const MAX_LEN: u64 = 64 * 1024;

/// The account's key. The key alone finds the account again at the authority.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    /// PKCS #8, as hexadecimal digits.
    key: String,
    /// The contact that the authority knows.
    pub(crate) contact: String,
}

impl Account {
    pub(crate) fn new(key: &[u8]) -> Self {
        Self { key: hex::encode(key), contact: String::new() }
    }

    /// The key in PKCS #8. `None` if the file was changed.
    pub(crate) fn key(&self) -> Option<Vec<u8>> {
        hex::decode(&self.key).ok()
    }
}

/// An order in progress.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PendingOrder {
    pub(crate) identifiers: Vec<Identifier>,
    pub(crate) profile: Option<String>,
    pub(crate) url: String,
    /// The private key of the certificate: PKCS #8, as hexadecimal digits.
    pub(crate) key: String,
}

/// A certificate with its private key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredCertificate {
    pub(crate) identifiers: Vec<Identifier>,
    pub(crate) profile: Option<String>,
    /// As PEM, beginning with this node's.
    pub(crate) chain: String,
    /// The private key: PKCS #8, as hexadecimal digits.
    pub(crate) key: String,
    pub(crate) renewal: Renewal,
}

/// The files of one directory. Blocks on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    /// The files for the authority with this directory.
    pub(crate) fn new(data_dir: &Path, directory: &str) -> Self {
        let hash = Sha256::digest(directory.as_bytes());
        Self { folder: data_dir.join(FOLDER).join(hex::encode(&hash[..8])) }
    }

    pub(crate) fn account(&self) -> Option<Account> {
        self.read("account")
    }

    pub(crate) fn order(&self) -> Option<PendingOrder> {
        self.read("order")
    }

    pub(crate) fn certificate(&self) -> Option<StoredCertificate> {
        self.read("certificate")
    }

    pub(crate) fn attempts(&self) -> Attempts {
        self.read("attempts").unwrap_or_default()
    }

    pub(crate) fn store_account(&self, account: &Account) -> io::Result<()> {
        self.write("account", account)
    }

    pub(crate) fn store_order(&self, order: &PendingOrder) -> io::Result<()> {
        self.write("order", order)
    }

    pub(crate) fn store_certificate(&self, certificate: &StoredCertificate) -> io::Result<()> {
        self.write("certificate", certificate)
    }

    pub(crate) fn store_attempts(&self, attempts: &Attempts) -> io::Result<()> {
        self.write("attempts", attempts)
    }

    /// Removes the order, if there is one.
    pub(crate) fn remove_order(&self) -> io::Result<()> {
        match std::fs::remove_file(self.folder.join("order")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let consequence = match name {
            "account" => "making another account with the certificate authority",
            "certificate" => "obtaining another certificate",
            "order" => "beginning another order",
            _ => "not knowing the failed attempts, of which the authority allows a few",
        };
        state_file::load(&self.folder.join(name), MAX_LEN, consequence, |content| serde_json::from_slice(&content).ok())
    }

    fn write(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        private_dir::prepare(&self.folder).map_err(io::Error::other)?;
        let content = serde_json::to_vec(value).map_err(io::Error::other)?;
        private_file::write_own(&self.folder.join(name), &content)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const PRODUCTION: &str = "https://acme-v02.api.letsencrypt.org/directory";
    const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

    fn order() -> PendingOrder {
        PendingOrder {
            identifiers: vec![Identifier::Dns("relay.example".to_owned()), Identifier::Ip([192, 0, 2, 1].into())],
            profile: None,
            url: "https://ca.example/order/1".to_owned(),
            key: "a key".to_owned(),
        }
    }

    #[test]
    fn files_are_private_and_each_directory_has_its_own() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::new(dir.path(), PRODUCTION);
        store.store_order(&order()).expect("a writable folder");
        assert!(store.order().is_some_and(|read| read == order()));
        assert!(Store::new(dir.path(), STAGING).order().is_none());
        let mode = |path: &Path| std::fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
        assert_eq!((mode(&store.folder.join("order")), mode(&store.folder)), (0o600, 0o700));
        store.remove_order().expect("a writable folder");
        store.remove_order().expect("nothing to remove");
        assert!(store.order().is_none());
    }

    #[test]
    fn a_broken_file_counts_as_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::new(dir.path(), PRODUCTION);
        store.store_account(&Account::new(b"key")).expect("a writable folder");
        for broken in [&b""[..], b"{}", b"{\"key\":7}", &[b'x'; MAX_LEN as usize + 1]] {
            std::fs::write(store.folder.join("account"), broken).expect("a writable folder");
            assert!(store.account().is_none());
            let kept = std::fs::read(store.folder.join("account.damaged")).expect("it is kept aside");
            assert_eq!(kept, broken);
        }
    }
}
