//! Name resolution for registries and nodes: over HTTPS, or by the system's resolver if configured.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chappe_common::special;
use futures_util::{StreamExt as _, future::join, stream::FuturesUnordered};
use hickory_proto::rr::{RData, RecordType};
use tokio::time::{Instant, sleep};

use crate::{
    doh::{DohClient, DohError},
    proxy::Proxies,
    reach::NameError,
};

/// Delay between the queries to successive providers.
const STAGGER: Duration = Duration::from_millis(250);
/// How long an answer is cached, whatever its TTL: long enough for a search and its retries.
const CACHE_TIME: Duration = Duration::from_secs(300);
/// Maximal number of cached names: those of one search.
const MAX_NAMES: usize = 64;
/// Maximal number of addresses used for one name.
const MAX_ADDRESSES: usize = 4;

/// Which addresses are accepted for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Public addresses only. A contact, link or list that names a host must not make this machine connect to its own
    /// private network.
    Public,
    /// Addresses in private networks as well.
    Private,
}

#[derive(Debug)]
enum Backend {
    System(Scope),
    OverHttps { providers: Vec<DohClient>, known: Mutex<HashMap<String, CachedName>> },
}

/// A cached answer.
#[derive(Clone, Debug)]
struct CachedName {
    at: Instant,
    ips: Vec<IpAddr>,
    /// Index of the provider that gave the answer.
    by: usize,
    /// Connecting to the addresses has failed. The next lookup asks this provider last.
    is_distrusted: bool,
}

/// Resolves names. Clones share the cached answers.
#[derive(Clone, Debug)]
pub struct NameResolver {
    backend: Arc<Backend>,
    proxies: Proxies,
}

impl NameResolver {
    /// Uses the system's resolver. [`Scope::Public`] drops private addresses, as lookups over HTTPS do.
    pub fn system(scope: Scope) -> Self {
        Self { backend: Arc::new(Backend::System(scope)), proxies: Proxies::none() }
    }

    /// Uses only these providers of DNS over HTTPS.
    pub fn over_https(providers: Vec<DohClient>) -> Self {
        Self { backend: Arc::new(Backend::OverHttps { providers, known: Mutex::default() }), proxies: Proxies::none() }
    }

    /// The same without its providers of DNS over HTTPS, so that it sends no query over HTTPS.
    pub(crate) fn without_providers(self) -> Self {
        match &*self.backend {
            Backend::System(_) => self,
            Backend::OverHttps { .. } => Self::over_https(Vec::new()).with_proxies(self.proxies),
        }
    }

    /// The same for connections through these proxies. Proxy names are resolved by the system's resolver, or not at
    /// all.
    pub(crate) fn with_proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// Resolves a host to one or more addresses. IP addresses and `localhost` (RFC 6761, section 6.3) are resolved
    /// without a query.
    ///
    /// # Errors
    /// Why there is no usable address.
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        if let Ok(ip) = host.trim_matches(['[', ']']).parse() {
            return Ok(vec![ip]);
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if host == "localhost" || host.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let is_proxy = self.proxies.has_host(&host);
        match &*self.backend {
            Backend::OverHttps { .. } if is_proxy => Err(NameError::Proxy),
            Backend::System(scope) => {
                let found = tokio::net::lookup_host((host.as_str(), 0)).await.map_err(|_| NameError::NoSuchName)?;
                let mut found: Vec<_> = found.map(|addr| addr.ip()).collect();
                if found.is_empty() {
                    return Err(NameError::NoSuchName);
                }
                // The user chose the proxy by the environment, and it is usually in a private network.
                found.retain(|ip| is_proxy || is_allowed(*ip, *scope));
                found.truncate(MAX_ADDRESSES);
                if found.is_empty() { Err(NameError::Private) } else { Ok(found) }
            }
            Backend::OverHttps { providers, known } => {
                let remembered = lock(known).get(&host).filter(|known| known.at.elapsed() < CACHE_TIME).cloned();
                if let Some(known) = &remembered
                    && !known.is_distrusted
                {
                    return Ok(known.ips.clone());
                }
                let (by, ips) = resolve_over_https(providers, &host, remembered.map(|known| known.by)).await?;
                let mut known = lock(known);
                if known.len() >= MAX_NAMES {
                    known.retain(|_, known| known.at.elapsed() < CACHE_TIME);
                }
                if known.len() < MAX_NAMES || known.contains_key(&host) {
                    known.insert(host, CachedName { at: Instant::now(), ips: ips.clone(), by, is_distrusted: false });
                }
                Ok(ips)
            }
        }
    }

