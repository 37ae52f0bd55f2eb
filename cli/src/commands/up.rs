//! `chappe up`: a federation on this machine, and by default a call through it, in one process.
//!
//! Nothing is simulated: it uses config and key files on disk, QUIC between the nodes, WebSockets to the clients, and a
//! WebRTC stack at both ends. Only the address is always 127.0.0.1.

mod demo;
mod federation;
mod page;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use serde::Serialize;
use tempfile::TempDir;

use self::{federation::Federation, page::Page};
use super::{daemon::ended, node::NodeLine};
use crate::{call_outcome::CallLine, config::Setting, output::Output, signals::Signals, timeline::Timeline};

#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// Number of nodes, 1 to 20
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=20))]
    nodes: u8,

    /// First port of a consecutive range: registry, then three per node [default: random free ports]
    #[arg(long)]
    port: Option<u16>,

    /// Folder for keys, configs and profiles [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Stop after the call; exit status 0 if every step worked
    #[arg(long)]
    once: bool,

    /// Start the federation alone, and make no call
    #[arg(long, conflicts_with = "once")]
    no_call: bool,

    /// Build a page for calls, and serve it for two tabs (in the repository, with Node and npm)
    #[arg(long, conflicts_with = "once")]
    demo: bool,

    /// Set a key of every node, overriding its config file
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    settings: Vec<Setting>,
}

#[derive(Serialize)]
struct Ready<'a> {
    event: &'static str,
    registry: &'a str,
    nodes: &'a [NodeLine],
    root: String,
    dir: String,
}

pub(crate) async fn run(args: UpArgs, output: Output) -> Result<()> {
    let started = Instant::now();
    let mut signals = Signals::for_foreground()?;
    let (dir, temporary) = folder(args.dir.as_deref())?;
    let mut starting = Federation::default();
    let result = tokio::select! {
        biased;
        () = signals.stop() => Err(anyhow!("stopped before the call was over")),
        _ = output.failed() => Err(anyhow!("stopped before the call was over")),
        result = run_demo(&args, &mut starting, &dir, started, output) => result,
    };
    let result = match result {
        Ok(()) if !args.once => {
            let running = async {
                let page = if args.demo { serve_page(&starting, output).await } else { None };
                output.print_text("\nthe federation keeps running; stop it with Ctrl-C");
                let failure = starting.failed().await;
                drop(page);
                ended(Some(failure))
            };
            tokio::select! {
                biased;
                () = signals.stop() => Ok(()),
                failure = running => failure,
                // Ignore the failure, as with `head`.
                _ = output.failed() => Ok(()),
            }
        }
        result => result,
    };
    if starting.is_started() {
        output.print_text("stopping");
    }
    starting.shutdown().await;
    if let Some(temporary) = temporary {
        temporary.close().context("cannot remove the temporary folder")?;
    }
    result
}

/// Serves the page. Without it the federation runs all the same.
async fn serve_page(federation: &Federation, output: Output) -> Option<Page> {
    match Page::serve(output).await {
        Ok(page) => {
            page.print(&federation.registry_url(), &federation.root().to_base64url(), output);
            Some(page)
        }
        Err(error) => {
            page::print_failure(&error, output);
            None
        }
    }
}

fn folder(given: Option<&Path>) -> Result<(PathBuf, Option<TempDir>)> {
    if let Some(dir) = given {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create the folder {} (--dir)", dir.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("cannot use the folder {} (--dir)", dir.display()))?;
        return Ok((dir, None));
    }
    let temporary = tempfile::Builder::new().prefix("chappe-").tempdir().context("cannot create a temporary folder")?;
    Ok((temporary.path().to_owned(), Some(temporary)))
}

async fn run_demo(
    args: &UpArgs,
    federation: &mut Federation,
    dir: &Path,
    started: Instant,
    output: Output,
) -> Result<()> {
    let ports = federation::Ports::new(args.port, args.nodes)?;
    federation.start(dir, args.nodes, &ports, &args.settings).await?;
    let lines = federation.lines();
    let url = federation.registry_url();
    let ready = Ready {
        event: "ready",
        registry: &url,
        nodes: &lines,
        root: federation.root().to_base64url(),
        dir: dir.display().to_string(),
    };
    let mut text = format!("registry  at {url}, root key of its directory: {}\n", ready.root);
    for (number, line) in (1..).zip(&lines) {
        text.push_str(&format!("{:<9} {}\n", format!("node {number}"), line.text()));
    }
    text.push_str(&format!("files     in {}", dir.display()));
    output.print(&text, &ready);
    if args.no_call {
        return Ok(());
    }

    let names: HashMap<_, _> = federation.ids().into_iter().zip((1..).map(|number| format!("node {number}"))).collect();
    let timeline = Timeline::new(output, started, names);
    timeline.print_heading();
    timeline.add_step_now(
        &["registry"],
        &format!("running with {} nodes; each has proved its key and knows the others", args.nodes),
    );
    let played = demo::run(dir, &url, federation.root(), &timeline).await;
    timeline.flush();
    output.print_text("");
    CallLine::from_result(&played).print(output);
    played.map(drop)
}
