//! `chappe node top`: what a running node does, from the metrics at its `admin.listen`.

mod figures;
mod view;

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use chappe_discovery::{
    names::Scope,
    net::Net,
    operator::{self, Health, OperatorError},
    proxy::Proxies,
    tls,
};
use chappe_node::NodeConfig;
use clap::Args;
use serde::Serialize;

use self::figures::Figures;
use super::outside::reached;
use crate::{commands::daemon::DaemonArgs, output::Output};

/// A node has about 250 figures of 60 bytes.
const MAX_PAGE: usize = 1024 * 1024;

#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    node_config: DaemonArgs,

    /// Time from one reading to the next
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_interval)]
    every: Duration,

    /// Read twice, print the figures, and end
    #[arg(long)]
    once: bool,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let is_useful = (Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&interval);
    if is_useful { Ok(interval) } else { Err("100ms to 1h is allowed".to_owned()) }
}

/// What the node tells at one moment.
#[derive(Debug)]
struct Reading {
    health: Health,
    figures: Figures,
}

#[derive(Serialize)]
struct FiguresLine<'a> {
    event: &'static str,
    status: &'a str,
    #[serde(flatten)]
    figures: figures::Lines<'a>,
}

pub(super) async fn run(args: &TopArgs, output: Output) -> Result<()> {
    let config: NodeConfig = args.node_config.load()?;
    let listen = config.admin.listen.with_context(|| {
        let file = args.node_config.file().display();
        format!(
            "{file}: admin.listen is not set; add `listen = \"127.0.0.1:8712\"` under [admin], and restart the node"
        )
    })?;
    let url = format!("http://{}", reached(listen));
    // An address, on this machine or in a private network: no name is resolved, and no proxy is used.
    let net = Net::system_with_proxies(tls::config(), Scope::Private, Proxies::none());
    let mut former = Some(read(&url, &net).await.with_context(|| format!("the node does not answer at {url}"))?);
    if !args.once
        && let Some(reading) = &former
    {
        show(reading, None, &config, output);
    }
    loop {
        tokio::time::sleep(args.every).await;
        former = match read(&url, &net).await {
            Ok(reading) => {
                show(&reading, former.as_ref(), &config, output);
                Some(reading)
            }
            Err(error) if args.once => return Err(error).with_context(|| format!("the node does not answer at {url}")),
            Err(error) => {
                output.clear_screen();
                output.print_text(&format!("the node does not answer at {url}: {error}; trying again"));
                None
            }
        };
        if let Some(failure) = output.failure() {
            bail!("standard output: {failure}");
        }
        if args.once {
            return Ok(());
        }
    }
}

fn show(reading: &Reading, former: Option<&Reading>, config: &NodeConfig, output: Output) {
    let former = former.map(|former| &former.figures);
    let text = view::render(reading, former, config.client.max_connections, SystemTime::now().into());
    let line = FiguresLine { event: "figures", status: &reading.health.status, figures: reading.figures.lines(former) };
    output.clear_screen();
    output.print(&text, &line);
}

async fn read(url: &str, net: &Net) -> Result<Reading, OperatorError> {
    let health = operator::fetch_health(url, net).await?;
    let page = operator::fetch(url, "/metrics", MAX_PAGE, net).await?;
    let figures = Figures::parse(&String::from_utf8_lossy(&page), Instant::now());
    Ok(Reading { health, figures })
}
