//! `chappe discover`: finds a working node as a client does, and prints how.

use std::path::PathBuf;

use anyhow::{Result, bail};
use chappe_discovery::{FoundNode, SearchOutcome};
use clap::Args;
use serde::Serialize;

use crate::{
    explain,
    network::NetworkArgs,
    output::Output,
    search_report::{self, CauseLine, ConfirmationLine},
};

#[derive(Args, Debug)]
pub(crate) struct DiscoverArgs {
    /// Use the settings and the node cache of this profile
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,

    /// Show every attempt, timings, and whether a second source confirms the result
    #[arg(short, long)]
    verbose: bool,

    #[command(flatten)]
    network: NetworkArgs,
}

#[derive(Serialize)]
struct FoundLine<'a> {
    event: &'static str,
    node: String,
    url: &'a str,
    region: Option<&'a str>,
    via: &'static str,
    ms: u128,
}

#[derive(Serialize)]
struct NotFound {
    event: &'static str,
    ms: u128,
    causes: Vec<CauseLine>,
}

pub(crate) async fn run(args: &DiscoverArgs, output: Output) -> Result<()> {
    let (discovery, _held) = args.network.discovery(args.profile.as_deref())?;
    let outcome = discovery.search(&[]).await;
    if args.verbose {
        search_report::print_proxies(discovery.proxies(), output);
        search_report::print_report(&outcome.report, output);
    }
    let found = print_search(outcome, output)?;
    let FoundNode { connection, background, .. } = found;
    if args.verbose {
        let summary = background.finish().await;
        let text = explain::confirmation(&summary.confirmation);
        output.print(&text, &ConfirmationLine::new(&summary.confirmation));
    } else {
        discovery.cache().flush().await;
    }
    connection.close().await;
    Ok(())
}

/// Prints the result of a search.
///
/// # Errors
/// No node was found. The causes are printed too.
pub(super) fn print_search(outcome: SearchOutcome, output: Output) -> Result<FoundNode> {
    let ms = outcome.report.took.as_millis();
    match outcome.found {
        Ok(found) => {
            let connection = &found.connection;
            let line = FoundLine {
                event: "found",
                node: connection.node().to_string(),
                url: connection.url(),
                region: connection.region(),
                via: found.via.as_str(),
                ms,
            };
            let region = line.region.map_or_else(String::new, |region| format!(" in {region}"));
            let text = format!("found node {}{region} at {} in {ms} ms; it has proved its key", line.node, line.url);
            output.print(&text, &line);
            Ok(found)
        }
        Err(error) => {
            let causes: Vec<_> = error.causes.iter().map(CauseLine::new).collect();
            let lines: Vec<_> = causes.iter().map(CauseLine::text).collect();
            output.print(&lines.join("\n"), &NotFound { event: "not_found", ms, causes });
            bail!("no node was found");
        }
    }
}
