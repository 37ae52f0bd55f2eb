//! The root keys of a federation, as they change over time.
//!
//! The federation's id stays that of its founding roots. A chain of successions leads from these to the current roots, and
//! it is always complete: it begins with roots that have the id, and it passes through the pinned ones. So nobody can put
//! another beginning or end to it.

use crate::{federation::FederationId, keys::PublicKey, succession::SignedSuccession, time::UnixTime};

/// The most successions of a federation. At one a year these are twelve years, and together with the most revocations they
/// fit the list that earlier versions read.
pub const MAX_SUCCESSIONS: usize = 12;

/// Why a succession has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuccessionRefusal {
    /// It is for another federation.
    #[error("the succession is of another federation")]
    Federation,
    /// The old root is not known, or the chain before it is not.
    #[error("the succession is not signed by a root of the federation")]
    Root,
    /// The old root has another successor already.
    #[error("the root has another successor already")]
    Fork,
    /// The new root is or was a root of the federation.
    #[error("the new root is or was a root of the federation")]
    Loop,
    /// There are [`MAX_SUCCESSIONS`] already.
    #[error("there are as many successions as one federation may have")]
    Full,
}

impl SuccessionRefusal {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Federation, Self::Root, Self::Fork, Self::Loop, Self::Full];

    /// As a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Federation => "federation",
            Self::Root => "root",
            Self::Fork => "fork",
            Self::Loop => "loop",
            Self::Full => "full",
        }
    }
}

/// The roots that a reader has pinned, and the successions that it has learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    federation: FederationId,
    pinned: Vec<PublicKey>,
    /// `None` if the pinned roots are later ones, until the chain to them is learned.
    founding: Option<Vec<PublicKey>>,
    /// In the order in which they apply.
    chain: Vec<SignedSuccession>,
}

impl Default for Roots {
    /// No roots: nothing is accepted.
    fn default() -> Self {
        Self::pinned(Vec::new(), None)
    }
}

impl From<Vec<PublicKey>> for Roots {
    fn from(keys: Vec<PublicKey>) -> Self {
        Self::pinned(keys, None)
    }
}

impl<const N: usize> From<[PublicKey; N]> for Roots {
    fn from(keys: [PublicKey; N]) -> Self {
        Self::pinned(keys.into(), None)
    }
}

impl Roots {
    /// Pins these keys. `federation` is the id if the keys are not the founding roots.
    pub fn pinned(keys: Vec<PublicKey>, federation: Option<FederationId>) -> Self {
        let own = FederationId::of_roots(&keys);
        let federation = federation.unwrap_or(own);
        let founding = (federation == own).then(|| keys.clone());
        Self { federation, pinned: keys, founding, chain: Vec::new() }
    }

    /// The federation.
    pub const fn federation(&self) -> FederationId {
        self.federation
    }

    /// Whether no key is pinned.
    pub const fn is_empty(&self) -> bool {
        self.pinned.is_empty()
    }

    /// The pinned keys.
    pub fn pinned_keys(&self) -> &[PublicKey] {
        &self.pinned
    }

    /// The keys that have the federation's id, if they are known.
    pub fn founding(&self) -> Option<&[PublicKey]> {
        self.founding.as_deref()
    }

    /// The known successions, in the order in which they apply.
    pub fn successions(&self) -> &[SignedSuccession] {
        &self.chain
    }

    /// The roots that no other key has replaced.
    pub fn current(&self) -> Vec<PublicKey> {
        let first = self.founding.as_ref().unwrap_or(&self.pinned).clone();
        self.chain.iter().fold(first, |mut keys, one| {
            replace(&mut keys, one.old(), one.new_root());
            keys
        })
    }

    /// Whether pinned keys were replaced.
    pub fn is_rotated(&self) -> bool {
        self.pinned.iter().any(|key| self.successor_of(key).is_some())
    }

    /// Whether statements of `key` count at `now`. An old root counts only as long as its successor does, so the thief of
    /// an old root can make up no older one.
    pub fn accepts(&self, key: &PublicKey, now: UnixTime) -> bool {
        self.knows(key) && self.ends_at(key).is_none_or(|end| now < end)
    }

    /// Whether `key` is or was a root.
    pub fn knows(&self, key: &PublicKey) -> bool {
        self.keys().any(|known| known == *key)
    }

