//! Files that only their owner can read. A crash leaves either the old or the new content.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use chappe_common::private_dir::{self, DirError};
use rustix::{fs::OFlags, io::Errno};

use crate::replaced_file::{Access, SymlinkPolicy, replace};

/// Replaces the content of `path` (mode 0600). Follows a symbolic link at `path`. Blocks on the disk.
///
/// # Errors
/// The disk's. The old content is still there.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, SymlinkPolicy::Follow, Access::Owner)
}

/// As [`write()`], for files in the program's own folders: a symbolic link is an error.
///
/// # Errors
/// The disk's, or `path` is a symbolic link. The old content is still there.
pub fn write_own(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, SymlinkPolicy::Reject, Access::Owner)
}

/// Why a folder cannot be used for private files. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder cannot be created or read, or others could replace it or its files.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// Other users can access the folder.
    #[error("others may use the folder {path} (mode {mode:03o}): chmod 700 {path}")]
    Open {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// Creates a folder for its user alone if it does not exist. Checks that only its user, and root, may change it and the
/// folders above it, as for the folders of daemons, and that nobody else can access it. Blocks on the disk.
///
/// # Errors
/// The folder cannot be used.
pub fn prepare_folder(folder: &Path) -> Result<(), FolderError> {
    private_dir::prepare(folder)?;
    let path = || folder.to_owned();
    let found = fs::metadata(folder).map_err(|source| DirError::Io { path: path(), source })?;
    let mode = found.mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(FolderError::Open { path: path(), mode }) }
}

/// Opens a file for locking, and creates it (mode 0600) if needed. Its content is not changed.
///
/// # Errors
/// The disk's, or `path` is a symbolic link.
pub fn open_lock(path: &Path) -> io::Result<File> {
    let mut open = OpenOptions::new();
    open.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(NO_FOLLOW);
    open.open(path).map_err(explain_link)
}

/// Reads a file that [`write_own`] has written. Blocks on the disk.
///
/// # Errors
/// The disk's, `path` is a symbolic link, or the file is longer than `longest`.
pub fn read_own(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(path).map_err(explain_link)?;
    let mut content = Vec::new();
    file.take(longest + 1).read_to_end(&mut content)?;
    if content.len() as u64 > longest { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(content) }
}

const NO_FOLLOW: i32 = OFlags::NOFOLLOW.bits().cast_signed();

fn explain_link(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
        io::Error::new(io::ErrorKind::InvalidInput, "it is a symbolic link, which is not followed here: remove it")
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_write_replaces_the_content_and_only_the_owner_reads_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        write(&path, b"old").expect("the first write");
        write(&path, b"new").expect("the second write");
        assert_eq!(fs::read(&path).expect("the file"), b"new");
        assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1, "no temporary file stays behind");
    }

    #[test]
    fn a_lock_neither_follows_a_link_nor_empties_a_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (victim, lock) = (dir.path().join("victim"), dir.path().join("lock"));
        fs::write(&victim, "precious").expect("a file");
        symlink(&victim, &lock).expect("a link");
        assert!(open_lock(&lock).is_err());
        open_lock(&victim).expect("a file of ours");
        assert_eq!(fs::read_to_string(&victim).expect("still there"), "precious");
    }
}
