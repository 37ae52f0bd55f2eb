//! Outcomes to send over a link. Consecutive deliveries are combined into one frame, sent a moment later.

use std::time::{Duration, Instant};

use crate::core::Core;
use crate::links::link::Link;
use crate::wire::frame::{Header, Outcome};

/// How long a delivery is buffered, so that others are sent with it. Only clients that requested `delivered` wait for
/// it, and packets are the main cost between nodes.
const WAIT: Duration = Duration::from_millis(2);

/// Buffered outcomes of a link.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    delivered: Option<Row>,
}

/// Consecutive tokens of delivered messages.
#[derive(Debug)]
struct Row {
    first: u64,
    count: u32,
    until: Instant,
}

impl Replies {
    /// Sends the outcome of a message, or buffers it until [`Replies::deadline`].
    pub(crate) fn add(&mut self, core: &Core, link: &Link, token: u64, outcome: Outcome) {
        match &mut self.delivered {
            Some(row) if outcome == Outcome::Delivered && row.first.checked_add(row.count.into()) == Some(token) => {
                row.count += 1;
                return;
            }
            _ => self.send(core, link),
        }
        if outcome == Outcome::Delivered {
            self.delivered = Some(Row { first: token, count: 1, until: Instant::now() + WAIT });
        } else {
            send(core, link, &Header::Outcome { token, outcome });
        }
    }

    /// Returns when the buffered outcomes have to be sent.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.delivered.as_ref().map(|row| row.until)
    }

    /// Sends the buffered outcomes.
    pub(crate) fn send(&mut self, core: &Core, link: &Link) {
        if let Some(Row { first, count, .. }) = self.delivered.take() {
            send(core, link, &Header::Delivered { first, count });
        }
    }
}

/// Sends a frame. If the lane is full, the outcome is lost and the peer's message times out as unreachable.
fn send(core: &Core, link: &Link, header: &Header) {
    if link.try_relay(header).is_err() {
        core.context.metrics.responses_dropped.inc();
    }
}
