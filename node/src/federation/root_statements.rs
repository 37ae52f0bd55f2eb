//! The statements of the federation's roots: fetched from registries and members, stored on disk, and served to clients
//! and nodes.
//!
//! The thief of an online key may also control the registry and hide a revocation. So a node queries a random member too,
//! and clients query nodes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use chappe_common::{
    root_statements::{ListOrigin, MAX_STATEMENT_LIST, RootStatements},
    roots::Roots,
    special,
    time::UnixTime,
};
use chappe_discovery::{
    names::Scope,
    net::Net,
    private_file,
    registry::RegistryClient,
    tls,
    trust::{Trust, fetch_from_node},
};
use rand::{RngExt as _, seq::IteratorRandom as _};
use tokio::time::sleep;

use crate::{config::NodeConfig, core::Core, membership::event::Event, state_file};

/// Name of the file in the node's folder. It is from the time when there were only revocations.
pub(crate) const FILE: &str = "revocations";

/// Reads the file. A damaged file counts as an empty one: registries and members have all statements.
pub(crate) fn load(path: &Path, pinned: Roots, now: UnixTime) -> Trust {
    let mut known = RootStatements::from(pinned);
    let consequence = "fetching the roots' statements again";
    // What was learned of a list is in `known`.
    let _ = state_file::load(path, MAX_STATEMENT_LIST as u64, consequence, |list| {
        known.learn_list(list, ListOrigin::Stored).ok()
    });
    warn_about_rotation(&known.roots, now);
    known.into()
}

/// The pinned roots of this configuration, with the successions that its node has stored. A file that cannot be used counts as
/// an empty one, and stays as it is: a start reports it.
pub fn known_roots(config: &NodeConfig) -> Roots {
    let mut known = RootStatements::from(config.federation.roots());
    if let Ok(list) = private_file::read_own(&config.node.data_dir.join(FILE), MAX_STATEMENT_LIST as u64) {
        let _ = known.learn_list(list, ListOrigin::Stored);
    }
    known.roots
}

/// Logs which roots the config should name. If the data folder is lost, a config with the old root makes the node follow the
/// holder of the old key.
fn warn_about_rotation(roots: &Roots, now: UnixTime) {
    if !roots.is_rotated() {
        return;
    }
    let end = roots.pinned_keys().iter().filter_map(|key| roots.ends_at(key)).min().unwrap_or_default();
    let days = end.saturating_since(now).as_secs() / 86_400;
    let current: Vec<_> = roots.current().iter().map(ToString::to_string).collect();
    tracing::warn!(
        days_left = days,
        "the federation's root key was rotated; in the config, set federation.roots = {current:?} and federation.id = \"{}\"",
        roots.federation()
    );
}

/// Queries the registries and one member periodically, until the task is cancelled.
pub(crate) async fn run(core: Arc<Core>, registry: Option<RegistryClient>, path: PathBuf) {
    // Uses the system's resolver, as for registries. A member's URL must not lead into a private network.
    let net = Net::system(tls::config(), Scope::Public);
    let mut stored = core.trust.all();
    loop {
        if let Some(registry) = &registry {
            registry.refresh_statements(core.context.clock.now()).await;
        }
        if let Some(url) = url_of_a_member(&core) {
            match fetch_from_node(&url, host_scope(&core), &net).await {
                Ok(list) => {
                    core.trust.learn(list, ListOrigin::Peer(core.context.clock.now()));
                }
                Err(error) => tracing::debug!(%error, "cannot fetch the roots' statements from a member"),
            }
        }
        let known = core.trust.all();
        if known != stored {
            report_changes(&core, &stored, &known).await;
            let (path, bytes) = (path.clone(), known.encode());
            let written = tokio::task::spawn_blocking(move || private_file::write_own(&path, &bytes)).await;
            match written {
                Ok(Ok(())) => stored = known,
                Ok(Err(error)) => tracing::warn!(%error, "cannot write the file of root statements"),
                // The runtime is shutting down.
                Err(_) => return,
            }
        }
        let pause = core.context.config.registry.renew_every.mul_f64(rand::rng().random_range(0.5..1.0));
        sleep(pause).await;
    }
}

async fn report_changes(core: &Core, before: &RootStatements, after: &RootStatements) {
    if before.revocations != after.revocations {
        tracing::warn!(
            keys = after.revocations.iter().count(),
            "an online key of a registry is revoked; its signatures are rejected"
        );
    }
    if before.roots != after.roots {
        warn_about_rotation(&after.roots, core.context.clock.now());
        // The membership task ends only with the node.
        let _ = core.membership.send(Event::RootsChanged).await;
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
