//! One GET request to a node, for what it serves over HTTP beside its client URL or to operators.

use bytes::Bytes;
use reqwest::Url;

use crate::{http, net::Net, reach::ReachError, setup_error::SetupError};

/// Why a server gave no body.
pub(crate) enum GetError {
    Setup(SetupError),
    Reach(ReachError),
    /// Another status than 200.
    Status(u16),
    Body,
}

/// Requests one document of at most `longest` bytes. Takes [`http::FETCH_TIMEOUT`] at most.
pub(crate) async fn get(url: Url, longest: usize, net: &Net) -> Result<Bytes, GetError> {
    let client = http::builder((**net.tls()).clone(), net.proxies())
        .timeout(http::FETCH_TIMEOUT)
        .dns_resolver(net.names().clone());
    let client = client.build().map_err(|error| GetError::Setup(SetupError::Http(error)))?;
    let response = client.get(url).send().await.map_err(|error| GetError::Reach(ReachError::of_request(&error)))?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(GetError::Status(response.status().as_u16()));
    }
    http::body(response, longest).await.map_err(|_| GetError::Body)
}

/// Where a node serves `path` over HTTP: at the host and port of its client URL.
pub(crate) fn url_of_node(client_url: &str, path: &str) -> Result<Url, <Url as std::str::FromStr>::Err> {
    let mut url = Url::parse(&client_url.replacen("ws", "http", 1))?;
    url.set_path(path);
    url.set_query(None);
    Ok(url)
}
