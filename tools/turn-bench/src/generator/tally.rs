//! Flows of packets, and what is counted of them while a load runs.

use hdrhistogram::Histogram;

use super::payload::Stamp;

/// Packets that did not arrive as they were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Not received.
    pub lost: u64,
    /// Received by another client or peer, or on another channel.
    pub misrouted: u64,
    /// Changed, or not known at all.
    pub altered: u64,
    /// Received after a later packet of their flow, or twice.
    pub reordered: u64,
}

/// A sender or receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Client(usize),
    /// The peer of a client.
    Peer(usize),
}

/// Packets from one end to another.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) from: End,
    pub(super) to: End,
    /// The number of the next packet to send, and of the next one to receive.
    pub(super) next: u32,
    pub(super) expected: u32,
}

/// What is counted while a load runs.
pub(super) struct Tally {
    pub(super) received: u64,
    /// Those of them that were sent in the measured time.
    pub(super) packets: u64,
    /// Whether the generator has just paused.
    pub(super) has_paused: bool,
    pub(super) faults: Faults,
    pub(super) latency: Histogram<u64>,
    /// When the measured time starts and ends.
    pub(super) window: (u64, u64),
}

impl Tally {
    /// Starts to count.
    pub(super) fn new(window: (u64, u64)) -> Self {
        Self { received: 0, packets: 0, has_paused: false, faults: Faults::default(), latency: histogram(), window }
    }

    /// Counts a received packet.
    pub(super) fn count(&mut self, flows: &mut [Flow], at: End, payload: &[u8], size: usize, now: u64) {
        let stamp = Stamp::read(payload, size);
        let Some((stamp, flow)) = stamp.and_then(|stamp| Some((stamp, flows.get_mut(stamp.flow as usize)?))) else {
            self.faults.altered += 1;
            return;
        };
        if flow.to != at {
            self.faults.misrouted += 1;
            return;
        }
        if stamp.number < flow.expected {
            self.faults.reordered += 1;
            return;
        }
        flow.expected = stamp.number + 1;
        self.received += 1;
        if (self.window.0..self.window.1).contains(&stamp.sent) {
            self.packets += 1;
            if !self.has_paused {
                self.latency.saturating_record(now.saturating_sub(stamp.sent));
            }
        }
    }
}

pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(10_000_000_000, 3).expect("sensible bounds")
}
