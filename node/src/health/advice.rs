//! What this node's operator is told when other nodes refuse it, or nobody is found, once in a while and with what to do
//! about it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::membership::admission::Refusal;

/// The same advice is given again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(600);

/// What was said, and when.
#[derive(Debug, Default)]
pub(crate) struct Advice(HashMap<&'static str, Instant>);

impl Advice {
    /// What to do about a refusal; none where it says nothing of this node, or was said a moment ago.
    pub(crate) fn about(&mut self, now: Instant, refusal: Refusal) -> Option<&'static str> {
        what_to_do(refusal).filter(|advice| self.is_due(now, advice))
    }

    /// Whether something is to be said, and was not a moment ago.
    pub(crate) fn is_due(&mut self, now: Instant, advice: &'static str) -> bool {
        if self.0.get(advice).is_some_and(|said| *said + AGAIN_AFTER > now) {
            return false;
        }
        self.0.insert(advice, now);
        true
    }
}

const fn what_to_do(refusal: Refusal) -> Option<&'static str> {
    Some(match refusal {
        // Between two that dial each other at once.
        Refusal::Duplicate => return None,
        Refusal::Federation => {
            "federation.roots names other roots than theirs: take the root keys that your federation publishes"
        }
        Refusal::Clock => {
            "this node's clock or theirs is wrong: see whether the system's time is synchronised (timedatectl)"
        }
        Refusal::Record => "they cannot read this node's record: install the version that they run",
        Refusal::Full => "they have no room for more members: nothing to do here, others may have",
        Refusal::Stale => {
            "they know a later run of this node: is another process running with the same key (node.data_dir)?"
        }
        Refusal::Unreachable => {
            "they do not reach federation.advertise: open its UDP port in the firewall, forward it in the router, and \
             name the address that others see"
        }
        Refusal::NotInvited => {
            "the federation admits by invitation: ask one of its operators for a ticket (chappe node invite) and set federation.ticket"
        }
        Refusal::Ticket => {
            "federation.ticket has expired, is for another node's id, or is not by a key that may invite: ask for a new one"
        }
        Refusal::NotListed => {
            "the federation admits by a list: ask its operators to add this node's id (chappe node id)"
        }
        Refusal::Network => {
            "two nodes of this network (/24 or /48) are members already: stop one of them, or move to another network"
        }
        Refusal::Address => {
            "federation.advertise names a private or special address, at which nobody else reaches this node: name public ones"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_advice_is_given_once_in_a_while() {
        let now = Instant::now();
        let mut advice = Advice::default();
        assert!(advice.about(now, Refusal::Unreachable).is_some_and(|text| text.contains("federation.advertise")));
        assert_eq!(advice.about(now, Refusal::Unreachable), None);
        assert!(advice.about(now, Refusal::Network).is_some());
        assert!(advice.about(now + AGAIN_AFTER, Refusal::Unreachable).is_some());
        assert_eq!(advice.about(now, Refusal::Duplicate), None);
    }
}
