//! Revoked online keys of registries: fetched from registries and members, stored on disk, and served to clients and
//! nodes.
//!
//! The thief of an online key may also control the registry and hide the revocation. So a node queries a random member
//! too, and clients query nodes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use chappe_common::{
    keys::PublicKey,
    revocation::{MAX_REVOCATION_LIST, Revocations},
    special,
};
use chappe_discovery::{
    names::Scope,
    net::Net,
    private_file,
    registry::RegistryClient,
    revocations::{KnownRevocations, fetch_from_node},
    tls,
};
use rand::{RngExt as _, seq::IteratorRandom as _};
use tokio::time::sleep;

use crate::core::Core;

/// Name of the file in the node's folder.
pub(crate) const FILE: &str = "revocations";

/// Reads the file. An unreadable file counts as an empty one: registries and members have all revocations.
pub(crate) fn load(path: &Path, roots: &[PublicKey]) -> KnownRevocations {
    let read = || -> io::Result<Vec<u8>> {
        if fs::metadata(path)?.len() > MAX_REVOCATION_LIST as u64 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        fs::read(path)
    };
    let known = match read() {
        Ok(bytes) => Revocations::decode(bytes, roots).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Revocations::default()),
        Err(_) => None,
    };
    if known.is_none() {
        tracing::warn!(path = %path.display(), "cannot read the file of revoked keys; fetching them again");
    }
    KnownRevocations::new(known.unwrap_or_default())
}

/// Queries the registries and one member periodically, until the task is cancelled.
pub(crate) async fn run(core: Arc<Core>, registry: Option<RegistryClient>, path: PathBuf) {
    // Uses the system's resolver, as for registries. A member's URL must not lead into a private network.
    let net = Net::system(tls::config(), Scope::Public);
    let mut stored = core.revocations.all();
    loop {
        if let Some(registry) = &registry {
            registry.refresh_revocations().await;
        }
        if let Some(url) = url_of_a_member(&core) {
            match fetch_from_node(&url, host_scope(&core), &core.context.roots, &net).await {
                Ok(list) => {
                    core.revocations.add(list.iter().cloned());
                }
                Err(error) => tracing::debug!(%error, "cannot fetch revoked keys from a member"),
            }
        }
        let known = core.revocations.all();
        if known != stored {
            tracing::warn!(
                keys = known.iter().count(),
                "an online key of a registry is revoked; its signatures are rejected"
            );
            let (path, bytes) = (path.clone(), known.encode());
            let written = tokio::task::spawn_blocking(move || private_file::write_own(&path, &bytes)).await;
            match written {
                Ok(Ok(())) => stored = known,
                Ok(Err(error)) => tracing::warn!(%error, "cannot write the file of revoked keys"),
                // The runtime is shutting down.
                Err(_) => return,
            }
        }
        let pause = core.context.config.registry.renew_every.mul_f64(rand::rng().random_range(0.5..1.0));
        sleep(pause).await;
    }
}

fn url_of_a_member(core: &Core) -> Option<String> {
    let view = core.members.view.load_full();
    let others = view.nodes().filter(|node| *node != core.context.me);
    let record = core.members.records.find(&others.choose(&mut rand::rng())?, core.context.clock.now())?;
    record.client_urls.first().cloned()
}

/// Returns the address scope of members: a node in a private network queries others there.
fn host_scope(core: &Core) -> Scope {
    let is_public = core.context.quic_addrs.load().first().is_some_and(|addr| special::is_public(addr.ip()));
    if is_public { Scope::Public } else { Scope::Private }
}
