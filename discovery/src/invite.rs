//! Invites and QR codes: one to three nodes with their keys, and for pairing also a code.
//!
//! An attacker who makes somebody open a link can name nodes of his own. They see what any node sees, but do not learn
//! the sender's contacts.

use std::{fmt, time::Duration};

use chappe_common::{
    endpoint::NodeEndpoint, federation::FederationId, keys::NodeId, redacted::Redacted, special, time::UnixTime,
};
use futures_util::future::{self, BoxFuture, FutureExt as _};
use serde::{Deserialize, Serialize};

use crate::{
    link_format::{LinkFormat, LinkFormatError},
    source::{Candidate, Source, SourceError, SourceKind, SourceResponse},
};

/// Maximal number of nodes. More would not fit the QR code, and one of three is alive.
pub const MAX_INVITE_NODES: usize = 3;
/// Maximal lifetime. A printed link must not stay valid for ever.
pub const MAX_INVITE_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// Maximal length in bytes: what a QR code of version 10 at level M holds after `CHAPPE:`.
const MAX_BYTES: usize = 190;
/// Maximal length of a code: six characters, a dash, and a secret of 128 bits.
const MAX_CODE: usize = 33;
const FORMAT: LinkFormat =
    // The text may have a long host name.
    LinkFormat { prefix: "CHAPPE:", path: "/i", version: 2, max_bytes: MAX_BYTES, max_text: 1024 };

/// Why a link cannot be parsed or created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// The text is not a link with nodes, or has none or more than [`MAX_INVITE_NODES`].
    #[error(transparent)]
    Format(#[from] LinkFormatError),
    /// The code does not fit into a link.
    #[error("the link is too long")]
    TooLong,
    /// The link has expired, or its lifetime is longer than [`MAX_INVITE_LIFETIME`].
    #[error("the link has expired: ask for a new one")]
    Expired,
    /// The link contains a private address, which cannot be reached from elsewhere.
    #[error("the link contains an address in a private network")]
    Private,
    /// A node's URL has a path, or its host name is too long.
    #[error("a node's URL does not fit into a link")]
    Url,
}

#[derive(Serialize, Deserialize)]
struct Body {
    expires_at: UnixTime,
    code: Option<String>,
    nodes: Vec<NodeEndpoint>,
    federation: Option<FederationId>,
}

/// A link with nodes and pinned keys, and for pairing also a code.
#[derive(Clone, PartialEq, Eq)]
pub struct Invite {
    expires_at: UnixTime,
    code: Option<Redacted<String>>,
    nodes: Vec<NodeEndpoint>,
    federation: Option<FederationId>,
}

impl fmt::Debug for Invite {
    /// Omits the code.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invite")
            .field("expires_at", &self.expires_at)
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

impl Invite {
    /// Creates a link to the first [`MAX_INVITE_NODES`] nodes whose URLs fit. `code` is the whole pairing code.
    ///
    /// # Errors
    /// No node's URL fits, or the code is too long.
    pub fn new(
        nodes: impl IntoIterator<Item = (NodeId, String)>,
        code: Option<&str>,
        expires_at: UnixTime,
    ) -> Result<Self, InviteError> {
        if code.is_some_and(|code| code.len() > MAX_CODE) {
            return Err(InviteError::TooLong);
        }
        let code = code.map(|code| Redacted::new(code.to_owned()));
        let mut invite = Self { expires_at, code, nodes: Vec::new(), federation: None };
        for (node, url) in nodes {
            let Ok(node) = NodeEndpoint::new(node, &url) else { continue };
            invite.nodes.push(node);
            if invite.bytes().len() > MAX_BYTES {
                invite.nodes.pop();
            }
            if invite.nodes.len() == MAX_INVITE_NODES {
                break;
            }
        }
        if invite.nodes.is_empty() { Err(InviteError::Url) } else { Ok(invite) }
    }

