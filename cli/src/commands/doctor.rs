//! `chappe doctor`: searches as a client does, queries every source, tries the found node's relay for media, and explains
//! problems and remedies.

use std::path::PathBuf;

use anyhow::{Result, bail};
use chappe_common::directory::DirectoryError;
use chappe_discovery::{
    Connection, Discovery, FoundNode, operator,
    race::confirm::Confirmation,
    report::{SourceOutcome, SourceReport},
    source::{SourceError, SourceKind},
};
use clap::Args;
use serde::Serialize;
use url::Url;

use super::discover::print_search;
use crate::{
    explain, ice_servers,
    network::NetworkArgs,
    output::Output,
    relay_check::RelayChecker,
    relay_report::{self, RelayLine},
    search_report::{self, ConfirmationLine},
};

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Use the settings and the node cache of this profile
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
    let age = if cached.fresh { "recent" } else { "none or outdated" };
    output.print(&format!("node cache: {} nodes; lists: {age}", cached.nodes), &cached);
    search_report::print_proxies(discovery.proxies(), output);
    let mut problems = Vec::new();
    if cached.damaged {
        problems.push("the node cache was damaged; its file was renamed".to_owned());
    }
    output.print_text("\nA search as a client makes it:");
    let outcome = discovery.search(&[]).await;
    search_report::print_report(&outcome.report, output);
    let found = print_search(outcome, output);
    output.print_text("\nEvery source:");
    let mut of_relay = Vec::new();
    let ok = found.is_ok();
    let sources = if let Ok(FoundNode { mut connection, background, .. }) = found {
        let (sources, summary) = tokio::join!(discovery.ask_all(), background.finish());
        sources.iter().for_each(|source| search_report::print_source(source, output));
        let text = explain::confirmation(&summary.confirmation);
        output.print(&format!("\n{text}"), &ConfirmationLine::new(&summary.confirmation));
        if matches!(summary.confirmation, Confirmation::Disagreement { .. }) {
            problems.push(text);
        }
        output.print_text("\nThe relay for media:");
        of_relay = check_relay(&discovery, &mut connection, output).await;
        connection.close().await;
        sources
    } else {
        problems.push("no node was found".to_owned());
        let sources = discovery.ask_all().await;
        sources.iter().for_each(|source| search_report::print_source(source, output));
        sources
    };
    problems.extend(findings(&sources));
    problems.extend(of_relay);
    let text = match (ok, problems.is_empty()) {
        (_, true) => "no problems found".to_owned(),
        (true, false) => format!("a node was found, but: {}", problems.join("; ")),
        (false, false) => problems.join("; "),
    };
    output.print(&format!("\n{text}"), &Verdict { event: "verdict", ok, problems: &problems });
    if ok { Ok(()) } else { bail!("no node was found") }
}

/// Tries the relay of a node over each transport that it offers. Prints the results, and returns the problems.
pub(super) async fn check_relay(discovery: &Discovery, connection: &mut Connection, output: Output) -> Vec<String> {
    let servers = match ice_servers::request(connection).await {
        Ok(servers) => servers,
        Err(error) => {
            RelayLine::of_none(error.to_string(), explain::ice_servers(&error)).print(output);
            return vec![error.to_string()];
        }
    };
    let net = discovery.net();
    let url = Url::parse(connection.url()).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let node_ips = net.names().lookup(host).await.unwrap_or_default();
    let checker = RelayChecker { net, tls: net.tls().clone(), node_ips };
    let checked = checker.check_all(&servers).await;
    let health = operator::fetch_health(&connection.url().replacen("ws", "http", 1), net).await.ok();
    // Behind a proxy, the page may be another node's.
    let health = health.filter(|health| health.server_id == connection.node().to_server_id());
    // An earlier version's page does not tell.
    let reason = health.as_ref().and_then(explain::relay_pauses);
    let reason = reason.or_else(|| checked.is_empty().then(explain::no_relay));
    let mut problems: Vec<_> = reason.map(|reason| relay_report::print_none(reason, output)).into_iter().collect();
    problems.extend(relay_report::print(&checked, output));
    problems
}

/// Problems that affect several sources.
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
        findings.push("no registry and no DNS provider is usable from here".to_owned());
    } else if count > 0 {
        findings.push(format!("{count} of {} sources on the network fail", remote.len()));
    }
    let has = |kind: SourceKind| sources.iter().any(|source| source.kind == kind);
    if !has(SourceKind::Dns) && !has(SourceKind::Invite) && !has(SourceKind::Manual) {
        findings.push("there is no alternative if the registry is blocked: add --dns or --node".to_owned());
    }
    findings
}
