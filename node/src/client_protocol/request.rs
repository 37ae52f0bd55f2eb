//! Parses requests of clients.
//!
//! One pass over the message finds its fields and checks that it is JSON. A field is parsed on access, and the payload
//! never. Messages between clients are mostly plain, and [`plain`] parses these faster.

use std::borrow::Cow;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use chappe_common::{
    client::{ErrorCode, MAX_ID},
    code::PairingCode,
    lease::{Address, Inbox},
};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{depth, plain};

/// The maximum length of `proposedName`, `deviceName` and `deviceId`, in bytes: what fits on a screen.
pub(crate) const MAX_NAME: usize = 128;

/// The maximum number of elements of an `attach`: the highest value of `limits.max_inboxes`. A message of the maximum
/// size has fewer.
const MAX_ITEMS: usize = 512;

/// Why a request is invalid. The text is for the client, and contains nothing that other clients sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    /// The message is not a JSON object, or has a duplicate field.
    #[error("Invalid message format: JSON parse error")]
    Json,
    /// The message nests deeper than [`chappe_common::client::MAX_DEPTH`].
    #[error("Invalid message format: nested too deeply")]
    Depth,
    /// A required field is missing.
    #[error("Missing required field: {0}")]
    Missing(&'static str),
    /// A field has another type, or is too long.
    #[error("Invalid field: {0}")]
    Invalid(&'static str),
    /// The text is not a pairing code.
    #[error("Invalid pairing code format")]
    PairingCode,
    /// The target is not a pairing code.
    #[error("Invalid target code format")]
    TargetCode,
    /// The key is not base64.
    #[error("Invalid public key format")]
    KeyFormat,
    /// The key is not 32 bytes long.
    #[error("Invalid public key length")]
    KeyLength,
    #[error("Message too large")]
    TooLarge,
    #[error("Unknown message type: {0}")]
    UnknownType(String),
    /// The request needs a registered code.
    #[error("Not registered. Send register message first.")]
    NotRegistered,
    /// A request for ICE servers with passwords needs an attached inbox or a pairing.
    #[error("Not registered. Attach an inbox or pair first.")]
    NotAttached,
}

impl BadRequest {
    /// Returns the error code for the client.
    pub(crate) const fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge => ErrorCode::TooLarge,
            Self::UnknownType(_) => ErrorCode::UnknownType,
            Self::NotRegistered | Self::NotAttached => ErrorCode::NotRegistered,
            _ => ErrorCode::BadMessage,
        }
    }
}

/// The raw JSON of the fields of all messages.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Fields<'a> {
    #[serde(deserialize_with = "raw_json", borrow, rename = "type")]
    kind: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    id: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    to: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    target: Option<&'a str>,
    #[serde(deserialize_with = "raw_json_or_null", borrow)]
    payload: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    address: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    inboxes: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    pairing_code: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    public_key: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    claim: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    target_code: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    proposed_name: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    accepted: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    link_code: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    device_name: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    device_id: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    peer_id: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    challenge: Option<&'a str>,
    #[serde(deserialize_with = "raw_json", borrow)]
    url: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn parse(text: &'a str) -> Result<Self, BadRequest> {
        if let Some(plain) = plain::parse(text) {
            let plain::Plain { kind, id, to, target, payload } = plain;
            return Ok(Self { kind, id, to, target, payload, ..Self::default() });
        }
        if !depth::is_within_bounds(text.as_bytes()) {
            return Err(BadRequest::Depth);
        }
        // Only an object: serde would fill the fields from an array in order.
        if !text.trim_start().starts_with('{') {
            return Err(BadRequest::Json);
        }
        serde_json::from_str(text).map_err(|_| BadRequest::Json)
    }
}

/// Deserializes a field as raw JSON. `null` counts as missing.
fn raw_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de str>, D::Error> {
    Ok(Option::<&RawValue>::deserialize(deserializer)?.map(RawValue::get))
}

