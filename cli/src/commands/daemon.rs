//! Common parts of `node run` and `bootstrap run`: arguments, errors, and the wait for the end.

use std::{io, path::PathBuf};

use anyhow::{Error, Result};
use chappe_common::task_failure::TaskFailure;
use clap::Args;
use serde::Serialize;

use crate::{
    config::{Config, Environment, Setting, load},
    output::Output,
    signals::Signals,
};

/// The origins of the configuration.
#[derive(Args, Debug)]
pub(crate) struct DaemonArgs {
    /// Config file, as created by `init`
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Set a key, overriding the file and the environment (CHAPPE_SECTION__KEY)
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    settings: Vec<Setting>,
}

impl DaemonArgs {
    pub(crate) fn load<C: Config>(&self) -> Result<C> {
        load(&self.config, Environment::Read, &self.settings)
    }
}

/// Adds advice for the operator to a failed start.
pub(crate) fn explain_start(error: impl Into<Error>) -> Error {
    let error = error.into();
    let taken = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    if taken.into_iter().any(|cause| cause.kind() == io::ErrorKind::AddrInUse) {
        let advice = "another process uses this address; stop it, or set another address or port 0, for instance with \
                      --set";
        return Error::msg(format!("{error:#}: {advice}"));
    }
    error
}

/// The result of a daemon that has stopped: an error unless it was asked to stop.
pub(crate) fn ended(failure: Option<TaskFailure>) -> Result<()> {
    match failure {
        None => Ok(()),
        Some(failure) => Err(Error::new(failure).context("a task of the daemon has ended unexpectedly")),
    }
}

#[derive(Serialize)]
struct Stopped {
    event: &'static str,
}

/// Waits for a signal, or for the daemon to fail. Returns the failure.
pub(crate) async fn wait(signals: &mut Signals, failed: impl Future<Output = TaskFailure>) -> Option<TaskFailure> {
    tokio::select! {
        biased;
        () = signals.stop() => None,
        failure = failed => Some(failure),
    }
}

/// Prints that the daemon has stopped. Returns its failure as an error.
pub(crate) fn finish(output: Output, failure: Option<TaskFailure>) -> Result<()> {
    output.print("stopped", &Stopped { event: "stopped" });
    ended(failure)
}
