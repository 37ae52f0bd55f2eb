//! The live members of a federation, from the `/members` page of a node's `admin.listen`. They are not signed, so only
//! somebody who trusts the node should use them.

use std::net::SocketAddr;

use bytes::Bytes;
use chappe_common::keys::NodeId;
use reqwest::Url;
use serde::Deserialize;

use crate::{
    net::Net,
    node_http::{self, GetError},
    reach::ReachError,
    setup_error::SetupError,
};

/// Maximal length of the response: half a KiB for each of four thousand members.
const MAX_ANSWER: usize = 2 * 1024 * 1024;

/// A live member.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its node id.
    pub node: NodeId,
    /// The addresses at which nodes dial it, or `None` if its record is not known yet.
    #[serde(default)]
    pub quic_addrs: Option<Vec<SocketAddr>>,
}

#[derive(Deserialize)]
struct Answer {
    members: Vec<Member>,
}

/// Why there is no list of members.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// No connection, or no response in time.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The HTTP client cannot be set up, or the URL is invalid.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// An HTTP status other than 200.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The response is not a list of members.
    #[error("the response is not a list of members")]
    Answer,
}

impl From<GetError> for MembersError {
    fn from(error: GetError) -> Self {
        match error {
            GetError::Setup(error) => Self::Setup(error),
            GetError::Reach(error) => Self::Reach(error),
            GetError::Status(status) => Self::Status(status),
            GetError::Body => Self::Answer,
        }
    }
}

/// Fetches the members from the operator's interface at this base URL. Takes at most six seconds.
///
/// # Errors
/// The URL is invalid, or there is no valid response.
pub async fn fetch_members(base: &str, net: &Net) -> Result<Vec<Member>, MembersError> {
    let wrong = || MembersError::Setup(SetupError::Url(base.to_owned()));
    let mut url = Url::parse(base).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong());
    }
    url.set_path("/members");
    decode_members(&node_http::get(url, MAX_ANSWER, net).await?)
}

/// Decodes a response, for instance one saved in a file.
///
/// # Errors
/// It is not a list of members.
pub fn decode_members(bytes: &Bytes) -> Result<Vec<Member>, MembersError> {
    serde_json::from_slice::<Answer>(bytes).map(|answer| answer.members).map_err(|_| MembersError::Answer)
}
