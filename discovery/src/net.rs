//! How this side gets at others: whom TLS trusts, and who resolves names. One for all sources and dials of a search.

use std::sync::Arc;

use rustls::ClientConfig;

use crate::{
    doh::{Doh, Provider},
    names::{Names, Scope},
    proxy::Proxies,
    setup_error::SetupError,
    tls,
};

/// How others are reached.
#[derive(Clone, Debug)]
pub struct Net {
    tls: Arc<ClientConfig>,
    names: Names,
    proxies: Proxies,
}

impl Net {
    /// By the system's resolver: for servers, whose operator has set it up, and for networks where it is wanted.
    pub fn system(tls: Arc<ClientConfig>, scope: Scope) -> Self {
        Self::system_by(tls, scope, Proxies::none())
    }

    /// The same through proxies.
    pub fn system_by(tls: Arc<ClientConfig>, scope: Scope, proxies: Proxies) -> Self {
        Self { tls, names: Names::system(scope).with_proxies(proxies.clone()), proxies }
    }

    /// By DNS over HTTPS alone: no packet goes to port 53.
    ///
    /// # Errors
    /// A provider is not usable.
    pub fn over_https(providers: &[Provider], tls: Arc<ClientConfig>) -> Result<Self, SetupError> {
        Self::over_https_by(providers, tls, Proxies::none())
    }

    /// The same through proxies.
    ///
    /// # Errors
    /// A provider is not usable.
    pub fn over_https_by(providers: &[Provider], tls: Arc<ClientConfig>, proxies: Proxies) -> Result<Self, SetupError> {
        // Nobody is asked before the proxy is reached: its name has to be an address.
        let nobody = Names::over_https(Vec::new()).with_proxies(proxies.clone());
        let by = |provider: &Provider| Doh::by(provider.clone(), &tls, &proxies, nobody.clone());
        let providers: Result<Vec<_>, _> = providers.iter().map(by).collect();
        Ok(Self { names: Names::over_https(providers?).with_proxies(proxies.clone()), tls, proxies })
    }

    /// Who resolves the names of proxies.
    pub(crate) fn proxy_names(&self) -> Names {
        self.names.clone().without_providers()
    }

    /// The proxies that lead to others.
    pub const fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// Whom TLS trusts.
    pub const fn tls(&self) -> &Arc<ClientConfig> {
        &self.tls
    }

    /// Who resolves names.
    pub const fn names(&self) -> &Names {
        &self.names
    }
}

impl Default for Net {
    /// For a server, which connects only to hosts that its operator names: the system's resolver, private networks
    /// included, and the roots that browsers trust.
    fn default() -> Self {
        Self::system(tls::config(), Scope::Private)
    }
}
