//! The clients of one relay, and the way to the other.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::id_of;

/// The queues of the clients, and the queue to the other relay.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    local: Arc<RwLock<HashMap<u64, mpsc::Sender<Bytes>>>>,
    link: Option<mpsc::Sender<Bytes>>,
}

impl Peers {
    pub(super) fn new(link: Option<mpsc::Sender<Bytes>>) -> Self {
        Self { local: Arc::default(), link }
    }

    pub(super) fn insert(&self, id: u64, sender: mpsc::Sender<Bytes>) {
        self.local.write().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
    }

    pub(super) fn remove(&self, id: u64) {
        self.local.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Queues a frame for its receiver, here or at the other relay. If the queue is full the frame is lost, which the
    /// generator reports.
    pub(super) fn send(&self, body: Bytes) {
        let Some(id) = id_of(&body) else { return };
        let local = self.local.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = local.get(&id).or(self.link.as_ref()) {
            let _ = sender.try_send(body);
        }
    }

    /// Queues a frame from the other relay.
    pub(super) fn send_here(&self, body: Bytes) {
        let Some(id) = id_of(&body) else { return };
        if let Some(sender) = self.local.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            let _ = sender.try_send(body);
        }
    }
}
