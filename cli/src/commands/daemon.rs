//! Common parts of `node run` and `bootstrap run`: arguments, errors, and the wait for the end.

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
};

use anyhow::{Error, Result};
use chappe_common::{changed_keys::ChangedKeys, task_failure::TaskFailure};
use chappe_node::StartError;
use clap::Args;
use serde::Serialize;

use crate::{
    config::{Config, Environment, Setting, load},
    log::{LOG_VARIABLE, Log},
    output::{Output, error_text},
    service_manager::ServiceManager,
    signals::{Request, Signals},
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
    pub(crate) fn file(&self) -> &Path {
        &self.config
    }

    pub(crate) fn load<C: Config>(&self) -> Result<C> {
        load(&self.config, Environment::Read, &self.settings)
    }
}

/// Adds advice for the operator to a failed start.
pub(crate) fn explain_start(error: impl Into<Error>) -> Error {
    let error = error.into();
    let has_cause = |kind| {
        let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
        causes.any(|cause| cause.kind() == kind)
    };
    if has_cause(io::ErrorKind::AddrInUse) {
        let advice = "another process uses this address; stop it, or set another address or port 0, for instance with \
                      --set";
        return Error::msg(format!("{error:#}: {advice}"));
    }
    let is_bind = error.downcast_ref::<StartError>().is_some_and(|error| matches!(error, StartError::Bind { .. }));
    if is_bind && has_cause(io::ErrorKind::PermissionDenied) {
        let advice = "ports below 1024 need a privilege: let systemd pass the socket, or give the unit \
                      CAP_NET_BIND_SERVICE (see deploy/README.md), or forward the port to another one that you set";
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

/// Logs what a reload has replaced, and applies the log filter if its key `log_key` was among that.
pub(crate) fn report_reload(changed: &ChangedKeys, log: &Log, log_key: &str, filter: &str) {
    match changed.reloaded.as_slice() {
        [] => tracing::info!("reloaded the configuration; no key that applies at once has changed"),
        keys => tracing::info!(keys = keys.join(", "), "reloaded the configuration"),
    }
    if !changed.need_restart.is_empty() {
        tracing::warn!(keys = changed.need_restart.join(", "), "restart to apply the other changes");
    }
    if changed.reloaded.iter().any(|key| key == log_key) && !log.set_filter(filter) {
        tracing::warn!("{LOG_VARIABLE} in the environment overrides {log_key}");
    }
}

/// Logs why a reload has replaced nothing.
pub(crate) fn report_failed_reload(error: &Error) {
    let error = error_text(error);
    tracing::error!("cannot reload the configuration, and continuing with the previous one: {error}");
}

#[derive(Serialize)]
struct Stopped {
    event: &'static str,
}

/// Why the wait for a daemon's end was interrupted.
#[derive(Debug)]
pub(crate) enum Wake {
    /// The daemon has to stop, with its failure if it failed.
    Stop(Option<TaskFailure>),
    /// The configuration has to be read again.
    Reload,
}

/// Waits for a signal, or for the daemon to fail. Meanwhile, tells the service manager its status.
pub(crate) async fn wait(
    signals: &mut Signals,
    manager: &mut ServiceManager,
    failed: impl Future<Output = TaskFailure>,
    status: impl Fn() -> String,
) -> Wake {
    let mut failed = pin!(failed);
    loop {
        tokio::select! {
            biased;
            request = signals.next() => return match request {
                Request::Stop => Wake::Stop(None),
                Request::Reload => Wake::Reload,
            },
            failure = &mut failed => return Wake::Stop(Some(failure)),
            () = manager.tick() => manager.alive(status()),
        }
    }
}

/// Prints that the daemon has stopped. Returns its failure as an error.
pub(crate) fn finish(output: Output, failure: Option<TaskFailure>) -> Result<()> {
    output.print("stopped", &Stopped { event: "stopped" });
    ended(failure)
}
