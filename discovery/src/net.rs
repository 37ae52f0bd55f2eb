//! How this side gets at others: whom TLS trusts, and who resolves names. One for all sources and dials of a search.

use std::sync::Arc;

use rustls::ClientConfig;

use crate::{
    doh::{Doh, Provider},
    names::{Names, Scope},
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
    /// A provider of DNS over HTTPS whose own address would have to be resolved first.
    #[error("`{0}` is not an https:// URL with an address, and no addresses stand with it")]
    Provider(String),
}

/// How others are reached.
#[derive(Clone, Debug)]
pub struct Net {
    tls: Arc<ClientConfig>,
    names: Names,
}

impl Net {
    /// By the system's resolver: for servers, whose operator has set it up, and for networks where it is wanted.
    pub fn system(tls: Arc<ClientConfig>, scope: Scope) -> Self {
        Self { tls, names: Names::system(scope) }
    }

    /// By DNS over HTTPS alone: no packet goes to port 53.
    ///
    /// # Errors
    /// A provider is not usable.
    pub fn over_https(providers: &[Provider], tls: Arc<ClientConfig>) -> Result<Self, SetupError> {
        let providers: Result<Vec<_>, _> = providers.iter().map(|provider| Doh::new(provider.clone(), &tls)).collect();
        Ok(Self { names: Names::over_https(providers?), tls })
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
