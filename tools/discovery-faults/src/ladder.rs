//! For comparison: the same sources one after the other, with ten seconds for each.

use std::{sync::Arc, time::Duration};

use chappe_common::keys::PublicKey;
use chappe_discovery::{
    cache::Cache,
    dial::dial,
    dns::DnsSource,
    doh::{DohClient, Provider},
    net::Net,
    registry::{Endpoint, RegistryClient},
    source::Source,
};
use rand::seq::SliceRandom as _;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout};

use super::world::{ZONE, now};

/// What each source has.
const LAYER: Duration = Duration::from_secs(10);

/// The sources of a ladder, from the first to the last.
pub struct Ladder {
    net: Net,
    sources: Vec<Box<dyn Source>>,
}

impl Ladder {
    /// Cache, registry, providers.
    ///
    /// # Panics
    /// An endpoint or a provider is none.
    pub fn new(
        cache: Option<Cache>,
        registry: Option<Endpoint>,
        providers: &[Provider],
        root: PublicKey,
        tls: Arc<ClientConfig>,
    ) -> Self {
        let net = Net::over_https(providers, tls).expect("providers");
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        if let Some(cache) = cache {
            sources.push(Box::new(cache));
        }
        if let Some(registry) = registry {
            sources.push(Box::new(RegistryClient::new([registry], vec![root], &net).expect("a registry")));
        }
        for provider in providers {
            let provider = DohClient::new(provider.clone(), net.tls()).expect("a provider");
            sources.push(Box::new(DnsSource::new(provider, vec![ZONE.to_owned()], vec![root].into())));
        }
        Self { net, sources }
    }

    /// How long it takes until a node has proved its key; none: nobody did.
    pub async fn climb(&self) -> Option<Duration> {
        let began = Instant::now();
        for source in &self.sources {
            if timeout(LAYER, self.step(source.as_ref())).await == Ok(true) {
                return Some(began.elapsed());
            }
        }
        None
    }

    async fn step(&self, source: &dyn Source) -> bool {
        let Ok(listing) = source.list(now()).await else { return false };
        let lists = listing.lists.into_iter().flat_map(|list| list.candidates);
        let mut candidates: Vec<_> = listing.candidates.into_iter().chain(lists).collect();
        candidates.shuffle(&mut rand::rng());
        for candidate in candidates {
            if dial(&candidate, &self.net, || {}).await.is_ok() {
                return true;
            }
        }
        false
    }
}
