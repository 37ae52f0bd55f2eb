//! A session's operations in progress: what it asks of other nodes, or waits for, while it goes on. Most sessions have none
//! for hours, and then keep nothing for them.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use chappe_common::{code::PairingCode, keys::NodeId, lease::SignedLease};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use crate::{
    client_protocol::reply::Rejected,
    homes::{ClaimError, Registered},
    session::pairing::Registration,
    sessions::flights::Need,
    wire::{frame::CodeRegistration, ids::PeerAddr},
};

/// Operations of one session that may be in progress at once.
const MAX_OPS: usize = 16;

/// A lease that a session has attached, with its index in the request, and what became of it at its homes.
pub(super) struct AttachedLease {
    pub(super) index: usize,
    pub(super) lease: Arc<SignedLease>,
    pub(super) registered: Registered,
}

/// The result of an operation.
pub(super) enum OpResult {
    /// A code was claimed, or not.
    Claimed { code: CodeRegistration, registration: Registration, result: Result<(), ClaimError> },
    /// The session to which a pair request goes was looked up.
    Found { ask: u64, to: Option<PeerAddr>, name: Option<String>, payload: Option<Bytes>, key: Option<[u8; 32]> },
    /// An inbox was looked up for the client.
    Resolved { id: String, lease: Option<SignedLease> },
    /// Leases were attached and registered with their homes.
    Attached { id: String, leases: Vec<AttachedLease>, rejected: Vec<Rejected> },
    /// What waiting messages need was looked up and dialled.
    Reached { need: Need, lease: Option<SignedLease> },
    /// A node was dialled for waiting notes.
    Connected(NodeId),
    /// The publisher has room again.
    Published,
}

/// Whether the client's next message depends on an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocks {
    Reading,
    Nothing,
}

/// The operations, each until its result is taken.
#[derive(Default)]
pub(super) struct Ops {
    open: Option<FuturesUnordered<BoxFuture<'static, (Blocks, OpResult)>>>,
    /// How many of them block reading.
    blocking: usize,
    /// One that lets waiting messages go on is in progress.
    pub(super) is_reaching: bool,
    /// The code that is being claimed. Granted or not, it is released if the session ends first.
    pub(super) claiming: Option<PairingCode>,
}

impl Ops {
    /// Starts an operation. It runs from the next [`Ops::poll_next`] on.
    pub(super) fn start(&mut self, op: impl Future<Output = OpResult> + Send + 'static) {
        self.push(Blocks::Nothing, op);
    }

    /// Starts an operation on which the client's next message depends.
    pub(super) fn start_blocking(&mut self, op: impl Future<Output = OpResult> + Send + 'static) {
        self.blocking += 1;
        self.push(Blocks::Reading, op);
    }

    fn push(&mut self, blocks: Blocks, op: impl Future<Output = OpResult> + Send + 'static) {
        self.open.get_or_insert_default().push(op.map(move |result| (blocks, result)).boxed());
    }

    /// The next result. Pending without a wake-up if no operation is in progress.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<OpResult> {
        let Some(open) = &mut self.open else { return Poll::Pending };
        let next = open.poll_next_unpin(cx);
        if open.is_empty() {
            self.open = None;
        }
        let Poll::Ready(Some((blocks, result))) = next else { return Poll::Pending };
        self.blocking -= usize::from(blocks == Blocks::Reading);
        Poll::Ready(result)
    }

    /// Ends all operations. What was being claimed stays known.
    pub(super) fn abort(&mut self) {
        self.open = None;
    }

    /// Whether the client's next message may start another operation, and depends on none.
    pub(super) fn can_read(&self) -> bool {
        self.blocking == 0 && self.open.as_ref().map_or(0, FuturesUnordered::len) < MAX_OPS
    }

    /// Whether an operation is in progress on which the client's next message depends, or was until [`Ops::abort`].
    pub(super) const fn is_blocking(&self) -> bool {
        self.blocking > 0
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.open.is_none()
    }
}