    /// When an old root ends; `None` for a current one.
    pub fn ends_at(&self, key: &PublicKey) -> Option<UnixTime> {
        let next = self.successor_of(key)?;
        let end = next.old_until();
        Some(self.ends_at(&next.new_root()).map_or(end, |later| later.min(end)))
    }

    /// The keys whose statements count at `now`.
    pub fn accepted(&self, now: UnixTime) -> Vec<PublicKey> {
        self.keys().filter(|key| self.accepts(key, now)).collect()
    }

    fn keys(&self) -> impl Iterator<Item = PublicKey> + '_ {
        let first = self.founding.as_ref().unwrap_or(&self.pinned);
        first.iter().copied().chain(self.chain.iter().map(SignedSuccession::new_root))
    }

    fn successor_of(&self, key: &PublicKey) -> Option<&SignedSuccession> {
        self.chain.iter().find(|one| one.old() == *key)
    }

    /// Learns successions, in the order in which they apply. Returns whether anything has changed, and why others have no
    /// effect. The first successor of a root that was learned stays.
    pub fn learn<'a>(
        &mut self,
        list: impl IntoIterator<Item = &'a SignedSuccession>,
    ) -> (bool, Vec<SuccessionRefusal>) {
        let mut list: Vec<_> = list.into_iter().collect();
        let mut refused = vec![SuccessionRefusal::Full; list.len().saturating_sub(MAX_SUCCESSIONS)];
        list.truncate(MAX_SUCCESSIONS);
        if self.founding.is_none() {
            self.founding = self.find_founding(&list);
            if self.founding.is_none() {
                refused.extend(list.iter().map(|_| SuccessionRefusal::Root));
                return (false, refused);
            }
        }
        let mut has_changed = false;
        for one in list {
            match self.add(one) {
                Ok(is_new) => has_changed |= is_new,
                Err(refusal) => refused.push(refusal),
            }
        }
        (has_changed, refused)
    }

    /// The founding roots, if a beginning of `list` leads from them to the pinned ones.
    fn find_founding(&self, list: &[&SignedSuccession]) -> Option<Vec<PublicKey>> {
        (1..=list.len()).find_map(|end| {
            let mut keys = self.pinned.clone();
            let leads_here = list[..end].iter().rev().all(|one| replace(&mut keys, one.new_root(), one.old()));
            (leads_here && FederationId::of_roots(&keys) == self.federation).then_some(keys)
        })
    }

    fn add(&mut self, one: &SignedSuccession) -> Result<bool, SuccessionRefusal> {
        if one.federation() != self.federation {
            return Err(SuccessionRefusal::Federation);
        }
        if let Some(known) = self.chain.iter_mut().find(|known| known.old() == one.old()) {
            if known.new_root() != one.new_root() {
                return Err(SuccessionRefusal::Fork);
            }
            let is_later = one.issued_at() > known.issued_at();
            if is_later {
                *known = one.clone();
            }
            return Ok(is_later);
        }
        if !self.knows(&one.old()) {
            return Err(SuccessionRefusal::Root);
        }
        if self.knows(&one.new_root()) {
            return Err(SuccessionRefusal::Loop);
        }
        if self.chain.len() >= MAX_SUCCESSIONS {
            return Err(SuccessionRefusal::Full);
        }
        self.chain.push(one.clone());
        Ok(true)
    }
}

