//! Tickets: signed invitations to a federation that admits nodes by invitation.
//!
//! A ticket names its node, so it can only be signed once the node has a key. A join link is made before that. It holds a
//! new key, to which an issuer grants that it may sign tickets; the invited node signs its own ticket with it.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::{NodeId, PublicKey, SecretKey},
    signed::{DecodeError, SignError, Signable, Signed},
    time::UnixTime,
};

/// The length of the length in front of a grant.
const GRANT_LENGTH: usize = 2;

/// A statement that a node may become a member, by a key that may invite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The federation that the node may join.
    pub federation: FederationId,
    /// The key that invites, and signs.
    pub issuer: PublicKey,
    /// The invited node. A copied ticket admits no other node.
    pub node: NodeId,
    /// When the ticket expires.
    pub expires_at: UnixTime,
}

/// A statement that the holder of a key may sign tickets, by a key that may invite.
///
/// It names no node. The holder of the secret part of `key` can admit nodes until the grant expires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerGrant {
    /// The federation that nodes may join.
    pub federation: FederationId,
    /// The key that invites, and signs.
    pub issuer: PublicKey,
    /// The key that may sign tickets.
    pub key: PublicKey,
    /// When the grant expires, and with it every ticket that the key has signed.
    pub expires_at: UnixTime,
}

/// What a node shows to be admitted: its ticket, and the grant to the ticket's signer if that is no issuer itself.
///
/// Its bytes are those of the ticket; or the length of the grant in two bytes, little endian, the grant, and the ticket.
/// A ticket has at most [`Ticket::MAX_LEN`] bytes, and the second form always has more. Its text is the base64url of its
/// bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketChain {
    grant: Option<Signed<IssuerGrant>>,
    ticket: Signed<Ticket>,
}

/// A verified ticket does not admit the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// The ticket is for another federation.
    #[error("the ticket is for another federation")]
    Federation,
    /// The ticket is for another node.
    #[error("the ticket is for another node")]
    Node,
    /// The signer may not invite.
    #[error("the ticket is signed by a key that may not invite")]
    Issuer,
    /// The ticket, or the grant to its signer, has expired.
    #[error("the ticket has expired")]
    Expired,
}

impl Signable for Ticket {
    const KIND: &'static str = "admission";
    const MAX_LEN: usize = 160;

    fn signer(&self) -> &PublicKey {
        &self.issuer
    }
}

impl Ticket {
    /// Checks that the ticket admits `node` to `federation` at `now`. `issuers` are the keys that may invite.
    ///
    /// # Errors
    /// The ticket does not admit the node.
    pub fn check(
        &self,
        federation: FederationId,
        node: &NodeId,
        issuers: &[PublicKey],
        now: UnixTime,
    ) -> Result<(), TicketError> {
        if self.federation != federation {
            return Err(TicketError::Federation);
        }
        if self.node != *node {
            return Err(TicketError::Node);
        }
        if !issuers.contains(&self.issuer) {
            return Err(TicketError::Issuer);
        }
        if self.expires_at <= now {
            return Err(TicketError::Expired);
        }
        Ok(())
    }
}

impl Signable for IssuerGrant {
    const KIND: &'static str = "admission-grant";
    const MAX_LEN: usize = 160;

    fn signer(&self) -> &PublicKey {
        &self.issuer
    }
}

impl From<Signed<Ticket>> for TicketChain {
    fn from(ticket: Signed<Ticket>) -> Self {
        Self { grant: None, ticket }
    }
}

impl TicketChain {
    /// Signs a ticket for `node` with the key of a grant. It is valid as long as the grant.
    ///
    /// # Errors
    /// The key is not the grant's.
    pub fn by_grant(grant: Signed<IssuerGrant>, key: &SecretKey, node: NodeId) -> Result<Self, SignError> {
        let ticket = Ticket { federation: grant.federation, issuer: grant.key, node, expires_at: grant.expires_at };
        let ticket = Signed::sign(ticket, key)?;
        Ok(Self { grant: Some(grant), ticket })
    }

    /// Decodes the bytes and verifies the signatures.
    ///
    /// # Errors
    /// The length, the shape or a signature is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() <= Ticket::MAX_LEN {
            return Ok(Signed::<Ticket>::decode(bytes.to_vec())?.into());
        }
        let (length, rest) = bytes.split_first_chunk::<GRANT_LENGTH>().ok_or(DecodeError::Length)?;
        let (grant, ticket) = rest.split_at_checked(u16::from_le_bytes(*length).into()).ok_or(DecodeError::Length)?;
        Ok(Self { grant: Some(Signed::decode(grant.to_vec())?), ticket: Signed::decode(ticket.to_vec())? })
    }

    /// The bytes that [`TicketChain::decode`] reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Some(grant) = &self.grant else { return self.ticket.as_bytes().to_vec() };
        let length = u16::try_from(grant.as_bytes().len()).expect("a grant has at most 160 bytes");
        [&length.to_le_bytes()[..], grant.as_bytes(), self.ticket.as_bytes()].concat()
    }

    /// The key that may invite: that of the grant, or of the ticket.
    pub fn issuer(&self) -> PublicKey {
        self.grant.as_ref().map_or(self.ticket.issuer, |grant| grant.issuer)
    }

    /// The federation of the ticket.
    pub fn federation(&self) -> FederationId {
        self.ticket.federation
    }

    /// The invited node.
    pub fn node(&self) -> NodeId {
        self.ticket.node
    }

    /// When the ticket, or the grant to its signer, expires.
    pub fn expires_at(&self) -> UnixTime {
        self.grant.as_ref().map_or(self.ticket.expires_at, |grant| grant.expires_at.min(self.ticket.expires_at))
    }

    /// Checks that the ticket admits `node` to `federation` at `now`. `issuers` are the keys that may invite.
    ///
    /// # Errors
    /// The ticket does not admit the node.
    pub fn check(
        &self,
        federation: FederationId,
        node: &NodeId,
        issuers: &[PublicKey],
        now: UnixTime,
    ) -> Result<(), TicketError> {
        let Some(grant) = &self.grant else { return self.ticket.check(federation, node, issuers, now) };
        if grant.federation != federation {
            return Err(TicketError::Federation);
        }
        if !issuers.contains(&grant.issuer) {
            return Err(TicketError::Issuer);
        }
        if grant.expires_at <= now {
            return Err(TicketError::Expired);
        }
        self.ticket.check(federation, node, &[grant.key], now)
    }
}

