//! A federation's roots and registries, from a node, for who knows only the federation's id: somebody who was sent a link.
//!
//! The id commits to the roots, so a node can't show others. Registries are places to ask alone: what they list has to
//! rest on the roots.

use chappe_common::{
    federation::FederationId,
    keys::PublicKey,
    server_url::{Rest, check_url},
    special,
};
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::{
    http,
    net::{Net, SetupError},
    reach::ReachError,
    revocations::Hosts,
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
    let mut url = Url::parse(&url.replacen("ws", "http", 1)).map_err(|_| FederationError::Url)?;
    url.set_path(PATH);
    url.set_query(None);
    let client = http::builder((**net.tls()).clone(), net.proxies())
        .timeout(http::FETCH_TIMEOUT)
        .dns_resolver(net.names().clone());
    let client = client.build().map_err(SetupError::Http)?;
    let response = client.get(url).send().await.map_err(|error| ReachError::of_request(&error))?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(FederationError::Answer);
    }
    let bytes = http::body(response, MAX_ANSWER).await.map_err(|_| FederationError::Answer)?;
    let mut info: FederationInfo = serde_json::from_slice(&bytes).map_err(|_| FederationError::Answer)?;
    if info.roots.is_empty() || info.roots.len() > MAX_ROOTS || !info.roots.iter().all(PublicKey::is_usable) {
        return Err(FederationError::Answer);
    }
    if FederationId::of_roots(&info.roots) != federation {
        return Err(FederationError::Other);
    }
    info.registries.retain(|url| check_url(url, &["https://", "http://"], Rest::Path).is_ok() && is_asked(url));
    info.registries.truncate(MAX_REGISTRIES);
    Ok(info)
}
