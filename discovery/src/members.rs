//! The live members as a node's operator sees them: `/members` of its `admin.listen`. Nothing there is signed; it is for
//! whoever trusts that node.

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

/// The longest answer: four thousand members, half a KiB each.
const MAX_ANSWER: usize = 2 * 1024 * 1024;

/// A live member.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its key.
    pub node: NodeId,
    /// Where nodes dial it; none where its record isn't known yet.
    #[serde(default)]
    pub quic_addrs: Option<Vec<SocketAddr>>,
}

#[derive(Deserialize)]
struct Answer {
    members: Vec<Member>,
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// No connection, or no answer in time.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// The HTTP client can't be set up, or the URL is none.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Another HTTP status than 200.
    #[error("answers with HTTP status {0}")]
    Status(u16),
    /// Something else than a list of members.
    #[error("the answer is no list of members")]
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

/// Asks at this base URL of an operator's interface. Takes six seconds at most.
///
/// # Errors
/// Says why there is no list.
pub async fn fetch(base: &str, net: &Net) -> Result<Vec<Member>, MembersError> {
    let wrong = || MembersError::Setup(SetupError::Url(base.to_owned()));
    let mut url = Url::parse(base).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong());
    }
    url.set_path("/members");
    read(&node_http::get(url, MAX_ANSWER, net).await?)
}

/// Reads an answer that was kept in a file.
///
/// # Errors
/// It is none.
pub fn read(bytes: &Bytes) -> Result<Vec<Member>, MembersError> {
    serde_json::from_slice::<Answer>(bytes).map(|answer| answer.members).map_err(|_| MembersError::Answer)
}
