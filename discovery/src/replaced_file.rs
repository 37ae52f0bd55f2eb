//! Atomic replacement of files: readers see either the old or the new content, even after a crash. The exceptions are public
//! files with several hard links or with a mount of their own, which are written in place.

use std::{
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

/// What to do if the path is a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SymlinkPolicy {
    /// Replace the target and keep the link.
    Follow,
    /// Fail. In the program's own folders a link is a mistake, or an attack that overwrites another file.
    Reject,
}

/// The permissions of the new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only the owner can read it, whatever it was before.
    Owner,
    /// As the replaced file, or readable by everybody if it is new. The content is public.
    AsBefore,
}

/// Replaces the content of the file at `path`. Writes and syncs a temporary file beside it, renames it, and syncs the
/// folder, so that a power cut cannot leave an empty file.
///
/// Pipes, devices and open descriptors (`/dev/stdout`, `/proc/self/fd/1`) are written to directly. With
/// [`SymlinkPolicy::Follow`] and [`Access::AsBefore`] two kinds of files are written in place: one with another hard link,
/// which would keep the old content, and one that is mounted by itself, which a rename cannot replace. A private file is
/// never written in place, because another user may have it open. Blocks on the disk.
///
/// # Errors
/// The disk's, or `path` is a symbolic link that is rejected. The old content of a regular file is still there, unless it
/// is written in place.
pub fn replace(path: &Path, content: &[u8], symlinks: SymlinkPolicy, access: Access) -> io::Result<()> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    if is_link && symlinks == SymlinkPolicy::Reject {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a symbolic link, which is not followed here: remove it",
        ));
    }
    let found = match fs::metadata(path) {
        Ok(found) => Some(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if found.as_ref().is_some_and(|found| !found.is_file()) || is_descriptor(path) {
        let mut file = OpenOptions::new().append(true).open(path)?;
        file.write_all(content)?;
        return file.flush();
    }
    let target = if is_link { target_of(path)? } else { path.to_owned() };
    let may_overwrite = symlinks == SymlinkPolicy::Follow && access == Access::AsBefore && found.is_some();
    if may_overwrite && found.as_ref().is_some_and(|found| found.nlink() > 1) {
        return overwrite(&target, content);
    }
    match rename_over(&target, content, access, found.as_ref()) {
        // The folder of a mounted file may be read-only.
        Err(error)
            if may_overwrite
                && matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::ReadOnlyFilesystem) =>
        {
            overwrite(&target, content)
        }
        result => result,
    }
}

/// Writes a temporary file, and renames it to `target`. `found` is the metadata of the replaced file.
fn rename_over(target: &Path, content: &[u8], access: Access, found: Option<&Metadata>) -> io::Result<()> {
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mode = match (access, found) {
        (Access::Owner, _) => 0o600,
        (Access::AsBefore, Some(found)) => found.mode() & 0o777,
        (Access::AsBefore, None) => 0o644,
    };
    // Dropping the temporary file removes it if a later step fails.
    let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(0o600)).tempfile_in(&folder)?;
    file.write_all(content)?;
    if let Some(found) = found {
        // Only root can change the owner. For others it is already correct, or cannot be kept.
        let _ = fchown(file.as_file(), Some(found.uid()), Some(found.gid()));
    }
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(target).map_err(|error| error.error)?;
    File::open(&folder)?.sync_all()
}

/// Writes the content into the existing file.
fn overwrite(target: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(target)?;
    file.write_all(content)?;
    // Truncated afterwards, so that no reader sees an empty file.
    file.set_len(content.len() as u64)?;
    file.sync_all()
}

/// Whether a path leads, perhaps by links, to an open descriptor of a process. A rename would not change what that
/// descriptor refers to.
fn is_descriptor(path: &Path) -> bool {
    /// Enough for `/dev/stdout` and a few links to it.
    const MAX_LINKS: usize = 8;
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        let folder = at.parent().and_then(|folder| folder.canonicalize().ok());
        // Resolves `/dev/fd`, `/proc/self/fd` and threads to `/proc/<process>/fd`.
        if folder.is_some_and(|folder| folder.starts_with("/proc") && folder.ends_with("fd")) {
            return true;
        }
        match fs::read_link(&at) {
            Ok(target) => at = at.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return false,
        }
    }
    false
}

