//! Checks `docs/protocol/vectors/federation.json`: placement and frames as this crate encodes them.

use bytes::Bytes;
use chappe_common::{
    client::{ErrorCode, RelayKind},
    code::PairingCode,
    federation::FederationId,
    keys::SecretKey,
    lease::{AccessToken, Address, Inbox},
};
use serde_json::{Value, json};

use crate::{
    placement::{BeaconValue, Candidate, Homes, Network, Tag},
    wire::{
        frame::{CodeRegistration, Frame, Header, Note, Outcome, PairRequest, PairRequestKind, Request, Response},
        ids::{ClaimResult, CodeHolder, SessionId},
    },
};

const VECTORS: &str = include_str!("../../docs/protocol/vectors/federation.json");

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32])
}

fn inbox() -> Inbox {
    Inbox::new(key(4).public())
}

fn address() -> Address {
    Address { inbox: inbox(), token: AccessToken::from_bytes([9; 16]) }
}

fn code() -> PairingCode {
    "ABC234".parse().expect("a code")
}

fn placement() -> Value {
    let beacon = BeaconValue::genesis(FederationId::of_roots(&[key(1).public()]));
    // Members 10 and 11 are in one /24.
    let nets = [(10, "192.0.2.1:1"), (11, "192.0.2.2:1"), (12, "198.51.100.1:1"), (13, "[2001:db8::1]:1")];
    let candidates: Vec<_> = nets
        .iter()
        .map(|(seed, addr)| {
            Candidate::new(&beacon, key(*seed).node_id(), Network::of(&addr.parse().expect("an address")))
        })
        .collect();
    let homes = |tag| {
        let seed_of = |node| nets.iter().find(|(seed, _)| key(*seed).node_id() == node).map(|(seed, _)| *seed);
        Homes::of(&candidates, tag).iter().filter_map(seed_of).collect::<Vec<u8>>()
    };
    let (inbox_tag, code_tag) = (Tag::of_inbox(&inbox()), Tag::of_code(&code()));
    json!({
        "root_seed": 1,
        "members": nets.iter().map(|(seed, addr)| json!({ "seed": seed, "addr": addr })).collect::<Vec<_>>(),
        "inbox_seed": 4,
        "inbox_tag": format!("{:016x}", inbox_tag.as_u64()),
        "inbox_homes": homes(inbox_tag),
        "code": code().as_str(),
        "code_tag": format!("{:016x}", code_tag.as_u64()),
        "code_homes": homes(code_tag),
    })
}

fn frames() -> Value {
    let (to, from) = (SessionId::from_raw(1), SessionId::from_raw(u64::MAX));
    let payload = Bytes::from_static(b"\"sealed\"");
    let pair_request = PairRequest {
        id: 5,
        kind: PairRequestKind::Pair,
        target: code(),
        code: "DEF567".parse().expect("a code"),
        public_key: [8; 32],
        name: Some("Ann".into()),
        payload: Some(Bytes::from_static(b"{}")),
    };
    let registration = CodeRegistration { code: code(), session: to, claim: None };
    let holder = CodeHolder { node: key(2).node_id(), session: to };
    let frames = [
        ("to_inbox", Header::ToInbox { token: 300, kind: RelayKind::CallOffer, to: address() }, payload.clone()),
        ("to_session", Header::ToSession { token: 0, kind: RelayKind::IceCandidate, to, from }, payload),
        ("delivered", Header::Outcome { token: 300, outcome: Outcome::Delivered }, Bytes::new()),
        ("refused", Header::Outcome { token: 1, outcome: Outcome::Refused(ErrorCode::Congested) }, Bytes::new()),
        ("ask", Header::Note { to, from, note: Note::PairRequest(pair_request) }, Bytes::new()),
        ("closed", Header::Note { to, from, note: Note::Closed }, Bytes::new()),
        ("find_lease", Header::Request { id: 9, request: Request::FindLease(address()) }, Bytes::new()),
        ("no_lease", Header::Response { id: 9, response: Response::Lease(None) }, Bytes::new()),
        ("claim_codes", Header::Request { id: 10, request: Request::ClaimCodes(vec![registration]) }, Bytes::new()),
        ("code_taken", Header::Response { id: 10, response: Response::Codes(vec![ClaimResult::Taken]) }, Bytes::new()),
        ("find_address", Header::Request { id: 12, request: Request::FindAddress }, Bytes::new()),
        ("address", Header::Response { id: 12, response: Response::Address([192, 0, 2, 1].into()) }, Bytes::new()),
        ("code_found", Header::Response { id: 11, response: Response::Code(Some(holder)) }, Bytes::new()),
    ];
    frames
        .into_iter()
        .map(|(name, header, payload)| {
            let frame = Frame::new(&header, payload);
            (name.to_owned(), Value::from(hex::encode([&frame.head[..], &frame.payload[..]].concat())))
        })
        .collect()
}

#[test]
fn the_crate_produces_the_published_vectors() {
    let made = json!({
        "about": "Placement and link frames. Keys are Ed25519 seeds of 32 equal bytes; frames are hexadecimal bytes with their length in front. docs/protocol/federation.md says what they mean.",
        "placement": placement(),
        "frames": frames(),
    });
    let expected: Value = serde_json::from_str(VECTORS).expect("JSON");
    assert_eq!(made, expected, "\n{}", serde_json::to_string_pretty(&made).expect("JSON"));
}
