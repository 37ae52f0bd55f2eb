//! The plaintexts of sealed messages, as JSON. Session descriptions and candidates are opaque here.

use std::time::Duration;

use chappe_common::{redacted::Redacted, time::UnixTime};
use serde::{Deserialize, Serialize};

use crate::base64_bytes::Bytes;

/// How far an offer's time may be from the callee's clock. The callee remembers its calls for this time, so an offer
/// outside it counts as a replay.
pub(crate) const FRESH: Duration = Duration::from_secs(15 * 60);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Offer {
    pub(crate) sdp: String,
    /// The ephemeral key that the callee seals its messages to.
    pub(crate) reply_key: Bytes<32>,
    /// Seconds since 1970.
    pub(crate) sent_at: u64,
    /// Nodes that the caller has proved, in case the callee later finds none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) nodes: Vec<String>,
    /// The id of the call that this one replaces, because the caller has lost it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rejoins: Option<Bytes<16>>,
}

impl Offer {
    pub(crate) fn is_fresh(&self, now: UnixTime) -> bool {
        now.as_secs().abs_diff(self.sent_at) <= FRESH.as_secs()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    pub(crate) sdp: String,
    /// The ephemeral key that the caller seals its messages to from now on.
    pub(crate) reply_key: Bytes<32>,
    /// Nodes that the callee has proved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) nodes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Ice {
    pub(crate) candidates: Vec<String>,
    /// The round of the candidates and the description. The call's own offer and answer are round 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) round: u32,
    /// A further description, as for an ICE restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<Description>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DescriptionKind {
    Offer,
    Answer,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Description {
    #[serde(rename = "type")]
    pub(crate) kind: DescriptionKind,
    pub(crate) sdp: Redacted<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(round: &u32) -> bool {
    *round == 0
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Reject {
    /// Whether the callee is in another call.
    #[serde(default)]
    pub(crate) busy: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Hangup {}

/// Checks for any input, run by the tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// Whether `text` decodes as `T`. Panics unless it encodes and decodes to the same value.
    pub(crate) fn reads<T: Serialize + for<'de> Deserialize<'de>>(text: &[u8]) -> bool {
        let Ok(read) = serde_json::from_slice::<T>(text) else { return false };
        let written = serde_json::to_vec(&read).expect("JSON");
        let again: T = serde_json::from_slice(&written).expect("what was read can be written");
        assert_eq!(serde_json::to_vec(&again).expect("JSON"), written);
        true
    }

    /// Any plaintext of a contact.
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
            r#"{"sdp":"","replyKey":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM","sentAt":1,"rejoins":"BAQEBAQEBAQEBAQEBAQEBA"}"#,
            r#"{"candidates":["candidate:1 1 udp 1 192.0.2.1 1 typ host",""]}"#,
            r#"{"candidates":[],"round":1,"description":{"type":"offer","sdp":"v=0\r\n"}}"#,
            r#"{"candidates":[""],"round":4294967295,"description":{"type":"answer","sdp":""}}"#,
            r#"{"busy":true}"#,
        ];
        chappe_mutations::run(fuzzed::MESSAGE, &corpus);
    }
}
