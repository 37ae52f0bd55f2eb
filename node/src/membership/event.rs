//! What reaches the membership task, and what it gives back. Messages only.

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

/// What reaches the membership task.
#[derive(Debug)]
pub(crate) enum Event {
    /// A packet from the node that the link proves.
    Datagram {
        /// The link's peer.
        from: NodeId,
        /// The packet.
        packet: Bytes,
    },
    /// The other side of a new link has shown this.
    Greet {
        /// What it has shown.
        greeting: Greeting,
        /// Whether this node has dialled it at the first address of that record.
        reached: bool,
        /// Where the verdict goes.
        reply: oneshot::Sender<Verdict>,
    },
    /// A dial has failed: nobody answered with the node's key.
    Unreachable(NodeId),
    /// A dial has come to nothing for another reason.
    Undialled(NodeId),
    /// A node that was heard of outside of gossip.
    Seek(SignedRecord),
    /// A beacon's signed note, from a registry or the last run.
    Beacon(Bytes),
    /// Since when nodes were members, by the last run.
    Remember(Vec<(NodeId, UnixTime)>),
    /// An exchange with this member begins.
    OpenExchange {
        /// With whom.
        with: NodeId,
        /// Where its first message goes.
        reply: oneshot::Sender<ExchangeMessage>,
    },
    /// A message of an exchange.
    Exchange {
        /// The link's peer.
        from: NodeId,
        /// What it says.
        message: ExchangeMessage,
        /// Where the answer goes.
        reply: oneshot::Sender<Option<ExchangeMessage>>,
    },
    /// What is to be written down for the next run.
    Known(oneshot::Sender<Known>),
    /// Sign a fresh record.
    RenewRecord,
    /// This node is dialled at other addresses from now on.
    Moved,
    /// This node has refused us as a former run.
    Overtaken(NodeId),
    /// This clock was set: sign a fresh record, and ask others for the time.
    ClockSet,
    /// The node stops: tell everybody, and give the signed leave back.
    Leave(oneshot::Sender<Signed<NodeLeave>>),
}

/// What a node writes down of the federation.
#[derive(Debug)]
pub(crate) struct Known {
    /// Since when this node has been a member.
    pub(crate) since: UnixTime,
    /// The members' records, and since when they have been members.
    pub(crate) members: Vec<(Arc<SignedRecord>, UnixTime)>,
    /// The newest beacon's signed note.
    pub(crate) beacon: Option<Bytes>,
}
