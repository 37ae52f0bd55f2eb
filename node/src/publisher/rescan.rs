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
    Errand, Publisher, Slot,
    home_index::{Placed, Places},
    put,
};

/// From one time that all is looked at for moved homes to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many are looked at before others have their turn: about a millisecond's work among a thousand members.
const LOOK_AT: usize = 256;

/// How far all that is kept has been looked at for homes that have moved.
#[derive(Clone, Copy)]
pub(super) enum Look {
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
            match &mut self.look {
                Look::Done { next } => self.look = Look::Due { at: *next },
                Look::Due { .. } => {}
                Look::At { again, .. } => *again = true,
            }
        }
        self.view = view;
    }

    /// When some are to be looked at.
    pub(super) fn next_look(&self) -> Option<Instant> {
        match self.look {
            Look::Done { .. } => None,
            Look::Due { at } => Some(at),
            Look::At { .. } => Some(Instant::now()),
        }
    }

    /// Looks at the next few. At the end each home is told what has moved to it.
    pub(super) fn look_at_some(&mut self, errands: &mut HashMap<NodeId, Errand>) {
        let (from, next, again) = match self.look {
            Look::Done { .. } => return,
            Look::Due { .. } => {
                self.places.tidy(self.view.len(), self.kept.values_mut().map(|kept| &mut kept.placed));
                (Bound::Unbounded, Instant::now() + LOOK_EVERY, false)
            }
            Look::At { slot, next, again } => (Bound::Excluded(slot), next, again),
        };
        let mut last = None;
        for slot in self.schedule.range((from, Bound::Unbounded)).take(LOOK_AT) {
            last = Some(*slot);
            let (_, key) = slot;
            let Some(kept) = self.kept.get_mut(key) else { continue };
            let placed = self.places.place(&self.view, key.tag());
            note_moved(&mut self.moved, &self.places, *key, kept.placed, placed);
            kept.placed = placed;
        }
        self.look = match last {
            Some(slot) => Look::At { slot, next, again },
            None if again => Look::Due { at: next },
            None => Look::Done { next },
        };
        if last.is_some() {
            return;
        }
        // One errand for each home, which asks for one batch after the other.
        for (home, keys) in std::mem::take(&mut self.moved) {
            let errand: &mut Errand = errands.entry(home).or_default();
            for key in keys {
                // What was given back meanwhile is not told.
                if let Some(kept) = self.kept.get(&key) {
                    put(errand, &key, kept, &self.claims);
                }
            }
        }
    }
}

/// Notes the homes to which something has moved; they are told of it at the end of a look.
pub(super) fn note_moved(
    moved: &mut HashMap<NodeId, Vec<Key>>,
    places: &Places,
    key: Key,
    former: Placed,
    placed: Placed,
) {
    for home in places.homes(placed) {
        if !places.homes(former).any(|former| former == home) {
            moved.entry(home.0).or_default().push(key);
        }
    }
}
