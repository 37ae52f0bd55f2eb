//! Packets of peers on their way to clients over UDP.

use super::{
    IoCounters,
    listeners::{Buffer, Listener, Outgoing, SEND_BATCH, buffer},
};

/// Packets of peers that go to clients over UDP, by listener. They are sent in batches.
pub(super) struct Outbox {
    pub(super) buffers: Vec<Buffer>,
    pub(super) used: usize,
    pub(super) outgoing: Vec<Vec<Outgoing>>,
}

impl Outbox {
    /// Makes the queues of so many listeners.
    pub(super) fn new(listeners: usize) -> Self {
        Self {
            buffers: (0..SEND_BATCH).map(|_| buffer()).collect(),
            used: 0,
            outgoing: (0..listeners).map(|_| Vec::new()).collect(),
        }
    }

    /// Sends all packets.
    pub(super) fn flush(&mut self, listeners: &mut [Listener], counters: &mut IoCounters) {
        for (listener, outgoing) in listeners.iter_mut().zip(&mut self.outgoing) {
            listener.send(&self.buffers, outgoing, counters);
            outgoing.clear();
        }
        self.used = 0;
    }
}
