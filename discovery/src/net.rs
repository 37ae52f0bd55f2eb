//! How connections are made: TLS roots, name resolution and proxies. Shared by all sources and dials of a search.

use std::sync::Arc;

use rustls::ClientConfig;

use crate::{
    doh::{DohClient, Provider},
    names::{NameResolver, Scope},
    proxy::Proxies,
    reach::ReachError,
    setup_error::SetupError,
    this_machine::is_this_machine,
    tls,
};

/// Settings of outgoing connections.
#[derive(Clone, Debug)]
pub struct Net {
    tls: Arc<ClientConfig>,
    names: NameResolver,
    proxies: Proxies,
    /// Whether servers without TLS are refused, unless they are on this machine.
    is_tls_only: bool,
}

impl Net {
    /// Uses the system's resolver: for servers, and for clients that are configured so.
    pub fn system(tls: Arc<ClientConfig>, scope: Scope) -> Self {
        Self::system_with_proxies(tls, scope, Proxies::none())
    }

    /// The same with proxies.
    pub fn system_with_proxies(tls: Arc<ClientConfig>, scope: Scope, proxies: Proxies) -> Self {
        Self { tls, names: NameResolver::system(scope).with_proxies(proxies.clone()), proxies, is_tls_only: false }
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
        let names = NameResolver::over_https(providers?).with_proxies(proxies.clone());
        Ok(Self { names, tls, proxies, is_tls_only: false })
    }

    /// Refuses every server without TLS, unless it is on this machine: nodes and registries, for each kind of request.
    #[must_use]
    pub const fn tls_only(mut self) -> Self {
        self.is_tls_only = true;
        self
    }

    /// Checks that a connection to `url` is allowed.
    pub(crate) fn check_tls(&self, url: &str) -> Result<(), ReachError> {
        let has_tls = ["https://", "wss://"].iter().any(|scheme| url.starts_with(scheme));
        if !self.is_tls_only || has_tls || is_this_machine(url) { Ok(()) } else { Err(ReachError::NoTls) }
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

#[cfg(test)]
mod tests {
    use chappe_common::{federation::FederationId, keys::SecretKey, time::UnixTime};
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        dial::{DialError, dial},
        federation::{self, FederationError},
        registry::{Endpoint, RegistryClient},
        source::{Candidate, Source as _, SourceError, SourceKind},
        trust::{self, StatementsError},
    };

    fn net() -> Net {
        Net::system(tls::config(), Scope::Private)
    }

    #[test]
    fn with_tls_only_a_server_without_tls_is_allowed_on_this_machine_alone() {
        for (url, is_allowed) in [
            ("wss://10.0.0.1", true),
            ("https://10.0.0.1", true),
            ("ws://127.0.0.1:1", true),
            ("http://[::1]:1/health", true),
            ("ws://10.0.0.1", false),
            ("http://10.0.0.1", false),
            ("http://localhost.example", false),
        ] {
            assert_eq!(net().tls_only().check_tls(url).is_ok(), is_allowed, "{url}");
            assert_eq!(net().check_tls(url), Ok(()), "{url}");
        }
    }

    #[tokio::test]
    async fn with_tls_only_no_request_of_any_kind_leaves_for_a_server_without_tls() {
        // This address leads to this machine, but is none of its own.
        let listener = TcpListener::bind("0.0.0.0:0").await.expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        assert!(host.starts_with("0.0.0.0:"), "{host}");
        let (url, net) = (format!("ws://{host}"), net().tls_only());
        let roots = [SecretKey::from_bytes(&[1; 32]).public()];
        let asked = federation::fetch_from_node(&url, Scope::Private, FederationId::of_roots(&roots), &net).await;
        assert!(matches!(asked, Err(FederationError::Reach(ReachError::NoTls))), "{asked:?}");
        let asked = trust::fetch_from_node(&url, Scope::Private, &net).await;
        assert!(matches!(asked, Err(StatementsError::Reach(ReachError::NoTls))), "{asked:?}");
        let dialled = dial(&Candidate::new(url, None, SourceKind::Manual), &net, || {}).await;
        assert!(matches!(dialled, Err(DialError::Reach(ReachError::NoTls))), "{dialled:?}");
        // Also if only the address to connect to is elsewhere.
        let by_url = Endpoint::from(format!("http://{host}"));
        let by_address = Endpoint { connect_to: listener.local_addr().ok(), ..Endpoint::from("http://localhost") };
        for endpoint in [by_url, by_address] {
            let registry = RegistryClient::new([endpoint], roots.to_vec(), &net).expect("a client");
            let listed = registry.list(UnixTime::from_secs(0)).await;
            assert!(matches!(listed, Err(SourceError::Reach(ReachError::NoTls))), "{listed:?}");
        }
        // The first connection that arrives is that of a client without the restriction.
        let mine = tokio::net::TcpStream::connect(&host).await.expect("a listener");
        let (_, from) = listener.accept().await.expect("a connection");
        assert_eq!(Some(from), mine.local_addr().ok());
    }
}
