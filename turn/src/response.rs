//! Responses, and the bound on the length of responses to unverified sources.

use stun_types::{
    attribute::{AttributeType, AttributeWrite, ErrorCode, Nonce, Realm, UnknownAttributes},
    message::{
        IntegrityAlgorithm, Message, MessageIntegrityCredentials, MessageWrite as _, MessageWriteExt as _,
        MessageWriteVec,
    },
};

use crate::{client::Client, credentials::REALM};

/// IP and UDP headers.
const V4_HEADERS: usize = 20 + 8;
const V6_HEADERS: usize = 40 + 8;

/// Initial capacity of a response. Most responses fit.
const USUAL: usize = 128;

/// An error: its code, and the attributes that belong to it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Code(u16),
    /// 420, with the unknown attributes.
    Unknown(Vec<AttributeType>),
}

impl From<u16> for Refusal {
    fn from(code: u16) -> Self {
        Self::Code(code)
    }
}

impl Refusal {
    pub(crate) const fn code(&self) -> u16 {
        match self {
            Self::Code(code) => *code,
            Self::Unknown(_) => ErrorCode::UNKNOWN_ATTRIBUTE,
        }
    }
}

/// Signs responses to an authenticated request.
#[derive(Debug)]
pub(crate) struct Signer {
    pub(crate) credentials: MessageIntegrityCredentials,
    pub(crate) algorithm: IntegrityAlgorithm,
}

/// Writes a success response with these attributes.
pub(crate) fn success(request: &Message<'_>, attributes: &[&dyn AttributeWrite], signer: Option<&Signer>) -> Vec<u8> {
    let mut writer = Message::builder_success(request, MessageWriteVec::with_capacity(USUAL));
    for attribute in attributes {
        writer.add_attribute(*attribute).expect("each attribute stands once");
    }
    finish(writer, signer)
}

/// Writes an error response. It has no reason phrase, which would enlarge responses to forged sources.
pub(crate) fn error(request: &Message<'_>, refusal: &Refusal, signer: Option<&Signer>) -> Vec<u8> {
    let mut writer = Message::builder_error(request, MessageWriteVec::with_capacity(USUAL));
    add_error(&mut writer, refusal.code());
    if let Refusal::Unknown(types) = refusal {
        writer.add_attribute(&UnknownAttributes::new(types)).expect("it stands once");
    }
    finish(writer, signer)
}

/// Writes a 401 or 438, with the realm and nonce that the client needs to sign its next request.
pub(crate) fn challenge(request: &Message<'_>, code: u16, nonce: &str) -> Vec<u8> {
    let mut writer = Message::builder_error(request, MessageWriteVec::with_capacity(USUAL));
    add_error(&mut writer, code);
    writer.add_attribute(&Realm::new(REALM).expect("a short realm")).expect("it stands once");
    writer.add_attribute(&Nonce::new(nonce).expect("a short nonce")).expect("it stands once");
    finish(writer, None)
}

fn add_error(writer: &mut MessageWriteVec, code: u16) {
    let error = ErrorCode::new(code, "").expect("a code of the list");
    writer.add_attribute(&error).expect("it stands once");
}

fn finish(mut writer: MessageWriteVec, signer: Option<&Signer>) -> Vec<u8> {
    if let Some(signer) = signer {
        writer.add_message_integrity(&signer.credentials, signer.algorithm).expect("it stands once, and last");
    }
    writer.finish()
}

/// Whether an answer is small enough for a source that may be forged: at most 1.5 times the bytes of the request, each with
/// the headers of IP and UDP.
pub(crate) const fn is_answerable(client: &Client, request: usize, answer: usize) -> bool {
    let headers = if client.addr().is_ipv4() { V4_HEADERS } else { V6_HEADERS };
    client.is_stream() || 2 * (headers + answer) <= 3 * (headers + request)
}
