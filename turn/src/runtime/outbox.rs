//! The queue of packets from peers to clients over UDP.

use super::{
    IoCounters,
    egress::ToUdp,
    listeners::{Buffer, Listener, Outgoing, SEND_BATCH, buffer},
};

/// Packets from peers to clients over UDP, queued by listener and sent in batches.
pub(super) struct Outbox {
    pub(super) buffers: Vec<Buffer>,
    pub(super) used: usize,
    outgoing: Vec<Vec<Outgoing>>,
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

    /// Queues the packet in the buffer that was received into last.
    pub(super) fn queue(&mut self, ToUdp { socket, data, to }: ToUdp) {
        self.outgoing[socket].push(Outgoing { buffer: self.used, data, to });
        self.used += 1;
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
