//! The messages between a client and a node, as JSON. `docs/protocol/client.md` specifies them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{
    client::{ErrorCode, RelayKind},
    code::PairingCode,
    lease::{Inbox, Lease},
    signed::Signed,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::driver::leases::{self, Rejected};

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Attachment {
    pub(crate) lease: String,
    pub(crate) proof: String,
}

impl From<&leases::Attachment> for Attachment {
    fn from(attachment: &leases::Attachment) -> Self {
        Self {
            lease: URL_SAFE_NO_PAD.encode(attachment.lease.as_bytes()),
            proof: URL_SAFE_NO_PAD.encode(attachment.proof),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub(crate) enum ToNode<'a> {
    Ping,
    Attach {
        id: String,
        inboxes: Vec<Attachment>,
    },
    Detach {
        id: String,
        inboxes: Vec<String>,
    },
    Resolve {
        id: String,
        address: String,
    },
    GetIceServers {
        id: String,
    },
    Register {
        pairing_code: PairingText<'a>,
        public_key: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        claim: Option<String>,
    },
    PairRequest {
        target_code: PairingText<'a>,
        payload: Value,
    },
    PairResponse {
        target_code: PairingText<'a>,
        accepted: bool,
        payload: Value,
    },
    Offer {
        target: PairingText<'a>,
        payload: Value,
    },
    Answer {
        target: PairingText<'a>,
        payload: Value,
    },
    IceCandidate {
        target: PairingText<'a>,
        payload: Value,
    },
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct PairingText<'a>(&'a str);

impl<'a> From<&'a PairingCode> for PairingText<'a> {
    fn from(code: &'a PairingCode) -> Self {
        Self(code.as_str())
    }
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Relayed<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: RelayKind,
    pub(crate) id: &'a str,
    pub(crate) to: &'a str,
    pub(crate) payload: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Rejection {
    pub(crate) index: usize,
    pub(crate) code: String,
    /// The newer lease that the node knows: signed, as base64url.
    #[serde(default)]
    pub(crate) lease: Option<String>,
}

impl Rejection {
    /// Why the node did not attach `inbox`. A newer lease counts only if the inbox's key has signed it.
    pub(crate) fn reason(&self, inbox: Option<Inbox>) -> Rejected {
        match (error_code(Some(&self.code)), self.newer_seq(inbox)) {
            (Some(ErrorCode::BadLease), Some(seq)) => Rejected::Outdated(seq),
            (Some(ErrorCode::BadLease), None) => Rejected::Invalid,
            (Some(ErrorCode::RateLimited | ErrorCode::Congested), _) => Rejected::Busy,
            _ => Rejected::Unavailable,
        }
    }

    fn newer_seq(&self, inbox: Option<Inbox>) -> Option<u64> {
        let lease = Signed::<Lease>::decode(URL_SAFE_NO_PAD.decode(self.lease.as_ref()?).ok()?).ok()?;
        (Some(lease.inbox) == inbox).then_some(lease.seq)
    }
}

/// A STUN or TURN server, in the shape of `RTCIceServer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// `stun:` and `turn:` URLs.
    pub urls: Vec<String>,
    /// The user name, if the server requires one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The password for the user name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// A message of a node. Error texts for people are left out: the code is enough.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub(crate) enum Reply {
    Attached {
        id: String,
        ttl: u64,
        #[serde(default)]
        rejected: Vec<Rejection>,
    },
    Detached {
        id: String,
    },
    Resolved {
        id: String,
        lease: String,
    },
    Delivered {
        id: String,
    },
    IceServers {
        id: String,
        ice_servers: Vec<IceServer>,
    },
    Error {
        id: Option<String>,
        /// As text, so that an unknown code does not make the message unreadable.
        code: Option<String>,
    },
    GoingAway {
        /// Signed records of other nodes.
        #[serde(default)]
        nodes: Vec<String>,
        #[serde(default)]
        grace_seconds: u64,
    },
    Registered,
    CodeCollision,
    PairIncoming {
        from_code: String,
        payload: Option<Value>,
    },
    PairMatched {
        payload: Option<Value>,
    },
    PairRejected,
    PairTimeout,
    PairError,
    Offer {
        from: String,
        payload: Value,
    },
    Answer {
        payload: Value,
    },
    IceCandidate {
        payload: Value,
    },
    CallOffer(Incoming),
    CallAnswer(Incoming),
    CallIce(Incoming),
    CallReject(Incoming),
    CallHangup(Incoming),
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Incoming {
    pub(crate) to: String,
    pub(crate) payload: String,
}

/// Returns `None` for a code that this client does not know.
pub(crate) fn error_code(code: Option<&str>) -> Option<ErrorCode> {
    serde_json::from_value(Value::from(code?)).ok()
}

/// Checks for any input, run by the tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// Any message of a node.
    pub const REPLY: (&str, fn(&[u8]) -> bool) = ("reply", |text| {
        let read = serde_json::from_slice::<Reply>(text);
        if let Ok(Reply::Error { code, .. }) = &read {
            let _ = error_code(code.as_deref());
        }
        read.is_ok()
    });
}

#[cfg(test)]
mod tests {
    use chappe_common::{keys::SecretKey, lease::AccessToken, time::UnixTime};

