//! The messages to the membership task, and its replies.

use std::sync::Arc;

use bytes::Bytes;
use chappe_common::{
    keys::NodeId,
    record::{NodeLeave, SignedRecord},
    signed::Signed,
    time::UnixTime,
};
use tokio::sync::oneshot;

use super::{Greeting, Verdict, exchange::ExchangeMessage};

/// A message to the membership task.
#[derive(Debug)]
pub(crate) enum Event {
    /// A packet from the authenticated peer of a link.
    Datagram {
        /// The link's peer.
        from: NodeId,
        packet: Bytes,
    },
    /// The greeting of the other side of a new link.
    Greet {
        greeting: Greeting,
        /// Whether this node has reached it at the first address of its record.
        reached: bool,
        reply: oneshot::Sender<Verdict>,
    },
    /// A dial has failed: no node with that key answered.
    Unreachable(NodeId),
    /// A dial was aborted or refused, which doesn't show whether the node is alive.
    Undialled(NodeId),
    /// A node that was learned from a registry or the last run.
    Seek(SignedRecord),
    /// A signed beacon from a registry.
    Beacon(Bytes),
    /// The newest beacon of the last run.
    LastBeacon(Bytes),
    /// A succession of roots was learned.
    RootsChanged,
    /// The ages of members, as stored by the last run.
    Remember(Vec<(NodeId, UnixTime)>),
    /// Begin an exchange with a member.
    OpenExchange {
        /// The member.
        with: NodeId,
        reply: oneshot::Sender<ExchangeMessage>,
    },
    Exchange {
        /// The link's peer.
        from: NodeId,
        /// The message.
        message: ExchangeMessage,
        reply: oneshot::Sender<Option<ExchangeMessage>>,
    },
    /// Request the state to store for the next run.
    Known(oneshot::Sender<Known>),
    /// Sign a new record.
    RenewRecord,
    /// This node's addresses have changed.
    Moved,
    /// This node has left, and returns.
    Returned,
    /// That node has refused this one as an earlier run.
    Overtaken(NodeId),
    /// The wall clock was set: sign a new record, and compare the clock with other nodes.
    ClockSet,
    /// The node stops: send a leave to the members, and return it.
    Leave(oneshot::Sender<Signed<NodeLeave>>),
}

/// The state of the federation that a node stores for its next run.
#[derive(Debug)]
pub(crate) struct Known {
    /// Since when this node has been a member.
    pub(crate) since: UnixTime,
    /// The members' records, and since when they have been members.
    pub(crate) members: Vec<(Arc<SignedRecord>, UnixTime)>,
    /// The newest signed beacon.
    pub(crate) beacon: Option<Bytes>,
}
