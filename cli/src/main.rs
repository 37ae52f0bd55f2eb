//! The `chappe` binary: parses the command line, starts what it says, waits, and drains.
//!
//! Standard output is for what was asked for, one JSON object a line with `--json`; the log goes to standard error. The
//! exit status is 0 where all went well, 1 where something failed, 2 where the command line is wrong.

mod commands;
mod config;
mod explain;
mod media;
mod network;
mod output;
mod party;
mod qr;
mod search_report;
mod signals;
mod talk;
mod timeline;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::{commands::Cli, output::Output};

/// Sets the log's level, as `warn` or `chappe_node=debug`.
const LOG_VARIABLE: &str = "CHAPPE_LOG";

/// Gives memory back within seconds of a flood (`.cargo/config.toml`); the system's would keep it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(cli.command.default_log()));
    // Colours are for people: in a file or a journal they would stand in the way of a search.
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
    let output = Output::new(cli.json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(cli.command.run(&output));
    // What still blocks, such as a disk, is not waited for: everything that matters is on it already.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
