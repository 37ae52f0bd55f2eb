//! Configures a search.

use std::{fmt, path::PathBuf, sync::Arc, time::SystemTime};

use bytes::Bytes;
use chappe_common::{endpoint::NodeEndpoint, federation::FederationId, keys::PublicKey, roots::Roots, time::UnixTime};
use rand::seq::SliceRandom as _;
use rustls::ClientConfig;

use super::Discovery;
use crate::{
    cache::Cache,
    dns::DnsSource,
    doh::{DohClient, Provider},
    invite::{Invite, Invites},
    manual::{ManualNode, ManualNodes},
    names::Scope,
    net::Net,
    proxy::Proxies,
    referral::Referrals,
    registry::{Endpoint, RegistryClient},
    search::{Clock, SearchContext},
    setup_error::SetupError,
    snapshot::Snapshot,
    source::Source,
    tls,
};

/// Configures which sources a search queries, and how.
#[derive(Default)]
pub struct DiscoveryBuilder {
    roots: Vec<PublicKey>,
    federation: Option<FederationId>,
    endpoints: Vec<Endpoint>,
    zones: Vec<String>,
    providers: Vec<Provider>,
    system_resolver: bool,
    private_network: bool,
    wss_only: bool,
    proxies: Option<Proxies>,
    manual: Vec<ManualNode>,
    invites: Vec<Invite>,
    referrals: Vec<NodeEndpoint>,
    snapshot: Option<Bytes>,
    cache: Option<PathBuf>,
    tls: Option<Arc<ClientConfig>>,
    clock: Option<Clock>,
}

impl fmt::Debug for DiscoveryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryBuilder")
            .field("endpoints", &self.endpoints)
            .field("zones", &self.zones)
            .finish_non_exhaustive()
    }
}

impl DiscoveryBuilder {
    /// Queries the registry at these endpoints, and accepts directories under `roots`.
    #[must_use]
    pub fn registry(
        mut self,
        endpoints: impl IntoIterator<Item = impl Into<Endpoint>>,
        roots: impl IntoIterator<Item = PublicKey>,
    ) -> Self {
        self.endpoints.extend(endpoints.into_iter().map(Into::into));
        self.roots(roots)
    }

    /// Pins these root keys.
    #[must_use]
    pub fn roots(mut self, roots: impl IntoIterator<Item = PublicKey>) -> Self {
        for root in roots {
            if !self.roots.contains(&root) {
                self.roots.push(root);
            }
        }
        self
    }

    /// The id of the federation, if the pinned roots are not its founding ones.
    #[must_use]
    pub fn federation(mut self, federation: Option<FederationId>) -> Self {
        self.federation = federation;
        self
    }

    /// Queries DNS over HTTPS for shards under this name. Every provider is queried for all names.
    #[must_use]
    pub fn zone(mut self, name: impl Into<String>) -> Self {
        self.zones.push(name.into());
        self
    }

    /// Queries this provider of DNS over HTTPS instead of [`Provider::defaults`]. Several providers are queried in the
    /// given order.
    #[must_use]
    pub fn provider(mut self, provider: Provider) -> Self {
        self.providers.push(provider);
        self
    }

    /// Uses the system's resolver instead of DNS over HTTPS, for instance where its providers are blocked. Private
    /// addresses are ignored unless [`DiscoveryBuilder::private_network`] allows them.
    #[must_use]
    pub const fn system_resolver(mut self) -> Self {
        self.system_resolver = true;
        self
    }

    /// Accepts private addresses from the system's resolver, for a federation in a private network.
    #[must_use]
    pub const fn private_network(mut self) -> Self {
        self.private_network = true;
        self
    }

    /// Connects only to nodes and registries with TLS (`wss://`, `https://`) and to those on this machine. By default nodes
    /// with TLS are only preferred.
    #[must_use]
    pub const fn wss_only(mut self) -> Self {
        self.wss_only = true;
        self
    }

