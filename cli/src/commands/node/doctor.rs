//! `chappe node doctor`: tries the relay of the node that runs with a config file, from the node's machine, finds mistakes in
//! how the node is reached, and has members try it from outside.

use std::borrow::Cow;

use anyhow::{Context as _, Result, bail};
use chappe_discovery::{Discovery, FoundNode, manual::ManualNode, net::Net, operator};
use chappe_node::{NodeConfig, identity::load_or_create_key};
use clap::Args;
use serde::Serialize;

use super::{KEY_FILE, outside};
use crate::{
    commands::{daemon::DaemonArgs, discover::print_search, doctor},
    explain::{self, Explanation},
    network::ResolverArgs,
    output::Output,
    relay_check::{self, Transport},
    relay_report::{self, RelayLine},
};

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    node_config: DaemonArgs,

    #[command(flatten)]
    resolver: ResolverArgs,
}

#[derive(Serialize)]
struct Verdict<'a> {
    event: &'static str,
    ok: bool,
    problems: &'a [String],
    /// `here`, or `here and outside` if members have tried the node too. Only they can try what lies between them and this
    /// machine.
    tried_from: &'static str,
}

/// A problem of the proxy in front of the node.
#[derive(Serialize)]
struct ProxyLine {
    event: &'static str,
    ok: bool,
    error: &'static str,
    means: Cow<'static, str>,
    advice: Cow<'static, str>,
}

pub(super) async fn run(args: &DoctorArgs, output: Output) -> Result<()> {
    let config: NodeConfig = args.node_config.load()?;
    let mut problems = problems(&config, &args.resolver, output).await?;
    if let Some((error, Explanation { means, advice })) = explain::hidden_clients(&config) {
        let text = format!("proxy: {error}\n  it means: {means}\n  to do: {advice}");
        output.print(&text, &ProxyLine { event: "proxy", ok: false, error, means, advice });
        problems.push(error.to_owned());
    }
    let outside = outside::problems(&config, output).await?;
    let tried_from = if outside.is_some() { "here and outside" } else { "here" };
    problems.extend(outside.iter().flatten().cloned());
    let text = if problems.is_empty() { "no problems found".to_owned() } else { problems.join("; ") };
    let ok = problems.is_empty();
    output.print(&format!("\n{text}"), &Verdict { event: "verdict", ok, problems: &problems, tried_from });
    if outside.is_none()
        && let Some(url) = config.client.urls.first()
    {
        output.print_text(&format!(
            "This was tried from the node's own machine. A firewall or NAT in front of it shows only from another network: \
             chappe doctor --node {url}"
        ));
    }
    if ok { Ok(()) } else { bail!("{text}") }
}

async fn problems(config: &NodeConfig, resolver: &ResolverArgs, output: Output) -> Result<Vec<String>> {
    if !config.turn.is_on() {
        let (error, explained) = explain::relay_off();
        RelayLine::of_none(error.to_owned(), explained).print(output);
        return Ok(vec![error.to_owned()]);
    }
    let key_file = config.node.data_dir.join(KEY_FILE);
    if !key_file.exists() {
        bail!("{} is missing: this node has never run", key_file.display());
    }
    let node = load_or_create_key(&config.node.data_dir)?.node_id();
    let mut problems = Vec::new();
    for addr in &config.turn.listen {
        // Port 0 is known to the running node alone.
        if addr.port() != 0
            && let Err(error) = relay_check::answers(outside::reached(*addr)).await
        {
            let explained = explain::relay(&error, Transport::Udp);
            RelayLine::of_none(format!("{addr} (turn.listen): {error}"), explained).print(output);
            problems.push(format!("no relay answers at {addr}"));
        }
    }
    let url = match config.client.urls.first() {
        Some(url) => url.clone(),
        None if config.client.listen.port() == 0 => bail!("set client.urls: client.listen has no fixed port"),
        None => {
            let scheme = if config.client.has_tls() { "wss" } else { "ws" };
            format!("{scheme}://{}", outside::reached(config.client.listen))
        }
    };
    let node: ManualNode = format!("{url}#{node}").parse().with_context(|| format!("`{url}` (client.urls)"))?;
    // The operator has configured these names.
    let discovery = resolver.add_to(Discovery::builder())?.private_network().manual(node).build()?;
    let found = print_search(discovery.search(&[]).await, output);
    let Ok(FoundNode { mut connection, .. }) = found else {
        problems.push("the node cannot be reached under its own URL".to_owned());
        // Port 0 is known to the running node alone.
        if let Some(admin) = config.admin.listen.filter(|addr| addr.port() != 0) {
            let base = format!("http://{}", outside::reached(admin));
            let health = operator::fetch_health(&base, &Net::default()).await.ok();
            problems.push(relay_report::print_none(explain::not_reached(health.as_ref()), output));
        }
        return Ok(problems);
    };
    problems.extend(doctor::check_relay(&discovery, &mut connection, output).await);
    connection.close().await;
    Ok(problems)
}