/// Replaces a key. Returns whether it was there.
fn replace(keys: &mut [PublicKey], old: PublicKey, new: PublicKey) -> bool {
    match keys.iter_mut().find(|key| **key == old) {
        Some(key) => {
            *key = new;
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{keys::SecretKey, signed::Signed, succession::RootSuccessor};

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32])
    }

    fn public(seed: u8) -> PublicKey {
        key(seed).public()
    }

    /// A succession in the federation that root 1 has founded, by which the old root ends after `days`.
    fn step(old: u8, new: u8, at: UnixTime, days: u32) -> SignedSuccession {
        let federation = FederationId::of_roots(&[public(1)]);
        let successor = RootSuccessor { federation, old: public(old), new: public(new) };
        let successor = Signed::sign(successor, &key(old)).expect("a successor");
        SignedSuccession::sign(&successor, &key(new), at, at + DAY * days).expect("a succession")
    }

    #[test]
    fn an_old_root_counts_until_its_end_and_the_id_stays() {
        let mut roots = Roots::from([public(1)]);
        let id = roots.federation();
        assert_eq!(roots.learn([&step(1, 2, NOW, 30)]), (true, vec![]));
        assert_eq!((roots.current(), roots.federation()), (vec![public(2)], id));
        assert_eq!(roots.accepted(NOW), [public(1), public(2)]);
        assert_eq!(roots.accepted(NOW + DAY * 30), [public(2)]);
        assert!(roots.is_rotated());
        // A year later: a second rotation. The first root ends with the second one at the latest.
        let later = NOW + DAY * 10;
        assert_eq!(roots.learn([&step(2, 3, later, 5)]), (true, vec![]));
        assert_eq!(roots.accepted(later), [public(1), public(2), public(3)]);
        assert_eq!(roots.accepted(later + DAY * 5), [public(3)], "the first root depends on the second");
    }

    #[test]
    fn the_new_root_ends_the_old_one_earlier() {
        let mut roots = Roots::from([public(1)]);
        let _ = roots.learn([&step(1, 2, NOW, 30)]);
        let earlier = step(1, 2, NOW + DAY, 0);
        assert_eq!(roots.learn([&earlier]), (true, vec![]));
        assert_eq!(roots.learn([&step(1, 2, NOW, 30)]), (false, vec![]), "a replayed statement changes nothing");
        assert!(!roots.accepts(&public(1), NOW + DAY) && roots.accepts(&public(2), NOW));
    }

    #[test]
    fn the_first_successor_stays_and_no_root_comes_back() {
        let mut roots = Roots::from([public(1)]);
        let refused = |roots: &mut Roots, one: SignedSuccession| roots.learn([&one]).1;
        assert_eq!(refused(&mut roots, step(2, 3, NOW, 1)), [SuccessionRefusal::Root], "a stranger's");
        let _ = roots.learn([&step(1, 2, NOW, 30)]);
        assert_eq!(refused(&mut roots, step(1, 9, NOW + DAY, 1)), [SuccessionRefusal::Fork]);
        assert_eq!(refused(&mut roots, step(2, 1, NOW, 1)), [SuccessionRefusal::Loop]);
        let mut others = Roots::from([public(7)]);
        assert_eq!(refused(&mut others, step(1, 2, NOW, 1)), [SuccessionRefusal::Federation]);
        for root in 2..=12 {
            assert_eq!(roots.learn([&step(root, root + 1, NOW, 1)]), (true, vec![]));
        }
        assert_eq!(refused(&mut roots, step(13, 14, NOW, 1)), [SuccessionRefusal::Full]);
        let again = step(1, 2, NOW, 30);
        let too_many = vec![&again; MAX_SUCCESSIONS + 2];
        assert_eq!(roots.learn(too_many).1, [SuccessionRefusal::Full; 2], "they are not read");
    }

    #[test]
    fn later_roots_are_pinned_with_the_id_and_accept_only_the_chain_to_them() {
        let id = FederationId::of_roots(&[public(1)]);
        let chain = [step(1, 2, NOW, 30), step(2, 3, NOW + DAY, 30), step(3, 4, NOW + DAY, 30)];
        let mut roots = Roots::pinned(vec![public(3)], Some(id));
        assert_eq!(roots.accepted(NOW), [public(3)]);
        assert!(roots.founding().is_none());
        // The thief of an old root invents a beginning, or another end.
        assert!(!roots.learn([&step(9, 2, NOW, 30), &chain[1]]).0);
        assert!(!roots.learn([&step(1, 9, NOW, 30)]).0);
        assert_eq!(roots.learn(&chain), (true, vec![]));
        assert_eq!(roots.founding(), Some(&[public(1)][..]));
        assert_eq!(roots.current(), [public(4)]);
    }

    #[test]
    fn one_of_several_roots_is_replaced() {
        let founding = [public(1), public(5)];
        let federation = FederationId::of_roots(&founding);
        let successor = RootSuccessor { federation, old: public(5), new: public(6) };
        let successor = Signed::sign(successor, &key(5)).expect("a successor");
        let one = SignedSuccession::sign(&successor, &key(6), NOW, NOW + DAY).expect("a succession");
        let mut roots = Roots::from(founding);
        assert!(roots.learn([&one]).0);
        assert_eq!(roots.current(), [public(1), public(6)]);
        let mut pinned = Roots::pinned(vec![public(6), public(1)], Some(federation));
        assert!(pinned.learn([&one]).0);
        assert!(pinned.accepts(&public(5), NOW) && !pinned.accepts(&public(5), NOW + DAY));
    }
}
