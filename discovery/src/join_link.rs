//! Join links: all that the operator of a new node needs to know about a federation.
//!
//! A link to a federation that admits by invitation holds a secret key and the grant to it. Anybody with the link can add
//! nodes until the grant expires, so it is sent in private. Other join links hold nothing secret.

use std::fmt;

use chappe_common::{
    admission::{IssuerGrant, TicketChain},
    federation::FederationId,
    keys::{NodeId, PublicKey, SecretKey},
    server_url::{Rest, check_url},
    signed::{DecodeError, SignError, Signed},
    time::UnixTime,
};
use serde::{Deserialize, Serialize};

use crate::{
    dns,
    link_format::{LinkFormat, LinkFormatError},
};

/// The path at a registry that explains a join link. Links lead there.
pub const PATH: &str = "/join";
/// Maximal number of roots, and of keys that may sign tickets.
const MAX_KEYS: usize = 8;
/// Maximal number of registries, and of DNS names.
const MAX_SOURCES: usize = 4;
/// Maximal length of a registry's URL, and of a DNS name.
const MAX_SOURCE: usize = 128;
const FORMAT: LinkFormat = LinkFormat {
    prefix: "CHAPPE-JOIN:",
    path: PATH,
    version: 1,
    // Sixteen keys and four registries. A QR code of level M holds twice as much.
    max_bytes: 1280,
    max_text: 2400,
};

/// The form if the roots are not the federation's founding ones: the id stands before the other fields. Earlier versions
/// could not join by these roots.
const FORMAT_WITH_ID: LinkFormat = LinkFormat { version: 2, ..FORMAT };

