//! Directories and beacons from registries over HTTP.
//!
//! Any static host of the same bytes is as good as the registry: both are checked against pinned roots. All endpoints
//! are requested concurrently, so a blocked one costs no time. The newest valid directory wins.

use std::{collections::BTreeMap, net::SocketAddr, str::FromStr, time::Duration};

use bytes::Bytes;
use chappe_common::{
    beacon::{Beacon, BeaconError, MAX_BEACON, SignedBeacon},
    directory::{DirectoryBundle, DirectoryError, MAX_BUNDLE},
    keys::PublicKey,
    list_request::ListRequest,
    removal::NodeRemoval,
    revocation::SignedRevocation,
    root_statements::{ListOrigin, MAX_STATEMENT_LIST, RootStatement, decode_list},
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
    names::NameResolver,
    net::Net,
    reach::ReachError,
    setup_error::SetupError,
    source::{Candidate, ListForm, SignedList, Source, SourceError, SourceKind, SourceResponse},
    trust::{self, Trust},
};

/// How long to wait for the roots' statements after a directory has arrived. A registry that withholds them must not delay
/// a search.
const STATEMENTS_GRACE: Duration = Duration::from_millis(150);

/// The longest response to a POST: one line of JSON.
const MAX_ANSWER: usize = 1024;

/// The address of a registry or a mirror, and how to connect to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The base URL of a registry (`https://registry.example`), or the URL of a directory file. A URL whose last path
    /// segment contains a dot is a file (`https://files.example/nodes/directory.bin`).
    pub url: String,
    /// The address to connect to instead of resolving the URL's host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_to: Option<SocketAddr>,
    /// The TLS server name, if it differs from the URL's host. The certificate must be valid for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The `Host` header, if it differs from the URL's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// The text is not a valid endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseEndpointError {
    /// An option after the URL is unknown or malformed.
    #[error("not an endpoint: URL[,connect_to=IP:PORT][,sni=NAME][,host=NAME[:PORT]] is expected")]
    Form,
    /// The URL is not a valid server URL.
    #[error("not a registry's URL: {0}")]
    Url(ServerUrlError),
    /// `sni` or `host` is not a valid host name, or the port is 0.
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

/// An endpoint with its HTTP client.
#[derive(Clone, Debug)]
struct EndpointClient {
    /// The base URL, with the TLS server name as its host.
    base: Url,
    /// The `Host` header, if it differs from the URL's host.
    host: Option<String>,
    /// Whether the endpoint is in a private network. Only then may its nodes be in one: in tests, or in a private
    /// federation.
    is_private: bool,
    http: reqwest::Client,
    names: NameResolver,
    /// An error if the endpoint has no TLS and must have it.
    tls_check: Result<(), ReachError>,
}

impl EndpointClient {
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
        let reached = endpoint.connect_to.map(|addr| format!("{}://{addr}", base.scheme()));
        let tls_check = net.check_tls(reached.as_deref().unwrap_or(base.as_str()));
        let mut tls = (**net.tls()).clone();
        // HTTP/2 does not allow a `Host` that differs from the URL's.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut http = http::builder(tls, net.proxies()).timeout(http::FETCH_TIMEOUT).dns_resolver(net.names().clone());
        if let Some(addr) = endpoint.connect_to {
            // reqwest uses the URL's port, not that of the resolved address.
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
        let http = http.build().map_err(SetupError::Http)?;
        Ok(Self { base, host, is_private, http, names: net.names().clone(), tls_check })
    }

    /// The URL of `path` below the base. For a mirror it is always the URL of the file.
    fn url(&self, path: &str) -> String {
        let base = self.base.as_str();
        if self.is_file() { base.to_owned() } else { format!("{}{path}", base.trim_end_matches('/')) }
    }

    fn is_file(&self) -> bool {
        self.base.path().rsplit('/').next().is_some_and(|last| last.contains('.'))
    }

    async fn get(&self, path: &str, longest: usize) -> Result<Bytes, SourceError> {
        self.send(self.http.get(self.url(path)), longest).await
    }

    async fn statements(&self) -> Result<Vec<RootStatement>, SourceError> {
        let bytes = self.get(trust::PATH, MAX_STATEMENT_LIST).await?;
        Ok(decode_list(bytes).unwrap_or_default())
    }

    async fn post(&self, path: &str, body: Bytes, longest: usize) -> Result<Bytes, SourceError> {
        self.send(self.http.post(self.url(path)).body(body), longest).await
    }

