//! The reputation of peers: rate limits, and penalties for false statements.
//!
//! Pure: the caller passes the time. Rate limits are kept by key, and removed when they are fully replenished.
//! Penalties are kept for up to [`MAX_PEERS`] peers.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::placement::Network;
use chappe_common::{keys::NodeId, time::UnixTime};
use governor::{Quota, RateLimiter, clock::Clock, middleware::NoOpMiddleware, state::keyed::HashMapStateStore};

/// Packets of one peer per second, and the burst. A peer sends probes and answers, and gossips with three random
/// members five times a second.
const PACKETS: (u32, u32) = (50, 200);
/// Claims of one peer per second, and the burst: all nodes of a large federation at once, and then those that join.
const CLAIMS: (u32, u32) = (2, 2048);
/// Accusations of one member per second, and the burst. A member that needs more has lost its own network.
const ACCUSATIONS: (u32, u32) = (1, 8);
/// A member with this many disproved accusations within [`FORGIVE_AFTER`] can't accuse any more.
const DISPROVED: usize = 3;
/// A peer with this many false claims within [`FORGIVE_AFTER`] can't claim any more. An honest peer has a false claim
/// if a node crashes just after the claim.
const FALSE_CLAIMS: usize = 32;
/// The maximum number of open accusations of one member. More members fall silent at once only if a network fails, and
/// then other members accuse them too.
const OPEN_ACCUSATIONS: usize = 3;
/// How long a disproved accusation or a false claim counts.
const FORGIVE_AFTER: Duration = Duration::from_secs(600);
/// How long a peer stays muted.
const MUTED_FOR: Duration = Duration::from_secs(3600);
/// For this many accused, the time of an accuser's last accusation is remembered, so that it can't be replayed. Beyond
/// it, the oldest is dropped, since old accusations are refused anyway.
const REMEMBERED: usize = 64;
/// The number of remembered false accusers of one member: two that are blamed, and the last one.
const ACCUSERS_REMEMBERED: usize = 3;
/// After a member has passed a check, accusations can't start another for this time. Otherwise an attacker could have
/// it probed by all members all the time. Own probes or later accusations still detect a crash within that time.
const ACQUITTED_FOR: Duration = Duration::from_secs(20);
/// The maximum number of peers with a score: twice the maximum number of known nodes.
const MAX_PEERS: usize = 8192;

/// The driver's time in the form that the rate limiter needs.
#[derive(Clone, Debug, Default)]
struct DriverClock(Arc<AtomicU64>);

impl Clock for DriverClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

type Rates = RateLimiter<NodeId, HashMapStateStore<NodeId>, DriverClock, NoOpMiddleware<Duration>>;

fn rates((per_second, burst): (u32, u32), clock: &DriverClock) -> Rates {
    let positive = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    let quota = Quota::per_second(positive(per_second)).allow_burst(positive(burst));
    RateLimiter::hashmap_with_clock(quota, clock.clone())
}

/// The penalties and accusations of one peer.
#[derive(Debug, Default)]
struct PeerScore {
    disproved: VecDeque<Instant>,
    /// The times of false claims, and the networks of the claimed nodes. Each network counts once.
    false_claims: VecDeque<(Instant, Option<Network>)>,
    accuses_muted_until: Option<Instant>,
    claims_muted_until: Option<Instant>,
    /// The members that it accuses now.
    open: Vec<NodeId>,
    /// The times of its last accusations.
    accused: VecDeque<(NodeId, UnixTime)>,
}

impl PeerScore {
    fn is_blank(&self, now: Instant) -> bool {
        let is_past = |until: Option<Instant>| until.is_none_or(|until| until <= now);
        let is_forgiven = |last: Option<Instant>| last.is_none_or(|last| last + FORGIVE_AFTER <= now);
        is_past(self.accuses_muted_until)
            && is_past(self.claims_muted_until)
            && is_forgiven(self.disproved.back().copied())
            && is_forgiven(self.false_claims.back().map(|(at, _)| *at))
            && self.open.is_empty()
    }
}

/// The reputation of all peers.
#[derive(Debug)]
pub(super) struct Reputation {
    started: Instant,
    clock: DriverClock,
    packets: Rates,
    claims: Rates,
    accusations: Rates,
    peers: HashMap<NodeId, PeerScore>,
    /// Members that have recently disproved accusations, with their accusers.
    acquitted: HashMap<NodeId, VecDeque<(Instant, NodeId)>>,
}

