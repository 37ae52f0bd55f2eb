//! Looking through all that is kept for homes that have moved.

use std::{
    collections::HashMap,
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_common::keys::NodeId;

use super::command::Key;
use super::{
    HomeBatch, Publisher, Slot,
    home_index::{HomeIndex, HomeSet},
    put,
};

/// From one time that all is looked at for moved homes to the next.
const RESCAN_EVERY: Duration = Duration::from_secs(1);
/// How many are looked at before others have their turn: about a millisecond's work among a thousand members.
const RESCAN_STEP: usize = 256;

/// How far all that is kept has been looked at for homes that have moved.
#[derive(Clone, Copy)]
pub(super) enum Rescan {
    /// No home has moved since. The next time is not before `next`.
    Done { next: Instant },
    /// Homes have moved: it begins at this time.
    Due { at: Instant },
    /// Up to this slot: what is scheduled anew meanwhile stands behind it, or is placed by the present view. `again`: homes
    /// have moved since it began.
    At { slot: Slot, next: Instant, again: bool },
}

impl Publisher {
    /// Places by the present view from now on. Where its homes are others, all that was placed before is looked at.
    pub(super) fn note_view(&mut self) {
        let view = self.core.members.view.load_full();
        if Arc::ptr_eq(&view, &self.view) {
            return;
        }
        if !view.has_homes_of(&self.view) {
            match &mut self.rescan {
                Rescan::Done { next } => self.rescan = Rescan::Due { at: *next },
                Rescan::Due { .. } => {}
                Rescan::At { again, .. } => *again = true,
            }
        }
        self.view = view;
    }

    /// When some are to be looked at.
    pub(super) fn next_rescan(&self) -> Option<Instant> {
        match self.rescan {
            Rescan::Done { .. } => None,
            Rescan::Due { at } => Some(at),
            Rescan::At { .. } => Some(Instant::now()),
        }
    }

    /// Looks at the next few. At the end each home is told what has moved to it.
    pub(super) fn rescan_step(&mut self, batches: &mut HashMap<NodeId, HomeBatch>) {
        let (from, next, again) = match self.rescan {
            Rescan::Done { .. } => return,
            Rescan::Due { .. } => {
                self.places.tidy(self.view.len(), self.kept.values_mut().map(|kept| &mut kept.placed));
                (Bound::Unbounded, Instant::now() + RESCAN_EVERY, false)
            }
            Rescan::At { slot, next, again } => (Bound::Excluded(slot), next, again),
        };
        let mut last = None;
        for slot in self.schedule.range((from, Bound::Unbounded)).take(RESCAN_STEP) {
            last = Some(*slot);
            let (_, key) = slot;
            let Some(kept) = self.kept.get_mut(key) else { continue };
            let placed = self.places.place(&self.view, key.tag());
            note_moved(&mut self.moved, &self.places, *key, kept.placed, placed);
            kept.placed = placed;
        }
        self.rescan = match last {
            Some(slot) => Rescan::At { slot, next, again },
            None if again => Rescan::Due { at: next },
            None => Rescan::Done { next },
        };
        if last.is_some() {
            return;
        }
        // One errand for each home, which asks for one batch after the other.
        for (home, keys) in std::mem::take(&mut self.moved) {
            let batch: &mut HomeBatch = batches.entry(home).or_default();
            for key in keys {
                // What was given back meanwhile is not told.
                if let Some(kept) = self.kept.get(&key) {
                    put(batch, &key, kept, &self.claims);
                }
            }
        }
    }
}

/// Notes the homes to which something has moved; they are told of it at the end of a look.
pub(super) fn note_moved(
    moved: &mut HashMap<NodeId, Vec<Key>>,
    places: &HomeIndex,
    key: Key,
    former: HomeSet,
    placed: HomeSet,
) {
    for home in places.homes(placed) {
        if !places.homes(former).any(|former| former == home) {
            moved.entry(home.0).or_default().push(key);
        }
    }
}
