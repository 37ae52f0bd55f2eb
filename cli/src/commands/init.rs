//! Writes new config files. Existing files are never overwritten.

use std::{fmt::Display, fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use anyhow::{Context as _, Result, bail};

/// Fails if `path` exists, so that no files are written if not all can be.
pub(crate) fn refuse_existing(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        bail!("{} already exists and is not overwritten", path.display());
    }
    Ok(())
}

/// Writes a new file with mode 0600, because operators put secrets into config files.
pub(crate) fn create(path: &Path, text: &str) -> Result<()> {
    refuse_existing(path)?;
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// A TOML list of strings. JSON strings are valid in TOML.
pub(crate) fn toml_list(items: impl IntoIterator<Item = impl Display>) -> String {
    let texts: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    serde_json::to_string(&texts).expect("a list of texts is JSON")
}
