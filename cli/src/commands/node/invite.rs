//! `chappe node id` and `chappe node invite`: who a node is, and the ticket that lets it in.

use std::{path::PathBuf, time::Duration, time::SystemTime};

use anyhow::{Result, bail};
use chappe_bootstrap::keys::load_secret_key;
use chappe_common::{
    admission::Ticket,
    federation::FederationId,
    keys::{NodeId, PublicKey},
    signed::Signed,
    time::UnixTime,
};
use clap::Args;
use serde::Serialize;

use crate::output::Output;

/// The longest that a ticket may count.
const MAX_DAYS: u32 = 3650;

/// Which node.
#[derive(Args, Debug)]
pub(crate) struct IdArgs {
    /// The node's key file: node.key in node.data_dir
    #[arg(long, value_name = "FILE", default_value = "node-data/node.key")]
    key: PathBuf,
}

/// Who invites whom.
#[derive(Args, Debug)]
pub(crate) struct InviteArgs {
    /// The node that is invited, as its operator's `chappe node id` prints it
    // Ids are base64url: one in 64 begins with a hyphen.
    #[arg(value_name = "NODE-ID", allow_hyphen_values = true)]
    node: NodeId,

    /// The file with the secret key that invites: root.key, or that of another key in federation.issuers
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// The federation's root keys; not needed where the key is its one root
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    root: Vec<PublicKey>,

    /// For how long the ticket counts; the node needs another one then
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

/// Prints a node's id.
pub(super) fn id(args: &IdArgs, output: Output) -> Result<()> {
    let id = load_secret_key(&args.key)?.node_id().to_string();
    output.say(&id, &Id { event: "id", id: id.clone() });
    Ok(())
}

/// Prints a ticket.
pub(super) fn invite(args: &InviteArgs, output: Output) -> Result<()> {
    if !(1..=MAX_DAYS).contains(&args.days) {
        bail!("--days: 1 to {MAX_DAYS} are allowed");
    }
    let key = load_secret_key(&args.key)?;
    let issuer = key.public();
    let roots = if args.root.is_empty() { &[issuer][..] } else { &args.root };
    let ticket = Ticket {
        federation: FederationId::of_roots(roots),
        issuer,
        node: args.node,
        expires_at: UnixTime::from(SystemTime::now()) + Duration::from_secs(24 * 3600) * args.days,
    };
    let signed = Signed::sign(ticket, &key)?;
    let issuers = if roots.contains(&issuer) {
        String::new()
    } else {
        format!("\nevery node of the federation has to name the key in federation.issuers: {issuer}")
    };
    let text = format!(
        "{signed}\nnext: the operator of {}… sets this as federation.ticket and restarts the node; it counts for {} \
         days{issuers}",
        args.node.short(),
        args.days
    );
    let event = Invited {
        event: "invited",
        ticket: signed.to_string(),
        issuer: issuer.to_string(),
        expires_at: signed.expires_at.as_secs(),
    };
    output.say(&text, &event);
    Ok(())
}