    async fn send(&self, mut request: RequestBuilder, longest: usize) -> Result<Bytes, SourceError> {
        self.tls_check?;
        if let Some(host) = &self.host {
            request = request.header(HOST, host);
        }
        let again = request.try_clone();
        let response = match request.send().await.map_err(|error| ReachError::of_request(&error)) {
            Ok(response) => response,
            // The address may be wrong because a DNS provider lies. Retry with the answers of the other providers.
            Err(error) if error != ReachError::Timeout && self.distrust_address() => {
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

    /// Makes the next lookup of the host prefer other DNS providers. Returns whether a retry may get another address.
    fn distrust_address(&self) -> bool {
        self.base.domain().is_some_and(|name| self.names.distrust_addresses(name))
    }
}

/// A client for the registries and mirrors of one federation. It implements [`Source`].
#[derive(Clone, Debug)]
pub struct RegistryClient {
    endpoints: Vec<EndpointClient>,
    trust: Trust,
}

impl RegistryClient {
    /// Creates a client for these endpoints that accepts only what the roots have signed or delegated. It adds the roots'
    /// statements that it fetches.
    ///
    /// # Errors
    /// An endpoint's URL is invalid, or the HTTP client cannot be set up. Nothing was sent.
    pub fn new(
        endpoints: impl IntoIterator<Item = impl Into<Endpoint>>,
        trust: impl Into<Trust>,
        net: &Net,
    ) -> Result<Self, SetupError> {
        let endpoints = endpoints.into_iter().map(|endpoint| EndpointClient::new(&endpoint.into(), net));
        let endpoints = endpoints.collect::<Result<_, _>>()?;
        Ok(Self { endpoints, trust: trust.into() })
    }

    /// The roots and their statements. The value is shared with the client.
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Fetches the statements of all registries, a list for each. Stops [`STATEMENTS_GRACE`] after `enough`, or when all have
    /// answered. The lists stay apart, so that one registry cannot push what another has sent out of a bound.
    async fn fetch_statements(&self, enough: impl Future<Output = ()>) -> Vec<Vec<RootStatement>> {
        let endpoints = self.endpoints.iter().filter(|endpoint| !endpoint.is_file());
        let mut asked: FuturesUnordered<_> = endpoints.map(EndpointClient::statements).collect();
        let mut all = Vec::new();
        let until = async {
            enough.await;
            tokio::time::sleep(STATEMENTS_GRACE).await;
        };
        tokio::pin!(until);
        loop {
            let answered = tokio::select! {
                biased;
                answered = asked.next() => answered,
                () = &mut until => return all,
            };
            let Some(answered) = answered else { return all };
            // A registry without an answer, or without statements, does not affect the others.
            all.extend(answered);
        }
    }

    /// Fetches the roots' statements from all registries and learns them.
    pub async fn refresh_statements(&self, now: UnixTime) {
        for list in self.fetch_statements(std::future::pending()).await {
            self.trust.learn(list, ListOrigin::Peer(now));
        }
    }

    /// Runs `work` while the roots' statements are fetched concurrently. They are known when it returns.
    async fn with_fetched_statements<T>(&self, now: UnixTime, work: impl Future<Output = T>) -> T {
        let (done, enough) = oneshot::channel();
        let worked = async {
            let result = work.await;
            // The receiver is gone if all registries have already answered.
            let _ = done.send(());
            result
        };
        let enough = async {
            // An error means that the sender was dropped, which also ends the wait.
            let _ = enough.await;
        };
        let (result, fetched) = join(worked, self.fetch_statements(enough)).await;
        for list in fetched {
            self.trust.learn(list, ListOrigin::Peer(now));
        }
        result
    }

    /// Learns the statements of one endpoint, whose signature is by no known root. Returns whether it has answered.
    async fn learn_from(&self, endpoint: &EndpointClient, now: UnixTime) -> bool {
        if endpoint.is_file() {
            return false;
        }
        let Ok(statements) = endpoint.statements().await else { return false };
        self.trust.learn(statements, ListOrigin::Peer(now));
        true
    }

    /// Verifies a directory. If the root was rotated, the endpoint's statements lead to the new one.
    async fn verify(
        &self,
        endpoint: &EndpointClient,
        bytes: Bytes,
        now: UnixTime,
    ) -> Result<DirectoryBundle, SourceError> {
        let decode = || DirectoryBundle::decode(bytes.clone(), &self.trust.roots(), now);
        match decode() {
            Err(DirectoryError::Root) if self.learn_from(endpoint, now).await => Ok(decode()?),
            decoded => Ok(decoded?),
        }
    }

    /// All valid directories that arrive within the grace period after the first one.
    async fn fetch_directories(&self, now: UnixTime) -> Result<Vec<FetchedDirectory>, SourceError> {
        let asked = self.endpoints.iter().map(|endpoint| async move {
            let bytes = endpoint.get("/v1/directory", MAX_BUNDLE).await?;
            let bundle = self.verify(endpoint, bytes.clone(), now).await?;
            Ok(FetchedDirectory { bundle, bytes, is_private: endpoint.is_private })
        });
        first_answers(asked).await
    }

    /// Fetches the full directories. A registry returns all public nodes for a signed `request` of a listed node.
    /// Mirrors, and registries that do not list the node, return the public sample instead.
    ///
    /// `request` signs a new request for the online key that it is given: each is accepted only once. Returns at least
    /// one directory, and one for each online key, since independent registries list different nodes.
    ///
    /// # Errors
    /// No registry returned a valid directory: the error of the last one to fail.
    pub async fn fetch_full_directories(
        &self,
        request: &(impl Fn(PublicKey) -> Signed<ListRequest> + Sync),
        now: UnixTime,
    ) -> Result<Vec<DirectoryBundle>, SourceError> {
        let asked = self.endpoints.iter().map(|endpoint| async move {
            let shown = endpoint.get("/v1/directory", MAX_BUNDLE).await?;
            let shown = self.verify(endpoint, shown, now).await?;
            if endpoint.is_file() {
                // A mirror has no use for the request, and could replay it to the registry before this node sends it.
                return Ok(shown);
            }
            let request = request(shown.directory().key_id);
            match endpoint.post("/v1/directory", request.as_bytes().clone(), MAX_BUNDLE).await {
                Err(SourceError::Status(_)) => Ok(shown),
                answered => self.verify(endpoint, answered?, now).await,
            }
        });
        let mut all = self.with_fetched_statements(now, first_answers(asked)).await?;
        all.retain(|bundle| !self.trust.revokes(&bundle.directory().key_id));
        if all.is_empty() {
            return Err(SourceError::Revoked);
        }
        // A full older directory lists more nodes than a newer sample.
        let rank = |bundle: &DirectoryBundle| (bundle.directory().is_whole(), bundle.directory().seq);
        all.sort_by_key(|bundle| (bundle.directory().key_id, std::cmp::Reverse(rank(bundle))));
        all.dedup_by_key(|bundle| bundle.directory().key_id);
        Ok(all)
    }

    /// Sends a removal to all registries, one after the other.
    ///
    /// # Errors
    /// The error of the first registry that did not accept it. Those before it have accepted it; retrying is safe.
    pub async fn publish_removal(&self, removal: &Signed<NodeRemoval>) -> Result<(), SourceError> {
        for endpoint in &self.endpoints {
            endpoint.post("/v1/removals", removal.as_bytes().clone(), MAX_ANSWER).await?;
        }
        Ok(())
    }

    /// Sends a revocation to all registries, one after the other.
    ///
    /// # Errors
    /// The error of the first registry that did not accept it. Those before it have accepted it; retrying is safe.
    pub async fn publish_revocation(&self, revocation: &SignedRevocation) -> Result<(), SourceError> {
        for endpoint in &self.endpoints {
            endpoint.post(trust::PATH, revocation.as_bytes().clone(), MAX_ANSWER).await?;
        }
        Ok(())
    }

    /// Fetches the newest beacon that is valid at `now`. Returns `None` if no registry has a beacon.
    ///
    /// # Errors
    /// No registry answered: the error of the last one to fail.
    pub async fn fetch_beacon(&self, now: UnixTime) -> Result<Option<SignedBeacon>, SourceError> {
        let asked = self.endpoints.iter().map(|endpoint| async move {
            match endpoint.get("/v1/beacon", MAX_BEACON).await {
                Ok(bytes) => {
                    let decode = || Beacon::decode(bytes.clone(), &self.trust.roots(), now);
                    match decode() {
                        Err(BeaconError::Root) if self.learn_from(endpoint, now).await => Ok(Some(decode()?)),
                        decoded => Ok(Some(decoded?)),
                    }
                }
                Err(SourceError::Status(404)) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let all = first_answers(asked).await?;
        Ok(all.into_iter().flatten().max_by_key(|beacon| beacon.number))
    }
}

impl Source for RegistryClient {
    fn kind(&self) -> SourceKind {
        SourceKind::Registry
    }

    fn list(&self, now: UnixTime) -> BoxFuture<'_, Result<SourceResponse, SourceError>> {
        async move {
            let fetched = self.with_fetched_statements(now, self.fetch_directories(now)).await?;
            let all = newest_of_each_key(fetched);
            let lists = all.into_iter().map(|FetchedDirectory { bundle, bytes, is_private }| {
                let directory = bundle.directory();
                let records: Vec<_> = bundle.records_old(now).collect();
                // A public registry must not make clients connect to addresses in their own private network.
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
            Ok(SourceResponse { lists: lists.collect(), ..SourceResponse::default() })
        }
        .boxed()
    }
}

/// A directory with its raw bytes.
#[derive(Debug)]
struct FetchedDirectory {
    bundle: DirectoryBundle,
    bytes: Bytes,
    /// Whether it came from an endpoint in a private network.
    is_private: bool,
}

/// Keeps only the newest directories of each key. Numbers of different keys are not comparable: a registry that is
/// ahead of the others must not hide what they list.
fn newest_of_each_key(mut all: Vec<FetchedDirectory>) -> Vec<FetchedDirectory> {
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

    fn fetched(online: u8, seq: u64) -> FetchedDirectory {
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
        FetchedDirectory { bytes: bundle.encode().into(), bundle, is_private: false }
    }

    #[test]
    fn a_registry_with_a_higher_number_hides_no_nodes_of_other_registries() {
        let all = vec![fetched(1, 5), fetched(2, 9000), fetched(1, 7), fetched(3, 1)];
        let newest = newest_of_each_key(all);
        assert_eq!(newest.iter().map(|fetched| fetched.bundle.directory().seq).collect::<Vec<_>>(), [9000, 7, 1]);
    }

    fn endpoint_client(text: &str) -> EndpointClient {
        EndpointClient::new(&text.parse().expect("an endpoint"), &Net::default()).expect("a usable endpoint")
    }

    #[test]
    fn an_endpoint_has_an_address_a_tls_name_and_a_host_header() {
        let plain = endpoint_client("https://registry.example/");
        assert_eq!((plain.url("/v1/directory").as_str(), plain.host), ("https://registry.example/v1/directory", None));
        let mirror = endpoint_client("http://files.example/a/directory.bin");
        assert_eq!(mirror.url("/v1/directory"), "http://files.example/a/directory.bin");
        let below = endpoint_client("http://files.example/chappe");
        assert_eq!(below.url("/v1/directory"), "http://files.example/chappe/v1/directory");
        let fronted = endpoint_client("https://registry.example,connect_to=192.0.2.1:8443,sni=shop.example");
        assert_eq!(fronted.url("/v1/directory"), "https://shop.example:8443/v1/directory");
        assert_eq!(fronted.host.as_deref(), Some("registry.example"));
        let named = endpoint_client("https://registry.example:444,connect_to=192.0.2.1:8443,host=other.example");
        assert_eq!(named.url("/x"), "https://registry.example:8443/x");
        assert_eq!(named.host.as_deref(), Some("other.example"));
        let address = endpoint_client("http://192.0.2.9,connect_to=127.0.0.1:81");
        assert_eq!(address.url("/x"), "http://127.0.0.1:81/x");
    }

    #[test]
    fn only_an_endpoint_in_a_private_network_may_name_private_addresses() {
        for public in ["https://registry.example.org", "https://10.0.0.1,connect_to=9.9.9.9:443", "http://9.9.9.9"] {
            assert!(!endpoint_client(public).is_private, "{public}");
        }
        for private in
            ["http://127.0.0.1:8700", "http://registry.lan", "https://registry.example.org,connect_to=10.0.0.1:1"]
        {
            assert!(endpoint_client(private).is_private, "{private}");
        }
    }

    #[test]
    fn an_invalid_endpoint_is_refused() {
        for text in ["", "registry.example", "ftp://a", "http://a,connect_to=b", "http://a,colour=red", "http://a,sni"]
        {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        assert!(matches!(
            EndpointClient::new(&Endpoint::from("http://".to_owned()), &Net::default()),
            Err(SetupError::Url(_))
        ));
    }
}
