//! The inboxes that one session has attached.

use chappe_common::lease::Inbox;

/// The session has the maximum number of inboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many inboxes")]
pub(crate) struct TooMany;

/// The inboxes of one session. Sorted, since a request may name a thousand of them.
#[derive(Debug, Default)]
pub(super) struct AttachedInboxes {
    sorted: Vec<Inbox>,
}

impl AttachedInboxes {
    /// Adds an inbox. Returns whether it is new.
    ///
    /// # Errors
    /// The session has `max` inboxes already.
    pub(super) fn insert(&mut self, inbox: Inbox, max: usize) -> Result<bool, TooMany> {
        let Err(index) = self.sorted.binary_search(&inbox) else { return Ok(false) };
        if self.sorted.len() >= max {
            return Err(TooMany);
        }
        // Most sessions attach only one inbox.
        self.sorted.reserve_exact(1);
        self.sorted.insert(index, inbox);
        Ok(true)
    }

    /// Removes an inbox. Returns whether it was attached.
    pub(super) fn remove(&mut self, inbox: &Inbox) -> bool {
        let index = self.sorted.binary_search(inbox);
        index.map(|index| self.sorted.remove(index)).is_ok()
    }

    pub(super) fn to_vec(&self) -> Vec<Inbox> {
        self.sorted.clone()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }
}
