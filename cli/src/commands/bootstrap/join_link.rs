//! `chappe bootstrap join-link`: the link with which new nodes join.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use chappe_bootstrap::{
    BootstrapConfig,
    keys::{load_secret_key, load_statements},
};
use chappe_common::{federation::FederationId, keys::PublicKey, time::UnixTime};
use chappe_discovery::join_link::{Invitation, JoinLink};
use clap::Args;
use serde::Serialize;

use crate::{commands::daemon::DaemonArgs, output::Output, qr};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Maximal lifetime of an invitation in days.
const MAX_DAYS: u32 = 3650;

#[derive(Args, Debug)]
pub(crate) struct JoinLinkArgs {
    #[command(flatten)]
    registry_config: DaemonArgs,

    /// Base URL of a registry, as nodes reach it
    #[arg(long, value_name = "URL", required = true)]
    registry: Vec<String>,

    /// DNS name under which the federation publishes nodes
    #[arg(long, value_name = "NAME")]
    dns: Vec<String>,

    /// Invite one node, for a federation that admits by invitation: file with the secret key of a root or of an issuer
    #[arg(long, value_name = "FILE")]
    invite: Option<PathBuf>,

    /// Keys in federation.issuers of the nodes, if these are not the roots [default: the key of --invite, unless it is a root]
    // Keys are base64url, so one in 64 starts with a hyphen.
    #[arg(long, value_name = "KEY", requires = "invite", allow_hyphen_values = true)]
    issuer: Vec<PublicKey>,

    /// Lifetime of the invitation, and of the ticket of a node that joins by it, in days
    #[arg(long, value_name = "DAYS", default_value_t = 365, requires = "invite")]
    days: u32,

    /// Also print a QR code, or write it to FILE (.png or .svg)
    #[arg(long, value_name = "FILE")]
    qr: Option<Option<PathBuf>>,
}

#[derive(Serialize)]
struct Linked<'a> {
    event: &'static str,
    link: &'a str,
    qr: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
}

pub(super) fn run(args: &JoinLinkArgs, output: Output) -> Result<()> {
    if !(1..=MAX_DAYS).contains(&args.days) {
        bail!("--days: 1 to {MAX_DAYS} are allowed");
    }
    let config: BootstrapConfig = args.registry_config.load()?;
    let known = load_statements(&config.federation.revocations, config.federation.roots())?;
    let (federation, roots) = (known.roots.federation(), known.roots.current());
    let invitation = invitation(args, federation, &roots)?;
    let expires_at = invitation.as_ref().map(Invitation::expires_at);
    let link = JoinLink::new(Some(federation), roots, args.registry.clone(), args.dns.clone(), invitation)?;
    let qr = link.to_qr_text();
    // The page to which a URL leads comes from the registry, which could read a secret in it.
    let url = link.to_url().filter(|_| expires_at.is_none()).unwrap_or_else(|| qr.clone());
    let picture = match &args.qr {
        None => String::new(),
        Some(None) => format!("{}\n", qr::for_terminal(&qr)?),
        Some(Some(path)) => {
            qr::write(&qr, path)?;
            format!("the QR code is in {}\n", path.display())
        }
    };
    let care = match expires_at {
        Some(_) => format!(" in private, and to one person only: whoever has it can add nodes for {} days", args.days),
        None => String::new(),
    };
    let text = format!(
        "{picture}{url}\nnext: send this link to the operator of a new node{care}. The operator runs: chappe node init \
         --join - and pastes it"
    );
    let expires_at = expires_at.map(UnixTime::as_secs);
    output.print(&text, &Linked { event: "join_link", link: &url, qr: &qr, expires_at });
    Ok(())
}

fn invitation(args: &JoinLinkArgs, federation: FederationId, roots: &[PublicKey]) -> Result<Option<Invitation>> {
    let Some(file) = &args.invite else { return Ok(None) };
    let key = load_secret_key(file)?;
    let is_root = roots.contains(&key.public());
    let issuers = if args.issuer.is_empty() && !is_root { vec![key.public()] } else { args.issuer.clone() };
    let expires_at = UnixTime::from(SystemTime::now()) + DAY * args.days;
    let invitation = Invitation::create(federation, &key, issuers, expires_at);
    invitation.context("cannot create an invitation").map(Some)
}
