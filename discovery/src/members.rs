//! The live members of a federation, from the `/members` page of a node's `admin.listen`. They are not signed, so only
//! somebody who trusts the node should use them.

use std::net::SocketAddr;

use bytes::Bytes;
use chappe_common::keys::NodeId;
use serde::Deserialize;

use crate::{
    net::Net,
    operator::{self, OperatorError},
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
    /// The page was not fetched.
    #[error(transparent)]
    Fetch(#[from] OperatorError),
    /// The response is not a list of members.
    #[error("the response is not a list of members")]
    Answer,
}

/// Fetches the members from the operator's interface at this base URL. Takes at most six seconds.
///
/// # Errors
/// The URL is invalid, or there is no valid response.
pub async fn fetch_members(base: &str, net: &Net) -> Result<Vec<Member>, MembersError> {
    decode_members(&operator::fetch(base, "/members", MAX_ANSWER, net).await?)
}

/// Decodes a response, for instance one saved in a file.
///
/// # Errors
/// It is not a list of members.
pub fn decode_members(bytes: &Bytes) -> Result<Vec<Member>, MembersError> {
    serde_json::from_slice::<Answer>(bytes).map(|answer| answer.members).map_err(|_| MembersError::Answer)
}
