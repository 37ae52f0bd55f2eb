//! `chappe bootstrap revoke`: a root's word that an online key signs nothing that counts any more.

use std::{path::PathBuf, time::SystemTime};

use anyhow::{Result, bail};
use chappe_bootstrap::keys::{DELEGATION_FILE, REVOCATIONS_FILE, add_revocation, load_delegation, load_secret_key};
use chappe_common::{
    federation::FederationId,
    keys::PublicKey,
    revocation::{KeyRevocation, to_text},
    signed::Signed,
};
use chappe_discovery::registry::{Endpoint, RegistryClient};
use clap::Args;
use serde::Serialize;

use crate::{network::ResolverArgs, output::Output};

/// Which key, and who is told.
#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    /// The file with a root's secret key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// The federation's root keys; not needed where the key is its one root
    // Keys are base64url: one in 64 begins with a hyphen.
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    root: Vec<PublicKey>,

    /// The online key to revoke [default: the one that --delegation names]
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    online_key: Option<PublicKey>,

    /// The delegation to the online key
    #[arg(long, value_name = "FILE", default_value = DELEGATION_FILE)]
    delegation: PathBuf,

    /// The file with the federation's revocations, to which this one is added
    #[arg(long, value_name = "FILE", default_value = REVOCATIONS_FILE)]
    file: PathBuf,

    /// A registry to send it to; several times where there are several
    #[arg(long, value_name = "URL")]
    registry: Vec<Endpoint>,

    #[command(flatten)]
    resolver: ResolverArgs,
}

#[derive(Serialize)]
struct Revoked<'a> {
    event: &'static str,
    key: String,
    file: &'a std::path::Path,
    txt: &'a str,
}

/// Revokes.
pub(super) async fn run(args: &RevokeArgs, output: Output) -> Result<()> {
    let key = load_secret_key(&args.key)?;
    let roots = if args.root.is_empty() { vec![key.public()] } else { args.root.clone() };
    if !roots.contains(&key.public()) {
        bail!("{} holds none of the root keys", args.key.display());
    }
    let online = match args.online_key {
        Some(online) => online,
        None => load_delegation(&args.delegation)?.key,
    };
    if roots.contains(&online) {
        bail!("{} is a root key: a root is not revoked, clients have to be given other roots", online.to_base64url());
    }
    let note = KeyRevocation {
        federation: FederationId::of_roots(&roots),
        root: key.public(),
        key: online,
        issued_at: SystemTime::now().into(),
    };
    let note = Signed::sign(note, &key)?;
    add_revocation(&args.file, note.clone(), &roots)?;
    let txt = to_text(&note);
    let text = format!(
        "revoked the online key {key}; {file} holds it\n\
         next: put {file} where each registry's federation.revocations names it, or send it with --registry; \
         make a new online key with chappe bootstrap delegate --new-key FILE; \
         chappe bootstrap publish puts the revocation into DNS, too, as this TXT record:\n{txt}",
        key = online.to_base64url(),
        file = args.file.display(),
    );
    let event = Revoked { event: "revoked", key: online.to_base64url(), file: &args.file, txt: &txt };
    output.say(&text, &event);
    let mut refused = false;
    for endpoint in &args.registry {
        let registry = RegistryClient::new([endpoint.clone()], roots.clone(), &args.resolver.net()?)?;
        match registry.publish_revocation(&note).await {
            Ok(()) => output.remark(&format!("{} has it", endpoint.url)),
            Err(error) => {
                tracing::error!("{}: {error}", endpoint.url);
                refused = true;
            }
        }
    }
    if refused {
        bail!("not all registries have taken the revocation; the file is written all the same");
    }
    Ok(())
}
