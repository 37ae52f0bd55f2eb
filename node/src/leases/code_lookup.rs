//! Combining the answers of homes: which session has this code?
//!
//! Codes are not signed, so a home can name any session. A holder counts only if two homes name it. So a single lying
//! home redirects no request, however quickly it answers. It can only deny one, if one of the other two does not
//! answer.

use chappe_common::keys::NodeId;

use crate::placement::LookupHomes;

/// How many homes of a tag have to agree, if there are that many.
const AGREEING: usize = 2;

/// A lookup in progress. `H` identifies the holder of the code.
#[derive(Debug)]
pub struct CodeLookup<H> {
    homes: LookupHomes,
    answers: Vec<(NodeId, Option<H>)>,
}

impl<H: Copy + PartialEq> CodeLookup<H> {
    /// Starts a lookup at these homes. The next in line is not needed: two of the three know a code even if a view
    /// lacks one of them.
    pub const fn new(homes: LookupHomes) -> Self {
        Self { homes, answers: Vec::new() }
    }

    /// Adds a home's answer: the holder, or `None` if it knows none. Returns the holder once enough homes agree.
    pub fn answer(&mut self, home: NodeId, holder: Option<H>) -> Option<H> {
        if self.answers.iter().any(|(answered, _)| *answered == home) {
            return None;
        }
        self.answers.push((home, holder));
        let holder = holder?;
        let has_agreement = self.homes.groups().any(|homes| {
            let agreeing = self.answers.iter().filter(|(home, named)| homes.contains(home) && *named == Some(holder));
            agreeing.count() >= AGREEING.min(homes.iter().count()) && homes.contains(&home)
        });
        has_agreement.then_some(holder)
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::{code::PairingCode, federation::FederationId, keys::PublicKey};

    use super::*;
    use crate::placement::{BeaconValue, Candidate, Homes, LookupHomes, Network, Tag};

    const HONEST: u8 = 1;
    const LIE: u8 = 2;

    fn node(n: u8) -> NodeId {
        NodeId::new(PublicKey::from_bytes([n; 32]))
    }

    fn homes(members: u8, code: u32) -> LookupHomes {
        let beacon = BeaconValue::genesis(FederationId::of_roots(&[]));
        let network = |n: u8| Network::of(&([10, 0, n, 1], 1).into());
        let candidates: Vec<_> = (0..members).map(|n| Candidate::new(&beacon, node(n), network(n))).collect();
        let (current, next) = Homes::with_next(&candidates, Tag::of_code(&PairingCode::from_random(code)));
        LookupHomes::new(current, next, None)
    }

    #[test]
    fn a_quick_lying_home_does_not_redirect_a_code() {
        let homes = homes(9, 1);
        let asked: Vec<_> = homes.home_nodes().collect();
        let next = homes.next().expect("nine members");
        let mut lookup = CodeLookup::new(homes);
        assert_eq!(lookup.answer(asked[0], Some(LIE)), None);
        assert_eq!(lookup.answer(asked[0], Some(LIE)), None, "a repeated answer counts once");
        assert_eq!(lookup.answer(next, Some(LIE)), None, "not a home");
        assert_eq!(lookup.answer(asked[1], Some(HONEST)), None);
        assert_eq!(lookup.answer(asked[2], Some(HONEST)), Some(HONEST));
    }

    #[test]
    fn one_home_is_enough_only_if_there_is_no_other() {
        let asked = |members| homes(members, 1).home_nodes().next().expect("a home");
        assert_eq!(CodeLookup::new(homes(1, 1)).answer(asked(1), Some(HONEST)), Some(HONEST));
        assert_eq!(CodeLookup::new(homes(2, 1)).answer(asked(2), Some(LIE)), None);
    }

    /// Returns how many of 500 pairings find the holder, are denied, and are redirected. The liars answer first, and
    /// all name the same session.
    fn pairings(members: u8, liars: u8) -> [usize; 3] {
        let mut outcomes = [0; 3];
        for number in 0..500 {
            let homes = homes(members, number);
            let is_liar = |home: &NodeId| (0..liars).map(node).any(|liar| liar == *home);
            let (lying, honest): (Vec<_>, Vec<_>) = homes.home_nodes().partition(is_liar);
            let mut lookup = CodeLookup::new(homes);
            let answers =
                lying.into_iter().map(|home| (home, LIE)).chain(honest.into_iter().map(|home| (home, HONEST)));
            let found = answers.into_iter().find_map(|(home, holder)| lookup.answer(home, Some(holder)));
            outcomes[match found {
                Some(HONEST) => 0,
                None => 1,
                Some(_) => 2,
            }] += 1;
        }
        println!("{members} members, {liars} of them lie: found, denied, redirected {outcomes:?}");
        outcomes
    }

    #[test]
    fn one_liar_redirects_none_of_500_pairings_and_two_only_where_both_are_homes() {
        for members in [5, 12] {
            assert_eq!(pairings(members, 1), [500, 0, 0]);
            // Both are among the three homes of 3 in 10 codes of five members, and of 1 in 22 of twelve.
            let [found, denied, redirected] = pairings(members, 2);
            assert_eq!((found + redirected, denied), (500, 0));
            assert!(redirected <= if members == 5 { 200 } else { 40 }, "{redirected}");
        }
    }
}
