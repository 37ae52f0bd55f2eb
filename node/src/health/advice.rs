//! Advice for the operator when other nodes refuse this one or no node is found. Each text is repeated only
//! after a pause.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::membership::admission::AdmissionRefusal;

/// Pause before the same advice is repeated.
const REPEAT_AFTER: Duration = Duration::from_secs(600);

/// When each advice was last given.
#[derive(Debug, Default)]
pub(crate) struct AdviceLimiter(HashMap<&'static str, Instant>);

impl AdviceLimiter {
    /// Returns advice about a refusal. Returns `None` if this node is not at fault, or if the advice was given
    /// recently.
    pub(crate) fn advice_for(&mut self, now: Instant, refusal: AdmissionRefusal) -> Option<&'static str> {
        text_for(refusal).filter(|advice| self.is_due(now, advice))
    }

    /// Returns whether `advice` should be given now, and records that it was.
    pub(crate) fn is_due(&mut self, now: Instant, advice: &'static str) -> bool {
        if self.0.get(advice).is_some_and(|given_at| *given_at + REPEAT_AFTER > now) {
            return false;
        }
        self.0.insert(advice, now);
        true
    }
}

const fn text_for(refusal: AdmissionRefusal) -> Option<&'static str> {
    Some(match refusal {
        // Two nodes dialled each other at once.
        AdmissionRefusal::Duplicate => return None,
        AdmissionRefusal::Federation => {
            "federation.roots differs from theirs: set the root keys that your federation publishes"
        }
        AdmissionRefusal::Clock => {
            "this node's clock or theirs is wrong: check that the system's time is synchronised (timedatectl)"
        }
        AdmissionRefusal::Record => "they cannot read this node's record: install the same version as theirs",
        AdmissionRefusal::Full => "their member table is full: no action needed, other nodes may have space",
        AdmissionRefusal::Stale => {
            "they know a later run of this node: is another process running with the same key (node.data_dir)?"
        }
        AdmissionRefusal::Unreachable => {
            "they do not reach federation.advertise: open its UDP port in the firewall, forward it in the router, and \
             set the address that others see"
        }
        AdmissionRefusal::NotInvited => {
            "the federation admits by invitation: ask one of its operators for a ticket (chappe node invite) and set federation.ticket"
        }
        AdmissionRefusal::Ticket => {
            "federation.ticket has expired, is for another node's id, or is not by a key that may invite: ask for a new one"
        }
        AdmissionRefusal::NotListed => {
            "the federation has an allowlist: ask its operators to add this node's id (chappe node id)"
        }
        AdmissionRefusal::Network => {
            "two nodes of this network (/24 or /48) are members already: stop one of them, or move to another network"
        }
        AdmissionRefusal::Address => {
            "federation.advertise has a private or special address, which other nodes cannot reach: set a public one"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_advice_is_given_once_in_a_while() {
        let now = Instant::now();
        let mut advice = AdviceLimiter::default();
        assert!(
            advice
                .advice_for(now, AdmissionRefusal::Unreachable)
                .is_some_and(|text| text.contains("federation.advertise"))
        );
        assert_eq!(advice.advice_for(now, AdmissionRefusal::Unreachable), None);
        assert!(advice.advice_for(now, AdmissionRefusal::Network).is_some());
        assert!(advice.advice_for(now + REPEAT_AFTER, AdmissionRefusal::Unreachable).is_some());
        assert_eq!(advice.advice_for(now, AdmissionRefusal::Duplicate), None);
    }
}
