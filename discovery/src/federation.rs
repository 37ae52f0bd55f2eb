//! A federation's roots and registries, from a node, for who knows only the federation's id: somebody who was sent a link.
//!
//! The id commits to the roots, so a node can't show others. Registries are places to ask alone: what they list has to
//! rest on the roots.

use chappe_common::{federation::FederationId, keys::PublicKey, special};
use serde::{Deserialize, Serialize};

use crate::{
    net::Net,
    node_http::{self, GetError},
    reach::ReachError,
    registry::Endpoint,
    revocations::Hosts,
    setup_error::SetupError,
};

/// Where a node serves it.
pub const PATH: &str = "/v1/federation";
/// The longest answer: eight keys, and a few URLs.
const MAX_ANSWER: usize = 4096;
/// The most roots of a federation.
const MAX_ROOTS: usize = 8;
/// The most registries that are taken over.
const MAX_REGISTRIES: usize = 4;

/// What a node says of its federation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FederationInfo {
    /// Its roots.
    pub roots: Vec<PublicKey>,
    /// The base URLs of its registries, as far as the node knows them.
    pub registries: Vec<String>,
}

/// Why nothing was learned. Another node can be asked.
#[derive(Debug, thiserror::Error)]
pub enum FederationError {
    /// The URL is none, or in a private network, where this side doesn't ask.
    #[error("the node's URL is none that is asked")]
    Url,
    /// The HTTP client can't be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No connection, or no answer in time.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// Something else than a federation's roots.
    #[error("the answer is no federation's roots")]
    Answer,
    /// The roots are another federation's than the one that was asked for.
    #[error("the roots are of another federation than the link's")]
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

/// Asks a node at the host of its client URL for the roots of `federation`. Takes six seconds at most.
///
/// # Errors
/// There is no answer, or one of another federation.
pub async fn of_node(
    url: &str,
    hosts: Hosts,
    federation: FederationId,
    net: &Net,
) -> Result<FederationInfo, FederationError> {
    let is_asked = |url: &str| hosts == Hosts::All || special::is_public_url(url);
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
    Ok(info)
}

/// Whether a text is a URL alone, and reads as the same endpoint wherever it is stored. A node must not choose the address,
/// the TLS name or the host by which a client connects.
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
    async fn a_node_names_registries_by_their_urls_and_says_nothing_of_how_they_are_reached() {
        let roots = vec![SecretKey::from_bytes(&[1; 32]).public()];
        let registries = [
            "https://8.8.8.8/x,connect_to=10.0.0.1:80",
            "https://8.8.8.8,sni=other.example",
            "https://8.8.8.8/x,y",
            "https://8.8.8.8/,",
            "https://me@8.8.8.8",
            "https://8.8.8.8/v1",
        ];
        let info =
            FederationInfo { roots: roots.clone(), registries: registries.map(str::to_owned).into_iter().collect() };
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
        let asking = of_node(&url, Hosts::All, FederationId::of_roots(&roots), &net);
        let (learned, ()) = tokio::join!(asking, serving);
        assert_eq!(learned.expect("a federation").registries, ["https://8.8.8.8/v1"]);
    }
}
