//! Names of registries and nodes: over HTTPS, or where that is wanted by the system's resolver.

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
    doh::{Doh, DohError},
    proxy::Proxies,
    reach::NameError,
};

/// How long one provider is ahead of the next.
const STAGGER: Duration = Duration::from_millis(250);
/// How long an answer is used: a search and the few after it, whatever the answer says of itself.
const KEEP: Duration = Duration::from_secs(300);
/// The most names that are remembered: those of one search.
const MAX_NAMES: usize = 64;
/// The most addresses of one name.
const MAX_ADDRESSES: usize = 4;

/// Which addresses a name may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of the internet. A contact, a link or a list that names a host must not have this machine connect to its own
    /// network.
    Public,
    /// Private networks too.
    Private,
}

#[derive(Debug)]
enum How {
    System(Scope),
    OverHttps { providers: Vec<Doh>, known: Mutex<HashMap<String, Known>> },
}

/// What is remembered of a name.
#[derive(Clone, Debug)]
struct Known {
    at: Instant,
    ips: Vec<IpAddr>,
    /// Which provider said so.
    by: usize,
    /// Nothing good was at the addresses: the others are asked first, this one last.
    is_doubted: bool,
}

/// Who resolves names. Clones share what is remembered.
#[derive(Clone, Debug)]
pub struct Names {
    how: Arc<How>,
    proxies: Proxies,
}

impl Names {
    /// The system's resolver. With [`Scope::Public`] its answers are filtered like those over HTTPS.
    pub fn system(scope: Scope) -> Self {
        Self { how: Arc::new(How::System(scope)), proxies: Proxies::none() }
    }

    /// These providers, and nobody else.
    pub fn over_https(providers: Vec<Doh>) -> Self {
        Self { how: Arc::new(How::OverHttps { providers, known: Mutex::default() }), proxies: Proxies::none() }
    }

    /// The same by nobody over HTTPS.
    pub(crate) fn without_providers(self) -> Self {
        match &*self.how {
            How::System(_) => self,
            How::OverHttps { .. } => Self::over_https(Vec::new()).with_proxies(self.proxies),
        }
    }

    /// The same where these proxies are: their own names are resolved by the system's resolver, or not at all.
    pub(crate) fn with_proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// The addresses of a host, at least one. An address is its own, and `localhost` is this machine without anybody
    /// being asked (RFC 6761, 6.3).
    ///
    /// # Errors
    /// Says why there is none.
    pub async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        if let Ok(ip) = host.trim_matches(['[', ']']).parse() {
            return Ok(vec![ip]);
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if host == "localhost" || host.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let is_proxy = self.proxies.has_host(&host);
        match &*self.how {
            How::OverHttps { .. } if is_proxy => Err(NameError::Proxy),
            How::System(scope) => {
                let found = tokio::net::lookup_host((host.as_str(), 0)).await.map_err(|_| NameError::NoSuchName)?;
                let mut found: Vec<_> = found.map(|addr| addr.ip()).collect();
                if found.is_empty() {
                    return Err(NameError::NoSuchName);
                }
                // Who has set the environment has chosen the proxy, which mostly stands in a private network.
                found.retain(|ip| is_proxy || counts(*ip, *scope));
                found.truncate(MAX_ADDRESSES);
                if found.is_empty() { Err(NameError::Private) } else { Ok(found) }
            }
            How::OverHttps { providers, known } => {
                let remembered = lock(known).get(&host).filter(|known| known.at.elapsed() < KEEP).cloned();
                if let Some(known) = &remembered
                    && !known.is_doubted
                {
                    return Ok(known.ips.clone());
                }
                let (by, ips) = ask_all(providers, &host, remembered.map(|known| known.by)).await?;
                let mut known = lock(known);
                if known.len() >= MAX_NAMES {
                    known.retain(|_, known| known.at.elapsed() < KEEP);
                }
                if known.len() < MAX_NAMES || known.contains_key(&host) {
                    known.insert(host, Known { at: Instant::now(), ips: ips.clone(), by, is_doubted: false });
                }
                Ok(ips)
            }
        }
    }

    /// What was to be found at a name's addresses wasn't there, or not with a certificate that fits: the next lookup asks
    /// those providers first that haven't named them. Whether there are any.
    pub fn doubt(&self, host: &str) -> bool {
        let How::OverHttps { providers, known } = &*self.how else { return false };
        let mut known = lock(known);
        let Some(known) = known.get_mut(&host.trim_end_matches('.').to_ascii_lowercase()) else { return false };
        known.is_doubted = true;
        providers.len() > 1
    }
}

fn lock(known: &Mutex<HashMap<String, Known>>) -> MutexGuard<'_, HashMap<String, Known>> {
    known.lock().expect("nothing panics while it is locked")
}

/// The first answer with an address counts. That there is no such name is believed only where nobody says otherwise:
/// blocking a name often looks like that.
///
/// `doubted`: the provider to ask last. With the addresses comes the number of the provider that named them.
async fn ask_all(providers: &[Doh], host: &str, doubted: Option<usize>) -> Result<(usize, Vec<IpAddr>), NameError> {
    let mut order: Vec<_> = (0..providers.len()).collect();
    order.sort_by_key(|number| doubted == Some(*number));
    let mut asked: FuturesUnordered<_> = (0..)
        .zip(order)
        .map(|(n, number)| async move {
            sleep(STAGGER * n).await;
            ask(&providers[number], host).await.map(|ips| (number, ips))
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

async fn ask(provider: &Doh, host: &str) -> Result<Vec<IpAddr>, DohError> {
    let (v4, v6) = join(provider.ask(host, RecordType::A), provider.ask(host, RecordType::AAAA)).await;
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
    failure.map_or_else(|| Ok(ips.filter(|ip| counts(*ip, scope)).take(MAX_ADDRESSES).collect()), Err)
}

/// Whether an address in an answer is used. A name on the internet that leads into a private network would have its
/// visitors connect to machines there.
fn counts(ip: IpAddr, scope: Scope) -> bool {
    scope == Scope::Private || special::is_public(ip)
}

impl reqwest::dns::Resolve for Names {
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
    async fn nobody_is_asked_for_an_address_or_for_this_machine() {
        let nobody = Names::over_https(Vec::new());
        assert_eq!(nobody.lookup("192.0.2.1").await, Ok(vec![IpAddr::from([192, 0, 2, 1])]));
        assert_eq!(nobody.lookup("[2001:db8::1]").await.map(|ips| ips.len()), Ok(1));
        assert_eq!(nobody.lookup("LOCALHOST.").await.map(|ips| ips[0]), Ok(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(nobody.lookup("relay.example").await, Err(NameError::NoAnswer));
    }
}