impl Reputation {
    /// Creates a value without any scores.
    pub(super) fn new(now: Instant) -> Self {
        let clock = DriverClock::default();
        Self {
            started: now,
            packets: rates(PACKETS, &clock),
            claims: rates(CLAIMS, &clock),
            accusations: rates(ACCUSATIONS, &clock),
            clock,
            peers: HashMap::new(),
            acquitted: HashMap::new(),
        }
    }

    fn set_time(&self, now: Instant) {
        let nanos = now.saturating_duration_since(self.started).as_nanos();
        self.clock.0.store(nanos.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn score_mut(&mut self, node: NodeId) -> Option<&mut PeerScore> {
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&node) {
            return None;
        }
        Some(self.peers.entry(node).or_default())
    }

    /// Returns whether a peer may send another packet, and counts the packet.
    pub(super) fn may_send(&self, now: Instant, peer: NodeId) -> bool {
        self.set_time(now);
        self.packets.check_key(&peer).is_ok()
    }

    /// Returns whether another claim of a peer counts, and counts the claim.
    pub(super) fn may_claim(&self, now: Instant, peer: NodeId) -> bool {
        self.set_time(now);
        let muted = self.peers.get(&peer).and_then(|score| score.claims_muted_until);
        muted.is_none_or(|until| until <= now) && self.claims.check_key(&peer).is_ok()
    }

    /// Counts a false claim of `peer` about a node in `network`. Each network counts once, so that an attacker whose
    /// node comes and goes can't get honest members muted.
    pub(super) fn add_false_claim(&mut self, now: Instant, peer: NodeId, network: Option<Network>) {
        let Some(score) = self.score_mut(peer) else { return };
        score.false_claims.retain(|(at, of)| *at + FORGIVE_AFTER > now && (of.is_none() || *of != network));
        score.false_claims.push_back((now, network));
        if score.false_claims.len() >= FALSE_CLAIMS {
            score.false_claims.clear();
            score.claims_muted_until = Some(now + MUTED_FOR);
        }
    }

    /// Mutes a peer that has forwarded what no honest member forwards.
    pub(super) fn penalize(&mut self, now: Instant, peer: NodeId) {
        let Some(score) = self.score_mut(peer) else { return };
        score.claims_muted_until = Some(now + MUTED_FOR);
        score.accuses_muted_until = Some(now + MUTED_FOR);
    }

    /// Returns whether a peer is muted: its statements about others don't count.
    pub(super) fn is_muted(&self, now: Instant, peer: &NodeId) -> bool {
        let muted = self.peers.get(peer).and_then(|score| score.claims_muted_until);
        muted.is_some_and(|until| until > now)
    }

    /// Returns whether an accusation, signed at `at`, would count. Checked before its signature.
    pub(super) fn may_accuse(&self, now: Instant, accuser: &NodeId, accused: &NodeId, at: UnixTime) -> bool {
        let Some(score) = self.peers.get(accuser) else { return true };
        score.accuses_muted_until.is_none_or(|until| until <= now)
            && score.open.len() < OPEN_ACCUSATIONS
            && !score.open.contains(accused)
            && score.accused.iter().all(|(who, last)| who != accused || *last < at)
    }

    /// Returns whether this accusation, or a later one with the same accuser and accused, was received before.
    pub(super) fn has_accused(&self, accuser: &NodeId, accused: &NodeId, at: UnixTime) -> bool {
        let accusations = self.peers.get(accuser).into_iter().flat_map(|score| &score.accused);
        accusations.filter(|(who, _)| who == accused).any(|(_, last)| *last >= at)
    }

    /// Opens an accusation, until [`Reputation::close_accusation`]. Returns `false` if the accuser exceeds its rate.
    pub(super) fn open_accusation(&mut self, now: Instant, accuser: NodeId, accused: NodeId, at: UnixTime) -> bool {
        self.set_time(now);
        if self.accusations.check_key(&accuser).is_err() {
            return false;
        }
        let Some(score) = self.score_mut(accuser) else { return false };
        score.accused.retain(|(who, _)| *who != accused);
        score.accused.push_back((accused, at));
        if score.accused.len() > REMEMBERED {
            score.accused.pop_front();
        }
        score.open.push(accused);
        true
    }

    /// Returns whether `accused` has passed a check within [`ACQUITTED_FOR`], so that accusations can't start another.
    pub(super) fn is_acquitted(&self, now: Instant, accused: &NodeId) -> bool {
        let last = self.acquitted.get(accused).and_then(|by| by.back());
        last.is_some_and(|(at, _)| *at + ACQUITTED_FOR > now)
    }

    /// Closes the accusation of `accused` by `accuser`, if one is open. Returns whether the accuser is muted for it.
    ///
    /// The accuser is not blamed if two others have falsely accused the same member. That member then seems to answer
    /// some members and not others.
    pub(super) fn close_accusation(
        &mut self,
        now: Instant,
        accuser: NodeId,
        accused: &NodeId,
        disproved: bool,
    ) -> bool {
        let Some(score) = self.peers.get_mut(&accuser) else { return false };
        let before = score.open.len();
        score.open.retain(|open| open != accused);
        if score.open.len() == before {
            return false;
        }
        let disproved = disproved && {
            let full = self.acquitted.len() >= MAX_PEERS && !self.acquitted.contains_key(accused);
            let mut discarded = VecDeque::new();
            let by = if full { &mut discarded } else { self.acquitted.entry(*accused).or_default() };
            by.retain(|(at, who)| *at + FORGIVE_AFTER > now && *who != accuser);
            let others = by.len();
            by.push_back((now, accuser));
            if by.len() > ACCUSERS_REMEMBERED {
                by.pop_front();
            }
            others < ACCUSERS_REMEMBERED - 1
        };
        let Some(score) = self.score_mut(accuser) else { return false };
        let is_muted = disproved && add_and_check(&mut score.disproved, DISPROVED, now);
        if is_muted {
            score.accuses_muted_until = Some(now + MUTED_FOR);
        }
        is_muted
    }

    /// Removes scores and limits that have no effect any more.
    pub(super) fn expire(&mut self, now: Instant) {
        self.set_time(now);
        self.peers.retain(|_, score| !score.is_blank(now));
        self.acquitted.retain(|_, by| by.back().is_some_and(|(at, _)| *at + FORGIVE_AFTER > now));
        for rates in [&self.packets, &self.claims, &self.accusations] {
            rates.retain_recent();
        }
    }
}

/// Adds `now` to `times`. Returns whether `max` of them are within [`FORGIVE_AFTER`].
fn add_and_check(times: &mut VecDeque<Instant>, max: usize, now: Instant) -> bool {
    times.push_back(now);
    while times.len() > max || times.front().is_some_and(|first| *first + FORGIVE_AFTER <= now) {
        times.pop_front();
    }
    times.len() >= max
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::PublicKey;

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::new(PublicKey::from_bytes([n; 32]))
    }

