//! A compact table of homes. A hundred thousand registrations share at most as many homes as the federation has members,
//! so each stores small numbers instead of node ids.

use std::collections::HashMap;

use chappe_common::keys::NodeId;

use crate::{
    membership::view::View,
    placement::{HOMES, Tag},
};

/// A home and its epoch: after a restart, a home has lost what it stored.
pub(super) type Home = (NodeId, u64);

/// The homes of one registration, as indices into [`HomeIndex`].
#[derive(Clone, Copy)]
pub(super) struct HomeSet([u32; HOMES]);

/// An unused place, if there are fewer members than homes.
const NOBODY: u32 = u32::MAX;

/// Unused homes that may remain beyond twice the number of members. Members come and go, and each restart adds a new
/// home.
const MAX_UNUSED: usize = 1024;

/// All homes in use, and up to [`MAX_UNUSED`] others.
#[derive(Default)]
pub(super) struct HomeIndex {
    homes: Vec<Home>,
    numbers: HashMap<Home, u32>,
}

impl HomeIndex {
    /// Returns the homes of a tag by a view. Adds new homes to the index.
    pub(super) fn home_set(&mut self, view: &View, tag: Tag) -> HomeSet {
        let mut numbers = [NOBODY; HOMES];
        for (number, home) in numbers.iter_mut().zip(view.homes(tag).iter()) {
            *number = self.number((home, view.epoch(&home).unwrap_or_default()));
        }
        HomeSet(numbers)
    }

    /// Returns the homes of a set.
    pub(super) fn homes(&self, home_set: HomeSet) -> impl Iterator<Item = Home> + '_ {
        home_set.0.into_iter().filter_map(|number| self.homes.get(usize::try_from(number).ok()?).copied())
    }

    /// Removes unused homes, if there may be many for this number of members. `all` are the sets in use; their indices
    /// are updated.
    pub(super) fn tidy<'a>(&mut self, members: usize, all: impl Iterator<Item = &'a mut HomeSet>) {
        if self.homes.len() <= 2 * members + MAX_UNUSED {
            return;
        }
        let former = std::mem::take(self);
        for number in all.flat_map(|home_set| &mut home_set.0) {
            let home = usize::try_from(*number).ok().and_then(|number| former.homes.get(number));
            *number = home.map_or(NOBODY, |home| self.number(*home));
        }
    }

    fn number(&mut self, home: Home) -> u32 {
        *self.numbers.entry(home).or_insert_with(|| {
            self.homes.push(home);
            u32::try_from(self.homes.len() - 1).unwrap_or(NOBODY)
        })
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::{
        federation::FederationId,
        keys::PublicKey,
        record::{Abilities, NodeRecord},
        time::UnixTime,
    };

    use super::*;
    use crate::placement::Placement;

    fn view(members: u8, epoch: u64) -> View {
        let federation = FederationId::of_roots(&[]);
        let record = |n: u8| NodeRecord {
            federation,
            node: NodeId::new(PublicKey::from_bytes([n; 32])),
            epoch,
            seq: 1,
            issued_at: UnixTime::from_secs(1),
            expires_at: UnixTime::from_secs(1),
            client_urls: Vec::new(),
            quic_addrs: vec![([10, 0, n, 1], 1).into()],
            region: String::new(),
            version: String::new(),
            abilities: Abilities::default(),
        };
        let records: Vec<_> = (1..=members).map(record).collect();
        View::new(&Placement::genesis(federation), records.iter().map(|record| (record, true)))
    }

    fn tag(n: u32) -> Tag {
        Tag::of_code(&chappe_common::code::PairingCode::from_random(n))
    }

    #[test]
    fn a_set_has_the_homes_of_its_view_in_their_epochs() {
        let mut home_index = HomeIndex::default();
        for (members, epoch) in [(2, 1), (9, 1), (9, 2)] {
            let view = view(members, epoch);
            for n in 0..20 {
                let home_set = home_index.home_set(&view, tag(n));
                let homes: Vec<_> = home_index.homes(home_set).collect();
                assert_eq!(homes, view.homes(tag(n)).iter().map(|home| (home, epoch)).collect::<Vec<_>>());
            }
        }
        assert_eq!(home_index.homes.len(), 2 + 7 + 9, "each home has one number in each of its epochs");
    }

    #[test]
    fn unused_homes_are_removed_and_sets_keep_their_homes() {
        let mut home_index = HomeIndex::default();
        let homes = |home_index: &HomeIndex, home_set: HomeSet| home_index.homes(home_set).collect::<Vec<_>>();
        let mut home_sets: Vec<_> = (0..20).map(|n| home_index.home_set(&view(9, 1), tag(n))).collect();
        let before: Vec<_> = home_sets.iter().map(|home_set| homes(&home_index, *home_set)).collect();
        for epoch in 2..1000 {
            for n in 0..20 {
                home_index.home_set(&view(9, epoch), tag(n));
            }
            home_index.tidy(9, home_sets.iter_mut());
        }
        assert_eq!(home_sets.iter().map(|home_set| homes(&home_index, *home_set)).collect::<Vec<_>>(), before);
        assert!(home_index.homes.len() <= 2 * 9 + MAX_UNUSED);
    }
}