/// Deserializes a field as raw JSON. `null` is a value like any other.
fn raw_json_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de str>, D::Error> {
    Ok(Some(<&RawValue>::deserialize(deserializer)?.get()))
}

/// A client's message: its type, its id, and its fields, which are parsed on access.
pub(crate) struct Request<'a> {
    kind: Cow<'a, str>,
    id: Option<Cow<'a, str>>,
    fields: Fields<'a>,
}

/// One element of `attach`.
#[derive(Deserialize)]
pub(crate) struct AttachItem<'a> {
    /// The signed lease, base64url.
    #[serde(borrow)]
    pub(crate) lease: Cow<'a, str>,
    /// The proof, base64url.
    #[serde(borrow)]
    pub(crate) proof: Cow<'a, str>,
}

impl<'a> Request<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, BadRequest> {
        let fields = Fields::parse(text)?;
        let kind = fields.kind.and_then(parse_text).ok_or(BadRequest::Missing("type"))?;
        let id = match fields.id {
            Some(raw) => {
                Some(parse_text(raw).filter(|id| id.chars().count() <= MAX_ID).ok_or(BadRequest::Invalid("id"))?)
            }
            None => None,
        };
        Ok(Self { kind, id, fields })
    }

    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    /// Returns the error for an unknown type. The type is cut to `MAX_ID` characters.
    pub(crate) fn unknown_type(&self) -> BadRequest {
        BadRequest::UnknownType(self.kind.chars().take(MAX_ID).collect())
    }

    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Returns the `id` of a request whose reply needs one.
    pub(crate) fn required_id(&self) -> Result<&str, BadRequest> {
        self.id().ok_or(BadRequest::Missing("id"))
    }

    /// Returns whether the message goes to an inbox rather than to a code.
    pub(crate) const fn is_to_inbox(&self) -> bool {
        self.fields.to.is_some()
    }

    pub(crate) fn to(&self) -> Result<Address, BadRequest> {
        parse_address(self.fields.to, "to")
    }

    pub(crate) fn address(&self) -> Result<Address, BadRequest> {
        parse_address(self.fields.address, "address")
    }

    /// Parses `inboxes` of `detach`.
    pub(crate) fn inbox_list(&self) -> Result<Vec<Inbox>, BadRequest> {
        let raw = self.fields.inboxes.ok_or(BadRequest::Missing("inboxes"))?;
        let texts: Vec<Cow<'_, str>> = serde_json::from_str(raw).map_err(|_| BadRequest::Invalid("inboxes"))?;
        texts.iter().map(|text| Inbox::from_base64url(text).map_err(|_| BadRequest::Invalid("inboxes"))).collect()
    }

    /// Parses `inboxes` of `attach`.
    pub(crate) fn attach_list(&self) -> Result<Vec<AttachItem<'a>>, BadRequest> {
        let raw = self.fields.inboxes.ok_or(BadRequest::Missing("inboxes"))?;
        let items: Vec<_> = serde_json::from_str(raw).map_err(|_| BadRequest::Invalid("inboxes"))?;
        if items.len() > MAX_ITEMS { Err(BadRequest::Invalid("inboxes")) } else { Ok(items) }
    }

    /// Copies the raw `payload`, for callers that keep it: the read buffer is reused for the next message.
    pub(crate) fn payload(&self) -> Option<Bytes> {
        self.fields.payload.map(|raw| Bytes::copy_from_slice(raw.as_bytes()))
    }

    /// Returns the raw `payload`, which is required, without copying it.
    pub(crate) fn required_payload(&self) -> Result<&'a [u8], BadRequest> {
        self.fields.payload.map(|raw| raw.as_bytes()).ok_or(BadRequest::Missing("payload"))
    }

    /// Returns the raw `payload` of a message to an inbox: a string of at most `max` bytes, with its quotes.
    pub(crate) fn text_payload(&self, max: usize) -> Result<&'a [u8], BadRequest> {
        let payload = self.required_payload()?;
        if payload.first() != Some(&b'"') {
            return Err(BadRequest::Invalid("payload"));
        }
        if payload.len() > max + 2 { Err(BadRequest::TooLarge) } else { Ok(payload) }
    }

    /// Returns `target` as the client wrote it, for use in error texts.
    pub(crate) fn target(&self) -> Result<Cow<'a, str>, BadRequest> {
        required_text(self.fields.target, "target")
    }

    pub(crate) fn pairing_code(&self) -> Result<PairingCode, BadRequest> {
        let text = required_text(self.fields.pairing_code, "pairingCode")?;
        text.parse().map_err(|_| BadRequest::PairingCode)
    }

    pub(crate) fn target_code(&self) -> Result<PairingCode, BadRequest> {
        let text = required_text(self.fields.target_code, "targetCode")?;
        text.parse().map_err(|_| BadRequest::TargetCode)
    }

    pub(crate) fn link_code(&self) -> Result<PairingCode, BadRequest> {
        let text = required_text(self.fields.link_code, "linkCode")?;
        text.parse().map_err(|_| BadRequest::PairingCode)
    }

    /// Parses `publicKey`: 32 bytes as standard base64.
    pub(crate) fn public_key(&self) -> Result<[u8; 32], BadRequest> {
        let raw = self.fields.public_key.ok_or(BadRequest::Missing("publicKey"))?;
        let text = parse_text(raw).ok_or(BadRequest::KeyFormat)?;
        let bytes = STANDARD.decode(text.as_bytes()).map_err(|_| BadRequest::KeyFormat)?;
        bytes.try_into().map_err(|_| BadRequest::KeyLength)
    }

    /// Parses `claim`: base64url.
    pub(crate) fn claim(&self) -> Result<Option<Vec<u8>>, BadRequest> {
        let Some(raw) = self.fields.claim else { return Ok(None) };
        let bytes = parse_text(raw).and_then(|text| URL_SAFE_NO_PAD.decode(text.as_bytes()).ok());
        bytes.map(Some).ok_or(BadRequest::Invalid("claim"))
    }

    pub(crate) fn accepted(&self) -> Result<bool, BadRequest> {
        let raw = self.fields.accepted.ok_or(BadRequest::Missing("accepted"))?;
        serde_json::from_str(raw).map_err(|_| BadRequest::Invalid("accepted"))
    }

    pub(crate) fn proposed_name(&self) -> Result<Option<String>, BadRequest> {
        parse_name(self.fields.proposed_name, "proposedName")
    }

    pub(crate) fn device_name(&self) -> Result<Option<String>, BadRequest> {
        parse_name(self.fields.device_name, "deviceName")
    }

    pub(crate) fn device_id(&self) -> Result<Option<String>, BadRequest> {
        parse_name(self.fields.device_id, "deviceId")
    }

    /// Checks that `peerId` is present.
    pub(crate) fn check_peer_id(&self) -> Result<(), BadRequest> {
        required_text(self.fields.peer_id, "peerId").map(drop)
    }

    /// Parses `challenge`: 32 bytes as base64url.
    pub(crate) fn challenge(&self) -> Result<[u8; 32], BadRequest> {
        let text = required_text(self.fields.challenge, "challenge")?;
        let bytes = URL_SAFE_NO_PAD.decode(text.as_bytes()).map_err(|_| BadRequest::Invalid("challenge"))?;
        bytes.try_into().map_err(|_| BadRequest::Invalid("challenge"))
    }

    pub(crate) fn url(&self) -> Result<Cow<'a, str>, BadRequest> {
        required_text(self.fields.url, "url")
    }
}

