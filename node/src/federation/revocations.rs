//! Which online keys of registries are revoked: from registries and other nodes, kept on disk, and told to whoever asks.
//!
//! A thief of an online key may hold the registry as well, and say nothing. So a node asks a member at random, too, and
//! clients ask nodes.

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

/// The file's name in the node's folder.
pub(crate) const FILE: &str = "revocations";

/// What is on the disk. A file that can't be read is one that isn't there: registries and members know it all.
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
        tracing::warn!(path = %path.display(), "cannot read the revoked keys; asking for them again");
    }
    KnownRevocations::new(known.unwrap_or_default())
}

/// Asks the registries and one member after each other's interval, until the task is ended.
pub(crate) async fn run(core: Arc<Core>, registry: Option<RegistryClient>, path: PathBuf) {
    // By the system's resolver, as registries are reached, but nowhere into a private network because a member says so.
    let net = Net::system(tls::config(), Scope::Public);
    let mut stored = core.revocations.all();
    loop {
        if let Some(registry) = &registry {
            registry.refresh_revocations().await;
        }
        if let Some(url) = url_of_a_member(&core) {
            match fetch_from_node(&url, hosts(&core), &core.context.roots, &net).await {
                Ok(list) => {
                    core.revocations.add(list.iter().cloned());
                }
                Err(error) => tracing::debug!(%error, "a member says nothing of revoked keys"),
            }
        }
        let known = core.revocations.all();
        if known != stored {
            tracing::warn!(
                keys = known.iter().count(),
                "an online key of a registry is revoked; what it signs counts for nothing"
            );
            let (path, bytes) = (path.clone(), known.encode());
            let written = tokio::task::spawn_blocking(move || private_file::write_own(&path, &bytes)).await;
            match written {
                Ok(Ok(())) => stored = known,
                Ok(Err(error)) => tracing::warn!(%error, "cannot write the revoked keys down"),
                // The runtime ends.
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

/// A node that is itself in a private network asks others there.
fn hosts(core: &Core) -> Scope {
    let is_public = core.context.quic_addrs.load().first().is_some_and(|addr| special::is_public(addr.ip()));
    if is_public { Scope::Public } else { Scope::Private }
}
