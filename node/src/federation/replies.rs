//! What became of the messages that one link brought at once: what was delivered in a row is told in one frame.

use super::{
    frame::{Header, Outcome},
    link::Link,
};

/// Outcomes to be told over a link.
#[derive(Debug)]
pub(crate) struct Replies<'a> {
    link: &'a Link,
    /// Tokens in a row that were delivered: the first, and how many.
    delivered: Option<(u64, u32)>,
    /// Frames that the link did not take. Whose outcome is lost is told «unreachable» when its time is over.
    dropped: u64,
}

impl<'a> Replies<'a> {
    /// None yet.
    pub(crate) const fn new(link: &'a Link) -> Self {
        Self { link, delivered: None, dropped: 0 }
    }

    /// Tells the outcome of one message, or keeps it for [`Replies::finish`].
    pub(crate) fn add(&mut self, token: u64, outcome: Outcome) {
        if outcome != Outcome::Delivered {
            self.send(&Header::Outcome { token, outcome });
            return;
        }
        match &mut self.delivered {
            Some((first, count)) if first.checked_add((*count).into()) == Some(token) => *count += 1,
            _ => {
                self.send_delivered();
                self.delivered = Some((token, 1));
            }
        }
    }

    /// Tells what is left; gives back how many frames the link did not take.
    pub(crate) fn finish(mut self) -> u64 {
        self.send_delivered();
        self.dropped
    }

    fn send_delivered(&mut self) {
        if let Some((first, count)) = self.delivered.take() {
            self.send(&Header::Delivered { first, count });
        }
    }

    fn send(&mut self, header: &Header) {
        self.dropped += u64::from(self.link.try_relay(header).is_err());
    }
}
