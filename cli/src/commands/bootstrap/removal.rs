//! `chappe bootstrap remove` and `restore`: an operator's word about a node.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Result, bail};
use chappe_bootstrap::{BootstrapConfig, keys::load_secret_key};
use chappe_common::{
    federation::FederationId,
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

/// Which node, and who is told.
#[derive(Args, Debug)]
pub(crate) struct WordArgs {
    /// The node's id, as `chappe node id` prints it
    // Ids are base64url: one in 64 begins with a hyphen.
    #[arg(allow_hyphen_values = true)]
    node: NodeId,

    #[command(flatten)]
    registry_config: DaemonArgs,

    /// The registry to tell; several times where there are several
    #[arg(long, value_name = "URL", required = true)]
    registry: Vec<Endpoint>,

    #[command(flatten)]
    resolver: ResolverArgs,

    /// The file with a root's key, which all registries heed; without it, the registry's own online key signs
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// For how long.
#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    word: WordArgs,

    /// For how long the node is not listed; at most 366 days
    #[arg(long = "for", value_name = "DURATION", default_value = "90days", value_parser = humantime::parse_duration)]
    lasts: Duration,
}

#[derive(Serialize)]
struct Told {
    event: &'static str,
    node: String,
    until: u64,
}

/// Removes a node.
pub(super) async fn remove(args: &RemoveArgs, output: Output) -> Result<()> {
    if args.lasts.is_zero() || args.lasts > MAX_REMOVAL {
        bail!("--for: more than 0s and at most 366days are allowed");
    }
    let until = UnixTime::from(SystemTime::now()) + args.lasts;
    tell(&args.word, until, "removed", output).await
}

/// Takes a removal back.
pub(super) async fn restore(args: &WordArgs, output: Output) -> Result<()> {
    tell(args, UnixTime::default(), "restored", output).await
}

async fn tell(args: &WordArgs, until: UnixTime, event: &'static str, output: Output) -> Result<()> {
    let config: BootstrapConfig = args.registry_config.load()?;
    let roots = config.federation.roots;
    let key = load_secret_key(args.key.as_ref().unwrap_or(&config.federation.online_key))?;
    let (federation, signer) = (FederationId::of_roots(&roots), key.public());
    let removal = NodeRemoval { federation, signer, node: args.node, issued_at: SystemTime::now().into(), until };
    let removal = Signed::sign(removal, &key)?;
    let mut refused = false;
    for endpoint in &args.registry {
        let told = RegistryClient::new([endpoint.clone()], roots.clone(), &args.resolver.net()?)?
            .publish_removal(&removal)
            .await;
        let reason = match told {
            Ok(()) => {
                let text = format!("{}: {event} at {}", args.node, endpoint.url);
                output.say(&text, &Told { event, node: args.node.to_string(), until: until.as_secs() });
                continue;
            }
            Err(SourceError::Status(403)) => {
                "the key may not remove nodes there; a root's key may, with --key".to_owned()
            }
            Err(SourceError::Status(409)) => "a later word about this node is known there".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::error!("{}: {reason}", endpoint.url);
        refused = true;
    }
    if refused {
        bail!("not all registries heed it");
    }
    Ok(())
}