/// Why a join link cannot be parsed or created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinLinkError {
    /// The text is not a join link.
    #[error(transparent)]
    Format(#[from] LinkFormatError),
    /// The roots are missing, too many or invalid.
    #[error("a join link has 1 to 8 root keys")]
    Roots,
    /// A registry is not a URL, or there is none, or there are too many.
    #[error("a join link has 1 to 4 registries, each a URL of at most 128 characters")]
    Registries,
    /// A DNS name is invalid, or there are too many.
    #[error("a join link has at most 4 DNS names of at most 128 characters")]
    Dns,
    /// The grant is for another federation or key, or is by a key that may not invite, or does not verify.
    #[error("the invitation in the link is not valid")]
    Grant,
    /// The invitation has expired.
    #[error("the invitation in the link has expired: ask for a new link")]
    Expired,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Body {
    roots: Vec<PublicKey>,
    registries: Vec<String>,
    dns: Vec<String>,
    invitation: Option<InvitationBody>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct InvitationBody {
    issuers: Vec<PublicKey>,
    grant: Vec<u8>,
    key: [u8; 32],
}

/// All that the operator of a new node needs to know about a federation.
#[derive(Clone)]
pub struct JoinLink {
    /// If the roots are not the founding ones.
    federation: Option<FederationId>,
    roots: Vec<PublicKey>,
    registries: Vec<String>,
    dns: Vec<String>,
    invitation: Option<Invitation>,
}

/// The right to add nodes to a federation that admits by invitation.
#[derive(Clone)]
pub struct Invitation {
    issuers: Vec<PublicKey>,
    grant: Signed<IssuerGrant>,
    key: SecretKey,
}

impl fmt::Debug for JoinLink {
    /// Omits the secret key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinLink")
            .field("roots", &self.roots)
            .field("registries", &self.registries)
            .field("dns", &self.dns)
            .field("is_invitation", &self.invitation.is_some())
            .finish()
    }
}

impl Invitation {
    /// Grants a new key the right to sign tickets. `issuers` are the federation's keys that may invite, apart from its
    /// roots.
    ///
    /// # Errors
    /// The issuer's key has no grant to give, or the system has no random numbers.
    pub fn create(
        federation: FederationId,
        issuer: &SecretKey,
        issuers: Vec<PublicKey>,
        expires_at: UnixTime,
    ) -> Result<Self, CreateInvitationError> {
        let key = SecretKey::generate().map_err(|_| CreateInvitationError::Random)?;
        let grant = IssuerGrant { federation, issuer: issuer.public(), key: key.public(), expires_at };
        Ok(Self { issuers, grant: Signed::sign(grant, issuer)?, key })
    }

    /// The keys that may invite; none if these are the roots.
    pub fn issuers(&self) -> &[PublicKey] {
        &self.issuers
    }

    /// When the invitation, and every ticket by it, expires.
    pub fn expires_at(&self) -> UnixTime {
        self.grant.expires_at
    }

    /// Signs the ticket of a new node.
    pub fn ticket(&self, node: NodeId) -> TicketChain {
        TicketChain::by_grant(self.grant.clone(), &self.key, node).expect("checked in `JoinLink::check`")
    }

    fn body(&self) -> InvitationBody {
        InvitationBody {
            issuers: self.issuers.clone(),
            grant: self.grant.as_bytes().to_vec(),
            key: *self.key.to_bytes(),
        }
    }
}

/// An invitation cannot be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateInvitationError {
    /// The system has no random numbers.
    #[error("the system provides no random numbers")]
    Random,
    /// The grant cannot be signed.
    #[error("the invitation cannot be signed")]
    Sign(#[from] SignError),
}

impl TryFrom<InvitationBody> for Invitation {
    type Error = DecodeError;

    fn try_from(body: InvitationBody) -> Result<Self, DecodeError> {
        let grant = Signed::decode(body.grant)?;
        Ok(Self { issuers: body.issuers, grant, key: SecretKey::from_bytes(&body.key) })
    }
}

impl JoinLink {
    /// A link to the federation of these roots. `federation` is its id, if they are not its founding roots.
    ///
    /// # Errors
    /// A value is out of bounds, or the invitation is for another federation.
    pub fn new(
        federation: Option<FederationId>,
        roots: Vec<PublicKey>,
        registries: Vec<String>,
        dns: Vec<String>,
        invitation: Option<Invitation>,
    ) -> Result<Self, JoinLinkError> {
        let federation = federation.filter(|id| *id != FederationId::of_roots(&roots));
        let link = Self { federation, roots, registries, dns, invitation };
        link.check()?;
        if link.bytes().len() > FORMAT.max_bytes {
            return Err(LinkFormatError::TooLong.into());
        }
        Ok(link)
    }

    fn check(&self) -> Result<(), JoinLinkError> {
        let is_source = |text: &String| text.len() <= MAX_SOURCE;
        let is_registry = |url: &String| is_source(url) && check_url(url, &["https://", "http://"], Rest::Path).is_ok();
        if !(1..=MAX_KEYS).contains(&self.roots.len()) || !self.roots.iter().all(PublicKey::is_usable) {
            return Err(JoinLinkError::Roots);
        }
        if !(1..=MAX_SOURCES).contains(&self.registries.len()) || !self.registries.iter().all(is_registry) {
            return Err(JoinLinkError::Registries);
        }
        if self.dns.len() > MAX_SOURCES || !self.dns.iter().all(|name| is_source(name) && dns::is_name(name)) {
            return Err(JoinLinkError::Dns);
        }
        let Some(Invitation { issuers, grant, key }) = &self.invitation else { return Ok(()) };
        let is_issuer =
            if issuers.is_empty() { self.roots.contains(&grant.issuer) } else { issuers.contains(&grant.issuer) };
        let is_valid = is_issuer
            && issuers.len() <= MAX_KEYS
            && grant.federation == self.federation.unwrap_or_else(|| FederationId::of_roots(&self.roots))
            && grant.key == key.public();
        if is_valid { Ok(()) } else { Err(JoinLinkError::Grant) }
    }

    /// Parses a link or the content of a QR code.
    ///
    /// # Errors
    /// What is wrong with the text, in words for the user.
    pub fn parse(text: &str, now: UnixTime) -> Result<Self, JoinLinkError> {
        let link = match FORMAT.decode_text(text) {
            Err(LinkFormatError::Version) => {
                let (federation, body) = FORMAT_WITH_ID.decode_text(text)?;
                Self::from_body(Some(federation), body)?
            }
            decoded => Self::from_body(None, decoded?)?,
        };
        if link.invitation.as_ref().is_some_and(|invitation| invitation.expires_at() <= now) {
            return Err(JoinLinkError::Expired);
        }
        Ok(link)
    }

    fn from_body(
        federation: Option<FederationId>,
        Body { roots, registries, dns, invitation }: Body,
    ) -> Result<Self, JoinLinkError> {
        let invitation = invitation.map(Invitation::try_from).transpose().map_err(|_| JoinLinkError::Grant)?;
        Self::new(federation, roots, registries, dns, invitation)
    }

    fn bytes(&self) -> Vec<u8> {
        let body = Body {
            roots: self.roots.clone(),
            registries: self.registries.clone(),
            dns: self.dns.clone(),
            invitation: self.invitation.as_ref().map(Invitation::body),
        };
        match self.federation {
            Some(federation) => FORMAT_WITH_ID.encode(&(federation, body)),
            None => FORMAT.encode(&body),
        }
    }

    /// The content of the QR code.
    pub fn to_qr_text(&self) -> String {
        FORMAT.qr_text(&self.bytes())
    }

    /// The link as a URL at the first registry that has an `https://` URL. Its page explains what to do.
    pub fn to_url(&self) -> Option<String> {
        let site = self.registries.iter().find(|url| url.starts_with("https://"))?;
        Some(FORMAT.url(site, &self.bytes()))
    }

    /// The federation's id, if the roots are not its founding ones.
    pub const fn federation(&self) -> Option<FederationId> {
        self.federation
    }

    /// The root keys of the federation.
    pub fn roots(&self) -> &[PublicKey] {
        &self.roots
    }

    /// The base URLs of its registries.
    pub fn registries(&self) -> &[String] {
        &self.registries
    }

    /// The names under which it publishes nodes in DNS.
    pub fn dns(&self) -> &[String] {
        &self.dns
    }

    /// The right to add a node, if the federation admits by invitation.
    pub const fn invitation(&self) -> Option<&Invitation> {
        self.invitation.as_ref()
    }
}

/// Checks for the tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;
    use crate::link_format::checksum;

    /// The bytes of a join link, to which the right checksum is appended.
    pub const JOIN_LINK: (&str, fn(&[u8]) -> bool) = ("join link", |bytes| {
        let bytes = [bytes, &checksum(bytes)].concat();
        let read = |bytes: &[u8]| match FORMAT.decode(bytes) {
            Ok(body) => JoinLink::from_body(None, body).ok(),
            Err(_) => {
                let (federation, body) = FORMAT_WITH_ID.decode(bytes).ok()?;
                JoinLink::from_body(Some(federation), body).ok()
            }
        };
        let Some(link) = read(&bytes) else { return false };
        assert_eq!(read(&link.bytes()).map(|again| again.bytes()), Some(link.bytes()));
        true
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::link_format::CHECKSUM;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32])
    }

    fn registries() -> Vec<String> {
        vec!["http://192.0.2.1:8700".to_owned(), "https://registry.example.org/chappe/".to_owned()]
    }

    fn link(invitation: Option<Invitation>) -> Result<JoinLink, JoinLinkError> {
        JoinLink::new(None, vec![key(1).public()], registries(), vec!["chappe.example.org".to_owned()], invitation)
    }

    fn invitation(issuer: u8, issuers: &[u8]) -> Invitation {
        let federation = FederationId::of_roots(&[key(1).public()]);
        let issuers = issuers.iter().map(|seed| key(*seed).public()).collect();
        Invitation::create(federation, &key(issuer), issuers, NOW + Duration::from_secs(60)).expect("an invitation")
    }

    #[test]
    fn a_link_holds_what_a_new_node_needs() {
        let made = link(None).expect("a link");
        for text in [made.to_qr_text(), made.to_url().expect("a URL"), made.to_qr_text().to_lowercase()] {
            let read = JoinLink::parse(&text, NOW).expect("a link");
            assert_eq!(read.roots(), [key(1).public()]);
            assert_eq!(read.registries(), registries());
            assert_eq!(read.dns(), ["chappe.example.org"]);
            assert!(read.invitation().is_none());
        }
        assert!(made.to_url().expect("a URL").starts_with("https://registry.example.org/chappe/join#"));
    }

    #[test]
    fn an_invited_node_signs_its_own_ticket() {
        for (issuer, issuers) in [(1, &[][..]), (2, &[2, 3])] {
            let text = link(Some(invitation(issuer, issuers))).expect("a link").to_qr_text();
            let read = JoinLink::parse(&text, NOW).expect("a link");
            let invitation = read.invitation().expect("an invitation");
            let node = key(7).node_id();
            let federation = FederationId::of_roots(read.roots());
            let ticket = invitation.ticket(node);
            assert_eq!(ticket.check(federation, &node, &[key(issuer).public()], NOW), Ok(()));
            assert!(!format!("{read:?}").contains("SecretKey"), "the key is not printed");
        }
    }

    #[test]
    fn an_invitation_by_a_key_that_may_not_invite_makes_no_link() {
        for (issuer, issuers) in [(2, &[][..]), (1, &[2])] {
            assert!(matches!(link(Some(invitation(issuer, issuers))), Err(JoinLinkError::Grant)));
        }
        let other = JoinLink::new(None, vec![key(9).public()], registries(), vec![], Some(invitation(1, &[])));
        assert!(matches!(other, Err(JoinLinkError::Grant)));
        let mut stolen = invitation(1, &[]);
        stolen.key = key(8);
        assert!(matches!(link(Some(stolen)), Err(JoinLinkError::Grant)), "a key without the grant");
    }

    #[test]
    fn an_expired_invitation_is_named() {
        let text = link(Some(invitation(1, &[]))).expect("a link").to_qr_text();
        assert!(matches!(JoinLink::parse(&text, NOW + Duration::from_secs(60)), Err(JoinLinkError::Expired)));
    }

    #[test]
    fn errors_name_the_cause() {
        let roots = || vec![key(1).public()];
        let new = |roots, registries: &[&str], dns: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            JoinLink::new(None, roots, texts(registries), texts(dns), None).expect_err("an invalid link")
        };
        assert_eq!(new(vec![], &["https://a.example"], &[]), JoinLinkError::Roots);
        assert_eq!(new(vec![PublicKey::from_bytes([0; 32])], &["https://a.example"], &[]), JoinLinkError::Roots);
        for registries in [&[][..], &["ftp://a.example"], &["https://a.example"; 5]] {
            assert_eq!(new(roots(), registries, &[]), JoinLinkError::Registries);
        }
        assert_eq!(new(roots(), &["https://a.example"], &["a b"]), JoinLinkError::Dns);
        let error = JoinLink::parse("https://calls.example/i#AAAA", NOW).expect_err("another kind of link");
        assert_eq!(error.to_string(), "not a link: CHAPPE-JOIN:… or https://…/join#… is expected");
    }

    #[test]
    fn the_largest_link_fits_a_qr_code() {
        let roots: Vec<_> = (1..=8).map(|seed| key(seed).public()).collect();
        let long = |n: usize| format!("https://{}.example/{n}", "a".repeat(60));
        let federation = FederationId::of_roots(&roots);
        let invitation = Invitation::create(federation, &key(1), roots.clone(), NOW).expect("an invitation");
        let registries = (0..4).map(long).collect();
        let dns = (0..4).map(|n| format!("{}{n}.example", "a".repeat(50))).collect();
        let link = JoinLink::new(None, roots, registries, dns, Some(invitation)).expect("a link");
        let text = link.to_qr_text();
        qrcode::QrCode::with_error_correction_level(&text, qrcode::EcLevel::M).expect("a code");
        assert!(matches!(JoinLink::parse(&text, NOW), Err(JoinLinkError::Expired)), "it decodes: {}", text.len());
    }

    #[test]
    fn mutated_links_read_as_they_are_written() {
        let corpus = [link(None), link(Some(invitation(2, &[2])))].map(|link| {
            let bytes = link.expect("a link").bytes();
            bytes[..bytes.len() - CHECKSUM].to_vec()
        });
        chappe_mutations::run(fuzzed::JOIN_LINK, &corpus);
    }

    #[test]
    fn a_link_with_a_later_root_has_the_federation_s_id() {
        let id = FederationId::of_roots(&[key(1).public()]);
        let link = JoinLink::new(Some(id), vec![key(2).public()], registries(), Vec::new(), None).expect("a link");
        let read = JoinLink::parse(&link.to_qr_text(), NOW).expect("a link");
        assert_eq!((read.federation(), read.roots()), (Some(id), &[key(2).public()][..]));
        let founding = JoinLink::new(Some(id), vec![key(1).public()], registries(), Vec::new(), None).expect("a link");
        assert_eq!(founding.federation(), None, "earlier versions read it");
        chappe_mutations::run(fuzzed::JOIN_LINK, &[&link.bytes()[..link.bytes().len() - CHECKSUM]]);
    }
}
