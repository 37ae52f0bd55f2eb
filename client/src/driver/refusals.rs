//! Decides whether a session stays after its node has rejected inboxes. Pure.
//!
//! Only rejections for the node's own reasons count: no capacity, a rate limit, or no reachable home. An invalid or
//! outdated lease is no reason to leave a node that attaches others.

use super::{leases::Rejected, requests::RequestedInbox};

/// The response to one `attach` with inboxes that the node could not attach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// The node serves at least one inbox, so its contact can call and the node can renew its lease. An inbox whose
    /// renewal was rejected is not served: each lease is renewed at its own time, and the others may be rejected next.
    pub(crate) is_partial: bool,
    /// At least one rejected inbox was not attached before, so its contact cannot call.
    pub(crate) has_new: bool,
    /// All rejections are temporary.
    pub(crate) is_temporary: bool,
}

impl Refusal {
    /// The rejections for the node's own reasons in the response to one `attach`, or `None` if there are none. `outcomes`
    /// are in the order of `requested`; `is_any_served` includes them.
    pub(super) fn of<T>(
        requested: &[RequestedInbox],
        outcomes: &[Result<T, Rejected>],
        is_any_served: bool,
    ) -> Option<Self> {
        let is_refused = |outcome: &Result<_, _>| matches!(outcome, Err(Rejected::Busy | Rejected::Unavailable));
        let refused = || requested.iter().zip(outcomes).filter(|(_, outcome)| is_refused(outcome));
        refused().next()?;
        Some(Self {
            is_partial: is_any_served,
            has_new: refused().any(|(requested, _)| !requested.is_renewal),
            is_temporary: refused().all(|(_, outcome)| matches!(outcome, Err(Rejected::Busy))),
        })
    }
}

#[derive(Debug, Default)]
pub(crate) struct Refusals {
    in_a_row: u32,
}

impl Refusals {
    /// Resets the count: the node rejected no inbox for its own reasons.
    pub(crate) const fn handle_attached(&mut self) {
        self.in_a_row = 0;
    }

    /// Returns whether the session stays. Leases outlast two attempts, so the second rejection in a row ends the
    /// session.
    pub(crate) const fn handle_refused(&mut self, refusal: Refusal) -> bool {
        let Refusal { is_partial, has_new, is_temporary } = refusal;
        if is_partial {
            return true;
        }
        self.in_a_row += 1;
        is_temporary && !has_new && self.in_a_row < 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENEWAL: Refusal = Refusal { is_partial: false, has_new: false, is_temporary: true };

    #[test]
    fn a_session_stays_where_one_renewal_is_refused_and_leaves_with_the_next() {
        let mut refusals = Refusals::default();
        assert!(refusals.handle_refused(RENEWAL));
        assert!(!refusals.handle_refused(RENEWAL));
    }

    #[test]
    fn a_renewal_that_is_attached_forgets_those_that_were_not() {
        let mut refusals = Refusals::default();
        for _ in 0..3 {
            assert!(refusals.handle_refused(RENEWAL));
            refusals.handle_attached();
        }
    }

    #[test]
    fn a_session_leaves_at_once_after_a_permanent_refusal_or_one_of_a_new_inbox() {
        assert!(!Refusals::default().handle_refused(Refusal { has_new: true, ..RENEWAL }));
        assert!(!Refusals::default().handle_refused(Refusal { is_temporary: false, ..RENEWAL }));
    }

    #[test]
    fn a_node_that_attaches_some_of_the_inboxes_is_kept() {
        let mut refusals = Refusals::default();
        for _ in 0..3 {
            assert!(refusals.handle_refused(Refusal { is_partial: true, has_new: true, is_temporary: false }));
        }
    }
}