    use super::*;

    #[test]
    fn requests_have_the_names_that_the_protocol_has() {
        let payload = serde_json::json!({"x": 1});
        let code: PairingCode = "ABC234".parse().expect("a code");
        for (request, text) in [
            (ToNode::Ping, r#"{"type":"ping"}"#),
            (ToNode::GetIceServers { id: "1".to_owned() }, r#"{"type":"get_ice_servers","id":"1"}"#),
            (
                ToNode::Register {
                    pairing_code: (&code).into(),
                    public_key: "k".to_owned(),
                    claim: Some("c".to_owned()),
                },
                r#"{"type":"register","pairingCode":"ABC234","publicKey":"k","claim":"c"}"#,
            ),
            (
                ToNode::PairResponse { target_code: (&code).into(), accepted: true, payload },
                r#"{"type":"pair_response","targetCode":"ABC234","accepted":true,"payload":{"x":1}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&request).expect("JSON"), text);
        }
        let relayed = Relayed { kind: RelayKind::CallIce, id: "1", to: "t", payload: "p" };
        let text = serde_json::to_string(&relayed).expect("JSON");
        assert_eq!(text, r#"{"type":"call_ice","id":"1","to":"t","payload":"p"}"#);
    }

    #[test]
    fn replies_are_read_and_unknown_ones_passed_over() {
        let read = |text: &str| serde_json::from_str::<Reply>(text);
        assert!(matches!(
            read(r#"{"type":"attached","id":"1","ttl":120,"rejected":[{"index":0,"code":"bad_lease"}],"more":1}"#),
            Ok(Reply::Attached { ttl: 120, rejected, .. }) if rejected[0].index == 0
        ));
        let key = SecretKey::from_bytes(&[1; 32]);
        let inbox = Inbox::new(key.public());
        let newer = Lease {
            inbox,
            node: key.node_id(),
            session_key: [0; 32],
            access: AccessToken::from_bytes([0; 16]).hash(),
            seq: 7,
            expires_at: UnixTime::from_secs(1),
        };
        let newer = URL_SAFE_NO_PAD.encode(Signed::sign(newer, &key).expect("a lease").as_bytes());
        let reason = |code: &str, lease: Option<&str>| {
            Rejection { index: 0, code: code.to_owned(), lease: lease.map(str::to_owned) }.reason(Some(inbox))
        };
        assert_eq!(reason("bad_lease", Some(&newer)), Rejected::Outdated(7));
        assert_eq!(reason("bad_lease", Some(&newer[1..])), Rejected::Invalid, "nobody has signed that");
        let other = Inbox::new(SecretKey::from_bytes(&[2; 32]).public());
        let shown = Rejection { index: 0, code: "bad_lease".to_owned(), lease: Some(newer.clone()) };
        assert_eq!(shown.reason(Some(other)), Rejected::Invalid, "another inbox's");
        assert_eq!(reason("bad_lease", None), Rejected::Invalid);
        assert_eq!((reason("rate_limited", None), reason("congested", None)), (Rejected::Busy, Rejected::Busy));
        assert_eq!(reason("internal", None), Rejected::Unavailable);
        assert_eq!(reason("from_the_future", Some(&newer)), Rejected::Unavailable);
        assert!(matches!(
            read(r#"{"type":"pair_matched","peerCode":"A","isInitiator":true}"#),
            Ok(Reply::PairMatched { payload: None })
        ));
        assert!(matches!(read(r#"{"type":"pair_matched","payload":{"share":"x"}}"#),
            Ok(Reply::PairMatched { payload: Some(payload) }) if payload["share"] == "x"));
        assert!(matches!(read(r#"{"type":"something_new","x":[]}"#), Ok(Reply::Other)));
        assert!(read("{}").is_err() && read("[]").is_err());
        assert_eq!(error_code(Some("peer_offline")), Some(ErrorCode::PeerOffline));
        assert_eq!((error_code(Some("from_the_future")), error_code(None)), (None, None));
    }

    #[test]
    fn mutated_replies_are_read_or_refused() {
        let corpus = [
            r#"{"type":"attached","id":"1","ttl":120,"rejected":[{"index":0,"code":"bad_lease"}]}"#,
            r#"{"type":"ice_servers","id":"1","iceServers":[{"urls":["stun:a"],"username":"u","credential":"c"}]}"#,
            r#"{"type":"error","message":"x","code":"later","id":null}"#,
            r#"{"type":"pair_incoming","fromCode":"ABC234","payload":{"a":[1]}}"#,
            r#"{"type":"call_offer","to":"AA","payload":"AA"}"#,
            r#"{"type":"offer","from":"ABC234","payload":-1e3}"#,
            r#"{"type":"unheard_of"}"#,
        ];
        chappe_mutations::run(fuzzed::REPLY, &corpus);
    }
}