/// Decodes a JSON string. Returns `None` for other JSON.
fn parse_text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(json).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

fn required_text<'a>(raw: Option<&'a str>, name: &'static str) -> Result<Cow<'a, str>, BadRequest> {
    parse_text(raw.ok_or(BadRequest::Missing(name))?).ok_or(BadRequest::Invalid(name))
}

fn parse_name(raw: Option<&str>, name: &'static str) -> Result<Option<String>, BadRequest> {
    let Some(raw) = raw else { return Ok(None) };
    let text = parse_text(raw).filter(|text| text.len() <= MAX_NAME).ok_or(BadRequest::Invalid(name))?;
    Ok(Some(text.into_owned()))
}

fn parse_address(raw: Option<&str>, name: &'static str) -> Result<Address, BadRequest> {
    Address::from_base64url(&required_text(raw, name)?).map_err(|_| BadRequest::Invalid(name))
}

/// Properties that the tests and the fuzzer check for every input.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use std::fmt::Debug;

    use serde_json::Value;

    use super::*;

    fn deepest(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(deepest).max().unwrap_or(0),
            Value::Object(fields) => 1 + fields.values().map(deepest).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Calls every accessor.
    fn call_accessors(request: &Request<'_>) {
        let _ = (request.required_id(), request.unknown_type(), request.is_to_inbox(), request.to(), request.address());
        let _ = (request.inbox_list(), request.attach_list().map(|list| list.len()), request.text_payload(20));
        let _ = (request.target(), request.pairing_code(), request.target_code(), request.link_code());
        let _ =
            (request.public_key(), request.claim(), request.accepted(), request.proposed_name(), request.device_name());
        let _ = (request.device_id(), request.check_peer_id(), request.challenge(), request.url());
        if let Some(payload) = request.payload() {
            let again = format!(r#"{{"type":"x","payload":{}}}"#, str::from_utf8(&payload).expect("a part of a text"));
            let again = Request::parse(&again).expect("a payload is JSON wherever it stands").payload();
            assert_eq!(again, Some(payload));
        }
    }

    fn assert_same<T: PartialEq + Debug>(one: T, other: T) {
        assert_eq!(one, other);
    }

    /// Client messages: the plain parser and the general JSON parser must agree.
    pub const MESSAGE: (&str, fn(&[u8]) -> bool) = ("message", |bytes| {
        let Ok(text) = str::from_utf8(bytes) else { return false };
        let general = serde_json::from_str::<Fields<'_>>(text);
        let is_deep = !depth::is_within_bounds(text.as_bytes());
        if let Some(plain) = plain::parse(text) {
            let general = general.as_ref().expect("what is plain is JSON");
            assert!(!is_deep);
            assert_same((plain.kind, plain.id, plain.to), (general.kind, general.id, general.to));
            assert_same((plain.target, plain.payload), (general.target, general.payload));
            let others = [general.address, general.inboxes, general.pairing_code, general.url, general.challenge];
            assert_eq!(others, [None; 5]);
        }
        if let Ok(value) = serde_json::from_str::<Value>(text) {
            assert_eq!(is_deep, deepest(&value) > chappe_common::client::MAX_DEPTH, "both agree on the nesting");
        }
        let Ok(request) = Request::parse(text) else { return false };
        assert!(general.is_ok() && text.trim_start().starts_with('{'));
        call_accessors(&request);
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T>(text: &'static str, look: impl FnOnce(&Request<'_>) -> T) -> Result<T, BadRequest> {
        Request::parse(text).map(|request| look(&request))
    }

    #[test]
    fn a_payload_is_the_part_of_the_message_that_the_client_wrote() {
        let payload = parse(r#"{"type":"offer","payload":{ "a":[1, 2] },"target":"X"}"#, |request| request.payload());
        assert_eq!(payload, Ok(Some(Bytes::from_static(br#"{ "a":[1, 2] }"#))));
    }

    #[test]
    fn a_payload_keeps_nothing_else_of_its_message_in_memory() {
        let text = format!(r#"{{"type":"call_ice","payload":"x","pad":"{}"}}"#, "p".repeat(60 * 1024));
        let payload = Request::parse(&text).expect("a message").payload().expect("a payload");
        let own = payload.try_into_mut().expect("nobody else holds the payload");
        assert_eq!((&own[..], own.capacity()), (&br#""x""#[..], 3));
    }

    #[test]
    fn a_message_that_is_no_object_with_a_type_is_refused() {
        for text in ["", "nonsense", "{", r#"{"type":"ping"} x"#, r#"["ping"]"#, r#"{"type":"a","type":"b"}"#] {
            assert_eq!(parse(text, |_| ()), Err(BadRequest::Json), "{text}");
        }
        for text in ["{}", r#"{"type":7}"#, r#"{"type":null}"#] {
            assert_eq!(parse(text, |_| ()), Err(BadRequest::Missing("type")), "{text}");
        }
    }

    #[test]
    fn escapes_are_resolved_in_texts_and_unknown_fields_ignored() {
        let kind = parse(r#"{"type":"pi\u006eg","future":{"deep":[1]}}"#, |request| request.kind().to_owned());
        assert_eq!(kind.as_deref(), Ok("ping"));
    }

    #[test]
    fn key_errors_distinguish_format_and_length() {
        let key = |text| parse(text, |request| request.public_key()).and_then(|key| key);
        assert_eq!(key(r#"{"type":"x"}"#), Err(BadRequest::Missing("publicKey")));
        assert_eq!(key(r#"{"type":"x","publicKey":"?"}"#), Err(BadRequest::KeyFormat));
        assert_eq!(key(r#"{"type":"x","publicKey":"AAAA"}"#), Err(BadRequest::KeyLength));
        let valid = r#"{"type":"x","publicKey":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}"#;
        assert_eq!(key(valid), Ok([0; 32]));
    }

    #[test]
    fn an_id_is_a_text_of_at_most_64_characters() {
        assert_eq!(parse(r#"{"type":"x","id":7}"#, |_| ()), Err(BadRequest::Invalid("id")));
        let long = format!(r#"{{"type":"x","id":"{}"}}"#, "i".repeat(65));
        assert_eq!(Request::parse(&long).map(|_| ()), Err(BadRequest::Invalid("id")));
    }

    #[test]
    fn an_attach_has_at_most_512_elements() {
        for (count, outcome) in [(512, Ok(512)), (513, Err(BadRequest::Invalid("inboxes")))] {
            let items = vec![r#"{"lease":"","proof":""}"#; count].join(",");
            let text = format!(r#"{{"type":"attach","id":"1","inboxes":[{items}]}}"#);
            let request = Request::parse(&text).expect("a message");
            assert_eq!(request.attach_list().map(|items| items.len()), outcome);
        }
    }

    /// Messages of every type.
    const MESSAGES: [&str; 9] = [
        r#"{"type":"call_ice","to":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMD","payload":"eyJ9","id":"7"}"#,
        r#"{"type":"offer","target":"ABC234","payload":{"sdp":"v=0\r\n","n":[1,-2.5e3,null,true]},"id":"a"}"#,
        r#"{"type":"register","pairingCode":"ABC234","publicKey":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}"#,
        r#"{"type":"pair_request","targetCode":"ABC234","proposedName":"Zo\u00eb \"Z\"","payload":[]}"#,
        r#"{"type":"pair_response","targetCode":"ABC234","accepted":true}"#,
        r#"{"type":"link_response","linkCode":"ABC234","accepted":false,"deviceName":"x","deviceId":"y"}"#,
        r#"{"type":"attach","id":"1","inboxes":[{"lease":"AAEC","proof":"_-8"},{"lease":"\u0041","proof":"","x":{}}]}"#,
        r#"{"type":"detach","id":"1","inboxes":["AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM"],"address":"AA"}"#,
        r#"{"type":"prove","id":"1","challenge":"AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM","url":"ws://a","peerId":"p"}"#,
    ];

    #[test]
    fn mutated_messages_are_the_same_to_the_block_scanner_and_to_the_parser_of_all_json() {
        chappe_mutations::run(fuzzed::MESSAGE, &MESSAGES);
    }
}
