//! The pages of a node's `admin.listen`. They are not signed, so only somebody who trusts the node should use them.

use bytes::Bytes;
use reqwest::Url;
use serde::Deserialize;

use crate::{
    net::Net,
    node_http::{self, GetError},
    reach::ReachError,
    setup_error::SetupError,
};

/// Maximal length of `/health`: a few problems in words.
const MAX_HEALTH: usize = 64 * 1024;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No connection, or no response in time.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The HTTP client cannot be set up, or the URL is invalid.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// An HTTP status other than 200.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The response broke off, is longer than expected, or is not what a node sends there.
    #[error("the response is not what a node sends there")]
    Answer,
}

impl From<GetError> for OperatorError {
    fn from(error: GetError) -> Self {
        match error {
            GetError::Setup(error) => Self::Setup(error),
            GetError::Reach(error) => Self::Reach(error),
            GetError::Status(status) => Self::Status(status),
            GetError::Body => Self::Answer,
        }
    }
}

/// Fetches the page with this path, of at most `longest` bytes, from the operator's listener at the base URL. Takes at most
/// six seconds.
///
/// # Errors
/// The URL is invalid, or there is no such page.
pub async fn fetch(base: &str, path: &str, longest: usize, net: &Net) -> Result<Bytes, OperatorError> {
    Ok(node_http::get(url_of(base, path)?, longest, net).await?)
}

/// The state of a node, from its page `/health`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `healthy`, `draining`, or what is wrong.
    pub status: String,
    /// What is wrong, for people.
    #[serde(default)]
    pub problems: Vec<String>,
    /// The node's id, as clients see it.
    pub server_id: String,
    /// The software's version.
    pub version: String,
    /// How long the node has run, in seconds.
    pub uptime: u64,
    /// What the budget has switched off, such as `open` or `no_relay`. `None` without a budget, and from earlier versions.
    #[serde(default)]
    pub budget: Option<String>,
    /// Whether the relay for media makes allocations: `open`, or why not. `None` without a relay, and from earlier versions.
    #[serde(default)]
    pub relay: Option<String>,
}

/// Fetches the state of a node, also of one that is not healthy. Takes at most six seconds.
///
/// # Errors
/// The URL is invalid, or there is no valid response.
pub async fn fetch_health(base: &str, net: &Net) -> Result<Health, OperatorError> {
    let document = node_http::get_any(url_of(base, "/health")?, MAX_HEALTH, net).await?;
    serde_json::from_slice(&document.body).map_err(|_| OperatorError::Answer)
}

pub(crate) fn url_of(base: &str, path: &str) -> Result<Url, SetupError> {
    let wrong = || SetupError::Url(base.to_owned());
    let mut url = Url::parse(base).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong());
    }
    url.set_path(path);
    Ok(url)
}
