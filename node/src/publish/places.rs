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

/// The homes of one thing, as numbers in [`Places`].
#[derive(Clone, Copy)]
pub(super) struct Placed([u32; HOMES]);

/// No home: there are fewer members than homes.
const NOBODY: u32 = u32::MAX;

/// The homes that anything is placed at.
#[derive(Default)]
pub(super) struct Places {
    homes: Vec<Home>,
    numbers: HashMap<Home, u32>,
}

impl Places {
    /// Where a view places a tag.
    pub(super) fn place(&mut self, view: &View, tag: Tag) -> Placed {
        let mut placed = [NOBODY; HOMES];
        for (place, home) in placed.iter_mut().zip(view.homes(tag).iter()) {
            *place = self.number((home, view.epoch(&home).unwrap_or_default()));
        }
        Placed(placed)
    }

    /// The homes that were given those numbers.
    pub(super) fn homes(&self, placed: Placed) -> impl Iterator<Item = Home> + '_ {
        placed.0.into_iter().filter_map(|number| self.homes.get(usize::try_from(number).ok()?).copied())
    }

    fn number(&mut self, home: Home) -> u32 {
        *self.numbers.entry(home).or_insert_with(|| {
            self.homes.push(home);
            u32::try_from(self.homes.len() - 1).unwrap_or(NOBODY)
        })
    }
}
