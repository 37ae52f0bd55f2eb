//! How this side gets at others: whom TLS trusts, and who resolves names. One for all sources and dials of a search.

use std::sync::Arc;

use rustls::ClientConfig;

use crate::{
    doh::{Doh, Provider},
    names::{Names, Scope},
    proxy::Proxies,
    tls,
};

/// The search cannot be set up. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The HTTP client cannot be made.
    #[error("cannot set up the HTTP client")]
    Http(#[source] reqwest::Error),
    /// Not a URL of that kind.
    #[error("`{0}` is not an http:// or https:// URL")]
    Url(String),
    /// The environment names a proxy of another kind than HTTP.
    #[error("the environment names the proxy {0}: only http://host:port is supported; unset it, or name another one")]
    Proxy(String),
    /// A variable of the environment names no proxy that can be read. Its value may hold a password.
    #[error("the value of {0} in the environment names no proxy: write http://host:port, or unset it")]
    ProxyVariable(&'static str),
    /// A provider of DNS over HTTPS whose own address would have to be resolved first.
    #[error("`{0}` is not an https:// URL with an address, and no addresses stand with it")]
    Provider(String),
}

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
