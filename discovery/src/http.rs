//! Common settings of all HTTP requests: no redirects, shared proxies, bounded bodies.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::ClientConfig;

use crate::proxy::Proxies;

/// Time limit for connecting: three slow round trips for each of TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time limit of a request. The largest directory takes four seconds at 1 Mbit/s.
pub(crate) const FETCH_TIMEOUT: Duration = Duration::from_secs(6);

/// A client that follows no redirects and uses only `proxies`.
pub(crate) fn builder(tls: ClientConfig, proxies: &Proxies) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        // A redirect would reveal the client to a third party.
        .redirect(reqwest::redirect::Policy::none())
        // The environment was read once, into `proxies`.
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT);
    proxies.for_http().into_iter().fold(builder, reqwest::ClientBuilder::proxy)
}

/// Why a body could not be read.
pub(crate) enum BodyError {
    Timeout,
    Broken,
    TooLong,
}

/// Reads a body of at most `longest` bytes. The client's timeout includes it.
pub(crate) async fn body(mut response: reqwest::Response, longest: usize) -> Result<Bytes, BodyError> {
    let mut body = BytesMut::new();
    let broken = |error: reqwest::Error| if error.is_timeout() { BodyError::Timeout } else { BodyError::Broken };
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > longest {
            return Err(BodyError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
