//! A folder of a daemon or a profile: only its user, and root, may change its content.
//!
//! Another user with write access to it, or to a folder above, could replace it, or place a link where a file is expected.
//! The program would then empty or replace another file of its user. So such a folder is rejected.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::process::{getegid, geteuid};

const STICKY: u32 = 0o1000;
const WRITABLE_BY_ALL: u32 = 0o002;
const WRITABLE_BY_GROUP: u32 = 0o020;
/// The owner that the kernel shows if the real one has no id here, such as root's files in another user's container.
const NO_NUMBER: u32 = 65_534;

/// The folder cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// The folder cannot be created or read.
    #[error("cannot use the folder {path}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The folder, or one above it, belongs to another user.
    #[error(
        "{path} belongs to another user ({owner}), who could replace files in it: have it belong to this one (chown)"
    )]
    Owner {
        /// The folder.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
    /// Every user may write to the folder, or replace it.
    #[error("everybody may write in {path} and replace files: take that away (chmod o-w), or name another folder")]
    Writable {
        /// The folder.
        path: PathBuf,
    },
    /// A group other than the process's may write to the folder, or replace it.
    #[error(
        "the group {group} may write in {path} and replace files: take that away (chmod g-w), or run with that group as \
         the primary one"
    )]
    WritableByGroup {
        /// The folder.
        path: PathBuf,
        /// The group id.
        group: u32,
    },
}

/// Creates the folder for its user alone if it does not exist, and checks that it is safe to use. Blocks on the disk.
///
/// # Errors
/// The folder cannot be used.
pub fn prepare(dir: &Path) -> Result<(), DirError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| DirError::Io { path, source }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir))?;
    let real = dir.canonicalize().map_err(io(dir))?;
    for (above, path) in real.ancestors().enumerate() {
        let is_itself = above == 0;
        let found = fs::symlink_metadata(path).map_err(io(path))?;
        let owner = found.uid();
        if owner != geteuid().as_raw() && owner != 0 && (is_itself || owner != NO_NUMBER) {
            return Err(DirError::Owner { path: path.to_owned(), owner });
        }
        // In a sticky folder such as /tmp, users cannot rename each other's files.
        if found.mode() & WRITABLE_BY_ALL != 0 && (is_itself || found.mode() & STICKY == 0) {
            return Err(DirError::Writable { path: path.to_owned() });
        }
        let (is_sticky, group) = (!is_itself && found.mode() & STICKY != 0, found.gid());
        if !is_sticky && is_writable_by_another_group(found.mode(), group, getegid().as_raw()) {
            return Err(DirError::WritableByGroup { path: path.to_owned(), group });
        }
    }
    Ok(())
}

/// Renames a damaged file of the folder to `NAME.damaged`, so that an operator can look at it. Replaces an older file
/// of that name. Returns the new path.
///
/// # Errors
/// The file cannot be renamed.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    let aside = PathBuf::from(name);
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Whether a group other than the process's may write to the folder. On most systems, the process's group contains
/// only the user; in Kubernetes it is the volume's group (`fsGroup`).
const fn is_writable_by_another_group(mode: u32, group: u32, own: u32) -> bool {
    mode & WRITABLE_BY_GROUP != 0 && group != own
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_world_writable_folder_is_refused_and_a_new_one_is_private() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let new = dir.path().join("a/b");
        prepare(&new).expect("a folder");
        assert_eq!(fs::metadata(&new).expect("a folder").mode() & 0o777, 0o700);
        for (path, mode) in [(&new, 0o777), (&new, 0o1777), (&dir.path().join("a"), 0o777)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a folder of ours");
            assert!(matches!(prepare(&new), Err(DirError::Writable { path: named }) if named == *path), "{mode:o}");
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a folder of ours");
        }
        prepare(&new).expect("a folder again");
    }

    #[test]
    fn a_folder_of_another_user_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (above, new) = (dir.path().join("a"), dir.path().join("a/b"));
        prepare(&new).expect("a folder");
        // Only root may give a folder away.
        if !geteuid().is_root() {
            return;
        }
        for (path, owner) in [(&above, 4242), (&new, 4242), (&new, NO_NUMBER)] {
            std::os::unix::fs::chown(path, Some(owner), None).expect("root");
            let refused = prepare(&new);
            assert!(
                matches!(&refused, Err(DirError::Owner { path: named, owner: by }) if named == path && *by == owner),
                "{owner}: {refused:?}"
            );
            std::os::unix::fs::chown(path, Some(0), None).expect("root");
        }
        prepare(&new).expect("the own folder again");
    }

    #[test]
    fn a_folder_in_which_another_group_writes_is_refused() {
        assert!(is_writable_by_another_group(0o770, 4242, 1000) && is_writable_by_another_group(0o2775, 4242, 1000));
        assert!(!is_writable_by_another_group(0o770, 1000, 1000) && !is_writable_by_another_group(0o755, 4242, 1000));
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (above, new) = (dir.path().join("a"), dir.path().join("a/b"));
        prepare(&new).expect("a folder");
        // Only root may give a folder to a group in which it isn't.
        if !geteuid().is_root() {
            return;
        }
        for path in [&above, &new] {
            for mode in [0o770, 0o775, 0o2775] {
                std::os::unix::fs::chown(path, None, Some(4242)).expect("root");
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a folder of ours");
                let refused = prepare(&new);
                assert!(
                    matches!(&refused, Err(DirError::WritableByGroup { path: named, group: 4242 }) if named == path),
                    "{mode:o}: {refused:?}"
                );
                std::os::unix::fs::chown(path, None, Some(getegid().as_raw())).expect("root");
                prepare(&new).expect("the own group may");
            }
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a folder of ours");
        }
    }
}
