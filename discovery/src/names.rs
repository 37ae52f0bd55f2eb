//! Names of registries and nodes: over HTTPS, or where that is wanted by the system's resolver.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt as _, future::join, stream::FuturesUnordered};
use hickory_proto::rr::{RData, RecordType};
use tokio::time::{Instant, sleep};

use crate::{
    doh::{Doh, DohError},
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

#[derive(Debug)]
enum How {
    System,
    OverHttps { providers: Vec<Doh>, known: Mutex<HashMap<String, (Instant, Vec<IpAddr>)>> },
}

/// Who resolves names. Clones share what is remembered.
#[derive(Clone, Debug)]
pub struct Names(Arc<How>);

impl Names {
    /// The system's resolver.
    pub fn system() -> Self {
        Self(Arc::new(How::System))
    }

    /// These providers, and nobody else.
    pub fn over_https(providers: Vec<Doh>) -> Self {
        Self(Arc::new(How::OverHttps { providers, known: Mutex::default() }))
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
        match &*self.0 {
            How::System => {
                let found = tokio::net::lookup_host((host.as_str(), 0)).await.map_err(|_| NameError::NoSuchName)?;
                let found: Vec<_> = found.map(|addr| addr.ip()).take(MAX_ADDRESSES).collect();
                if found.is_empty() { Err(NameError::NoSuchName) } else { Ok(found) }
            }
            How::OverHttps { providers, known } => {
                let remembered = known
                    .lock()
                    .expect("nothing panics while it is locked")
                    .get(&host)
                    .map(|(at, ips)| (*at, ips.clone()));
                if let Some((at, ips)) = remembered
                    && at.elapsed() < KEEP
                {
                    return Ok(ips);
                }
                let ips = ask_all(providers, &host).await?;
                let mut known = known.lock().expect("nothing panics while it is locked");
                if known.len() >= MAX_NAMES {
                    known.retain(|_, (at, _)| at.elapsed() < KEEP);
                }
                if known.len() < MAX_NAMES {
                    known.insert(host, (Instant::now(), ips.clone()));
                }
                Ok(ips)
            }
        }
    }
}

/// The first answer with an address counts. That there is no such name is believed only where nobody says otherwise:
/// blocking a name often looks like that.
async fn ask_all(providers: &[Doh], host: &str) -> Result<Vec<IpAddr>, NameError> {
    let mut asked: FuturesUnordered<_> = (0..)
        .zip(providers)
        .map(|(n, provider)| async move {
            sleep(STAGGER * n).await;
            ask(provider, host).await
        })
        .collect();
    let mut failure = NameError::NoAnswer;
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(ips) => return Ok(ips),
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
    failure.map_or_else(|| Ok(ips.take(MAX_ADDRESSES).collect()), Err)
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
