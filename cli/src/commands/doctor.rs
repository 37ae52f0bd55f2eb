//! `chappe doctor`: searches as a client does, asks every source besides, and says what is wrong and what to do.

use std::path::PathBuf;

use anyhow::{Result, bail};
use chappe_common::directory::DirectoryError;
use chappe_discovery::{
    FoundNode,
    race::confirm::Confirmation,
    report::{SourceOutcome, SourceReport},
    source::{SourceError, SourceKind},
};
use clap::Args;
use serde::Serialize;

use super::discover::say_found;
use crate::{
    explain,
    network::NetworkArgs,
    output::Output,
    search_report::{self, ConfirmationLine},
};

/// What to look at.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// The profile whose search to look at
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,

    #[command(flatten)]
    network: NetworkArgs,
}

#[derive(Serialize)]
struct Cached {
    event: &'static str,
    nodes: usize,
    fresh: bool,
    damaged: bool,
}

#[derive(Serialize)]
struct Verdict<'a> {
    event: &'static str,
    ok: bool,
    problems: &'a [String],
}

pub(crate) async fn run(args: &DoctorArgs, output: Output) -> Result<()> {
    let (discovery, _held) = args.network.discovery(args.profile.as_deref())?;
    let cache = discovery.cache();
    let cached = Cached {
        event: "cache",
        nodes: cache.len(),
        fresh: cache.is_fresh(std::time::SystemTime::now().into()),
        damaged: cache.was_damaged(),
    };
    let age = if cached.fresh { "of today" } else { "none of today" };
    output.say(&format!("{} nodes are remembered; lists: {age}", cached.nodes), &cached);
    search_report::say_proxies(discovery.proxies(), output);
    let mut problems = Vec::new();
    if cached.damaged {
        problems.push("the file of remembered nodes was damaged, and is set aside".to_owned());
    }
    output.remark("\nA search, as a client makes it:");
    let outcome = discovery.search(&[]).await;
    search_report::say(&outcome.report, output);
    let found = say_found(outcome, output);
    output.remark("\nEvery source by itself:");
    let ok = found.is_ok();
    let sources = if let Ok(FoundNode { connection, background, .. }) = found {
        let (sources, summary) = tokio::join!(discovery.ask_all(), background.finish());
        sources.iter().for_each(|source| search_report::say_source(source, output));
        let text = explain::confirmation(&summary.confirmation);
        output.say(&format!("\n{text}"), &ConfirmationLine::new(&summary.confirmation));
        if matches!(summary.confirmation, Confirmation::Disagreement { .. }) {
            problems.push(text);
        }
        connection.close().await;
        sources
    } else {
        problems.push("no node was found".to_owned());
        let sources = discovery.ask_all().await;
        sources.iter().for_each(|source| search_report::say_source(source, output));
        sources
    };
    problems.extend(findings(&sources));
    let text = match (ok, problems.is_empty()) {
        (_, true) => "all is well".to_owned(),
        (true, false) => format!("it works, with less to fall back on: {}", problems.join("; ")),
        (false, false) => problems.join("; "),
    };
    output.say(&format!("\n{text}"), &Verdict { event: "verdict", ok, problems: &problems });
    if ok { Ok(()) } else { bail!("no node was found") }
}

/// What the sources have in common that is wrong.
fn findings(sources: &[SourceReport]) -> Vec<String> {
    let remote: Vec<_> = sources.iter().filter(|source| source.kind.is_remote()).collect();
    let failed = |source: &&&SourceReport| !matches!(source.outcome, SourceOutcome::Listed(_));
    let mut findings = Vec::new();
    let is_clock = |source: &SourceReport| {
        let SourceOutcome::Failed(SourceError::Directory(error)) = &source.outcome else { return false };
        matches!(error, DirectoryError::Expired | DirectoryError::Future)
    };
    if remote.iter().copied().any(is_clock) {
        findings.push("this machine's clock may be wrong".to_owned());
    }
    let count = remote.iter().filter(failed).count();
    if !remote.is_empty() && count == remote.len() {
        findings.push("no registry and no DNS provider can be used from here".to_owned());
    } else if count > 0 {
        findings.push(format!("{count} of {} sources on the network fail", remote.len()));
    }
    let has = |kind: SourceKind| sources.iter().any(|source| source.kind == kind);
    if !has(SourceKind::Dns) && !has(SourceKind::Invite) && !has(SourceKind::Manual) {
        findings.push("there is nothing to fall back on where the registry is blocked: add --dns or --node".to_owned());
    }
    findings
}
