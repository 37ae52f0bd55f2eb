//! What comes of a node's refusals to attach inboxes: whether the session stays, or another node is better. Pure; it is
//! told when another try begins.

/// The node has attached nothing of an `attach`, or not all of one that matters at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    /// The session is in use: what it had attached before lasts until another try.
    pub(crate) in_use: bool,
    /// The node may take it later.
    pub(crate) is_for_now: bool,
    /// Some inboxes were not attached before, so that nobody can call at them meanwhile.
    pub(crate) has_new: bool,
}

/// Whether the node has refused in this try, and in the one before. A try is a renewal, which can have several
/// messages; a change of contacts in between is none, since it says nothing about a later time.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    now: bool,
    before: bool,
}

impl Refusals {
    pub(crate) fn begin_try(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    /// Says whether the session stays. Where two tries in a row are refused, another node is better before the leases
    /// end.
    pub(crate) fn handle_refused(&mut self, refusal: Refusal) -> bool {
        let Refusal { in_use, is_for_now, has_new } = refusal;
        self.now = true;
        in_use && is_for_now && !has_new && !self.before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEARABLE: Refusal = Refusal { in_use: true, is_for_now: true, has_new: false };

    #[test]
    fn a_session_stays_where_one_try_is_refused_for_now_and_leaves_with_the_next() {
        let mut refusals = Refusals::default();
        refusals.begin_try();
        assert!(refusals.handle_refused(BEARABLE));
        assert!(refusals.handle_refused(BEARABLE), "another message of the same try");
        refusals.begin_try();
        assert!(!refusals.handle_refused(BEARABLE));
    }

    #[test]
    fn what_is_refused_between_two_tries_counts_as_of_the_first() {
        let mut refusals = Refusals::default();
        assert!(refusals.handle_refused(BEARABLE), "a change of contacts before the first renewal");
        assert!(refusals.handle_refused(BEARABLE), "and another");
        refusals.begin_try();
        assert!(!refusals.handle_refused(BEARABLE));
    }

    #[test]
    fn a_try_without_a_refusal_forgets_those_before() {
        let mut refusals = Refusals::default();
        for _ in 0..3 {
            refusals.begin_try();
            assert!(refusals.handle_refused(BEARABLE));
            refusals.begin_try();
        }
    }

    #[test]
    fn a_session_leaves_at_once_where_waiting_helps_nobody() {
        for refusal in [
            Refusal { in_use: false, ..BEARABLE },
            Refusal { is_for_now: false, ..BEARABLE },
            Refusal { has_new: true, ..BEARABLE },
        ] {
            let mut refusals = Refusals::default();
            refusals.begin_try();
            assert!(!refusals.handle_refused(refusal), "{refusal:?}");
        }
    }
}
