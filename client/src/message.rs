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

/// What is checked of every input, by the tests and by the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// Reads as `T`, and writes and reads the same again.
    pub(crate) fn reads<T: Serialize + for<'de> Deserialize<'de>>(text: &[u8]) -> bool {
        let Ok(read) = serde_json::from_slice::<T>(text) else { return false };
        let written = serde_json::to_vec(&read).expect("JSON");
        let again: T = serde_json::from_slice(&written).expect("what was read can be written");
        assert_eq!(serde_json::to_vec(&again).expect("JSON"), written);
        true
    }

    /// What a contact sealed, whichever message it is.
    pub const MESSAGE: (&str, fn(&[u8]) -> bool) = ("message of a call", |text| {
        let read = [reads::<Offer>(text), reads::<Answer>(text), reads::<Ice>(text), reads::<Reject>(text)];
        let _ = serde_json::from_slice::<Offer>(text).map(|offer| offer.is_fresh(UnixTime::from_secs(1_800_000_000)));
        read.contains(&true)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutated_messages_of_a_call_read_as_they_are_written() {
        let corpus = [
            r#"{"sdp":"v=0\r\n","replyKey":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM","sentAt":1800000000,"nodes":["wss://a#b"]}"#,
            r#"{"sdp":"","replyKey":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM"}"#,
            r#"{"candidates":["candidate:1 1 udp 1 192.0.2.1 1 typ host",""]}"#,
            r#"{"busy":true}"#,
        ];
        chappe_mutations::run(fuzzed::MESSAGE, &corpus);
    }
}
