//! The time of an HTTP server, from the `Date` field of its response (RFC 9110, 6.6.1). For a daemon's operator, who wants to
//! know whether this machine's clock is right.

use std::time::SystemTime;

use reqwest::{Url, header::DATE};

use crate::{http, net::Net, reach::ReachError, setup_error::SetupError};

/// Why a server's time is not known.
#[derive(Debug, thiserror::Error)]
pub enum ServerTimeError {
    /// The URL is invalid.
    #[error("the URL is invalid")]
    Url,
    /// The HTTP client cannot be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No connection, or no response in time.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The response has no valid `Date` field.
    #[error("the response has no date")]
    NoDate,
}

/// Requests `url`, and returns the server's time in whole seconds. Takes at most six seconds.
///
/// # Errors
/// The server does not answer, or does not say its time.
pub async fn fetch(url: &str, net: &Net) -> Result<SystemTime, ServerTimeError> {
    let url = Url::parse(url).map_err(|_| ServerTimeError::Url)?;
    net.check_tls(url.as_str())?;
    let client = http::builder((**net.tls()).clone(), net.proxies())
        .timeout(http::FETCH_TIMEOUT)
        .dns_resolver(net.names().clone());
    let client = client.build().map_err(SetupError::Http)?;
    let response = client.head(url).send().await.map_err(|error| ReachError::of_request(&error))?;
    let date = response.headers().get(DATE).and_then(|date| date.to_str().ok()).ok_or(ServerTimeError::NoDate)?;
    httpdate::parse_http_date(date).map_err(|_| ServerTimeError::NoDate)
}