/// The text is not a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseTicketError {
    /// The text is not base64url.
    #[error("not a ticket: the line that `chappe node invite` prints is expected")]
    Text,
    /// The bytes are not a ticket, or its signature does not verify.
    #[error("not a ticket")]
    Decode(#[from] DecodeError),
}

impl fmt::Display for TicketChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.to_bytes()))
    }
}

impl FromStr for TicketChain {
    type Err = ParseTicketError;

    fn from_str(text: &str) -> Result<Self, ParseTicketError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| ParseTicketError::Text)?;
        Ok(Self::decode(&bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::keys::SecretKey;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32])
    }

    fn federation() -> FederationId {
        FederationId::of_roots(&[key(1).public()])
    }

    fn ticket() -> Signed<Ticket> {
        let ticket = Ticket {
            federation: federation(),
            issuer: key(1).public(),
            node: key(2).node_id(),
            expires_at: NOW + Duration::from_secs(60),
        };
        Signed::sign(ticket, &key(1)).expect("a ticket")
    }

    /// A grant by key 1 to key 3.
    fn grant() -> Signed<IssuerGrant> {
        let grant = IssuerGrant {
            federation: federation(),
            issuer: key(1).public(),
            key: key(3).public(),
            expires_at: NOW + Duration::from_secs(60),
        };
        Signed::sign(grant, &key(1)).expect("a grant")
    }

    #[test]
    fn a_ticket_admits_one_node_to_one_federation_for_a_time() {
        let ticket = ticket();
        let check = |federation, node: u8, issuer: u8, now| {
            ticket.check(federation, &key(node).node_id(), &[key(issuer).public()], now)
        };
        assert_eq!(check(federation(), 2, 1, NOW), Ok(()));
        assert_eq!(check(FederationId::of_roots(&[]), 2, 1, NOW), Err(TicketError::Federation));
        assert_eq!(check(federation(), 3, 1, NOW), Err(TicketError::Node));
        assert_eq!(check(federation(), 2, 2, NOW), Err(TicketError::Issuer));
        assert_eq!(check(federation(), 2, 1, NOW + Duration::from_secs(60)), Err(TicketError::Expired));
    }

    #[test]
    fn a_granted_key_admits_nodes_until_the_grant_expires() {
        let chain = TicketChain::by_grant(grant(), &key(3), key(2).node_id()).expect("a ticket");
        let check = |federation, node: u8, issuer: u8, now| {
            chain.check(federation, &key(node).node_id(), &[key(issuer).public()], now)
        };
        assert_eq!(check(federation(), 2, 1, NOW), Ok(()));
        assert_eq!(check(FederationId::of_roots(&[]), 2, 1, NOW), Err(TicketError::Federation));
        assert_eq!(check(federation(), 4, 1, NOW), Err(TicketError::Node));
        assert_eq!(check(federation(), 2, 3, NOW), Err(TicketError::Issuer), "the granted key is no issuer");
        assert_eq!(check(federation(), 2, 1, NOW + Duration::from_secs(60)), Err(TicketError::Expired));
        assert!(TicketChain::by_grant(grant(), &key(4), key(2).node_id()).is_err(), "another key than the grant's");
    }

    #[test]
    fn a_ticket_outlives_no_grant_and_needs_the_grant_to_its_own_signer() {
        let by = |issuer: u8, expires_at| {
            let ticket =
                Ticket { federation: federation(), issuer: key(issuer).public(), node: key(2).node_id(), expires_at };
            TicketChain { grant: Some(grant()), ticket: Signed::sign(ticket, &key(issuer)).expect("a ticket") }
        };
        let check = |chain: &TicketChain, now| chain.check(federation(), &key(2).node_id(), &[key(1).public()], now);
        let (minute, hour) = (NOW + Duration::from_secs(60), NOW + Duration::from_secs(3600));
        assert_eq!(check(&by(3, hour), NOW), Ok(()));
        assert_eq!(check(&by(3, hour), minute), Err(TicketError::Expired));
        assert_eq!(by(3, hour).expires_at(), minute);
        assert_eq!(check(&by(4, hour), NOW), Err(TicketError::Issuer), "the grant is for key 3");
    }

    #[test]
    fn a_ticket_reads_back_from_its_text() {
        let chain = TicketChain::by_grant(grant(), &key(3), key(2).node_id()).expect("a ticket");
        for ticket in [TicketChain::from(ticket()), chain] {
            let text = ticket.to_string();
            assert_eq!(text.parse(), Ok(ticket.clone()));
            assert_eq!(format!("{text}!").parse::<TicketChain>(), Err(ParseTicketError::Text));
            let mut forged = ticket.to_bytes();
            let end = forged.len() - 70;
            forged[end] ^= 1;
            let forged = URL_SAFE_NO_PAD.encode(forged).parse::<TicketChain>();
            assert!(matches!(forged, Err(ParseTicketError::Decode(_))), "{forged:?}");
        }
    }
}
