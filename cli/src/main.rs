//! The `chappe` binary: parses the command line, starts what it says, waits, and drains.
//!
//! Standard output is for what was asked for, one JSON object a line with `--json`; the log goes to standard error. The
//! exit status is 0 where all went well, 1 where something failed, 2 where the command line is wrong.

mod commands;
mod config;
mod explain;
mod log;
mod media;
mod network;
mod open_files;
mod output;
mod party;
mod qr;
mod search_report;
mod signals;
mod talk;
mod timeline;

use std::{
    io::{ErrorKind, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Error, Result, anyhow};
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::{
    commands::{Cli, Command},
    log::Log,
    output::Output,
};

/// Sets the log's level, as `warn` or `chappe_node=debug`.
const LOG_VARIABLE: &str = "CHAPPE_LOG";

/// Gives memory back within seconds of a flood (`.cargo/config.toml`); the system's would keep it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(cli.command.default_log()));
    let output = Output::new(cli.json);
    let (log, result) = match Log::start(filter) {
        Ok(log) => (Some(log), run(cli.command, output)),
        Err(error) => (None, Err(Error::new(error).context("no thread for the log"))),
    };
    let (status, last) = match result {
        Ok(()) => (ExitCode::SUCCESS, None),
        Err(error) => (ExitCode::FAILURE, Some(format!("error: {}", output::error_text(&error)))),
    };
    match (log, last) {
        (Some(log), last) => log.end_with(last),
        // Whoever closed standard error doesn't want to know.
        (None, Some(last)) => drop(writeln!(std::io::stderr(), "{last}")),
        (None, None) => {}
    }
    status
}

fn run(command: Command, output: Output) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no threads to run on")?;
    let is_daemon = command.is_daemon();
    let result = runtime.block_on(async {
        tokio::select! {
            biased;
            result = command.run(&output) => result,
            // Nobody reads the results any more, or they can't be written.
            _ = output.failed(), if !is_daemon => Ok(()),
        }
    });
    // What still blocks, such as a disk, is not waited for: everything that matters is on it already.
    runtime.shutdown_background();
    match output.failure() {
        // As other programs end behind which `head` has read enough.
        None | Some(ErrorKind::BrokenPipe) => result,
        Some(_) if is_daemon => result,
        Some(kind) => result.and(Err(anyhow!("cannot write to standard output: {kind}"))),
    }
}
