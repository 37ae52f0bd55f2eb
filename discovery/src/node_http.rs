//! One request to a node's HTTP interface, public or for operators.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, Response, Url};

use crate::{http, net::Net, reach::ReachError, setup_error::SetupError};

/// Why a request returned no body.
pub(crate) enum GetError {
    Setup(SetupError),
    Reach(ReachError),
    /// Another status than expected.
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
    document(send(Method::GET, url, http::FETCH_TIMEOUT, net).await?, longest).await
}

/// Sends a POST request without a body. The document has any status. Takes at most `limit`.
pub(crate) async fn post(url: Url, longest: usize, limit: Duration, net: &Net) -> Result<Document, GetError> {
    document(send(Method::POST, url, limit, net).await?, longest).await
}

async fn document(response: Response, longest: usize) -> Result<Document, GetError> {
    let status = response.status().as_u16();
    let body = http::body(response, longest).await.map_err(|_| GetError::Body)?;
    Ok(Document { status, body })
}

async fn send(method: Method, url: Url, limit: Duration, net: &Net) -> Result<Response, GetError> {
    net.check_tls(url.as_str()).map_err(GetError::Reach)?;
    let client =
        http::builder((**net.tls()).clone(), net.proxies()).timeout(limit).dns_resolver(net.names().clone()).build();
    let client = client.map_err(|error| GetError::Setup(SetupError::Http(error)))?;
    let response = client.request(method, url).send().await;
    response.map_err(|error| GetError::Reach(ReachError::of_request(&error)))
}

/// The URL of `path` at the host and port of a node's client URL.
pub(crate) fn url_of_node(client_url: &str, path: &str) -> Result<Url, <Url as std::str::FromStr>::Err> {
    let mut url = Url::parse(&client_url.replacen("ws", "http", 1))?;
    url.set_path(path);
    url.set_query(None);
    Ok(url)
}
