//! Directories and beacons from registries over HTTP.
//!
//! Any static host of the same bytes is as good as the registry: both are checked against pinned roots. All
//! endpoints are asked at once, so a blocked one costs no time, and the newest directory of those that answer is taken.

use std::{collections::BTreeMap, net::SocketAddr, str::FromStr, time::Duration};

use bytes::Bytes;
use chappe_common::{
    beacon::{BeaconNote, MAX_BEACON, SignedBeacon},
    directory::{DirectoryBundle, MAX_BUNDLE},
    keys::PublicKey,
    list_request::ListRequest,
    removal::NodeRemoval,
    revocation::{MAX_REVOCATION_LIST, Revocations, SignedRevocation},
    server_url::{Rest, ServerUrlError, check_host, check_url},
    signed::Signed,
    special,
    time::UnixTime,
};
use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, join},
    stream::FuturesUnordered,
};
use reqwest::{RequestBuilder, Url, header::HOST};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    answers::first_answers,
    http,
    names::Names,
    net::Net,
    reach::ReachError,
    revocations::{self, KnownRevocations},
    setup_error::SetupError,
    source::{Candidate, ListForm, Listing, SignedList, Source, SourceError, SourceKind},
};

/// How long the registries' revocations are waited for once a directory is there: who holds them back must not delay a
/// search.
const REVOCATIONS_GRACE: Duration = Duration::from_millis(150);

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
pub enum ParseEndpointError {
    /// Something else follows the URL than what may.
    #[error("not an endpoint: URL[,connect_to=IP:PORT][,sni=NAME][,host=NAME[:PORT]] is expected")]
    Form,
    /// The URL names no server that there can be.
    #[error("not a registry's URL: {0}")]
    Url(ServerUrlError),
    /// `sni` or `host` is none that there can be.
    #[error("not a host: {0}")]
    Host(ServerUrlError),
}

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    /// `URL[,connect_to=IP:PORT][,sni=NAME][,host=NAME]`.
    fn from_str(text: &str) -> Result<Self, ParseEndpointError> {
        let mut parts = text.split(',');
        let url = parts.next().unwrap_or_default().to_owned();
        check_url(&url, &["https://", "http://"], Rest::Path).map_err(ParseEndpointError::Url)?;
        let mut endpoint = Self { url, ..Self::default() };
        for part in parts {
            match part.split_once('=') {
                Some(("connect_to", addr)) => {
                    let addr: SocketAddr = addr.parse().map_err(|_| ParseEndpointError::Form)?;
                    if addr.port() == 0 {
                        return Err(ParseEndpointError::Host(ServerUrlError::Port));
                    }
                    endpoint.connect_to = Some(addr);
                }
                Some(("sni", name)) => {
                    check_host(name).map_err(ParseEndpointError::Host)?;
                    endpoint.sni = Some(name.to_owned());
                }
                Some(("host", name)) => {
                    check_url(&format!("https://{name}"), &["https://"], Rest::Nothing)
                        .map_err(ParseEndpointError::Host)?;
                    endpoint.host = Some(name.to_owned());
                }
                _ => return Err(ParseEndpointError::Form),
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
    /// It is in a private network itself, so that its nodes may be: a test, or a federation of one's own.
    is_private: bool,
    http: reqwest::Client,
    names: Names,
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
        let mut http = http::builder(tls, net.proxies()).timeout(http::FETCH_TIMEOUT).dns_resolver(net.names().clone());
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
        let is_private = match endpoint.connect_to {
            Some(addr) => !special::is_public(addr.ip()),
            None => !special::is_public_url(&endpoint.url),
        };
        Ok(Self { base, host, is_private, http: http.build().map_err(SetupError::Http)?, names: net.names().clone() })
    }

    /// `path` under the base; a file is itself, whatever is asked of it.
    fn url(&self, path: &str) -> String {
        let base = self.base.as_str();
        if self.is_file() { base.to_owned() } else { format!("{}{path}", base.trim_end_matches('/')) }
    }

    fn is_file(&self) -> bool {
        self.base.path().rsplit('/').next().is_some_and(|last| last.contains('.'))
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
        let again = request.try_clone();
        let response = match request.send().await.map_err(|error| ReachError::of_request(&error)) {
            Ok(response) => response,
            // Nothing was there, or somebody else: perhaps who named the address lies, and another knows better.
            Err(error) if error != ReachError::Timeout && self.doubt_address() => {
                let again = again.ok_or(error)?;
                again.send().await.map_err(|error| ReachError::of_request(&error))?
            }
            Err(error) => return Err(error.into()),
        };
        if response.status() != reqwest::StatusCode::OK {
            return Err(SourceError::Status(response.status().as_u16()));
        }
        http::body(response, longest).await.map_err(|error| match error {
            http::BodyError::Timeout => SourceError::Timeout,
            http::BodyError::Broken => SourceError::Broken,
            http::BodyError::TooLong => SourceError::TooLong,
        })
    }

    /// Has the name resolved anew, by others. Whether that can lead elsewhere.
    fn doubt_address(&self) -> bool {
        self.base.domain().is_some_and(|name| self.names.doubt(name))
    }
}

/// The registry as a source.
#[derive(Clone, Debug)]
pub struct Registry {
    endpoints: Vec<Prepared>,
    roots: Vec<PublicKey>,
    revocations: KnownRevocations,
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
        let endpoints = endpoints.collect::<Result<_, _>>()?;
        Ok(Self { endpoints, roots, revocations: KnownRevocations::default() })
    }

    /// The same, with what is known of revoked keys. What the registries say of them is added to it.
    #[must_use]
    pub fn with_revocations(mut self, known: KnownRevocations) -> Self {
        self.revocations = known;
        self
    }

    /// The revocations that the registries serve and that count. Waits for `enough` and a moment, or for all.
    async fn fetch_revocations(&self, enough: impl Future<Output = ()>) -> Vec<SignedRevocation> {
        let mut asked: FuturesUnordered<_> = self
            .endpoints
            .iter()
            .filter(|endpoint| !endpoint.is_file())
            .map(|endpoint| endpoint.get(revocations::PATH, MAX_REVOCATION_LIST))
            .collect();
        let mut all = Vec::new();
        let until = async {
            enough.await;
            tokio::time::sleep(REVOCATIONS_GRACE).await;
        };
        tokio::pin!(until);
        loop {
            let answered = tokio::select! {
                biased;
                answered = asked.next() => answered,
                () = &mut until => return all,
            };
            let Some(answered) = answered else { return all };
            // One that doesn't answer, or knows of none, says nothing of the others.
            let list = answered.ok().and_then(|bytes| Revocations::decode(bytes, &self.roots).ok());
            all.extend(list.unwrap_or_default().iter().cloned());
        }
    }

    /// Asks the registries which online keys are revoked, and adds what they say to what is known.
    pub async fn refresh_revocations(&self) {
        let fetched = self.fetch_revocations(std::future::pending()).await;
        self.revocations.add(fetched);
    }

    /// What `work` comes to, while the revocations are fetched beside it; these are known then.
    async fn with_fetched_revocations<T>(&self, work: impl Future<Output = T>) -> (T, Vec<SignedRevocation>) {
        let (done, enough) = oneshot::channel();
        let worked = async {
            let result = work.await;
            // Nobody waits for it any more where all have answered.
            let _ = done.send(());
            result
        };
        let enough = async {
            // The sender is dropped after it has sent.
            let _ = enough.await;
        };
        let (result, fetched) = join(worked, self.fetch_revocations(enough)).await;
        self.revocations.add(fetched.iter().cloned());
        (result, fetched)
    }

    /// All directories that come within a moment of the first good one.
    async fn fetch_all(&self, now: UnixTime) -> Result<Vec<Fetched>, SourceError> {
        let asked = self.endpoints.iter().map(|endpoint| async move {
            let bytes = endpoint.get("/v1/directory", MAX_BUNDLE).await?;
            let bundle = DirectoryBundle::decode(bytes.clone(), &self.roots, now)?;
            Ok(Fetched { bundle, bytes, is_private: endpoint.is_private })
        });
        first_answers(asked).await
    }

    /// All public nodes, where a registry shows them to whoever signs a `request` to its online key; else what it shows to
    /// anybody, as a mirror does, or a registry at which the node isn't listed yet. A request is good once. One directory of
    /// each key that signs, since independent registries list different nodes; at least one.
    ///
    /// # Errors
    /// Why the last of the registries to fail has given none.
    pub async fn fetch_whole(
        &self,
        request: &(impl Fn(PublicKey) -> Signed<ListRequest> + Sync),
        now: UnixTime,
    ) -> Result<Vec<DirectoryBundle>, SourceError> {
        let asked = self.endpoints.iter().map(|endpoint| async move {
            let decode = |bytes| DirectoryBundle::decode(bytes, &self.roots, now);
            let shown = decode(endpoint.get("/v1/directory", MAX_BUNDLE).await?)?;
            if endpoint.is_file() {
                // A mirror can do nothing with the request, but play it to the registry before this does.
                return Ok(shown);
            }
            let request = request(shown.directory().key_id);
            match endpoint.post("/v1/directory", request.as_bytes().clone(), MAX_BUNDLE).await {
                Err(SourceError::Status(_)) => Ok(shown),
                answered => Ok(decode(answered?)?),
            }
        });
        let (answered, _) = self.with_fetched_revocations(first_answers(asked)).await;
        let mut all = answered?;
        all.retain(|bundle| !self.revocations.revokes(&bundle.directory().key_id));
        if all.is_empty() {
            return Err(SourceError::Revoked);
        }
        // A part of a newer one says less than the whole of another.
        let rank = |bundle: &DirectoryBundle| (bundle.directory().is_whole(), bundle.directory().seq);
        all.sort_by_key(|bundle| (bundle.directory().key_id, std::cmp::Reverse(rank(bundle))));
        all.dedup_by_key(|bundle| bundle.directory().key_id);
        Ok(all)
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

    /// Tells all of the registries that an online key is revoked.
    ///
    /// # Errors
    /// What the first one that doesn't take it said.
    pub async fn tell_revocation(&self, revocation: &SignedRevocation) -> Result<(), SourceError> {
        for endpoint in &self.endpoints {
            endpoint.post(revocations::PATH, revocation.as_bytes().clone(), MAX_ANSWER).await?;
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
            let (fetched, revocations) = self.with_fetched_revocations(self.fetch_all(now)).await;
            let all = match fetched {
                Ok(all) => newest_of_each_key(all),
                // What is known of stolen keys counts, also where there is no list.
                Err(_) if !revocations.is_empty() => Vec::new(),
                Err(error) => return Err(error),
            };
            let lists = all.into_iter().map(|Fetched { bundle, bytes, is_private }| {
                let directory = bundle.directory();
                let records: Vec<_> = bundle.records_old(now).collect();
                // A list from the internet sends nobody into a network of his own.
                let candidates = records
                    .iter()
                    .flat_map(|record| Candidate::of_record(record, SourceKind::Registry))
                    .filter(|candidate| is_private || special::is_public_url(&candidate.url));
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
            Ok(Listing { lists: lists.collect(), revocations, ..Listing::default() })
        }
        .boxed()
    }
}

/// A directory that an endpoint has given.
#[derive(Debug)]
struct Fetched {
    bundle: DirectoryBundle,
    bytes: Bytes,
    /// By an endpoint in a private network.
    is_private: bool,
}

/// What is older than another of the same key says nothing. Numbers of different keys don't compare: one registry that is
/// ahead of the others must not hide what they list.
fn newest_of_each_key(mut all: Vec<Fetched>) -> Vec<Fetched> {
    let mut newest: BTreeMap<PublicKey, u64> = BTreeMap::new();
    for fetched in &all {
        let directory = fetched.bundle.directory();
        let seq = newest.entry(directory.key_id).or_default();
        *seq = directory.seq.max(*seq);
    }
    all.retain(|fetched| newest.get(&fetched.bundle.directory().key_id) == Some(&fetched.bundle.directory().seq));
    all
}

#[cfg(test)]
mod tests {
    use chappe_common::{
        directory::{Delegation, Directory},
        federation::FederationId,
        keys::SecretKey,
    };

    use super::*;

    fn fetched(online: u8, seq: u64) -> Fetched {
        let (root, key) = (SecretKey::from_bytes(&[9; 32]), SecretKey::from_bytes(&[online; 32]));
        let federation = FederationId::of_roots(&[root.public()]);
        let (issued_at, expires_at) = (UnixTime::from_secs(1000), UnixTime::from_secs(2000));
        let delegation =
            Delegation { federation, root: root.public(), key: key.public(), not_before: issued_at, expires_at };
        let nodes = vec![Bytes::from_static(b"a node")];
        let directory =
            Directory { federation, key_id: key.public(), seq, issued_at, expires_at, shard: (0, 1), nodes };
        let delegation = Signed::sign(delegation, &root).expect("a delegation");
        let bundle = DirectoryBundle::sign(delegation, directory, &key).expect("a directory");
        Fetched { bytes: bundle.encode().into(), bundle, is_private: false }
    }

    #[test]
    fn a_registry_that_is_ahead_hides_nothing_of_what_others_list() {
        let all = vec![fetched(1, 5), fetched(2, 9000), fetched(1, 7), fetched(3, 1)];
        let newest = newest_of_each_key(all);
        assert_eq!(newest.iter().map(|fetched| fetched.bundle.directory().seq).collect::<Vec<_>>(), [9000, 7, 1]);
    }

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
    fn only_an_endpoint_in_a_private_network_may_name_what_is_there() {
        for public in ["https://registry.example.org", "https://10.0.0.1,connect_to=9.9.9.9:443", "http://9.9.9.9"] {
            assert!(!prepared(public).is_private, "{public}");
        }
        for private in
            ["http://127.0.0.1:8700", "http://registry.lan", "https://registry.example.org,connect_to=10.0.0.1:1"]
        {
            assert!(prepared(private).is_private, "{private}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in ["", "registry.example", "ftp://a", "http://a,connect_to=b", "http://a,colour=red", "http://a,sni"]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        assert!(matches!(
            Prepared::new(&Endpoint::from("http://".to_owned()), &Net::default()),
            Err(SetupError::Url(_))
        ));
    }
}
