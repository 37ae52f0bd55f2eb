//! Files that only their owner reads, written so that a crash leaves the old content or the new.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

/// Replaces the content of `path`: a temporary file beside it (mode 0600), synced, then renamed over it, then the
/// folder synced, so that a power cut cannot bring back an empty file. Blocks on the disk.
///
/// # Errors
/// The disk's. The old content is then still there.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // `tempfile` creates with mode 0600 and removes the file when anything below fails.
    let mut file = tempfile::NamedTempFile::new_in(&folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(&folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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
}
