//! How members reach a node from outside, from the `/reachability` page of its `admin.listen`.

use std::{net::SocketAddr, time::Duration};

use chappe_common::{
    keys::NodeId,
    reachability::{Family, Outcome, Transport},
    time::UnixTime,
};
use serde::Deserialize;

use crate::{
    net::Net,
    node_http::{self, Document},
    operator::{self, OperatorError},
};

/// Maximal length of the response: 32 statements with 25 findings of up to 250 bytes.
const MAX_ANSWER: usize = 256 * 1024;

/// Time limit of a request: the node waits up to 28 s for the members that it asks, and for a round in progress as long.
const LIMIT: Duration = Duration::from_secs(60);

/// How members reach a node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutsideReport {
    /// The addresses for other nodes in the node's record.
    pub quic_addrs: Vec<SocketAddr>,
    /// The bound UDP addresses of its relay for media.
    pub turn_addrs: Vec<SocketAddr>,
    /// How the last round ended.
    pub last_round: Round,
    /// What members have stated, the newest first.
    pub statements: Vec<Stated>,
    /// The registries that do not show the node to clients. Earlier nodes name none.
    #[serde(default)]
    pub registries: Vec<HiddenBy>,
}

/// A registry that does not show the node to clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HiddenBy {
    /// Its base URL.
    pub registry: String,
    /// The client URL at which it did not reach the node.
    pub target: Option<String>,
    /// Why.
    pub outcome: Outcome,
}

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Round {
    /// Members that were asked.
    pub asked: usize,
    /// Why some of them have stated nothing.
    pub errors: Vec<String>,
}

/// A member's statement.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stated {
    /// The member.
    pub observer: NodeId,
    /// The region in its record.
    pub region: Option<String>,
    /// The family in which it tried the node.
    pub family: Family,
    /// When it did, in seconds before the response.
    pub age_seconds: u64,
    /// The round trip to it.
    pub round_trip_ms: u32,
    /// The largest UDP payload from it to the node.
    pub mtu: u16,
    /// Seconds by which the node's clock is ahead of its.
    pub clock_ahead: i32,
    /// When the first of the node's valid certificates expires.
    pub certificate_until: Option<UnixTime>,
    /// The results.
    pub findings: Vec<Found>,
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Found {
    /// What was tried.
    pub transport: Transport,
    /// The address or URL.
    pub target: Option<String>,
    /// The result.
    pub outcome: Outcome,
}

/// Has members try the node whose operator's interface is at `admin`. If the node was asked for that too often, returns what
/// they found before. Takes at most a minute.
///
/// # Errors
/// There is no valid response.
pub async fn try_now(admin: SocketAddr, net: &Net) -> Result<OutsideReport, OperatorError> {
    let url = operator::url_of(&format!("http://{admin}"), "/reachability")?;
    let Document { status, body } = node_http::post(url, MAX_ANSWER, LIMIT, net).await?;
    if !matches!(status, 200 | 429) {
        return Err(OperatorError::Status(status));
    }
    serde_json::from_slice(&body).map_err(|_| OperatorError::Answer)
}
