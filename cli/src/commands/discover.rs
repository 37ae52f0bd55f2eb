//! `chappe discover`: finds a node that works, as a client does, and says what came of it.

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

/// Where to look.
#[derive(Args, Debug)]
pub(crate) struct DiscoverArgs {
    /// Looks where this profile looks, and with what it remembers
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,

    /// Also says what was tried, how long it took, and whether a second source bears the choice out
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
        search_report::say_proxies(discovery.proxies(), output);
        search_report::say(&outcome.report, output);
    }
    let found = say_found(outcome, output)?;
    let FoundNode { connection, background, .. } = found;
    if args.verbose {
        let summary = background.finish().await;
        let text = explain::confirmation(&summary.confirmation);
        output.say(&text, &ConfirmationLine::new(&summary.confirmation));
    } else {
        discovery.cache().flush().await;
    }
    connection.close().await;
    Ok(())
}

/// Says what a search has found.
///
/// # Errors
/// Nothing, which has been said as well.
pub(super) fn say_found(outcome: SearchOutcome, output: Output) -> Result<FoundNode> {
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
            let text = format!("node {}{region} at {} has proved its key, {ms} ms", line.node, line.url);
            output.say(&text, &line);
            Ok(found)
        }
        Err(error) => {
            let causes: Vec<_> = error.causes.iter().map(CauseLine::new).collect();
            let lines: Vec<_> = causes.iter().map(CauseLine::text).collect();
            output.say(&lines.join("\n"), &NotFound { event: "not_found", ms, causes });
            bail!("no node was found");
        }
    }
}
