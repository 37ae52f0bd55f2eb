//! Messages from the node to a client, as JSON.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{
    client::{ErrorCode, RelayKind},
    lease::SignedLease,
};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// A message from the node to a client. The protocol defines the names and texts.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub(crate) enum Reply<'a> {
    /// The first message of every session.
    ServerInfo {
        server_id: &'a str,
        endpoint: &'a str,
        region: Option<&'a str>,
        protocol: u32,
        nonce: &'a str,
        limits: Limits,
    },
    /// A request was refused.
    Error {
        message: &'a str,
        code: ErrorCode,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    },
    Pong {},
    HeartbeatAck {
        timestamp: u64,
    },
    Proof {
        id: &'a str,
        signature: &'a str,
    },
    Registered {
        pairing_code: &'a str,
        server_id: &'a str,
    },
    CodeCollision {
        message: &'a str,
    },
    PairIncoming {
        from_code: &'a str,
        from_public_key: &'a str,
        expires_in: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        proposed_name: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        payload: Option<&'a RawValue>,
    },
    PairMatched {
        peer_code: &'a str,
        peer_public_key: &'a str,
        is_initiator: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        payload: Option<&'a RawValue>,
    },
    PairRejected {
        peer_code: &'a str,
    },
    PairExpiring {
        peer_code: &'a str,
        remaining_seconds: u64,
    },
    PairTimeout {
        peer_code: &'a str,
    },
    PairError {
        error: &'a str,
    },
    LinkRequest {
        link_code: &'a str,
        public_key: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        device_name: Option<&'a str>,
        expires_in: u64,
    },
    LinkMatched {
        link_code: &'a str,
        peer_public_key: &'a str,
        is_initiator: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        device_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        web_client_code: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        device_name: Option<&'a str>,
    },
    LinkRejected {
        link_code: &'a str,
    },
    LinkTimeout {
        link_code: &'a str,
    },
    LinkError {
        error: &'a str,
    },
    Attached {
        id: &'a str,
        ttl: u64,
        rejected: &'a [Rejected],
    },
    Detached {
        id: &'a str,
    },
    Resolved {
        id: &'a str,
        lease: &'a str,
    },
    Delivered {
        id: &'a str,
    },
    IceServers {
        id: &'a str,
        ice_servers: &'a [IceServerReply],
        ttl: u64,
    },
    GoingAway {
        reason: &'a str,
        nodes: &'a [String],
        grace_seconds: u64,
    },
}

/// The limits in `server_info`.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Limits {
    pub(crate) max_message: usize,
    pub(crate) max_payload: usize,
    pub(crate) max_inboxes: usize,
    pub(crate) messages_per_minute: u32,
    pub(crate) pair_requests_per_minute: u32,
}

/// A lease that was not attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Rejected {
    pub(crate) index: usize,
    pub(crate) code: ErrorCode,
    /// The newer lease of the same inbox, signed, as base64url.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "base64url")]
    pub(crate) lease: Option<Arc<SignedLease>>,
}

fn base64url<S: Serializer>(lease: &Option<Arc<SignedLease>>, serializer: S) -> Result<S::Ok, S::Error> {
    lease.as_ref().map(|lease| URL_SAFE_NO_PAD.encode(lease.as_bytes())).serialize(serializer)
}

/// An ICE server, in the shape of `RTCIceServer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct IceServerReply {
    pub(crate) urls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) credential: Option<String>,
}

impl Reply<'_> {
    /// Encodes the message as JSON.
    pub(crate) fn encode(&self) -> String {
        serde_json::to_string(self).expect("a reply has string keys alone")
    }
}

/// The address of a forwarded message. Neither text needs escaping in JSON.
#[derive(Clone, Copy)]
pub(crate) enum ForwardedBy<'a> {
    /// The recipient's inbox.
    Inbox(&'a [u8; 43]),
    /// The sender's code.
    Code(&'a str),
}

/// Returns the pieces of a forwarded message as the recipient gets it. The payload is not copied.
///
/// `payload` must be one JSON text.
pub(crate) const fn forwarded<'a>(kind: RelayKind, by: ForwardedBy<'a>, payload: &'a [u8]) -> [&'a [u8]; 7] {
    let (field, value): (&[u8], _) = match by {
        ForwardedBy::Inbox(inbox) => (b"\",\"to\":\"", inbox.as_slice()),
        ForwardedBy::Code(code) => (b"\",\"from\":\"", code.as_bytes()),
    };
    [b"{\"type\":\"", kind.as_str().as_bytes(), field, value, b"\",\"payload\":", payload, b"}"]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_use_the_protocols_names_and_omit_missing_fields() {
        let text = Reply::PairMatched { peer_code: "ABC234", peer_public_key: "k", is_initiator: true, payload: None };
        assert_eq!(
            text.encode(),
            r#"{"type":"pair_matched","peerCode":"ABC234","peerPublicKey":"k","isInitiator":true}"#
        );
        assert_eq!(Reply::Pong {}.encode(), r#"{"type":"pong"}"#);
        let text = Reply::Error { message: "m", code: ErrorCode::BadMessage, id: Some("7") };
        assert_eq!(text.encode(), r#"{"type":"error","message":"m","code":"bad_message","id":"7"}"#);
    }

    #[test]
    fn a_forwarded_payload_is_the_senders_bytes() {
        let payload = br#"{ "sdp" : "v=0\r\n" }"#;
        let text = forwarded(RelayKind::Offer, ForwardedBy::Code("ABC234"), payload).concat();
        assert_eq!(str::from_utf8(&text), Ok(r#"{"type":"offer","from":"ABC234","payload":{ "sdp" : "v=0\r\n" }}"#));
    }
}
