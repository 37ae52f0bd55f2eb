//! The rules by which nodes are admitted as members.

use std::{collections::HashSet, net::SocketAddr};

use bytes::Bytes;
use chappe_common::{
    admission::TicketChain,
    keys::{NodeId, PublicKey},
    record::NodeRecord,
    roots::Roots,
    special,
    time::UnixTime,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::placement::Network;

/// The maximum number of members in one network (IPv4 /24, IPv6 /48). So the owner of one network has two votes.
pub const MAX_PER_NETWORK: usize = 2;

/// The admission policy of a federation. All nodes of a federation should have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Admits any node with a signed record that can be reached at its addresses.
    Open,
    /// In addition, requires a ticket that is signed by one of these keys, or if there are none, by a root.
    Invite(Vec<PublicKey>),
    /// In addition, requires that the node is in this list.
    Allowlist(HashSet<NodeId>),
}

/// Why a node isn't admitted, or a link is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AdmissionRefusal {
    /// Both sides have dialled at once, and the other connection stays.
    #[error("the other side keeps its own connection")]
    Duplicate,
    /// The record belongs to another federation.
    #[error("the other side belongs to another federation")]
    Federation,
    /// The record has expired, or is from the future.
    #[error("the record has expired or is from the future by the other side's clock")]
    Clock,
    /// The record doesn't verify, or has another key than the link.
    #[error("the record does not verify")]
    Record,
    /// There is no room for another link or member.
    #[error("the other side has no room for more")]
    Full,
    /// A record with a higher epoch is known, so this is an earlier run of the node.
    #[error("the other side knows a later run of this node")]
    Stale,
    /// The node can't be reached at the addresses of its record.
    #[error("the other side cannot reach the addresses of the record")]
    Unreachable,
    /// The federation admits by invitation, and the node showed no ticket.
    #[error("the federation admits by invitation, and no ticket was shown")]
    NotInvited,
    /// The ticket has expired, is for another node, or is not signed by a key that may invite.
    #[error("the ticket has expired, is for another node, or is signed by a key that may not invite")]
    Ticket,
    /// The federation admits by a list, and the node isn't in it.
    #[error("the federation admits by a list, and this node is not in it")]
    NotListed,
    /// The node's network has [`MAX_PER_NETWORK`] members already.
    #[error("the node's network has as many members as one network may have")]
    Network,
    /// The record names an address that can be reached only from its own network.
    #[error("the record names a private or special address")]
    Address,
}

/// The admission rules of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The federation's policy.
    pub policy: Policy,
    /// Networks that may have any number of members, such as test ranges.
    pub exempt: Vec<IpNet>,
}

impl Admission {
    /// Returns whether the policy could admit this node with the right ticket.
    pub(super) fn may_be_listed(&self, node: &NodeId) -> bool {
        match &self.policy {
            Policy::Open | Policy::Invite(_) => true,
            Policy::Allowlist(nodes) => nodes.contains(node),
        }
    }

    /// Checks whether the policy admits a node that shows this ticket.
    pub(super) fn check_policy(
        &self,
        record: &NodeRecord,
        ticket: Option<&Bytes>,
        roots: &Roots,
        now: UnixTime,
    ) -> Result<(), AdmissionRefusal> {
        match &self.policy {
            Policy::Open => Ok(()),
            Policy::Allowlist(nodes) if nodes.contains(&record.node) => Ok(()),
            Policy::Allowlist(_) => Err(AdmissionRefusal::NotListed),
            Policy::Invite(issuers) => {
                let ticket = ticket.ok_or(AdmissionRefusal::NotInvited)?;
                let ticket = TicketChain::decode(ticket).map_err(|_| AdmissionRefusal::Ticket)?;
                let by_roots = if issuers.is_empty() { roots.accepted(now) } else { Vec::new() };
                let issuers = if issuers.is_empty() { &by_roots } else { issuers };
                ticket.check(record.federation, &record.node, issuers, now).map_err(|_| AdmissionRefusal::Ticket)
            }
        }
    }

    /// Returns whether a node with the addresses of `own` may dial those of `record`.
    ///
    /// A node with a public address dials no private or special address. Such an address belongs to the node's own
    /// network, and a malicious record could name any address there.
    pub(super) fn may_dial(&self, own: &NodeRecord, record: &NodeRecord) -> bool {
        let is_public = |addr: &SocketAddr| special::is_public(addr.ip());
        !own.quic_addrs.first().is_some_and(is_public)
            || record
                .quic_addrs
                .iter()
                .all(|addr| is_public(addr) || Network::unless_exempt(addr, &self.exempt).is_none())
    }

    /// Returns the network in which a node counts: that of its first address, at which it has to be reached. Returns
    /// `None` for an exempt network.
    pub(super) fn network(&self, record: &NodeRecord) -> Option<Network> {
        record.quic_addrs.first().and_then(|first| Network::unless_exempt(first, &self.exempt))
    }
}
