//! The newest beacon that this node knows. It determines the placement of tags, now and around a switch to another
//! term.

use std::time::Duration;

use bytes::Bytes;
use chappe_common::{
    beacon::{BeaconError, SignedBeacon, Term},
    record::MAX_CLOCK_SKEW,
    roots::Roots,
    time::UnixTime,
};

use crate::placement::{BeaconValue, Election, Placement};

/// For this time before and after a switch, lookups ask the homes of both terms. Clocks differ by up to
/// [`MAX_CLOCK_SKEW`], so another node may still register by the other term. 30 seconds more are for the registration.
const AROUND: Duration = Duration::from_secs(MAX_CLOCK_SKEW.as_secs() + 30);

/// Why a beacon was not accepted. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unlearned {
    /// A beacon with this or a higher number is known.
    #[error("this or a newer beacon is known")]
    Known,
    /// The beacon isn't valid.
    #[error(transparent)]
    Refused(#[from] BeaconError),
}

/// The newest beacon of a federation, and the placement by it.
#[derive(Clone, Debug)]
pub struct Beacons {
    roots: Roots,
    newest: Option<SignedBeacon>,
    /// The elections before and after the switch, cached.
    terms: Option<(Election, Election)>,
    change_at: Option<UnixTime>,
}

impl Beacons {
    /// Creates a value without a beacon. Placement then uses the genesis beacon.
    pub const fn new(roots: Roots) -> Self {
        Self { roots, newest: None, terms: None, change_at: None }
    }

    /// Replaces the roots after a succession. The newest beacon stays, also if its root has ended.
    pub(super) fn set_roots(&mut self, roots: Roots) {
        self.roots = roots;
    }

    /// Returns the roots of the federation.
    pub(super) const fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Accepts a beacon that this node had accepted before, also if its root has ended since. Without it, a node that
    /// restarts would place tags in another way than those that run.
    pub(super) fn restore(&mut self, beacon: SignedBeacon, now: UnixTime) {
        let is_newer = beacon.number > self.newest_number();
        if is_newer && self.roots.knows(&beacon.root) && beacon.federation == self.roots.federation() {
            self.accept(beacon, now);
        }
    }

    /// Accepts a verified beacon if it is valid and has the highest number.
    ///
    /// # Errors
    /// The beacon is not newer, or not valid. Nothing has changed.
    pub fn learn(&mut self, beacon: SignedBeacon, now: UnixTime) -> Result<(), Unlearned> {
        if beacon.number <= self.newest_number() {
            return Err(Unlearned::Known);
        }
        beacon.check(&self.roots, now)?;
        self.accept(beacon, now);
        Ok(())
    }

    fn accept(&mut self, beacon: SignedBeacon, now: UnixTime) {
        let election = |term: &Term| Election::new(BeaconValue::new(term.value), Some(term.eligible.as_slice().into()));
        let before = beacon.before.as_ref().map_or_else(|| self.genesis(), election);
        self.terms = Some((before, election(&beacon.term)));
        self.newest = Some(beacon);
        self.change_at = self.next_change(now);
    }

    /// Returns whether [`Beacons::placement`] has changed since the last call.
    pub(super) fn poll_change(&mut self, now: UnixTime) -> bool {
        let has_changed = self.change_at.is_some_and(|change| change <= now);
        if has_changed {
            self.change_at = self.next_change(now);
        }
        has_changed
    }

    /// Returns the placement at `now`.
    pub fn placement(&self, now: UnixTime) -> Placement {
        let (Some(beacon), Some((before, after))) = (&self.newest, &self.terms) else {
            return Placement::new(self.genesis(), None);
        };
        let (current, other) = if now < beacon.from { (before, after) } else { (after, before) };
        let near = now + AROUND >= beacon.from && now < beacon.from + AROUND;
        Placement::new(current.clone(), near.then(|| other.clone()))
    }

    /// Returns when [`Beacons::placement`] changes next, if the newest beacon schedules a change.
    fn next_change(&self, now: UnixTime) -> Option<UnixTime> {
        let from = self.newest.as_ref()?.from;
        let first = UnixTime::from_secs(from.as_secs().saturating_sub(AROUND.as_secs()));
        [first, from, from + AROUND].into_iter().find(|change| *change > now)
    }

    /// Returns the number of the newest beacon, or 0 if there is none.
    pub fn newest_number(&self) -> u64 {
        self.newest.as_ref().map_or(0, |beacon| beacon.number)
    }

    /// Returns the newest beacon in its signed form, for other nodes.
    pub fn newest_bytes(&self) -> Option<Bytes> {
        self.newest.as_ref().map(|beacon| beacon.as_bytes().clone())
    }

