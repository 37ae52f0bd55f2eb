//! `chappe node id` and `chappe node invite`: a node's id, and its ticket.

use std::{path::PathBuf, time::Duration, time::SystemTime};

use anyhow::{Result, bail};
use chappe_bootstrap::keys::load_secret_key;
use chappe_common::{
    admission::{Ticket, TicketChain},
    federation::FederationId,
    keys::{NodeId, PublicKey},
    signed::Signed,
    time::UnixTime,
};
use clap::Args;
use serde::Serialize;

use crate::output::Output;

/// Maximal lifetime of a ticket.
const MAX_DAYS: u32 = 3650;

#[derive(Args, Debug)]
pub(crate) struct IdArgs {
    /// Key file of the node: node.key in node.data_dir
    #[arg(long, value_name = "FILE", default_value = "node-data/node.key")]
    key: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct InviteArgs {
    /// Node to invite, as printed by its operator's `chappe node id`
    // Ids are base64url, so one in 64 starts with a hyphen.
    #[arg(value_name = "NODE-ID", allow_hyphen_values = true)]
    node: NodeId,

    /// File with the secret key that signs the ticket: root.key, or a key in federation.issuers
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// Root keys of the federation; not needed if the key is its only root
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    root: Vec<PublicKey>,

    /// Id of the federation, if its root keys were rotated
    #[arg(long, value_name = "ID")]
    federation: Option<FederationId>,

    /// Lifetime of the ticket in days
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    days: u32,
}

#[derive(Serialize)]
struct Id {
    event: &'static str,
    id: String,
}

#[derive(Serialize)]
struct Invited {
    event: &'static str,
    ticket: String,
    issuer: String,
    expires_at: u64,
}

pub(super) fn id(args: &IdArgs, output: Output) -> Result<()> {
    let id = load_secret_key(&args.key)?.node_id().to_string();
    output.print(&id, &Id { event: "id", id: id.clone() });
    Ok(())
}

pub(super) fn invite(args: &InviteArgs, output: Output) -> Result<()> {
    if !(1..=MAX_DAYS).contains(&args.days) {
        bail!("--days: 1 to {MAX_DAYS} are allowed");
    }
    let key = load_secret_key(&args.key)?;
    let issuer = key.public();
    let roots = if args.root.is_empty() { &[issuer][..] } else { &args.root };
    let ticket = Ticket {
        federation: args.federation.unwrap_or_else(|| FederationId::of_roots(roots)),
        issuer,
        node: args.node,
        expires_at: UnixTime::from(SystemTime::now()) + Duration::from_secs(24 * 3600) * args.days,
    };
    let signed = TicketChain::from(Signed::sign(ticket, &key)?);
    let issuers = if roots.contains(&issuer) {
        String::new()
    } else {
        format!("\nevery node of the federation needs this key in federation.issuers: {issuer}")
    };
    let text = format!(
        "{signed}\nnext: the operator of {}… sets this as federation.ticket and restarts the node; it is valid for {} \
                 days{issuers}",
        args.node.short(),
        args.days
    );
    let event = Invited {
        event: "invited",
        ticket: signed.to_string(),
        issuer: issuer.to_string(),
        expires_at: signed.expires_at().as_secs(),
    };
    output.print(&text, &event);
    Ok(())
}
