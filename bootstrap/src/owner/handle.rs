//! What others in the process ask of the owner, and how they get the answer.

use std::{net::IpAddr, sync::Arc};

use chappe_common::{
    keys::NodeId,
    list_request::ListRequest,
    record::{NodeLeave, SignedRecord},
    removal::NodeRemoval,
    signed::Signed,
};
use tokio::sync::{mpsc, oneshot};

use super::OwnerError;
use crate::rules::Listing;

pub(super) type Reply = oneshot::Sender<Result<(), OwnerError>>;

/// What the owner is asked, and where the answer goes.
pub(super) enum Request {
    Judge(SignedRecord, Reply),
    Admit(SignedRecord, IpAddr, Reply),
    Leave(Signed<NodeLeave>, Reply),
    Remove(Signed<NodeRemoval>, Reply),
    Ask(Signed<ListRequest>, Reply),
    Due(oneshot::Sender<Vec<Arc<Listing>>>),
    Probed(Vec<Probed>, Reply),
}

/// How the probe of a node ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probed {
    /// The node.
    pub(crate) node: NodeId,
    /// Whether it proved its key.
    pub(crate) answered: bool,
    /// From 0 to 1, drawn by the prober: spreads the next probes.
    pub(crate) jitter: f64,
}

/// The way to the owner.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(super) requests: mpsc::Sender<Request>,
}

impl Handle {
    /// Whether the record could be listed, were its node to prove its key.
    pub(crate) async fn judge(&self, record: SignedRecord) -> Result<(), OwnerError> {
        self.ask(|reply| Request::Judge(record, reply)).await
    }

    /// Lists the record of a node that has proved its key at this address; returns once that is on disk, and published
    /// unless an older record of the node is: then it is with the next tick at the latest.
    pub(crate) async fn admit(&self, record: SignedRecord, proved: IpAddr) -> Result<(), OwnerError> {
        self.ask(|reply| Request::Admit(record, proved, reply)).await
    }

    /// Ends a listing; returns once that is on disk and published.
    pub(crate) async fn leave(&self, leave: Signed<NodeLeave>) -> Result<(), OwnerError> {
        self.ask(|reply| Request::Leave(leave, reply)).await
    }

    /// Removes a node, or takes that back; returns once that is on disk and published.
    pub(crate) async fn remove(&self, removal: Signed<NodeRemoval>) -> Result<(), OwnerError> {
        self.ask(|reply| Request::Remove(removal, reply)).await
    }

    /// Whether who signed the request may see all public nodes. It may once.
    pub(crate) async fn may_see_all(&self, request: Signed<ListRequest>) -> Result<(), OwnerError> {
        self.ask(|reply| Request::Ask(request, reply)).await
    }

    /// The nodes whose next probe is due. None when the registry is stopping.
    pub(crate) async fn due(&self) -> Vec<Arc<Listing>> {
        let (reply, answer) = oneshot::channel();
        match self.requests.send(Request::Due(reply)).await {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Takes in how probes ended.
    pub(crate) async fn probed(&self, probed: Vec<Probed>) -> Result<(), OwnerError> {
        self.ask(|reply| Request::Probed(probed, reply)).await
    }

    async fn ask(&self, request: impl FnOnce(Reply) -> Request) -> Result<(), OwnerError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| OwnerError::Stopping)?;
        answer.await.map_err(|_| OwnerError::Stopping)?
    }
}