    const AT: UnixTime = UnixTime::from_secs(1_000_000);

    fn accuse_falsely(reputation: &mut Reputation, now: Instant, accused: u8) -> bool {
        assert!(reputation.may_accuse(now, &node(0), &node(accused), AT));
        assert!(reputation.open_accusation(now, node(0), node(accused), AT));
        reputation.close_accusation(now, node(0), &node(accused), true)
    }

    #[test]
    fn three_disproved_accusations_mute_for_an_hour_and_two_are_forgiven() {
        let start = Instant::now();
        let mut reputation = Reputation::new(start);
        assert!(!accuse_falsely(&mut reputation, start, 1));
        assert!(!accuse_falsely(&mut reputation, start, 2));
        let later = start + FORGIVE_AFTER;
        assert!(!accuse_falsely(&mut reputation, later, 3));
        assert!(!accuse_falsely(&mut reputation, later, 4));
        assert!(accuse_falsely(&mut reputation, later, 5));
        assert!(!reputation.may_accuse(later, &node(0), &node(6), AT));
        assert!(reputation.may_accuse(later, &node(1), &node(6), AT));
        assert!(reputation.may_accuse(later + MUTED_FOR, &node(0), &node(6), AT));
    }

    #[test]
    fn accusations_that_prove_true_are_not_held_against_anybody() {
        let now = Instant::now();
        let mut reputation = Reputation::new(now);
        for accused in 1..=5 {
            assert!(reputation.open_accusation(now, node(0), node(accused), AT));
            assert!(!reputation.close_accusation(now, node(0), &node(accused), false));
        }
        assert!(reputation.may_accuse(now, &node(0), &node(6), AT));
    }