    /// Adds the federation's id, which commits to the root keys: the client that opens the link can get the roots from any
    /// node. If the id does not fit, drops the last nodes, but never the only one.
    #[must_use]
    pub fn with_federation(mut self, federation: FederationId) -> Self {
        self.federation = Some(federation);
        while self.bytes().len() > MAX_BYTES && self.nodes.len() > 1 {
            self.nodes.pop();
        }
        if self.bytes().len() > MAX_BYTES {
            self.federation = None;
        }
        self
    }

    /// Parses a text that a person has pasted or a camera has read. `private` allows private addresses, for tests.
    ///
    /// # Errors
    /// What is wrong with the text, in words for the user.
    pub fn parse(text: &str, now: UnixTime, private: bool) -> Result<Self, InviteError> {
        let invite = Self::from_body(FORMAT.decode_text(text)?)?;
        if invite.expires_at <= now || invite.expires_at > now + MAX_INVITE_LIFETIME {
            return Err(InviteError::Expired);
        }
        if !private && !invite.nodes.iter().all(special::is_public_endpoint) {
            return Err(InviteError::Private);
        }
        Ok(invite)
    }

    fn from_body(Body { expires_at, code, nodes, federation }: Body) -> Result<Self, LinkFormatError> {
        let is_well_formed = (1..=MAX_INVITE_NODES).contains(&nodes.len())
            && nodes.iter().all(NodeEndpoint::is_well_formed)
            && code.as_ref().is_none_or(|code: &String| code.len() <= MAX_CODE && code.is_ascii());
        if is_well_formed {
            Ok(Self { expires_at, code: code.map(Redacted::new), nodes, federation })
        } else {
            Err(LinkFormatError::Malformed)
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let code = self.code().map(str::to_owned);
        let (nodes, federation) = (self.nodes.clone(), self.federation);
        FORMAT.encode(&Body { expires_at: self.expires_at, code, nodes, federation })
    }

    /// The content of the QR code.
    pub fn to_qr_text(&self) -> String {
        FORMAT.qr_text(&self.bytes())
    }

    /// The link as a URL. `site` is any `https://…`, perhaps a page that explains what to install.
    pub fn to_url(&self, site: &str) -> String {
        FORMAT.url(site, &self.bytes())
    }

    /// The pairing code, if any.
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref().map(String::as_str)
    }

    /// When the link expires.
    pub const fn expires_at(&self) -> UnixTime {
        self.expires_at
    }

    /// The federation of the nodes, if the sender knew it.
    pub const fn federation(&self) -> Option<FederationId> {
        self.federation
    }

    /// The nodes and their URLs.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, String)> + '_ {
        self.nodes.iter().map(|node| (node.node(), node.url()))
    }
}

/// The source of the nodes in links.
#[derive(Debug, Default)]
pub struct Invites(Vec<Invite>);

impl Invites {
    /// A source of these links' nodes.
    pub const fn new(invites: Vec<Invite>) -> Self {
        Self(invites)
    }
}

impl Source for Invites {
    fn kind(&self) -> SourceKind {
        SourceKind::Invite
    }

    fn list(&self, now: UnixTime) -> BoxFuture<'_, Result<SourceResponse, SourceError>> {
        let current = self.0.iter().filter(|invite| invite.expires_at > now);
        let candidate = |(node, url)| Candidate::new(url, Some(node), SourceKind::Invite);
        let candidates: Vec<_> = current.flat_map(Invite::nodes).map(candidate).collect();
        let is_over = candidates.is_empty() && !self.0.is_empty();
        let response = SourceResponse { candidates, ..SourceResponse::default() };
        future::ready(if is_over { Err(SourceError::InviteExpired) } else { Ok(response) }).boxed()
    }
}

