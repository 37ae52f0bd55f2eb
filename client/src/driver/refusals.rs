//! What comes of a node's refusals to attach inboxes: whether the session stays, or another node is better. Pure.
//!
//! Only what the node refuses for reasons of its own counts: no room, no rate, no home that answers. A lease that is not
//! valid, or outdated, is no reason to leave a node, as long as it attaches any other.

/// The answer to one `attach`, of inboxes that the node had no room or no rate for, or could not register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// Some inbox was attached, or is: the contacts of those can call.
    pub(crate) is_partial: bool,
    /// Some of the inboxes were not attached before, so that nobody can call at them meanwhile.
    pub(crate) has_new: bool,
    /// The node may take all of them later.
    pub(crate) is_for_now: bool,
}

/// How many renewals in a row were refused.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    in_a_row: u32,
}

impl Refusals {
    /// The node has attached all that it was asked for, or refused none for reasons of its own.
    pub(crate) const fn handle_attached(&mut self) {
        self.in_a_row = 0;
    }

    /// Says whether the session stays. Leases outlast two tries: with the second one another node is better.
    pub(crate) const fn handle_refused(&mut self, refusal: Refusal) -> bool {
        let Refusal { is_partial, has_new, is_for_now } = refusal;
        if is_partial {
            return true;
        }
        self.in_a_row += 1;
        is_for_now && !has_new && self.in_a_row < 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENEWAL: Refusal = Refusal { is_partial: false, has_new: false, is_for_now: true };

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
    fn a_session_leaves_at_once_where_waiting_helps_nobody() {
        assert!(!Refusals::default().handle_refused(Refusal { has_new: true, ..RENEWAL }));
        assert!(!Refusals::default().handle_refused(Refusal { is_for_now: false, ..RENEWAL }));
    }

    #[test]
    fn a_node_that_attaches_some_of_the_inboxes_is_kept() {
        let mut refusals = Refusals::default();
        for _ in 0..3 {
            assert!(refusals.handle_refused(Refusal { is_partial: true, has_new: true, is_for_now: false }));
        }
    }
}
