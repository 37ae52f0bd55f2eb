//! What became of the messages of one link: what is delivered in a row is told in one frame, a moment later.

use std::time::{Duration, Instant};

use crate::core::Core;
use crate::links::link::Link;
use crate::wire::frame::{Header, Outcome};

/// How long a delivery may wait for others to be told with it. Nobody waits for the word, but whoever asked for
/// `delivered`, and packets are what costs most between nodes.
const WAIT: Duration = Duration::from_millis(2);

/// Outcomes to be told over a link.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    delivered: Option<Row>,
}

/// Tokens in a row that were delivered.
#[derive(Debug)]
struct Row {
    first: u64,
    count: u32,
    until: Instant,
}

impl Replies {
    /// Tells the outcome of one message, or keeps it until [`Replies::deadline`].
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
            tell(core, link, &Header::Outcome { token, outcome });
        }
    }

    /// When what is kept has to be sent.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.delivered.as_ref().map(|row| row.until)
    }

    /// Tells what is kept.
    pub(crate) fn send(&mut self, core: &Core, link: &Link) {
        if let Some(Row { first, count, .. }) = self.delivered.take() {
            tell(core, link, &Header::Delivered { first, count });
        }
    }
}

/// What the link doesn't take is lost: its sender is told «unreachable» when its time is over.
fn tell(core: &Core, link: &Link, header: &Header) {
    if link.try_relay(header).is_err() {
        core.context.metrics.responses_dropped.inc();
    }
}
