//! `chappe bootstrap remove` and `restore`: an operator's removal of a node, and its revocation.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Result, bail};
use chappe_bootstrap::{BootstrapConfig, keys::load_secret_key};
use chappe_common::{
    keys::NodeId,
    removal::{MAX_REMOVAL, NodeRemoval},
    signed::Signed,
    time::UnixTime,
};
use chappe_discovery::{
    registry::{Endpoint, RegistryClient},
    source::SourceError,
};
use clap::Args;
use serde::Serialize;

use crate::{commands::daemon::DaemonArgs, network::ResolverArgs, output::Output};

#[derive(Args, Debug)]
pub(crate) struct NodeRemovalArgs {
    /// Node id, as printed by `chappe node id`
    // Ids are base64url, so one in 64 starts with a hyphen.
    #[arg(allow_hyphen_values = true)]
    node: NodeId,

    #[command(flatten)]
    registry_config: DaemonArgs,

    /// Registry to send it to; may be repeated
    #[arg(long, value_name = "URL", required = true)]
    registry: Vec<Endpoint>,

    #[command(flatten)]
    resolver: ResolverArgs,

    /// File with a root's secret key, which all registries accept [default: the registry's own online key]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    removal: NodeRemovalArgs,

    /// Duration of the removal, at most 366 days
    #[arg(long = "for", value_name = "DURATION", default_value = "90days", value_parser = humantime::parse_duration)]
    lasts: Duration,
}

#[derive(Serialize)]
struct RemovalLine {
    event: &'static str,
    node: String,
    until: u64,
}

pub(super) async fn remove(args: &RemoveArgs, output: Output) -> Result<()> {
    if args.lasts.is_zero() || args.lasts > MAX_REMOVAL {
        bail!("--for: more than 0s and at most 366days are allowed");
    }
    let until = UnixTime::from(SystemTime::now()) + args.lasts;
    send_removal(&args.removal, until, "removed", output).await
}

pub(super) async fn restore(args: &NodeRemovalArgs, output: Output) -> Result<()> {
    send_removal(args, UnixTime::default(), "restored", output).await
}

async fn send_removal(args: &NodeRemovalArgs, until: UnixTime, event: &'static str, output: Output) -> Result<()> {
    let config: BootstrapConfig = args.registry_config.load()?;
    let roots = config.federation.roots();
    let key = load_secret_key(args.key.as_ref().unwrap_or(&config.federation.online_key))?;
    let (federation, signer) = (roots.federation(), key.public());
    let removal = NodeRemoval { federation, signer, node: args.node, issued_at: SystemTime::now().into(), until };
    let removal = Signed::sign(removal, &key)?;
    let mut rejected = false;
    for endpoint in &args.registry {
        let sent = RegistryClient::new([endpoint.clone()], roots.clone(), &args.resolver.net()?)?
            .publish_removal(&removal)
            .await;
        let reason = match sent {
            Ok(()) => {
                let text = format!("{}: {event} at {}", args.node, endpoint.url);
                output.print(&text, &RemovalLine { event, node: args.node.to_string(), until: until.as_secs() });
                continue;
            }
            Err(SourceError::Status(403)) => {
                "the key may not remove nodes there; use a root's key with --key".to_owned()
            }
            Err(SourceError::Status(409)) => "a later removal or restoration of this node is known there".to_owned(),
            Err(SourceError::Status(500)) => "the registry could not store it; its log has the reason".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::error!("{}: {reason}", endpoint.url);
        rejected = true;
    }
    if rejected {
        bail!("not all registries have accepted it");
    }
    Ok(())
}
