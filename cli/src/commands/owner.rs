//! Commands that root runs for another user's files.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    os::unix::process::CommandExt as _,
    path::{self, Path},
    process::Command,
};

use anyhow::Error;
use rustix::process::geteuid;

/// Runs this command again as the owner of the folder of `file`, or of the nearest folder above that exists, if root runs it
/// and that folder belongs to another user: that user could replace files while root reads or writes them. Returns only if that
/// is not necessary (`None`) or has failed.
pub(crate) fn continue_as_owner(file: &Path) -> Option<Error> {
    let file = path::absolute(file).ok()?;
    let (folder, owner) = file.ancestors().skip(1).find_map(|folder| Some((folder, fs::metadata(folder).ok()?)))?;
    if !geteuid().is_root() || owner.uid() == 0 {
        return None;
    }
    let exe = match env::current_exe() {
        Ok(exe) => exe,
        Err(error) => return Some(Error::new(error).context("cannot find this program's file")),
    };
    let failed = Command::new(exe).args(env::args_os().skip(1)).uid(owner.uid()).gid(owner.gid()).exec();
    Some(Error::new(failed).context(format!("cannot run as the owner of {}", folder.display())))
}
