//! `chappe bootstrap revoke`: a root's revocation of an online key.

use std::{path::PathBuf, time::SystemTime};

use anyhow::{Result, bail};
use chappe_bootstrap::keys::{DELEGATION_FILE, REVOCATIONS_FILE, add_statements, load_delegations, load_secret_key};
use chappe_common::{
    keys::PublicKey,
    revocation::{KeyRevocation, to_text},
    root_statements::RootStatement,
    signed::Signed,
};
use chappe_discovery::registry::{Endpoint, RegistryClient};
use clap::Args;
use serde::Serialize;

use super::roots::RootArgs;
use crate::{network::ResolverArgs, output::Output};

#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    /// File with a root's secret key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    #[command(flatten)]
    roots: RootArgs,

    /// Online key to revoke [default: the one in --delegation]
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    online_key: Option<PublicKey>,

    /// File with the delegation to the online key
    #[arg(long, value_name = "FILE", default_value = DELEGATION_FILE)]
    delegation: PathBuf,

    /// File with the statements of the federation's roots, to which this one is added
    #[arg(long, value_name = "FILE", default_value = REVOCATIONS_FILE)]
    file: PathBuf,

    /// Registry to send it to; may be repeated
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

pub(super) async fn run(args: &RevokeArgs, output: Output) -> Result<()> {
    let key = load_secret_key(&args.key)?;
    let known = args.roots.load(key.public(), &args.file)?;
    let roots = known.roots;
    let online = match args.online_key {
        Some(online) => online,
        None => load_delegations(&args.delegation)?[0].key,
    };
    if roots.knows(&online) {
        bail!("{} is a root key, which cannot be revoked: clients need other roots", online.to_base64url());
    }
    let note = KeyRevocation {
        federation: roots.federation(),
        root: key.public(),
        key: online,
        issued_at: SystemTime::now().into(),
    };
    let note = Signed::sign(note, &key)?;
    add_statements(&args.file, [RootStatement::Revocation(note.clone())], roots.clone())?;
    let txt = to_text(&note);
    let text = format!(
        "revoked the online key {key}; the revocation is in {file}\n\
                 next: copy {file} to each registry's federation.revocations, or send it with --registry; \
                 create a new online key with chappe bootstrap delegate --new-key FILE; \
                 chappe bootstrap publish also writes the revocation for DNS, as this TXT record:\n{txt}",
        key = online.to_base64url(),
        file = args.file.display(),
    );
    let event = Revoked { event: "revoked", key: online.to_base64url(), file: &args.file, txt: &txt };
    output.print(&text, &event);
    let mut rejected = false;
    for endpoint in &args.registry {
        let registry = RegistryClient::new([endpoint.clone()], roots.clone(), &args.resolver.net()?)?;
        match registry.publish_revocation(&note).await {
            Ok(()) => output.print_text(&format!("{} has accepted it", endpoint.url)),
            Err(error) => {
                tracing::error!("{}: {error}", endpoint.url);
                rejected = true;
            }
        }
    }
    if rejected {
        bail!("not all registries have accepted the revocation; the file was written");
    }
    Ok(())
}
