//! How connections are made: TLS roots, name resolution and proxies. Shared by all sources and dials of a search.

use std::sync::Arc;

use rustls::ClientConfig;

use crate::{
    doh::{DohClient, Provider},
    names::{NameResolver, Scope},
    proxy::Proxies,
    setup_error::SetupError,
    tls,
};

/// Settings of outgoing connections.
#[derive(Clone, Debug)]
pub struct Net {
    tls: Arc<ClientConfig>,
    names: NameResolver,
    proxies: Proxies,
}

impl Net {
    /// Uses the system's resolver: for servers, and for clients that are configured so.
    pub fn system(tls: Arc<ClientConfig>, scope: Scope) -> Self {
        Self::system_with_proxies(tls, scope, Proxies::none())
    }

    /// The same with proxies.
    pub fn system_with_proxies(tls: Arc<ClientConfig>, scope: Scope, proxies: Proxies) -> Self {
        Self { tls, names: NameResolver::system(scope).with_proxies(proxies.clone()), proxies }
    }

    /// Resolves names only by DNS over HTTPS: no packet is sent to port 53.
    ///
    /// # Errors
    /// A provider is invalid.
    pub fn over_https(providers: &[Provider], tls: Arc<ClientConfig>) -> Result<Self, SetupError> {
        Self::over_https_with_proxies(providers, tls, Proxies::none())
    }

    /// The same with proxies.
    ///
    /// # Errors
    /// A provider is invalid.
    pub fn over_https_with_proxies(
        providers: &[Provider],
        tls: Arc<ClientConfig>,
        proxies: Proxies,
    ) -> Result<Self, SetupError> {
        // A proxy's name cannot be resolved before the proxy is reached, so it has to be an IP address.
        let nobody = NameResolver::over_https(Vec::new()).with_proxies(proxies.clone());
        let client_of = |provider: &Provider| DohClient::with_proxies(provider.clone(), &tls, &proxies, nobody.clone());
        let providers: Result<Vec<_>, _> = providers.iter().map(client_of).collect();
        Ok(Self { names: NameResolver::over_https(providers?).with_proxies(proxies.clone()), tls, proxies })
    }

    /// The resolver for the names of proxies.
    pub(crate) fn proxy_names(&self) -> NameResolver {
        self.names.clone().without_providers()
    }

    /// The proxies of outgoing connections.
    pub const fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// The TLS configuration of outgoing connections.
    pub const fn tls(&self) -> &Arc<ClientConfig> {
        &self.tls
    }

    /// The name resolver.
    pub const fn names(&self) -> &NameResolver {
        &self.names
    }
}

impl Default for Net {
    /// For servers, whose operator configures all hosts: the system's resolver with private addresses, and the roots of
    /// browsers.
    fn default() -> Self {
        Self::system(tls::config(), Scope::Private)
    }
}
