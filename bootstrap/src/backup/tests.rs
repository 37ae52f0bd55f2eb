//! Files that are no backups, or hostile ones.

use tempfile::TempDir;

use super::*;

/// A file as a hostile tar file names it, whose header is not checked by the library.
struct Forged {
    name: &'static str,
    kind: EntryType,
    size: u64,
}

const fn regular(name: &'static str) -> Forged {
    Forged { name, kind: EntryType::Regular, size: 1 }
}

fn forge(dir: &TempDir, entries: &[Forged]) -> PathBuf {
    let mut bytes = Vec::new();
    for entry in entries {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_size(entry.size);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&[b'x'; 512]);
    }
    bytes.extend_from_slice(&[0; 1024]);
    let path = dir.path().join("backup.tar");
    fs::write(&path, bytes).expect("a writable folder");
    path
}

fn problem(path: &Path) -> &'static str {
    match Backup::read(path) {
        Err(BackupError::Format { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hostile_backup_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let all = ["bootstrap.toml", "online.key", "delegation"].map(regular);
    let read = Backup::read(&forge(&dir, &all)).expect("all that is required");
    assert_eq!((read.config_file(), read.has_store()), (&b"x"[..], false));
    for name in ["root.key", "../online.key", "/etc/passwd", "./online.key", "a/../online.key", "online.key/"] {
        assert_eq!(problem(&forge(&dir, &[regular(name)])), "it contains an unknown file", "{name}");
    }
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Directory, EntryType::Fifo] {
        let forged = Forged { kind, ..regular("online.key") };
        assert_eq!(problem(&forge(&dir, &[forged])), "it contains something that is not a regular file", "{kind:?}");
    }
    let long = Forged { size: MAX_KEY as u64 + 1, ..regular("online.key") };
    assert_eq!(problem(&forge(&dir, &[long])), "a file in it is too long");
    let short = Forged { size: MAX_KEY as u64, ..regular("online.key") };
    assert_eq!(problem(&forge(&dir, &[short])), "it ends too early");
    assert_eq!(problem(&forge(&dir, &[regular("delegation"), regular("delegation")])), "it contains a file twice");
    assert_eq!(problem(&forge(&dir, &all[..2])), "a file is missing");
}