/// Checks for the tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use std::sync::LazyLock;

    use chappe_common::keys::SecretKey;

    use super::*;
    use crate::link_format::checksum;

    pub(super) const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
    pub(super) const CODE: &str = "ABC234-ABCDEFGHJKLMNPQRSTUVWXYZ23";

    /// A link to three nodes, with a code.
    pub(super) static VALID: LazyLock<Invite> = LazyLock::new(|| {
        let nodes = [
            (node(1), "wss://relay.example.org".to_owned()),
            (node(2), "wss://8.8.8.8:8710".to_owned()),
            (node(3), "ws://9.9.9.9:8710/".to_owned()),
        ];
        Invite::new(nodes, Some(CODE), NOW + Duration::from_secs(600)).expect("a link")
    });

    pub(super) fn node(n: u8) -> NodeId {
        SecretKey::from_bytes(&[n; 32]).node_id()
    }

    /// The bytes of a link, to which the right checksum is appended.
    pub const INVITE: (&str, fn(&[u8]) -> bool) = ("link", |bytes| {
        let bytes = [bytes, &checksum(bytes)].concat();
        let decode = |bytes: &[u8]| FORMAT.decode(bytes).and_then(Invite::from_body);
        let Ok(invite) = decode(&bytes) else { return false };
        assert_eq!(decode(&invite.bytes()), Ok(invite.clone()));
        for text in [invite.to_qr_text(), invite.to_url("https://calls.example")] {
            let read = Invite::parse(&text, NOW, true);
            assert!(matches!(read, Err(InviteError::Expired)) || read == Ok(invite.clone()), "{read:?}");
        }
        true
    });

    /// A link as text: either [`VALID`] or an error.
    pub const TEXT: (&str, fn(&[u8]) -> bool) = ("link as a text", |text| {
        let Ok(text) = str::from_utf8(text) else { return false };
        let read = Invite::parse(text, NOW, false);
        // With a checksum of four bytes, no other input should pass.
        assert!(read.as_ref().is_err() || read.as_ref() == Ok(&*VALID), "{text}");
        read.is_ok()
    });
}

#[cfg(test)]
mod tests {
    use super::{
        fuzzed::{CODE, NOW, VALID, node},
        *,
    };
    use crate::link_format::{CHECKSUM, checksum};

    fn later() -> UnixTime {
        NOW + Duration::from_secs(600)
    }

    fn invite() -> Invite {
        VALID.clone()
    }

    fn parse(text: &str) -> Result<Invite, InviteError> {
        Invite::parse(text, NOW, false)
    }

