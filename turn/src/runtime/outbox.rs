//! The queue of packets from peers to clients over UDP.

use super::{
    IoCounters,
    listeners::{Buffer, Listener, Outgoing, SEND_BATCH, buffer},
};

/// Packets from peers to clients over UDP, queued by listener and sent in batches.
pub(super) struct Outbox {
    pub(super) buffers: Vec<Buffer>,
    pub(super) used: usize,
    pub(super) outgoing: Vec<Vec<Outgoing>>,
}

impl Outbox {
    /// Creates a queue for each listener.
    pub(super) fn new(listeners: usize) -> Self {
        Self {
            buffers: (0..SEND_BATCH).map(|_| buffer()).collect(),
            used: 0,
            outgoing: (0..listeners).map(|_| Vec::new()).collect(),
        }
    }

    /// Sends all packets and frees their buffers.
    pub(super) fn flush(&mut self, listeners: &mut [Listener], counters: &mut IoCounters) {
        for (listener, outgoing) in listeners.iter_mut().zip(&mut self.outgoing) {
            listener.send(&self.buffers, outgoing, counters);
            outgoing.clear();
        }
        self.used = 0;
    }
}
