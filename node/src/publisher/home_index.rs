//! Where things are kept, in few bytes each: a node has as many homes as its federation has members, and keeps a hundred
//! thousand things at them.

use std::collections::HashMap;

use chappe_common::keys::NodeId;

use crate::{
    membership::view::View,
    placement::{HOMES, Tag},
};

/// A home, and the epoch that it is in: one that has started anew has forgotten what it kept.
pub(super) type Home = (NodeId, u64);

/// The homes of one thing, as numbers in [`HomeIndex`].
#[derive(Clone, Copy)]
pub(super) struct HomeSet([u32; HOMES]);

/// No home: there are fewer members than homes.
const NOBODY: u32 = u32::MAX;

/// Homes that nothing may be placed at any more, before they are forgotten: members come and go, and each time one starts
/// anew it is another.
const MAX_UNUSED: usize = 1024;

/// The homes that anything is placed at, and some more.
#[derive(Default)]
pub(super) struct HomeIndex {
    homes: Vec<Home>,
    numbers: HashMap<Home, u32>,
}

impl HomeIndex {
    /// Where a view places a tag.
    pub(super) fn place(&mut self, view: &View, tag: Tag) -> HomeSet {
        let mut placed = [NOBODY; HOMES];
        for (place, home) in placed.iter_mut().zip(view.homes(tag).iter()) {
            *place = self.number((home, view.epoch(&home).unwrap_or_default()));
        }
        HomeSet(placed)
    }

    /// The homes that were given those numbers.
    pub(super) fn homes(&self, placed: HomeSet) -> impl Iterator<Item = Home> + '_ {
        placed.0.into_iter().filter_map(|number| self.homes.get(usize::try_from(number).ok()?).copied())
    }

    /// Forgets the homes that nothing is placed at, if they may be many among so many members. `all`: what is placed.
    pub(super) fn tidy<'a>(&mut self, members: usize, all: impl Iterator<Item = &'a mut HomeSet>) {
        if self.homes.len() <= 2 * members + MAX_UNUSED {
            return;
        }
        let former = std::mem::take(self);
        for number in all.flat_map(|placed| &mut placed.0) {
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
    fn what_is_placed_is_at_the_homes_of_its_view_in_their_epochs() {
        let mut places = HomeIndex::default();
        for (members, epoch) in [(2, 1), (9, 1), (9, 2)] {
            let view = view(members, epoch);
            for n in 0..20 {
                let placed = places.place(&view, tag(n));
                let homes: Vec<_> = places.homes(placed).collect();
                assert_eq!(homes, view.homes(tag(n)).iter().map(|home| (home, epoch)).collect::<Vec<_>>());
            }
        }
        assert_eq!(places.homes.len(), 2 + 7 + 9, "each home has one number in each of its epochs");
    }

    #[test]
    fn homes_that_are_none_any_more_are_forgotten_and_what_is_placed_stays_where_it_is() {
        let mut places = HomeIndex::default();
        let homes = |places: &HomeIndex, placed: HomeSet| places.homes(placed).collect::<Vec<_>>();
        let mut placed: Vec<_> = (0..20).map(|n| places.place(&view(9, 1), tag(n))).collect();
        let before: Vec<_> = placed.iter().map(|placed| homes(&places, *placed)).collect();
        for epoch in 2..1000 {
            for n in 0..20 {
                places.place(&view(9, epoch), tag(n));
            }
            places.tidy(9, placed.iter_mut());
        }
        assert_eq!(placed.iter().map(|placed| homes(&places, *placed)).collect::<Vec<_>>(), before);
        assert!(places.homes.len() <= 2 * 9 + MAX_UNUSED);
    }
}
