//! Rescanning all registrations for homes that changed.

use std::{
    collections::HashMap,
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use chappe_common::keys::NodeId;

use super::command::Key;
use super::{
    HomeBatch, Publisher, Slot, add_to_batch,
    home_index::{HomeIndex, HomeSet},
};

/// Minimum time between the starts of two rescans.
const RESCAN_EVERY: Duration = Duration::from_secs(1);
/// Registrations per step: about a millisecond of work in a federation of a thousand members.
const RESCAN_STEP: usize = 256;

/// Progress of the rescan.
#[derive(Clone, Copy)]
pub(super) enum Rescan {
    /// No home has changed since the last rescan. The next one starts at `next` or later.
    Done { next: Instant },
    /// Homes have changed. The rescan starts at this time.
    Due { at: Instant },
    /// The rescan has reached this slot. A registration that is scheduled while it runs gets a later slot or is placed by
    /// the current view, so none is missed. `again`: homes have changed since the rescan started.
    At { slot: Slot, next: Instant, again: bool },
}

impl Publisher {
    /// Switches to the current view. Schedules a rescan if the possible homes differ.
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

    /// Returns when the next step is due.
    pub(super) fn next_rescan(&self) -> Option<Instant> {
        match self.rescan {
            Rescan::Done { .. } => None,
            Rescan::Due { at } => Some(at),
            Rescan::At { .. } => Some(Instant::now()),
        }
    }

    /// Rescans the next registrations. At the end, sends each home the registrations that moved to it.
    pub(super) fn rescan_step(&mut self, batches: &mut HashMap<NodeId, HomeBatch>) {
        let (from, next, again) = match self.rescan {
            Rescan::Done { .. } => return,
            Rescan::Due { .. } => {
                self.home_index.tidy(
                    self.view.len(),
                    self.registrations.values_mut().map(|registration| &mut registration.home_set),
                );
                (Bound::Unbounded, Instant::now() + RESCAN_EVERY, false)
            }
            Rescan::At { slot, next, again } => (Bound::Excluded(slot), next, again),
        };
        let mut last = None;
        for slot in self.schedule.range((from, Bound::Unbounded)).take(RESCAN_STEP) {
            last = Some(*slot);
            let (_, key) = slot;
            let Some(registration) = self.registrations.get_mut(key) else { continue };
            let home_set = self.home_index.home_set(&self.view, key.tag());
            note_moved(&mut self.moved, &self.home_index, *key, registration.home_set, home_set);
            registration.home_set = home_set;
        }
        self.rescan = match last {
            Some(slot) => Rescan::At { slot, next, again },
            None if again => Rescan::Due { at: next },
            None => Rescan::Done { next },
        };
        if last.is_some() {
            return;
        }
        // One batch for each home, whose requests are sent one after the other.
        for (home, keys) in std::mem::take(&mut self.moved) {
            let batch: &mut HomeBatch = batches.entry(home).or_default();
            for key in keys {
                // Skip registrations that were withdrawn meanwhile.
                if let Some(registration) = self.registrations.get(&key) {
                    add_to_batch(batch, &key, registration, &self.claims);
                }
            }
        }
    }
}

/// Adds a registration to the list of each home that is new to it. The lists are sent at the end of a rescan.
pub(super) fn note_moved(
    moved: &mut HashMap<NodeId, Vec<Key>>,
    home_index: &HomeIndex,
    key: Key,
    former: HomeSet,
    home_set: HomeSet,
) {
    for home in home_index.homes(home_set) {
        if !home_index.homes(former).any(|former| former == home) {
            moved.entry(home.0).or_default().push(key);
        }
    }
}
