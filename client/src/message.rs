//! What is inside a sealed message, as JSON. Session descriptions and candidates are the app's business and opaque here.

use std::time::Duration;

use chappe_common::time::UnixTime;
use serde::{Deserialize, Serialize};

use crate::base64_bytes::Bytes;

/// How far the time of an offer may be from the callee's clock. Within it the callee remembers which calls it has seen;
/// outside of it an offer is a replay.
pub(crate) const FRESH: Duration = Duration::from_secs(15 * 60);

/// A call's offer.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Offer {
    pub(crate) sdp: String,
    /// The key, made for this call, to which the callee seals all that it says.
    pub(crate) reply_key: Bytes<32>,
    /// When it was sent, in seconds since 1970.
    pub(crate) sent_at: u64,
    /// Nodes that the caller uses, for the day when the callee finds none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) nodes: Vec<String>,
}

impl Offer {
    pub(crate) fn is_fresh(&self, now: UnixTime) -> bool {
        now.as_secs().abs_diff(self.sent_at) <= FRESH.as_secs()
    }
}

/// A call's answer.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    pub(crate) sdp: String,
    /// The key, made for this call, to which the caller seals what it says from now on.
    pub(crate) reply_key: Bytes<32>,
    /// Nodes that the callee uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) nodes: Vec<String>,
}

/// Candidates of one side.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ice {
    pub(crate) candidates: Vec<String>,
}

/// The callee declines.
#[derive(Serialize, Deserialize)]
pub(crate) struct Reject {
    /// Because it is in another call.
    #[serde(default)]
    pub(crate) busy: bool,
}

/// Either side ends the call.
#[derive(Serialize, Deserialize)]
pub(crate) struct Hangup {}
