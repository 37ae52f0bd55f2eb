//! `chappe bootstrap backup` and `restore-backup`: a registry in one file.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use chappe_bootstrap::{BootstrapConfig, backup::Backup};
use clap::Args;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;

use crate::{
    commands::{
        daemon::DaemonArgs,
        init::{create, refuse_existing},
        owner::continue_as_owner,
    },
    config::{Config as _, Environment, load},
    output::Output,
};

#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    /// File to write; it must not exist
    file: PathBuf,

    #[command(flatten)]
    registry_config: DaemonArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RestoreBackupArgs {
    /// File that `chappe bootstrap backup` has written
    file: PathBuf,

    /// Config file to write; keys and store are written beside it, as the restored config names them
    #[arg(long, value_name = "FILE", default_value = "bootstrap.toml")]
    config: PathBuf,

    /// File with a newer delegation, if the one in the backup has expired
    #[arg(long, value_name = "FILE")]
    delegation: Option<PathBuf>,
}

#[derive(Serialize)]
struct BackedUp<'a> {
    event: &'static str,
    file: &'a Path,
    store: bool,
}

#[derive(Serialize)]
struct Restored<'a> {
    event: &'static str,
    config: &'a Path,
    store: bool,
}

pub(super) fn write(args: &BackupArgs, output: Output) -> Result<()> {
    refuse_existing(&args.file)?;
    let config: BootstrapConfig = args.registry_config.load()?;
    let backup = Backup::collect(&config, args.registry_config.file())?;
    backup.write(&args.file)?;
    let file = args.file.display();
    let text = if backup.has_store() {
        format!("wrote {file}; it contains the online key, so keep it secret, and does not contain root.key")
    } else {
        format!(
            "wrote {file} without listings and removals: they are in the database, so use its own backup (pg_dump) for them\n\
             it contains the online key, so keep it secret, and does not contain root.key"
        )
    };
    output.print(&text, &BackedUp { event: "backed_up", file: &args.file, store: backup.has_store() });
    Ok(())
}

/// Writes all files to a new folder beside their destination, checks them there, and moves them only then.
pub(super) fn restore(args: &RestoreBackupArgs, output: Output) -> Result<()> {
    if let Some(error) = continue_as_owner(&args.config) {
        return Err(error);
    }
    refuse_existing(&args.config)?;
    let name = args.config.file_name().context("--config: name a file")?;
    let mut backup = Backup::read(&args.file)?;
    if let Some(delegation) = &args.delegation {
        backup.replace_delegation(delegation)?;
    }
    let folder = args.config.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Its mode is 0700.
    let staging = tempfile::Builder::new().prefix(".restoring-").tempdir_in(folder);
    let staging = staging.with_context(|| format!("cannot write in {}", folder.display()))?;
    let config_file = staging.path().join(name);
    create(&config_file, std::str::from_utf8(backup.config_file()).context("the config in the backup is not text")?)?;
    let mut config: BootstrapConfig = load(&config_file, Environment::Ignored, &[])?;
    refuse_outside(&mut config, staging.path())?;
    backup.restore(&config)?;
    move_new(staging.path(), folder)?;
    let text = format!(
        "restored {config}{}\nnext: chappe bootstrap run --config {config}",
        if backup.has_store() { "" } else { "; restore the database by its own backup before the start" },
        config = args.config.display(),
    );
    output.print(&text, &Restored { event: "restored", config: &args.config, store: backup.has_store() });
    Ok(())
}

/// Fails if the config names files elsewhere, which a restored file must not write. The database's certificates are only read.
fn refuse_outside(config: &mut BootstrapConfig, folder: &Path) -> Result<()> {
    for (key, path) in config.paths() {
        let is_inside = path
            .strip_prefix(folder)
            .is_ok_and(|rest| rest.components().all(|part| matches!(part, Component::Normal(_))));
        if !is_inside && key != "storage.ca" {
            bail!(
                "{key} is {}, outside of the config's folder: unpack the backup with tar, and copy its files by hand",
                path.display()
            );
        }
    }
    Ok(())
}

/// Moves all that is in `from` to `to`, and replaces nothing.
fn move_new(from: &Path, to: &Path) -> Result<()> {
    let entries = fs::read_dir(from)?.collect::<Result<Vec<_>, _>>()?;
    for entry in &entries {
        refuse_existing(&to.join(entry.file_name()))?;
    }
    for entry in &entries {
        let target = to.join(entry.file_name());
        renameat_with(CWD, entry.path(), CWD, &target, RenameFlags::NOREPLACE)
            .with_context(|| format!("cannot write {}", target.display()))?;
    }
    Ok(())
}
