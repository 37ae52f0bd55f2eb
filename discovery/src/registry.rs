//! Directories and beacons from registries over HTTP.
//!
//! Any static host of the same bytes is as good as the registry: both are checked against pinned roots. All
//! endpoints are asked at once, so a blocked one costs no time, and the newest directory of those that answer is taken.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use bytes::Bytes;
use chappe_common::{
    beacon::{BeaconNote, MAX_BEACON, SignedBeacon},
    directory::{DirectoryBundle, MAX_BUNDLE},
    keys::PublicKey,
    list_request::ListRequest,
    removal::NodeRemoval,
    signed::Signed,
    time::UnixTime,
};
use futures_util::{FutureExt as _, future::BoxFuture};
use reqwest::{RequestBuilder, Url, header::HOST};
use serde::{Deserialize, Serialize};

use crate::{
    answers::first_answers,
    http,
    net::{Net, SetupError},
    reach::ReachError,
    source::{Candidate, ListForm, Listing, SignedList, Source, SourceError, SourceKind},
};

/// How long one registry has altogether; the largest directory passes a link of 1 Mbit/s in four seconds.
const FETCH_TIMEOUT: Duration = Duration::from_secs(6);

/// What a registry says when it was told something is a line of JSON.
const MAX_ANSWER: usize = 1024;

/// Where a registry or a mirror of it is, and how to get there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// A registry's base (`https://registry.example`), or a file that is a directory: any whose last part has a dot
    /// (`https://files.example/nodes/directory.bin`).
    pub url: String,
    /// The address to connect to, so that the URL's name need not be resolved, or is fronted by another server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_to: Option<SocketAddr>,
    /// The name that TLS asks for and that the certificate has to be for, where it is not the URL's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The host that the request names, where it is not the URL's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// The text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an endpoint: URL[,connect_to=IP:PORT][,sni=NAME][,host=NAME] is expected")]
pub struct ParseEndpointError;

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    /// `URL[,connect_to=IP:PORT][,sni=NAME][,host=NAME]`.
    fn from_str(text: &str) -> Result<Self, ParseEndpointError> {
        let mut parts = text.split(',');
        let url = parts.next().unwrap_or_default().to_owned();
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(ParseEndpointError);
        }
        let mut endpoint = Self { url, ..Self::default() };
        for part in parts {
            match part.split_once('=') {
                Some(("connect_to", addr)) => endpoint.connect_to = Some(addr.parse().map_err(|_| ParseEndpointError)?),
                Some(("sni", name)) => endpoint.sni = Some(name.to_owned()),
                Some(("host", name)) => endpoint.host = Some(name.to_owned()),
                _ => return Err(ParseEndpointError),
            }
        }
        Ok(endpoint)
    }
}

impl From<String> for Endpoint {
    fn from(url: String) -> Self {
        Self { url, ..Self::default() }
    }
}

impl From<&str> for Endpoint {
    fn from(url: &str) -> Self {
        url.to_owned().into()
    }
}

/// An endpoint that can be asked.
#[derive(Clone, Debug)]
struct Prepared {
    /// With the name that TLS asks for as its host.
    base: Url,
    /// What the request names as the host, where that is another.
    host: Option<String>,
    http: reqwest::Client,
}

impl Prepared {
    fn new(endpoint: &Endpoint, net: &Net) -> Result<Self, SetupError> {
        let wrong = || SetupError::Url(endpoint.url.clone());
        let mut base = Url::parse(&endpoint.url).map_err(|_| wrong())?;
        let authority = match (base.host_str(), base.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return Err(wrong()),
        };
        if !matches!(base.scheme(), "http" | "https") {
            return Err(wrong());
        }
        if let Some(sni) = &endpoint.sni {
            base.set_host(Some(sni)).map_err(|_| wrong())?;
        }
        let mut tls = (**net.tls()).clone();
        // A `Host` that differs from the URL's is a thing of HTTP/1.1 alone.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut http = http::builder(tls).timeout(FETCH_TIMEOUT).dns_resolver(net.names().clone());
        if let Some(addr) = endpoint.connect_to {
            // The port of a URL counts for more than that of a resolved address.
            base.set_port(Some(addr.port())).map_err(|()| wrong())?;
            match base.domain().map(str::to_owned) {
                Some(name) => http = http.resolve(&name, addr),
                None => base.set_ip_host(addr.ip()).map_err(|()| wrong())?,
            }
        }
        let differs = endpoint.sni.is_some() || endpoint.connect_to.is_some();
        let host = endpoint.host.clone().or_else(|| differs.then_some(authority));
        Ok(Self { base, host, http: http.build().map_err(SetupError::Http)? })
    }

