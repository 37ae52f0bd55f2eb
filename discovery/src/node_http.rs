//! One GET request to a node's HTTP interface, public or for operators.

use bytes::Bytes;
use reqwest::Url;

use crate::{http, net::Net, reach::ReachError, setup_error::SetupError};

/// Why a request returned no body.
pub(crate) enum GetError {
    Setup(SetupError),
    Reach(ReachError),
    /// A status other than 200.
    Status(u16),
    Body,
}

/// A document, and the status that came with it.
pub(crate) struct Document {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

/// Requests a document of at most `longest` bytes, with status 200. Takes at most [`http::FETCH_TIMEOUT`].
pub(crate) async fn get(url: Url, longest: usize, net: &Net) -> Result<Bytes, GetError> {
    match get_any(url, longest, net).await? {
        Document { status: 200, body } => Ok(body),
        Document { status, .. } => Err(GetError::Status(status)),
    }
}

/// As [`get`], with any status.
pub(crate) async fn get_any(url: Url, longest: usize, net: &Net) -> Result<Document, GetError> {
    let client = http::builder((**net.tls()).clone(), net.proxies())
        .timeout(http::FETCH_TIMEOUT)
        .dns_resolver(net.names().clone());
    let client = client.build().map_err(|error| GetError::Setup(SetupError::Http(error)))?;
    let response = client.get(url).send().await.map_err(|error| GetError::Reach(ReachError::of_request(&error)))?;
    let status = response.status().as_u16();
    let body = http::body(response, longest).await.map_err(|_| GetError::Body)?;
    Ok(Document { status, body })
}

/// The URL of `path` at the host and port of a node's client URL.
pub(crate) fn url_of_node(client_url: &str, path: &str) -> Result<Url, <Url as std::str::FromStr>::Err> {
    let mut url = Url::parse(&client_url.replacen("ws", "http", 1))?;
    url.set_path(path);
    url.set_query(None);
    Ok(url)
}
