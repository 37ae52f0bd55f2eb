//! Replaces the values of a running node that may change without a restart.
//!
//! Invariant: all of a configuration is replaced, or nothing of it.

use std::sync::Arc;

use chappe_common::changed_keys::ChangedKeys;

use crate::{
    config::{ConfigError, LiveConfig, NodeConfig, changed_keys},
    core::Core,
    limits::rates::SourceRates,
    websocket::tls::{Tls, TlsError},
};

/// Why a configuration cannot replace the one in use. Nothing was replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A configuration value is out of bounds.
    #[error("the configuration is not valid")]
    Config(#[from] ConfigError),
    /// The TLS certificate for clients cannot be loaded.
    #[error("the certificate for clients cannot be used")]
    Tls(#[from] TlsError),
}

/// Replaces the values. The certificate is read again even if its keys are the same.
pub(crate) async fn apply(core: &Core, tls: Option<&Arc<Tls>>, new: &NodeConfig) -> Result<ChangedKeys, ReloadError> {
    new.check()?;
    let mut in_use = core.context.config.clone();
    let live = core.context.live.load_full();
    in_use.limits = live.limits.clone();
    in_use.client.trusted_proxies = live.trusted_proxies.clone();
    in_use.node.log = live.log.clone();
    if let Some((cert, key)) = tls.and_then(|tls| tls.paths()) {
        (in_use.client.tls_cert, in_use.client.tls_key) = (Some(cert), Some(key));
    }
    let mut changed = changed_keys(&in_use, new);
    let from_files = tls.filter(|tls| tls.paths().is_some());
    match (from_files, &new.client.tls_cert, &new.client.tls_key) {
        (Some(tls), Some(cert), Some(key)) => {
            let (tls, cert, key) = (tls.clone(), cert.clone(), key.clone());
            match tokio::task::spawn_blocking(move || tls.replace(&cert, &key)).await {
                Ok(replaced) => replaced?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime is stopping: nothing has to be replaced.
                Err(_) => {}
            }
        }
        // The relay for media and the node's URLs depend on whether there is a certificate, and its task on where from.
        _ => changed.move_to_restart(|key| key.starts_with("client.tls_")),
    }
    // The values of a key that needs a restart stay as they are.
    let mut replacement = LiveConfig::of(new);
    replacement.limits.max_pending_leases = live.limits.max_pending_leases;
    let limits = &replacement.limits;
    let clients = &core.clients;
    clients.memory_budget.set_limit(limits.memory_budget);
    clients.source_connections.set_max_per_key(limits.source_connections);
    if changed.has_reloaded("limits.") {
        // Each source begins with its whole allowance again.
        clients.sources.store(Arc::new(SourceRates::new(limits)));
    }
    core.context.live.store(Arc::new(replacement));
    Ok(changed)
}
