//! Requests to the owner.

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
use crate::rules::{DoorTry, Listing};

pub(super) type Reply = oneshot::Sender<Result<(), OwnerError>>;

/// A request with the channel for its response.
pub(super) enum Request {
    CheckRecord(SignedRecord, Reply),
    Admit(SignedRecord, IpAddr, Reply),
    Leave(Signed<NodeLeave>, Reply),
    Remove(Signed<NodeRemoval>, Reply),
    FullList(Signed<ListRequest>, Reply),
    DueProbes(oneshot::Sender<Vec<Arc<Listing>>>),
    ProbeResults(Vec<ProbeResult>, Reply),
    Overrule(NodeId, Reply),
    Listing(NodeId, oneshot::Sender<Option<Arc<Listing>>>),
}

/// The result of a probe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProbeResult {
    pub(crate) node: NodeId,
    /// Whether the node proved its key.
    pub(crate) answered: bool,
    /// Whether a client could connect.
    pub(crate) door: DoorTry,
    /// A random number from 0 to 1, drawn by the prober, that spreads the next probes.
    pub(crate) jitter: f64,
}

/// A handle to the owner.
#[derive(Clone, Debug)]
pub(crate) struct OwnerHandle {
    pub(super) requests: mpsc::Sender<Request>,
}

impl OwnerHandle {
    /// Checks whether the record can be listed, if its node proves its key.
    pub(crate) async fn check_record(&self, record: SignedRecord) -> Result<(), OwnerError> {
        self.send_request(|reply| Request::CheckRecord(record, reply)).await
    }

    /// Lists the record of a node that has proved its key at the address `proved`. Returns when this is on disk. It is
    /// published then as well, or with the next tick if the node was already published with an older record.
    pub(crate) async fn admit(&self, record: SignedRecord, proved: IpAddr) -> Result<(), OwnerError> {
        self.send_request(|reply| Request::Admit(record, proved, reply)).await
    }

    /// Delists a node. Returns when this is on disk and published.
    pub(crate) async fn leave(&self, leave: Signed<NodeLeave>) -> Result<(), OwnerError> {
        self.send_request(|reply| Request::Leave(leave, reply)).await
    }

    /// Removes a node, or revokes a removal. Returns when this is on disk and published.
    pub(crate) async fn remove(&self, removal: Signed<NodeRemoval>) -> Result<(), OwnerError> {
        self.send_request(|reply| Request::Remove(removal, reply)).await
    }

    /// Checks that the signer of the request may get all public nodes. Each request is accepted once.
    pub(crate) async fn accept_list_request(&self, request: Signed<ListRequest>) -> Result<(), OwnerError> {
        self.send_request(|reply| Request::FullList(request, reply)).await
    }

    /// The nodes whose next probe is due. Empty if the registry is shutting down.
    pub(crate) async fn due_probes(&self) -> Vec<Arc<Listing>> {
        let (reply, answer) = oneshot::channel();
        match self.requests.send(Request::DueProbes(reply)).await {
            Ok(()) => answer.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Records the results of probes.
    pub(crate) async fn record_probes(&self, probed: Vec<ProbeResult>) -> Result<(), OwnerError> {
        self.send_request(|reply| Request::ProbeResults(probed, reply)).await
    }

    /// Shows a node whose door members reach.
    pub(crate) async fn overrule(&self, node: NodeId) -> Result<(), OwnerError> {
        self.send_request(|reply| Request::Overrule(node, reply)).await
    }

    /// The listing of a node with its newest probe, which is not published yet. `None` if it is not listed, or if the
    /// registry is shutting down.
    pub(crate) async fn listing(&self, node: NodeId) -> Option<Arc<Listing>> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Listing(node, reply)).await.ok()?;
        answer.await.ok().flatten()
    }

    async fn send_request(&self, request: impl FnOnce(Reply) -> Request) -> Result<(), OwnerError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| OwnerError::Stopping)?;
        answer.await.map_err(|_| OwnerError::Stopping)?
    }
}