    /// Uses these proxies instead of those in the environment.
    #[must_use]
    pub fn proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = Some(proxies);
        self
    }

    /// Adds a node that a person has entered.
    #[must_use]
    pub fn manual(mut self, node: ManualNode) -> Self {
        self.manual.push(node);
        self
    }

    /// Adds the nodes of a link or QR code.
    #[must_use]
    pub fn invite(mut self, invite: Invite) -> Self {
        self.invites.push(invite);
        self
    }

    /// Adds nodes that contacts have passed on. [`Discovery::referrals`] can change them later.
    #[must_use]
    pub fn referrals(mut self, nodes: impl IntoIterator<Item = NodeEndpoint>) -> Self {
        self.referrals.extend(nodes);
        self
    }

    /// Uses this directory instead of the built-in one if the cache is empty.
    #[must_use]
    pub fn snapshot(mut self, directory: impl Into<Bytes>) -> Self {
        self.snapshot = Some(directory.into());
        self
    }

    /// Stores the node cache in this file. Without it, the cache is lost when the process ends.
    #[must_use]
    pub fn cache(mut self, path: impl Into<PathBuf>) -> Self {
        self.cache = Some(path.into());
        self
    }

    /// Uses this TLS configuration instead of one with the roots of browsers.
    #[must_use]
    pub fn tls(mut self, config: Arc<ClientConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Uses this clock instead of the system's.
    #[must_use]
    pub fn clock(mut self, clock: impl Fn() -> UnixTime + Send + Sync + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Reads the cache and sets up the sources. Blocks on the disk.
    ///
    /// # Errors
    /// A URL or provider is invalid, or the HTTP client cannot be set up.
    pub fn build(self) -> Result<Discovery, SetupError> {
        let tls = self.tls.unwrap_or_else(tls::config);
        let providers = if self.providers.is_empty() {
            let mut defaults = Provider::defaults();
            // Random order, so that no provider gets the first query of all clients.
            defaults.shuffle(&mut rand::rng());
            defaults
        } else {
            self.providers
        };
        let scope = if self.private_network { Scope::Private } else { Scope::Public };
        let proxies = match self.proxies {
            Some(proxies) => proxies,
            None => Proxies::from_env()?,
        };
        let net = if self.system_resolver {
            Net::system_with_proxies(tls, scope, proxies)
        } else {
            Net::over_https_with_proxies(&providers, tls, proxies)?
        };
        let net = if self.wss_only { net.tls_only() } else { net };
        let pinned = Roots::pinned(self.roots, self.federation);
        let cache = Arc::new(match self.cache {
            Some(path) => Cache::open_or_empty(path, pinned.clone()),
            None => Cache::in_memory(pinned.clone()),
        });
        let trust = cache.trust();
        let referrals = Referrals::default();
        referrals.set(self.referrals);
        let mut sources: Vec<Arc<dyn Source>> = Vec::new();
        if !self.manual.is_empty() {
            sources.push(Arc::new(ManualNodes::new(self.manual)));
        }
        if !self.invites.is_empty() {
            sources.push(Arc::new(Invites::new(self.invites)));
        }
        sources.push(Arc::new(referrals.clone()));
        if !self.endpoints.is_empty() {
            let registry = RegistryClient::new(self.endpoints, trust.clone(), &net)?;
            sources.push(Arc::new(registry));
        }
        if !self.zones.is_empty() {
            for provider in providers {
                let provider = DohClient::with_proxies(provider, net.tls(), net.proxies(), net.proxy_names())?;
                sources.push(Arc::new(DnsSource::new(provider, self.zones.clone(), trust.clone())));
            }
        }
        if !pinned.is_empty() {
            // The cache only has nodes that were listed under these roots or have proved their keys.
            sources.push(cache.clone());
            let built_in = || Snapshot::built_in(trust.clone());
            let snapshot = self.snapshot.map(|bytes| Snapshot::new(bytes, trust.clone())).or_else(built_in);
            if let Some(snapshot) = snapshot {
                sources.push(Arc::new(snapshot));
            }
        }
        let clock = self.clock.unwrap_or_else(|| Arc::new(|| SystemTime::now().into()));
        let context = SearchContext { cache, net, trust, clock, searches: Arc::default() };
        Ok(Discovery { sources, referrals, context })
    }
}
