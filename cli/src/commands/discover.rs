//! `chappe discover`: finds a node that works, as a client does, and says what came of it.

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use crate::{network::NetworkArgs, output::Output};

/// Where to look.
#[derive(Args, Debug)]
pub(crate) struct DiscoverArgs {
    #[command(flatten)]
    network: NetworkArgs,
}

#[derive(Serialize)]
struct Found<'a> {
    event: &'static str,
    node: String,
    url: &'a str,
    region: Option<&'a str>,
    ms: u128,
}

#[derive(Serialize)]
struct NotFound {
    event: &'static str,
    causes: Vec<SourceCause>,
}

#[derive(Serialize)]
struct SourceCause {
    source: String,
    error: String,
}

pub(crate) async fn run(args: &DiscoverArgs, output: Output) -> Result<()> {
    let discovery = args.network.discovery()?;
    let started = Instant::now();
    match discovery.connect(&[]).await {
        Ok(connection) => {
            let found = Found {
                event: "found",
                node: connection.node().to_string(),
                url: connection.url(),
                region: connection.region(),
                ms: started.elapsed().as_millis(),
            };
            let region = found.region.map_or_else(String::new, |region| format!(" in {region}"));
            let text = format!("node {}{region} at {} has proved its key, {} ms", found.node, found.url, found.ms);
            output.say(&text, &found);
            connection.close().await;
            Ok(())
        }
        Err(error) => {
            let causes = error
                .causes
                .iter()
                .map(|cause| SourceCause { source: cause.source.to_string(), error: cause.error.to_string() });
            let not_found = NotFound { event: "not_found", causes: causes.collect() };
            let lines: Vec<String> =
                not_found.causes.iter().map(|cause| format!("{}: {}", cause.source, cause.error)).collect();
            output.say(&lines.join("\n"), &not_found);
            bail!("no node was found");
        }
    }
}
