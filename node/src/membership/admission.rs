//! Who may become a member.

use std::{collections::HashSet, net::SocketAddr};

use bytes::Bytes;
use chappe_common::{
    admission::Ticket,
    keys::{NodeId, PublicKey},
    record::NodeRecord,
    signed::Signed,
    special,
    time::UnixTime,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::placement::Network;

/// The most members in one network (IPv4 /24, IPv6 /48): whoever has one network has two votes.
pub const MAX_PER_NETWORK: usize = 2;

/// Whom the federation admits. All nodes of a federation should agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Whoever shows a signed record and is reached at its addresses.
    Open,
    /// The same, and shows a ticket that one of these keys has signed.
    Invite(Vec<PublicKey>),
    /// The same, and is one of these.
    Allowlist(HashSet<NodeId>),
}

/// Why a node isn't admitted, or a link not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Both have dialled at once, and the other dial stays.
    #[error("the other side's own dial stays")]
    Duplicate,
    /// The record is of another federation.
    #[error("the other side is of another federation")]
    Federation,
    /// The record's times don't fit the clock.
    #[error("the record has expired or is from the future by the other side's clock")]
    Clock,
    /// The record doesn't verify, or is of another key than the link.
    #[error("the record does not verify")]
    Record,
    /// No room for another link or member.
    #[error("the other side has no room for more")]
    Full,
    /// A record with a higher epoch is known: this is a former self.
    #[error("the other side knows a later run of this node")]
    Stale,
    /// The node isn't reached at the addresses of its record.
    #[error("the other side does not reach the addresses of the record")]
    Unreachable,
    /// The federation admits by invitation, and there is no ticket.
    #[error("the federation admits by invitation, and no ticket was shown")]
    NotInvited,
    /// The ticket has expired, is for another node, or not by a key that may invite.
    #[error("the ticket has expired, is for another node, or is signed by a key that may not invite")]
    Ticket,
    /// The federation admits by a list, and the node isn't on it.
    #[error("the federation admits by a list, and this node is not on it")]
    NotListed,
    /// Its network has as many members as one network may have.
    #[error("the node's network has as many members as one network may have")]
    Network,
    /// Its record names an address that only its own network can reach.
    #[error("the record names a private or special address")]
    Address,
}

/// The rules of admission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Whom the federation admits.
    pub policy: Policy,
    /// Networks in which any number of nodes may stand: test ranges.
    pub exempt: Vec<IpNet>,
}

impl Admission {
    /// Whether the policy alone would admit this node, whatever it shows.
    pub(super) fn may_be_listed(&self, node: &NodeId) -> bool {
        match &self.policy {
            Policy::Open | Policy::Invite(_) => true,
            Policy::Allowlist(nodes) => nodes.contains(node),
        }
    }

    /// Whether the policy admits a node that shows this ticket.
    pub(super) fn judge(&self, record: &NodeRecord, ticket: Option<&Bytes>, now: UnixTime) -> Result<(), Refusal> {
        match &self.policy {
            Policy::Open => Ok(()),
            Policy::Allowlist(nodes) if nodes.contains(&record.node) => Ok(()),
            Policy::Allowlist(_) => Err(Refusal::NotListed),
            Policy::Invite(issuers) => {
                let ticket = ticket.ok_or(Refusal::NotInvited)?;
                let ticket = Signed::<Ticket>::decode(ticket.clone()).map_err(|_| Refusal::Ticket)?;
                ticket.check(record.federation, &record.node, issuers, now).map_err(|_| Refusal::Ticket)
            }
        }
    }

    /// Whether a node that stands at the addresses of `own` may dial those of `record`. One that stands in the internet
    /// dials no private or special address: what is there is its own network's, and a record may name anything.
    pub(super) fn may_dial(&self, own: &NodeRecord, record: &NodeRecord) -> bool {
        let is_public = |addr: &SocketAddr| special::is_public(addr.ip());
        !own.quic_addrs.first().is_some_and(is_public)
            || record
                .quic_addrs
                .iter()
                .all(|addr| is_public(addr) || Network::unless_exempt(addr, &self.exempt).is_none())
    }

    /// The network that a node counts in: that of its first address, at which it has to be reached. None: in an exempt
    /// range.
    pub(super) fn network(&self, record: &NodeRecord) -> Option<Network> {
        record.quic_addrs.first().and_then(|first| Network::unless_exempt(first, &self.exempt))
    }
}