    /// `path` under the base; a file is itself, whatever is asked of it.
    fn url(&self, path: &str) -> String {
        let own = self.base.path();
        let is_file = own.rsplit('/').next().is_some_and(|last| last.contains('.'));
        let base = self.base.as_str();
        if is_file { base.to_owned() } else { format!("{}{path}", base.trim_end_matches('/')) }
    }

    async fn get(&self, path: &str, longest: usize) -> Result<Bytes, SourceError> {
        self.ask(self.http.get(self.url(path)), longest).await
    }

    async fn post(&self, path: &str, body: Bytes, longest: usize) -> Result<Bytes, SourceError> {
        self.ask(self.http.post(self.url(path)).body(body), longest).await
    }

    async fn ask(&self, mut request: RequestBuilder, longest: usize) -> Result<Bytes, SourceError> {
        if let Some(host) = &self.host {
            request = request.header(HOST, host);
        }
        let response = request.send().await.map_err(|error| SourceError::from(ReachError::of_request(&error)))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(SourceError::Status(response.status().as_u16()));
        }
        http::body(response, longest).await.map_err(|error| match error {
            http::BodyError::Timeout => SourceError::Timeout,
            http::BodyError::Broken => SourceError::Broken,
            http::BodyError::TooLong => SourceError::TooLong,
        })
    }
}

/// The registry as a source.
#[derive(Clone, Debug)]
pub struct Registry {
    endpoints: Vec<Prepared>,
    roots: Vec<PublicKey>,
}

impl Registry {
    /// A source that asks these endpoints and believes `roots`.
    ///
    /// # Errors
    /// An endpoint's URL is none, or the HTTP client cannot be set up.
    pub fn new(
        endpoints: impl IntoIterator<Item = impl Into<Endpoint>>,
        roots: Vec<PublicKey>,
        net: &Net,
    ) -> Result<Self, SetupError> {
        let endpoints = endpoints.into_iter().map(|endpoint| Prepared::new(&endpoint.into(), net));
        Ok(Self { endpoints: endpoints.collect::<Result<_, _>>()?, roots })
    }

    /// All directories that come within a moment of the first good one, the newest first.
    async fn fetch_all(&self, now: UnixTime) -> Result<Vec<(DirectoryBundle, Bytes)>, SourceError> {
        let asked = self.endpoints.iter().map(|endpoint| async move {
            let bytes = endpoint.get("/v1/directory", MAX_BUNDLE).await?;
            Ok((DirectoryBundle::decode(bytes.clone(), &self.roots, now)?, bytes))
        });
        let mut all = first_answers(asked).await?;
        all.sort_by_key(|(bundle, _)| std::cmp::Reverse(bundle.directory().seq));
        Ok(all)
    }

    /// The newest directory that a registry has and that verifies at `now`.
    ///
    /// # Errors
    /// Why the last of the registries to fail has given none.
    pub async fn fetch(&self, now: UnixTime) -> Result<DirectoryBundle, SourceError> {
        let newest = self.fetch_all(now).await?.into_iter().next();
        newest.map(|(bundle, _)| bundle).ok_or(SourceError::Empty)
    }

    /// All public nodes, where a registry shows them to whoever signed `request`; else what it shows to anybody, as a
    /// mirror does, or a registry at which the node isn't listed yet. A request is good once.
    ///
    /// # Errors
    /// Why the last of the registries to fail has given none.
    pub async fn fetch_whole(
        &self,
        request: &Signed<ListRequest>,
        now: UnixTime,
    ) -> Result<DirectoryBundle, SourceError> {
        let asked = self.endpoints.iter().map(|endpoint| async move {
            let bytes = match endpoint.post("/v1/directory", request.as_bytes().clone(), MAX_BUNDLE).await {
                Err(SourceError::Status(_)) => endpoint.get("/v1/directory", MAX_BUNDLE).await?,
                answered => answered?,
            };
            Ok(DirectoryBundle::decode(bytes, &self.roots, now)?)
        });
        let all = first_answers(asked).await?;
        // A part of a newer one says less than the whole of another.
        let rank = |bundle: &DirectoryBundle| (bundle.directory().is_whole(), bundle.directory().seq);
        all.into_iter().max_by_key(rank).ok_or(SourceError::Empty)
    }

