//! What all HTTP requests here have in common: no redirects, the same proxies, and a bounded body.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::ClientConfig;

use crate::proxy::Proxies;

/// How long a server has for connecting: three times a slow round trip for each of TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long one registry or node has altogether; the largest directory passes a link of 1 Mbit/s in four seconds.
pub(crate) const FETCH_TIMEOUT: Duration = Duration::from_secs(6);

/// A client that goes where it is told and nowhere else.
pub(crate) fn builder(tls: ClientConfig, proxies: &Proxies) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        // What is asked for lives where it is asked for; a redirect would show the client to a third party.
        .redirect(reqwest::redirect::Policy::none())
        // Those that the environment names were read once, for all; see below.
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT);
    proxies.for_http().into_iter().fold(builder, reqwest::ClientBuilder::proxy)
}

/// Why a body is not whole.
pub(crate) enum BodyError {
    Timeout,
    Broken,
    TooLong,
}

/// The body, as long as it is no longer than `longest`. The client's timeout counts for all of it.
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
