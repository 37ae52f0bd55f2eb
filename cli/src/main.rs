//! The `chappe` binary: parses the command line, runs the command, waits for it, and drains.
//!
//! Results go to standard output, with `--json` as one JSON object per line. The log goes to standard error. The exit
//! status is 0 on success, 1 on failure, and 2 if the command line is wrong.

mod call_client;
mod call_outcome;
mod commands;
mod config;
mod explain;
mod firewall;
mod ice_servers;
mod log;
mod media;
mod media_call;
mod network;
mod open_files;
mod output;
mod passed_sockets;
mod qr;
mod relay_check;
mod relay_report;
mod search_report;
mod service_manager;
mod signals;
mod timeline;

use std::{
    io::{ErrorKind, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Error, Result, anyhow};
use chappe_node::PassedSockets;
use clap::Parser as _;

use crate::{
    commands::{Cli, Command},
    log::Log,
    output::Output,
};

/// Returns memory to the system within seconds after a flood (`.cargo/config.toml`). The system's allocator would keep
/// it.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return print_usage(&usage),
    };
    // Before any other thread runs.
    let passed =
        cli.command.socket_names().map_or_else(|| Ok(Default::default()), passed_sockets::take).map_err(Error::new);
    let output = Output::new(cli.json);
    let log = log::filter_of_environment(cli.command.default_log())
        .and_then(|filter| Log::start(filter).context("cannot start the log thread"));
    let (log, result) = match log {
        Ok(log) => {
            let result = passed.and_then(|passed| run(cli.command, output, &log, passed));
            (Some(log), result)
        }
        Err(error) => (None, Err(error)),
    };
    let (status, last) = match result {
        Ok(()) => (ExitCode::SUCCESS, None),
        Err(error) => (ExitCode::FAILURE, Some(format!("error: {}", output::error_text(&error)))),
    };
    match (log, last) {
        (Some(log), last) => log.end_with(last),
        // Ignore errors: standard error is closed, so nobody reads the message.
        (None, Some(last)) => drop(writeln!(std::io::stderr(), "{last}")),
        (None, None) => {}
    }
    status
}

/// Prints the help, the version, or what is wrong with the command line. Returns the exit status.
fn print_usage(usage: &clap::Error) -> ExitCode {
    let printed = usage.print().and_then(|()| std::io::stdout().flush());
    match printed {
        // As for results: an early exit of the reader is no failure.
        Err(error) if !usage.use_stderr() && error.kind() != ErrorKind::BrokenPipe => {
            // Ignore errors: standard error is closed, so nobody reads the message.
            let _ = writeln!(std::io::stderr(), "error: cannot write to standard output: {}", error.kind());
            ExitCode::FAILURE
        }
        _ => u8::try_from(usage.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from),
    }
}

fn run(command: Command, output: Output, log: &Log, passed: PassedSockets) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let is_daemon = command.is_daemon();
    let result = runtime.block_on(async {
        tokio::select! {
            biased;
            result = command.run(&output, log, passed) => result,
            // Standard output was closed or cannot be written.
            _ = output.failed(), if !is_daemon => Ok(()),
        }
    });
    // Do not wait for blocking tasks, such as a write to a slow disk. All important data is already written.
    runtime.shutdown_background();
    match output.failure() {
        // Like other programs, do not fail if the reader has exited early, as `head` does.
        None | Some(ErrorKind::BrokenPipe) => result,
        Some(_) if is_daemon => result,
        Some(kind) => result.and(Err(anyhow!("cannot write to standard output: {kind}"))),
    }
}