    /// Tells all of the registries that a node is removed.
    ///
    /// # Errors
    /// What the first one that doesn't heed it said.
    pub async fn tell(&self, removal: &Signed<NodeRemoval>) -> Result<(), SourceError> {
        for endpoint in &self.endpoints {
            endpoint.post("/v1/removals", removal.as_bytes().clone(), MAX_ANSWER).await?;
        }
        Ok(())
    }

    /// The newest beacon note that a registry has and that counts at `now`; none where the registries have none.
    ///
    /// # Errors
    /// Why the last of the registries to fail has given no answer.
    pub async fn fetch_beacon(&self, now: UnixTime) -> Result<Option<SignedBeacon>, SourceError> {
        let asked = self.endpoints.iter().map(|endpoint| async move {
            match endpoint.get("/v1/beacon", MAX_BEACON).await {
                Ok(bytes) => Ok(Some(BeaconNote::decode(bytes, &self.roots, now)?)),
                Err(SourceError::Status(404)) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let all = first_answers(asked).await?;
        Ok(all.into_iter().flatten().max_by_key(|note| note.number))
    }
}

impl Source for Registry {
    fn kind(&self) -> SourceKind {
        SourceKind::Registry
    }

    fn list(&self, now: UnixTime) -> BoxFuture<'_, Result<Listing, SourceError>> {
        async move {
            let all = self.fetch_all(now).await?;
            let newest = all.first().map(|(bundle, _)| bundle.directory().seq);
            let of_newest = all.into_iter().filter(|(bundle, _)| Some(bundle.directory().seq) == newest);
            let lists = of_newest.map(|(bundle, bytes)| {
                let directory = bundle.directory();
                let records: Vec<_> = bundle.records_old(now).collect();
                let candidates = records.iter().flat_map(|record| Candidate::of_record(record, SourceKind::Registry));
                SignedList {
                    form: ListForm::Directory,
                    key: directory.key_id,
                    seq: directory.seq,
                    part: directory.shard,
                    issued_at: directory.issued_at,
                    bytes,
                    candidates: candidates.collect(),
                    records,
                }
            });
            Ok(Listing { lists: lists.collect(), ..Listing::default() })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(text: &str) -> Prepared {
        Prepared::new(&text.parse().expect("an endpoint"), &Net::default()).expect("a usable endpoint")
    }

    #[test]
    fn an_endpoint_says_where_to_connect_what_tls_asks_for_and_what_the_request_names() {
        let plain = prepared("https://registry.example/");
        assert_eq!((plain.url("/v1/directory").as_str(), plain.host), ("https://registry.example/v1/directory", None));
        let mirror = prepared("http://files.example/a/directory.bin");
        assert_eq!(mirror.url("/v1/directory"), "http://files.example/a/directory.bin");
        let below = prepared("http://files.example/chappe");
        assert_eq!(below.url("/v1/directory"), "http://files.example/chappe/v1/directory");
        let fronted = prepared("https://registry.example,connect_to=192.0.2.1:8443,sni=shop.example");
        assert_eq!(fronted.url("/v1/directory"), "https://shop.example:8443/v1/directory");
        assert_eq!(fronted.host.as_deref(), Some("registry.example"));
        let named = prepared("https://registry.example:444,connect_to=192.0.2.1:8443,host=other.example");
        assert_eq!(named.url("/x"), "https://registry.example:8443/x");
        assert_eq!(named.host.as_deref(), Some("other.example"));
        let address = prepared("http://192.0.2.9,connect_to=127.0.0.1:81");
        assert_eq!(address.url("/x"), "http://127.0.0.1:81/x");
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in ["", "registry.example", "ftp://a", "http://a,connect_to=b", "http://a,colour=red", "http://a,sni"]
        {
            assert_eq!(text.parse::<Endpoint>(), Err(ParseEndpointError), "{text}");
        }
        assert!(matches!(
            Prepared::new(&Endpoint::from("http://".to_owned()), &Net::default()),
            Err(SetupError::Url(_))
        ));
    }
}