    fn genesis(&self) -> Election {
        Election::new(BeaconValue::genesis(self.roots.federation()), None)
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::{
        beacon::{Beacon, MAX_AHEAD},
        federation::FederationId,
        keys::{NodeId, PublicKey, SecretKey},
        signed::Signed,
    };

    use super::*;

    const FROM: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn root() -> SecretKey {
        SecretKey::from_bytes(&[1; 32])
    }

    fn term(value: u8) -> Term {
        Term { value: [value; 32], eligible: vec![NodeId::new(PublicKey::from_bytes([value; 32]))] }
    }

    fn election(value: u8) -> Election {
        let term = term(value);
        Election::new(BeaconValue::new(term.value), Some(term.eligible.as_slice().into()))
    }

    fn signed_beacon(number: u64, from: UnixTime, before: Option<Term>, term: Term) -> SignedBeacon {
        let federation = FederationId::of_roots(&[root().public()]);
        let beacon = Beacon { federation, root: root().public(), number, from, before, term };
        Signed::sign(beacon, &root()).expect("a beacon")
    }

    fn beacons() -> Beacons {
        Beacons::new([root().public()].into())
    }

    fn at(offset: i64) -> UnixTime {
        UnixTime::from_secs(FROM.as_secs().saturating_add_signed(offset))
    }

    #[test]
    fn a_beacon_applies_from_its_start_and_lookups_ask_both_terms_around_it() {
        let mut beacons = beacons();
        let genesis = beacons.genesis();
        assert_eq!(beacons.placement(FROM), Placement::new(genesis.clone(), None));
        assert_eq!((beacons.next_change(FROM), beacons.newest_bytes()), (None, None));
        let first = signed_beacon(1, FROM, None, term(1));
        assert_eq!(beacons.learn(first.clone(), at(-3600)), Ok(()));
        let placements = [
            (-3600, genesis.clone(), None, Some(at(-150))),
            (-151, genesis.clone(), None, Some(at(-150))),
            (-150, genesis.clone(), Some(election(1)), Some(FROM)),
            (-1, genesis.clone(), Some(election(1)), Some(FROM)),
            (0, election(1), Some(genesis.clone()), Some(at(150))),
            (149, election(1), Some(genesis), Some(at(150))),
            (150, election(1), None, None),
        ];
        for (offset, current, other, change) in placements {
            assert_eq!(beacons.placement(at(offset)), Placement::new(current, other), "{offset} s");
            assert_eq!(beacons.next_change(at(offset)), change, "{offset} s");
        }
        assert_eq!((beacons.newest_number(), beacons.newest_bytes()), (1, Some(first.as_bytes().clone())));
    }

    #[test]
    fn a_node_that_learns_only_the_newest_beacon_computes_the_same_placement() {
        let (mut long, mut late) = (beacons(), beacons());
        let second = signed_beacon(2, at(5000), Some(term(1)), term(2));
        assert_eq!(long.learn(signed_beacon(1, FROM, None, term(1)), FROM), Ok(()));
        for beacons in [&mut long, &mut late] {
            assert_eq!(beacons.learn(second.clone(), at(1000)), Ok(()));
            assert_eq!(beacons.placement(at(1000)), Placement::new(election(1), None));
            assert_eq!(beacons.placement(at(9000)), Placement::new(election(2), None));
        }
    }

    #[test]
    fn older_foreign_and_far_future_beacons_change_nothing() {
        let mut beacons = beacons();
        assert_eq!(beacons.learn(signed_beacon(5, FROM, None, term(1)), FROM), Ok(()));
        for number in [4, 5] {
            assert_eq!(beacons.learn(signed_beacon(number, FROM, None, term(2)), FROM), Err(Unlearned::Known));
        }
        let far = signed_beacon(6, FROM + MAX_AHEAD + Duration::from_secs(1), None, term(2));
        assert_eq!(beacons.learn(far, FROM), Err(Unlearned::Refused(BeaconError::Future)));
        let stranger = SecretKey::from_bytes(&[2; 32]);
        let theirs = Beacon { root: stranger.public(), ..signed_beacon(7, FROM, None, term(2)).into_value() };
        let theirs = Signed::sign(theirs, &stranger).expect("a beacon");
        assert_eq!(beacons.learn(theirs, FROM), Err(Unlearned::Refused(BeaconError::Root)));
        let other = Beacons::new(Roots::pinned(vec![root().public()], Some(FederationId::of_roots(&[]))))
            .learn(signed_beacon(7, FROM, None, term(2)), FROM);
        assert_eq!(other, Err(Unlearned::Refused(BeaconError::Federation)));
        assert_eq!(beacons.newest_number(), 5);
    }
}