/// The final target of a symbolic link. It need not exist.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    /// The limit of Linux.
    const MAX_LINKS: usize = 40;
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&at) {
            // A relative target is relative to the link's folder.
            Ok(target) => at = at.parent().unwrap_or(Path::new("")).join(target),
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {
                return Ok(at);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Seek as _, SeekFrom},
        os::{fd::AsRawFd as _, unix::fs::symlink},
    };

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("a file").permissions().mode() & 0o777
    }

    #[test]
    fn a_link_stays_and_its_target_has_the_new_content_and_the_old_access() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (inner, link, far) = (folder.path().join("inner"), folder.path().join("link"), folder.path().join("far"));
        fs::create_dir(&inner).expect("a folder");
        let target = inner.join("file");
        fs::write(&target, b"old").expect("a file");
        fs::set_permissions(&target, Permissions::from_mode(0o640)).expect("the owner");
        symlink("inner/file", &link).expect("a link");
        symlink("link", &far).expect("a link to the link");
        replace(&far, b"new", SymlinkPolicy::Follow, Access::AsBefore).expect("written");
        assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
        assert!(fs::symlink_metadata(&far).expect("a link").is_symlink());
        assert_eq!((fs::read(&target).expect("a file"), mode(&target)), (b"new".to_vec(), 0o640));
        assert!(replace(&link, b"x", SymlinkPolicy::Reject, Access::AsBefore).is_err());
        assert_eq!(fs::read(&target).expect("a file"), b"new");
        let dangling = folder.path().join("dangling");
        symlink("inner/later", &dangling).expect("a link");
        replace(&dangling, b"first", SymlinkPolicy::Follow, Access::AsBefore).expect("written");
        assert_eq!(
            (fs::read(inner.join("later")).expect("a file"), mode(&inner.join("later"))),
            (b"first".to_vec(), 0o644)
        );
        assert_eq!(fs::read_dir(&inner).expect("the folder").count(), 2, "no temporary file stays behind");
    }

    #[test]
    fn a_public_file_has_the_new_content_under_its_other_name_and_a_private_one_does_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (one, other, link) = (folder.path().join("one"), folder.path().join("other"), folder.path().join("link"));
        fs::write(&one, b"old and long").expect("a file");
        fs::set_permissions(&one, Permissions::from_mode(0o640)).expect("the owner");
        fs::hard_link(&one, &other).expect("a hard link");
        symlink(&one, &link).expect("a link");
        replace(&link, b"new", SymlinkPolicy::Follow, Access::AsBefore).expect("written");
        for name in [&one, &other, &link] {
            assert_eq!((fs::read(name).expect("a file"), mode(name)), (b"new".to_vec(), 0o640), "{name:?}");
        }
        for symlinks in [SymlinkPolicy::Follow, SymlinkPolicy::Reject] {
            replace(&one, b"secret", symlinks, Access::Owner).expect("written");
            assert_eq!((fs::read(&one).expect("a file"), mode(&one)), (b"secret".to_vec(), 0o600));
            assert_eq!(fs::read(&other).expect("a file"), b"new");
            fs::remove_file(&one).and_then(|()| fs::hard_link(&other, &one)).expect("a hard link");
        }
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 3, "no temporary file stays behind");
    }

    #[test]
    fn links_in_a_circle_are_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        symlink(&two, &one).and_then(|()| symlink(&one, &two)).expect("links");
        assert!(replace(&one, b"x", SymlinkPolicy::Follow, Access::Owner).is_err());
    }

    #[test]
    fn a_regular_file_in_memory_is_replaced_and_an_open_descriptor_is_written_to() {
        let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
        let file = memory.path().join("file");
        for content in ["old and long", "new"] {
            replace(&file, content.as_bytes(), SymlinkPolicy::Follow, Access::Owner).expect("written");
            assert_eq!(fs::read_to_string(&file).expect("the file"), content);
        }
        let mut open = tempfile::tempfile().expect("a file");
        let link = memory.path().join("link");
        symlink(format!("/dev/fd/{}", open.as_raw_fd()), &link).expect("a link");
        replace(&link, b"whole", SymlinkPolicy::Follow, Access::AsBefore).expect("written");
        let mut read = String::new();
        open.seek(SeekFrom::Start(0)).and_then(|_| open.read_to_string(&mut read)).expect("the file");
        assert_eq!(read, "whole");
    }
}