    #[test]
    fn links_and_qr_codes_decode_in_either_case() {
        let invite = invite();
        let (qr, url) = (invite.to_qr_text(), invite.to_url("https://calls.example/"));
        assert!(qr.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b':'), "{qr}");
        assert!(url.starts_with("https://calls.example/i#"));
        for text in [qr.clone(), qr.to_lowercase(), format!("  {url}\n"), url.replace("#", "#CHAPPE:")] {
            assert_eq!(parse(&text).as_ref(), Ok(&invite), "{text}");
        }
        let urls: Vec<_> = invite.nodes().collect();
        assert_eq!(urls[0], (node(1), "wss://relay.example.org".to_owned()));
        assert_eq!(urls[2], (node(3), "ws://9.9.9.9:8710".to_owned()));
        assert_eq!(invite.code(), Some(CODE));
    }

    #[test]
    fn three_nodes_and_a_code_fit_a_qr_code_of_version_10() {
        let full = |url: &dyn Fn(u8) -> String| {
            let invite = Invite::new((1..=5).map(|n| (node(n), url(n))), Some(CODE), later()).expect("a link");
            let federation = FederationId::of_roots(&[*node(9).key()]);
            let invite = invite.with_federation(federation);
            assert_eq!(invite.federation(), Some(federation));
            assert_eq!(Invite::parse(&invite.to_qr_text(), NOW, true), Ok(invite.clone()));
            invite
        };
        let v4 = full(&|n| format!("wss://203.113.255.25{n}:65535"));
        assert_eq!(v4.nodes().count(), MAX_INVITE_NODES);
        // Only two longer addresses fit.
        let v6 = full(&|n| format!("wss://[2606:4700:1234:5678:9abc:def0:1234:567{n}]:65535"));
        assert_eq!(v6.nodes().count(), 2);
        for invite in [v4, v6, invite()] {
            assert!(invite.bytes().len() <= MAX_BYTES);
            let qr =
                qrcode::QrCode::with_error_correction_level(invite.to_qr_text(), qrcode::EcLevel::M).expect("a code");
            let qrcode::Version::Normal(version) = qr.version() else { panic!("a normal code") };
            assert!(version <= 10, "{version}");
        }
    }

    #[test]
    fn link_errors_name_the_cause() {
        let qr = invite().to_qr_text();
        let mut typo = qr.clone().into_bytes();
        typo[20] = if typo[20] == b'A' { b'B' } else { b'A' };
        let cut = &qr[..qr.len() - 4];
        assert_eq!(parse(&String::from_utf8(typo).expect("ASCII")), Err(LinkFormatError::Checksum.into()));
        assert!(matches!(
            parse(cut),
            Err(InviteError::Format(LinkFormatError::Checksum | LinkFormatError::Text { .. }))
        ));
        for text in ["", "CHAPPE", "CHAPPE:0", "http://x/i#AA", "https://x/j#AA", "chappe:\u{fc}", "hello"] {
            let error = LinkFormatError::Text { prefix: "CHAPPE:", path: "/i" };
            assert_eq!(parse(text), Err(error.into()), "{text}");
        }
        assert_eq!(parse(&"A".repeat(1025)), Err(LinkFormatError::TooLong.into()));
        assert_eq!(Invite::parse(&qr, later(), false), Err(InviteError::Expired));
        let mut newer = invite().bytes();
        newer.truncate(newer.len() - CHECKSUM);
        newer[0] += 1;
        let check = checksum(&newer);
        newer.extend_from_slice(&check);
        assert_eq!(parse(&FORMAT.qr_text(&newer)), Err(LinkFormatError::Version.into()));
    }

    #[test]
    fn addresses_in_private_networks_are_for_tests_alone() {
        for url in
            ["ws://127.0.0.1:1", "wss://10.0.0.1:443", "wss://[::1]:1", "wss://[fd00::1]", "wss://router.local:1"]
        {
            let invite = Invite::new([(node(1), url.to_owned())], None, later()).expect("a link").to_qr_text();
            assert_eq!(parse(&invite), Err(InviteError::Private), "{url}");
            assert!(Invite::parse(&invite, NOW, true).is_ok(), "{url}");
        }
    }

    #[test]
    fn a_url_that_does_not_fit_is_passed_over_and_none_at_all_is_an_error() {
        let long = format!("wss://{}.example", "a".repeat(80));
        let nodes =
            [(node(1), long.clone()), (node(2), "https://x".to_owned()), (node(3), "wss://8.8.8.8:1".to_owned())];
        let invite = Invite::new(nodes, None, later()).expect("one fits");
        assert_eq!(invite.nodes().map(|(node, _)| node).collect::<Vec<_>>(), [node(3)]);
        assert_eq!(Invite::new([(node(1), long)], None, later()), Err(InviteError::Url));
        assert_eq!(Invite::new([], None, later()), Err(InviteError::Url));
        assert_eq!(Invite::new([], Some(&"A".repeat(34)), later()), Err(InviteError::TooLong));
    }

    #[test]
    fn the_code_is_not_printed() {
        assert!(!format!("{:?}", invite()).contains("ABC234"));
    }

    #[test]
    fn mutated_links_read_as_they_are_written() {
        let no_code = Invite::new([(node(1), "ws://[2606:4700::1]:1".to_owned())], None, later()).expect("a link");
        let corpus = [invite(), no_code].map(|invite| invite.bytes()[..invite.bytes().len() - CHECKSUM].to_vec());
        chappe_mutations::run(fuzzed::INVITE, &corpus);
    }

    #[test]
    fn mutated_texts_are_the_same_link_or_none() {
        let corpus = [invite().to_qr_text(), invite().to_url("https://calls.example")];
        chappe_mutations::run(fuzzed::TEXT, &corpus);
    }
}
