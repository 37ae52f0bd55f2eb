//! Fetches the roots, registries and DNS names of a federation from a node, for a client that knows only the federation's id from
//! a link.
//!
//! The id commits to the roots, so the node cannot send wrong ones. It can send wrong registries and DNS names, but their
//! lists are verified against the roots.

use chappe_common::{federation::FederationId, keys::PublicKey, special};
use serde::{Deserialize, Serialize};

use crate::{
    dns,
    names::Scope,
    net::Net,
    node_http::{self, GetError},
    reach::ReachError,
    registry::Endpoint,
    setup_error::SetupError,
};

/// The path at nodes.
pub const PATH: &str = "/v1/federation";
/// Maximal length of the response: eight keys, and a few URLs and names.
const MAX_ANSWER: usize = 4096;
/// Maximal number of roots.
const MAX_ROOTS: usize = 8;
/// Maximal number of registries that are used.
const MAX_REGISTRIES: usize = 4;
/// Maximal number of DNS names that are used.
pub const MAX_DNS_NAMES: usize = 4;

/// A node's information about its federation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FederationInfo {
    /// The federation's root keys.
    pub roots: Vec<PublicKey>,
    /// The base URLs of its registries, as far as the node knows them.
    pub registries: Vec<String>,
    /// The names under which it publishes nodes in DNS, as far as the node knows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
}

/// Why the request failed. Another node may answer.
#[derive(Debug, thiserror::Error)]
pub enum FederationError {
    /// The URL is invalid, or is in a private network and only public hosts are allowed.
    #[error("the node's URL is invalid or in a private network")]
    Url,
    /// The HTTP client cannot be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No connection, or no response in time.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The response is not a valid list of roots.
    #[error("the response contains no valid root keys")]
    Answer,
    /// The roots belong to another federation.
    #[error("the roots belong to another federation than the link")]
    Other,
}

impl From<GetError> for FederationError {
    fn from(error: GetError) -> Self {
        match error {
            GetError::Setup(error) => Self::Setup(error),
            GetError::Reach(error) => Self::Reach(error),
            GetError::Status(_) | GetError::Body => Self::Answer,
        }
    }
}

/// Fetches the roots of `federation` from a node, at the host of its client URL. Takes at most six seconds.
///
/// # Errors
/// The URL is not usable, there is no valid response, or it is for another federation.
pub async fn fetch_from_node(
    url: &str,
    scope: Scope,
    federation: FederationId,
    net: &Net,
) -> Result<FederationInfo, FederationError> {
    let is_asked = |url: &str| scope == Scope::Private || special::is_public_url(url);
    if !is_asked(url) {
        return Err(FederationError::Url);
    }
    let url = node_http::url_of_node(url, PATH).map_err(|_| FederationError::Url)?;
    let bytes = node_http::get(url, MAX_ANSWER, net).await?;
    let mut info: FederationInfo = serde_json::from_slice(&bytes).map_err(|_| FederationError::Answer)?;
    if info.roots.is_empty() || info.roots.len() > MAX_ROOTS || !info.roots.iter().all(PublicKey::is_usable) {
        return Err(FederationError::Answer);
    }
    if FederationId::of_roots(&info.roots) != federation {
        return Err(FederationError::Other);
    }
    info.registries.retain(|url| is_bare_url(url) && is_asked(url));
    info.registries.truncate(MAX_REGISTRIES);
    info.dns.retain(|name| dns::is_name(name));
    info.dns.truncate(MAX_DNS_NAMES);
    Ok(info)
}

/// Whether a text is a plain URL without options, however it is stored. A node must not choose the address, TLS name or
/// host by which a client connects.
fn is_bare_url(text: &str) -> bool {
    text.parse::<Endpoint>().is_ok_and(|endpoint| endpoint == Endpoint::from(text))
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{names::Scope, tls};

    #[tokio::test]
    async fn a_node_names_registries_by_their_urls_and_dns_names_but_not_how_they_are_reached() {
        let roots = vec![SecretKey::from_bytes(&[1; 32]).public()];
        let registries = [
            "https://8.8.8.8/x,connect_to=10.0.0.1:80",
            "https://8.8.8.8,sni=other.example",
            "https://8.8.8.8/x,y",
            "https://8.8.8.8/,",
            "https://me@8.8.8.8",
            "https://8.8.8.8/v1",
        ];
        let dns = ["chappe.example.org", "not a name", "b.example", "c.example", "d.example", "e.example"];
        let info = FederationInfo {
            roots: roots.clone(),
            registries: registries.map(str::to_owned).into(),
            dns: dns.map(str::to_owned).into(),
        };
        let body = serde_json::to_vec(&info).expect("JSON");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("ws://{}", listener.local_addr().expect("an address"));
        let serving = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("a request"));
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), &body].concat()).await.expect("an open connection");
        };
        let net = Net::system(tls::config(), Scope::Private);
        let asking = fetch_from_node(&url, Scope::Private, FederationId::of_roots(&roots), &net);
        let (learned, ()) = tokio::join!(asking, serving);
        let learned = learned.expect("a federation");
        assert_eq!(learned.registries, ["https://8.8.8.8/v1"]);
        assert_eq!(learned.dns, ["chappe.example.org", "b.example", "c.example", "d.example"]);
    }
}
