//! A session's operations in progress, such as requests to other nodes. The session goes on meanwhile. Most sessions
//! have no operation for hours, and then use no memory for them.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use chappe_common::{code::PairingCode, keys::NodeId, lease::SignedLease};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use crate::{
    client_protocol::reply::Rejected,
    homes::{ClaimError, LeaseStatus},
    session::pairing::RegisteredCode,
    sessions::flights::Need,
    wire::{frame::CodeRegistration, ids::PeerAddr},
};

/// With this many operations in progress, the client is not read.
const MAX_OPS: usize = 16;

/// A lease that a session has attached, with its index in the request and its result at the homes.
pub(super) struct AttachedLease {
    pub(super) index: usize,
    pub(super) lease: Arc<SignedLease>,
    pub(super) status: LeaseStatus,
}

/// The result of an operation.
pub(super) enum OpResult {
    /// A code was claimed at its homes.
    Claimed { code: CodeRegistration, registration: RegisteredCode, result: Result<(), ClaimError> },
    /// The target's session of a pair request was looked up.
    Found { id: u64, to: Option<PeerAddr>, name: Option<String>, payload: Option<Bytes>, key: Option<[u8; 32]> },
    /// An inbox was looked up for the client.
    Resolved { id: String, lease: Option<SignedLease> },
    /// Leases were attached and registered with their homes.
    Attached { id: String, leases: Vec<AttachedLease>, rejected: Vec<Rejected> },
    /// The lookup and dial for waiting messages are done.
    Reached { need: Need, lease: Option<SignedLease> },
    /// A node was dialled for waiting notes.
    Connected(NodeId),
    /// The publisher's queue has room again.
    Published,
}

/// Whether the client's next message depends on an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blocks {
    Reading,
    Nothing,
}

/// The operations whose results have not been handled.
#[derive(Default)]
pub(super) struct Ops {
    open: Option<FuturesUnordered<BoxFuture<'static, (Blocks, OpResult)>>>,
    /// The number of operations that block reading.
    blocking: usize,
    /// A lookup or dial for waiting messages is in progress.
    pub(super) is_reaching: bool,
    /// The code that is being claimed. If the session ends first, the code is withdrawn, whether granted or not.
    pub(super) claiming: Option<PairingCode>,
}

impl Ops {
    /// Starts an operation. It first runs at the next [`Ops::poll_next`].
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

    /// Returns the next result. Pending without a wake-up if no operation is in progress.
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

    /// Ends all operations. [`Ops::claiming`] and [`Ops::is_blocking`] keep their values.
    pub(super) fn abort(&mut self) {
        self.open = None;
    }

    /// Returns whether the client's next message may be read: no operation blocks reading, and there are fewer than
    /// [`MAX_OPS`].
    pub(super) fn can_read(&self) -> bool {
        self.blocking == 0 && self.open.as_ref().map_or(0, FuturesUnordered::len) < MAX_OPS
    }

    /// Returns whether an operation blocks reading, or did so until [`Ops::abort`].
    pub(super) const fn is_blocking(&self) -> bool {
        self.blocking > 0
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.open.is_none()
    }
}