    #[test]
    fn members_that_did_not_accuse_are_not_blamed_when_a_check_ends() {
        let now = Instant::now();
        let mut reputation = Reputation::new(now);
        for accused in 1..=5 {
            assert!(!reputation.close_accusation(now, node(0), &node(accused), true));
            assert!(!reputation.is_acquitted(now, &node(accused)));
        }
        assert!(reputation.may_accuse(now, &node(0), &node(6), AT));
    }

    #[test]
    fn an_accusation_counts_once_and_three_may_be_open() {
        let now = Instant::now();
        let mut reputation = Reputation::new(now);
        reputation.open_accusation(now, node(0), node(1), AT);
        assert!(!reputation.may_accuse(now, &node(0), &node(1), AT + Duration::from_secs(1)), "it is open");
        reputation.close_accusation(now, node(0), &node(1), false);
        assert!(!reputation.may_accuse(now, &node(0), &node(1), AT), "it is replayed");
        assert!(reputation.may_accuse(now, &node(0), &node(1), AT + Duration::from_secs(1)));
        for accused in 2..=4 {
            reputation.open_accusation(now, node(0), node(accused), AT);
        }
        assert!(!reputation.may_accuse(now, &node(0), &node(5), AT));
    }

    #[test]
    fn packets_and_claims_have_a_rate_that_refills() {
        let now = Instant::now();
        let mut reputation = Reputation::new(now);
        assert_eq!((0..500).filter(|_| reputation.may_send(now, node(1))).count(), PACKETS.1 as usize);
        assert!(reputation.may_send(now, node(2)));
        assert!(reputation.may_send(now + Duration::from_secs(1), node(1)));
        assert_eq!((0..5000).filter(|_| reputation.may_claim(now, node(1))).count(), CLAIMS.1 as usize);
        for _ in 0..FALSE_CLAIMS {
            assert!(reputation.may_claim(now, node(3)));
            reputation.add_false_claim(now, node(3), None);
        }
        assert!(!reputation.may_claim(now, node(3)));
    }

    #[test]
    fn flapping_nodes_of_one_network_mute_no_member_that_reports_them() {
        let now = Instant::now();
        let mut reputation = Reputation::new(now);
        let network = |n: u8| Some(Network::of(&std::net::SocketAddr::from(([10, 0, n, 1], 1))));
        for _ in 0..10 * FALSE_CLAIMS {
            reputation.add_false_claim(now, node(1), network(1));
        }
        assert!(!reputation.is_muted(now, &node(1)));
        for n in 2..=FALSE_CLAIMS {
            reputation.add_false_claim(now, node(1), network(u8::try_from(n).expect("few")));
        }
        assert!(reputation.is_muted(now, &node(1)));
    }

    #[test]
    fn a_member_that_answers_some_and_not_others_silences_two_at_most() {
        let now = Instant::now();
        let mut reputation = Reputation::new(now);
        for accuser in 10..30 {
            for _ in 0..DISPROVED {
                reputation.open_accusation(now, node(accuser), node(1), AT);
                reputation.close_accusation(now, node(accuser), &node(1), true);
            }
        }
        let muted = (10..30).filter(|accuser| !reputation.may_accuse(now, &node(*accuser), &node(2), AT)).count();
        assert!(muted <= 2, "{muted}");
        assert!(reputation.is_acquitted(now, &node(1)) && !reputation.is_acquitted(now + ACQUITTED_FOR, &node(1)));
    }

    #[test]
    fn expired_scores_are_removed() {
        let now = Instant::now();
        let mut reputation = Reputation::new(now);
        accuse_falsely(&mut reputation, now, 1);
        reputation.penalize(now, node(2));
        reputation.expire(now + FORGIVE_AFTER);
        assert_eq!(reputation.peers.len(), 1);
        reputation.expire(now + MUTED_FOR);
        assert_eq!(reputation.peers.len(), 0);
    }
}
