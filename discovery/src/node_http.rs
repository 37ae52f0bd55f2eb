//! One request to a node's HTTP interface, public or for operators.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, Response, StatusCode, Url};

use crate::{http, net::Net, reach::ReachError, setup_error::SetupError};

/// Why a request returned no body.
pub(crate) enum GetError {
    Setup(SetupError),
    Reach(ReachError),
    /// Another status than expected.
    Status(u16),
    Body,
}

/// Requests a document of at most `longest` bytes. Takes at most [`http::FETCH_TIMEOUT`].
pub(crate) async fn get(url: Url, longest: usize, net: &Net) -> Result<Bytes, GetError> {
    let response = send(Method::GET, url, http::FETCH_TIMEOUT, net).await?;
    if response.status() != StatusCode::OK {
        return Err(GetError::Status(response.status().as_u16()));
    }
    http::body(response, longest).await.map_err(|_| GetError::Body)
}

/// Sends a POST request without a body, whose answer has the status 200 or 429. Takes at most `limit`.
pub(crate) async fn post(url: Url, longest: usize, limit: Duration, net: &Net) -> Result<(u16, Bytes), GetError> {
    let response = send(Method::POST, url, limit, net).await?;
    let status = response.status();
    if !matches!(status, StatusCode::OK | StatusCode::TOO_MANY_REQUESTS) {
        return Err(GetError::Status(status.as_u16()));
    }
    Ok((status.as_u16(), http::body(response, longest).await.map_err(|_| GetError::Body)?))
}

async fn send(method: Method, url: Url, limit: Duration, net: &Net) -> Result<Response, GetError> {
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
