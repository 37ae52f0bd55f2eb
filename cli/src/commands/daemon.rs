//! What `node run` and `bootstrap run` share: their arguments, and what a failed start says.

use std::{io, path::PathBuf};

use anyhow::{Error, Result};
use chappe_common::task_failure::TaskFailure;
use clap::Args;

use crate::config::{Config, Environment, Setting, load};

/// Where the configuration comes from.
#[derive(Args, Debug)]
pub(crate) struct DaemonArgs {
    /// The config file; `init` makes one
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Set one key, over the file and the environment (CHAPPE_SECTION__KEY)
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    settings: Vec<Setting>,
}

impl DaemonArgs {
    /// Reads it.
    pub(crate) fn load<C: Config>(&self) -> Result<C> {
        load(&self.config, Environment::Read, &self.settings)
    }
}

/// Adds what an operator can do about a start that failed.
pub(crate) fn explain_start(error: impl Into<Error>) -> Error {
    let error = error.into();
    let taken = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    if taken.into_iter().any(|cause| cause.kind() == io::ErrorKind::AddrInUse) {
        let advice = "another process has this address; stop it, or set another address or port 0, for instance with \
                      --set";
        return Error::msg(format!("{error:#}: {advice}"));
    }
    error
}

/// How a daemon that has stopped ends: well where it was told to stop.
pub(crate) fn ended(failure: Option<TaskFailure>) -> Result<()> {
    match failure {
        None => Ok(()),
        Some(failure) => Err(Error::new(failure).context("a part of the daemon is gone, so it has stopped")),
    }
}
