//! Members' statements about a node, which can overrule that the registry does not reach the node's door.

use std::{collections::BTreeMap, sync::Arc};

use chappe_common::{
    keys::NodeId,
    reachability::{Reachability, ReachabilityError},
    record::NodeRecord,
    signed::Unverified,
    time::UnixTime,
};
use ipnet::IpNet;

use super::{Listing, wide_network};

/// Fewest networks from which members must have tried the door. One liar is contradicted by two others.
const MIN_NETWORKS: usize = 3;

/// Why a statement does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatementFault {
    /// It is no statement, or says nothing about the door.
    Malformed,
    /// The signature is invalid.
    Signature,
    /// It is about another node.
    Subject,
    /// It is about another run of the node, or about a later record.
    Record,
    /// It is old, or from the future.
    Time,
    /// Its signer is not listed, or is in the same network as the node.
    Observer,
}

impl StatementFault {
    /// The label in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Signature => "signature",
            Self::Subject => "subject",
            Self::Record => "record",
            Self::Time => "time",
            Self::Observer => "observer",
        }
    }
}

impl From<ReachabilityError> for StatementFault {
    fn from(error: ReachabilityError) -> Self {
        match error {
            ReachabilityError::Subject => Self::Subject,
            ReachabilityError::Record => Self::Record,
            ReachabilityError::Time => Self::Time,
        }
    }
}

/// Whether members of a network reach the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vote {
    network: IpNet,
    reaches: bool,
}

/// Checks a statement about the node of `record`. The signature is verified last, because that costs most.
///
/// # Errors
/// Why it does not count.
pub(crate) fn vote(
    statement: Option<Unverified<Reachability>>,
    record: &NodeRecord,
    listings: &BTreeMap<NodeId, Arc<Listing>>,
    now: UnixTime,
) -> Result<Vote, StatementFault> {
    let statement = statement.ok_or(StatementFault::Malformed)?;
    statement.value().check_sent(record, now)?;
    let reaches = statement.value().reaches_door().ok_or(StatementFault::Malformed)?;
    // The address at which a listed node has proved its key, not one that it claims.
    let network_of = |node: &NodeId| listings.get(node).map(|listing| wide_network(listing.proved));
    let network = network_of(&statement.value().observer).ok_or(StatementFault::Observer)?;
    // What is closed to others may be open to a neighbour.
    if network_of(&record.node) == Some(network) {
        return Err(StatementFault::Observer);
    }
    statement.verify().map_err(|_| StatementFault::Signature)?;
    Ok(Vote { network, reaches })
}

/// Whether the votes overrule the registry: two thirds of at least three networks. One network has one vote, which is a
/// failure if any of its members failed.
pub(crate) fn overrule(votes: &[Vote]) -> bool {
    let mut networks = BTreeMap::<IpNet, bool>::new();
    for vote in votes {
        *networks.entry(vote.network).or_insert(true) &= vote.reaches;
    }
    let reached = networks.values().filter(|reaches| **reaches).count();
    networks.len() >= MIN_NETWORKS && reached * 3 >= networks.len() * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_thirds_of_three_networks_overrule() {
        let votes = |votes: &[(u8, bool)]| {
            let vote =
                |&(network, reaches): &(u8, bool)| Vote { network: wide_network([10, network, 0, 1].into()), reaches };
            overrule(&votes.iter().map(vote).collect::<Vec<_>>())
        };
        assert!(votes(&[(1, true), (2, true), (3, true)]));
        assert!(votes(&[(1, true), (2, true), (3, false)]));
        assert!(!votes(&[(1, true), (2, false), (3, false)]));
        assert!(!votes(&[(1, true), (2, true)]), "two networks");
        assert!(!votes(&[(1, true), (1, true), (2, true)]), "three statements of two networks");
        assert!(!votes(&[(1, true), (2, true), (2, false), (3, false)]), "a network fails if one of its members does");
        assert!(!votes(&[(1, true), (2, true), (3, false), (4, false)]));
    }
}
