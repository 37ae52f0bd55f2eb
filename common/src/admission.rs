//! Tickets: signed invitations to a federation that admits nodes by invitation.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::{NodeId, PublicKey},
    signed::{DecodeError, Signable, Signed},
    time::UnixTime,
};

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

/// A signed ticket. Its text is the base64url of its bytes.
pub type SignedTicket = Signed<Ticket>;

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
    /// The ticket has expired.
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

impl fmt::Display for SignedTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.as_bytes()))
    }
}

impl FromStr for SignedTicket {
    type Err = ParseTicketError;

    fn from_str(text: &str) -> Result<Self, ParseTicketError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| ParseTicketError::Text)?;
        Ok(Self::decode(bytes)?)
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

    fn ticket() -> SignedTicket {
        let ticket = Ticket {
            federation: FederationId::of_roots(&[key(1).public()]),
            issuer: key(1).public(),
            node: key(2).node_id(),
            expires_at: NOW + Duration::from_secs(60),
        };
        Signed::sign(ticket, &key(1)).expect("a ticket")
    }

    #[test]
    fn a_ticket_admits_one_node_to_one_federation_for_a_time() {
        let (ticket, federation) = (ticket(), FederationId::of_roots(&[key(1).public()]));
        let check = |federation, node: u8, issuer: u8, now| {
            ticket.check(federation, &key(node).node_id(), &[key(issuer).public()], now)
        };
        assert_eq!(check(federation, 2, 1, NOW), Ok(()));
        assert_eq!(check(FederationId::of_roots(&[]), 2, 1, NOW), Err(TicketError::Federation));
        assert_eq!(check(federation, 3, 1, NOW), Err(TicketError::Node));
        assert_eq!(check(federation, 2, 2, NOW), Err(TicketError::Issuer));
        assert_eq!(check(federation, 2, 1, NOW + Duration::from_secs(60)), Err(TicketError::Expired));
    }

    #[test]
    fn a_ticket_reads_back_from_its_text() {
        let text = ticket().to_string();
        assert_eq!(text.parse(), Ok(ticket()));
        assert_eq!(format!("{text}!").parse::<SignedTicket>(), Err(ParseTicketError::Text));
        let mut forged = ticket().as_bytes().to_vec();
        forged[20] ^= 1;
        let forged = URL_SAFE_NO_PAD.encode(forged).parse::<SignedTicket>();
        assert_eq!(forged, Err(ParseTicketError::Decode(DecodeError::Signature)));
    }
}