    /// Reports that the cached addresses of a host did not lead to the expected server. The next lookup asks the other
    /// providers first. Returns whether there are other providers.
    pub fn distrust_addresses(&self, host: &str) -> bool {
        let Backend::OverHttps { providers, known } = &*self.backend else { return false };
        let mut known = lock(known);
        let Some(known) = known.get_mut(&host.trim_end_matches('.').to_ascii_lowercase()) else { return false };
        known.is_distrusted = true;
        providers.len() > 1
    }
}

fn lock(known: &Mutex<HashMap<String, CachedName>>) -> MutexGuard<'_, HashMap<String, CachedName>> {
    known.lock().expect("nothing panics while it is locked")
}

/// Asks the providers with a stagger. The first answer with an address wins. «No such name» is returned only if no
/// provider knows better, because censors often fake it.
///
/// The provider with the index `distrusted` is asked last. Returns the addresses with the index of the provider that gave
/// them.
async fn resolve_over_https(
    providers: &[DohClient],
    host: &str,
    distrusted: Option<usize>,
) -> Result<(usize, Vec<IpAddr>), NameError> {
    let mut order: Vec<_> = (0..providers.len()).collect();
    order.sort_by_key(|number| distrusted == Some(*number));
    let mut asked: FuturesUnordered<_> = (0..)
        .zip(order)
        .map(|(n, number)| async move {
            sleep(STAGGER * n).await;
            query_provider(&providers[number], host).await.map(|ips| (number, ips))
        })
        .collect();
    let mut failure = NameError::NoAnswer;
    while let Some(answer) = asked.next().await {
        match answer {
            Ok((_, ips)) if ips.is_empty() => failure = NameError::Private,
            Ok(named) => return Ok(named),
            Err(DohError::NoSuchName | DohError::NoRecords) => failure = NameError::NoSuchName,
            Err(DohError::Name) => return Err(NameError::Invalid),
            Err(_) => {}
        }
    }
    Err(failure)
}

async fn query_provider(provider: &DohClient, host: &str) -> Result<Vec<IpAddr>, DohError> {
    let (v4, v6) = join(provider.query(host, RecordType::A), provider.query(host, RecordType::AAAA)).await;
    let failure = match (&v4, &v6) {
        (Err(error), Err(_)) => Some(*error),
        _ => None,
    };
    let ips = v4.into_iter().chain(v6).flatten().filter_map(|data| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    });
    let scope = if provider.is_private() { Scope::Private } else { Scope::Public };
    failure.map_or_else(|| Ok(ips.filter(|ip| is_allowed(*ip, scope)).take(MAX_ADDRESSES).collect()), Err)
}

/// Whether an address in an answer may be used. A public name that resolves to a private address would make clients
/// connect to machines in their own network.
fn is_allowed(ip: IpAddr, scope: Scope) -> bool {
    scope == Scope::Private || special::is_public(ip)
}

impl reqwest::dns::Resolve for NameResolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let names = self.clone();
        Box::pin(async move {
            let ips = names.lookup(name.as_str()).await?;
            let addrs: reqwest::dns::Addrs = Box::new(ips.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ip_addresses_and_localhost_are_not_resolved() {
        let nobody = NameResolver::over_https(Vec::new());
        assert_eq!(nobody.lookup("192.0.2.1").await, Ok(vec![IpAddr::from([192, 0, 2, 1])]));
        assert_eq!(nobody.lookup("[2001:db8::1]").await.map(|ips| ips.len()), Ok(1));
        assert_eq!(nobody.lookup("LOCALHOST.").await.map(|ips| ips[0]), Ok(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(nobody.lookup("relay.example").await, Err(NameError::NoAnswer));
    }
}
