//! How peers behave: how much each may send, and what is held against it.
//!
//! Pure: time is given. Rates are kept by key and forgotten when they are whole again; what is held against a peer is
//! kept for as many peers as there can be members.

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

/// Packets of one peer: it probes us, answers, and gossips with three random members five times a second.
const PACKETS: (u32, u32) = (50, 200);
/// Nodes that one peer may claim: all of a large federation at once to a joiner, then as many as ever join.
const CLAIMS: (u32, u32) = (2, 2048);
/// Accusations of one member: more than one a second is a member that reaches nobody, and that is its own trouble.
const ACCUSATIONS: (u32, u32) = (1, 8);
/// After so many accusations that proved false within [`FORGIVE_AFTER`], a member's accusations count no more.
const DISPROVED: usize = 3;
/// After so many claimed nodes that were not there within [`FORGIVE_AFTER`], a peer's claims count no more. Members that
/// crash just after they were told of are the honest case.
const FALSE_CLAIMS: usize = 32;
/// Accusations of one member that may be open at once: more members at once fall silent only where a network breaks,
/// and then others say so as well.
const OPEN_ACCUSATIONS: usize = 3;
/// How long a disproved accusation or a false claim is remembered.
const FORGIVE_AFTER: Duration = Duration::from_secs(600);
/// How long a member stays muted.
const MUTED_FOR: Duration = Duration::from_secs(3600);
/// Accused of whom one accuser's last accusation is remembered; beyond, the oldest make room. Its age bounds how long
/// an accusation could be replayed at all.
const REMEMBERED: usize = 64;
/// How many who have falsely accused the same member are remembered: two that are blamed for it, and the last.
const ACCUSERS_REMEMBERED: usize = 3;
/// Who has answered its checker isn't checked again for so long on the word of others: they can't have it probed by
/// everybody all the time. A crash within that time is found by own probes, or by later words.
const ACQUITTED_FOR: Duration = Duration::from_secs(20);
/// The most peers about whom anything is remembered: all members and as many more.
const MAX_PEERS: usize = 8192;

/// The driver's time, as the rate limiter wants it.
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

/// What is known of one peer's conduct.
#[derive(Debug, Default)]
struct PeerScore {
    disproved: VecDeque<Instant>,
    /// When a node that it had claimed was not there, and in which network: one network counts once.
    false_claims: VecDeque<(Instant, Option<Network>)>,
    accuses_muted_until: Option<Instant>,
    claims_muted_until: Option<Instant>,
    /// Who is accused by it at the moment.
    open: Vec<NodeId>,
    /// When it last accused whom.
    accused: VecDeque<(NodeId, UnixTime)>,
}

impl PeerScore {
    fn is_blank(&self, now: Instant) -> bool {
        let over = |until: Option<Instant>| until.is_none_or(|until| until <= now);
        let old = |last: Option<Instant>| last.is_none_or(|last| last + FORGIVE_AFTER <= now);
        over(self.accuses_muted_until)
            && over(self.claims_muted_until)
            && old(self.disproved.back().copied())
            && old(self.false_claims.back().map(|(at, _)| *at))
            && self.open.is_empty()
    }
}

/// The conduct of all peers.
#[derive(Debug)]
pub(super) struct Reputation {
    started: Instant,
    clock: DriverClock,
    packets: Rates,
    claims: Rates,
    accusations: Rates,
    peers: HashMap<NodeId, PeerScore>,
    /// Who was falsely accused by whom of late.
    acquitted: HashMap<NodeId, VecDeque<(Instant, NodeId)>>,
}

impl Reputation {
    /// Nothing is known of anybody.
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

    fn set(&self, now: Instant) {
        let nanos = now.saturating_duration_since(self.started).as_nanos();
        self.clock.0.store(nanos.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn of(&mut self, node: NodeId) -> Option<&mut PeerScore> {
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&node) {
            return None;
        }
        Some(self.peers.entry(node).or_default())
    }

    /// Whether a peer may send another packet.
    pub(super) fn may_send(&self, now: Instant, peer: NodeId) -> bool {
        self.set(now);
        self.packets.check_key(&peer).is_ok()
    }

    /// Whether what a peer says of nodes that aren't known counts.
    pub(super) fn may_claim(&self, now: Instant, peer: NodeId) -> bool {
        self.set(now);
        let muted = self.peers.get(&peer).and_then(|record| record.claims_muted_until);
        muted.is_none_or(|until| until <= now) && self.claims.check_key(&peer).is_ok()
    }

    /// A node in `network` that `peer` had claimed was not there. One that comes and goes counts against it once: who
    /// makes honest members speak of itself must not silence them.
    pub(super) fn claim_failed(&mut self, now: Instant, peer: NodeId, network: Option<Network>) {
        let Some(record) = self.of(peer) else { return };
        record.false_claims.retain(|(at, of)| *at + FORGIVE_AFTER > now && (of.is_none() || *of != network));
        record.false_claims.push_back((now, network));
        if record.false_claims.len() >= FALSE_CLAIMS {
            record.false_claims.clear();
            record.claims_muted_until = Some(now + MUTED_FOR);
        }
    }

    /// A peer passed on what no honest member passes on: nothing that it says of others counts from now on.
    pub(super) fn penalize(&mut self, now: Instant, peer: NodeId) {
        let Some(record) = self.of(peer) else { return };
        record.claims_muted_until = Some(now + MUTED_FOR);
        record.accuses_muted_until = Some(now + MUTED_FOR);
    }

    /// Whether nothing that a peer says of others counts.
    pub(super) fn is_muted(&self, now: Instant, peer: &NodeId) -> bool {
        let muted = self.peers.get(peer).and_then(|record| record.claims_muted_until);
        muted.is_some_and(|until| until > now)
    }

    /// Whether an accusation, signed at `at`, would count: checked before its signature is.
    pub(super) fn may_accuse(&self, now: Instant, accuser: &NodeId, accused: &NodeId, at: UnixTime) -> bool {
        let Some(record) = self.peers.get(accuser) else { return true };
        record.accuses_muted_until.is_none_or(|until| until <= now)
            && record.open.len() < OPEN_ACCUSATIONS
            && !record.open.contains(accused)
            && record.accused.iter().all(|(who, last)| who != accused || *last < at)
    }

    /// Whether this accusation, or a later one of the two, was heard before.
    pub(super) fn has_accused(&self, accuser: &NodeId, accused: &NodeId, at: UnixTime) -> bool {
        let said = self.peers.get(accuser).into_iter().flat_map(|record| &record.accused);
        said.filter(|(who, _)| who == accused).any(|(_, last)| *last >= at)
    }

    /// An accusation counts: it is open until [`Reputation::closed`]. Whether its accuser may accuse at this rate.
    pub(super) fn accuses(&mut self, now: Instant, accuser: NodeId, accused: NodeId, at: UnixTime) -> bool {
        self.set(now);
        if self.accusations.check_key(&accuser).is_err() {
            return false;
        }
        let Some(record) = self.of(accuser) else { return false };
        record.accused.retain(|(who, _)| *who != accused);
        record.accused.push_back((accused, at));
        if record.accused.len() > REMEMBERED {
            record.accused.pop_front();
        }
        record.open.push(accused);
        true
    }

    /// Whether `accused` has proven a moment ago that it is there: on the word of others it isn't checked again so soon.
    pub(super) fn is_acquitted(&self, now: Instant, accused: &NodeId) -> bool {
        let last = self.acquitted.get(accused).and_then(|by| by.back());
        last.is_some_and(|(at, _)| *at + ACQUITTED_FOR > now)
    }

    /// The accusation of `accused` by `accuser`, if there is one, has come to its end, and proved false or not. Whether the
    /// accuser is muted by it. What two others have said of the same member is held against nobody: it answers some and
    /// not others.
    pub(super) fn closed(&mut self, now: Instant, accuser: NodeId, accused: &NodeId, disproved: bool) -> bool {
        let Some(record) = self.peers.get_mut(&accuser) else { return false };
        let before = record.open.len();
        record.open.retain(|open| open != accused);
        if record.open.len() == before {
            return false;
        }
        let disproved = disproved && {
            let full = self.acquitted.len() >= MAX_PEERS && !self.acquitted.contains_key(accused);
            let mut nobody = VecDeque::new();
            let by = if full { &mut nobody } else { self.acquitted.entry(*accused).or_default() };
            by.retain(|(at, who)| *at + FORGIVE_AFTER > now && *who != accuser);
            let others = by.len();
            by.push_back((now, accuser));
            if by.len() > ACCUSERS_REMEMBERED {
                by.pop_front();
            }
            others < ACCUSERS_REMEMBERED - 1
        };
        let Some(record) = self.of(accuser) else { return false };
        let mute = disproved && too_many(&mut record.disproved, DISPROVED, now);
        if mute {
            record.accuses_muted_until = Some(now + MUTED_FOR);
        }
        mute
    }

    /// Forgets what is over.
    pub(super) fn expire(&mut self, now: Instant) {
        self.set(now);
        self.peers.retain(|_, record| !record.is_blank(now));
        self.acquitted.retain(|_, by| by.back().is_some_and(|(at, _)| *at + FORGIVE_AFTER > now));
        for rates in [&self.packets, &self.claims, &self.accusations] {
            rates.retain_recent();
        }
    }
}

/// Notes that it happened once more, and says whether that was too often.
fn too_many(times: &mut VecDeque<Instant>, most: usize, now: Instant) -> bool {
    times.push_back(now);
    while times.len() > most || times.front().is_some_and(|first| *first + FORGIVE_AFTER <= now) {
        times.pop_front();
    }
    times.len() >= most
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
        assert!(reputation.accuses(now, node(0), node(accused), AT));
        reputation.closed(now, node(0), &node(accused), true)
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
            assert!(reputation.accuses(now, node(0), node(accused), AT));
            assert!(!reputation.closed(now, node(0), &node(accused), false));
        }
        assert!(reputation.may_accuse(now, &node(0), &node(6), AT));
    }

    #[test]
    fn who_has_not_accused_is_not_blamed_when_a_check_ends() {
        let now = Instant::now();
        let mut reputation = Reputation::new(now);
        for accused in 1..=5 {
            assert!(!reputation.closed(now, node(0), &node(accused), true));
            assert!(!reputation.is_acquitted(now, &node(accused)));
        }
        assert!(reputation.may_accuse(now, &node(0), &node(6), AT));
    }

    #[test]
    fn an_accusation_counts_once_and_three_may_be_open() {
        let now = Instant::now();
        let mut reputation = Reputation::new(now);
        reputation.accuses(now, node(0), node(1), AT);
        assert!(!reputation.may_accuse(now, &node(0), &node(1), AT + Duration::from_secs(1)), "it is open");
        reputation.closed(now, node(0), &node(1), false);
        assert!(!reputation.may_accuse(now, &node(0), &node(1), AT), "it is replayed");
        assert!(reputation.may_accuse(now, &node(0), &node(1), AT + Duration::from_secs(1)));
        for accused in 2..=4 {
            reputation.accuses(now, node(0), node(accused), AT);
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
            reputation.claim_failed(now, node(3), None);
        }
        assert!(!reputation.may_claim(now, node(3)));
    }

    #[test]
    fn who_comes_and_goes_in_one_network_silences_nobody_who_speaks_of_it() {
        let now = Instant::now();
        let mut reputation = Reputation::new(now);
        let network = |n: u8| Some(Network::of(&std::net::SocketAddr::from(([10, 0, n, 1], 1))));
        for _ in 0..10 * FALSE_CLAIMS {
            reputation.claim_failed(now, node(1), network(1));
        }
        assert!(!reputation.is_muted(now, &node(1)));
        for n in 2..=FALSE_CLAIMS {
            reputation.claim_failed(now, node(1), network(u8::try_from(n).expect("few")));
        }
        assert!(reputation.is_muted(now, &node(1)));
    }

    #[test]
    fn a_member_that_answers_some_and_not_others_silences_two_at_most() {
        let now = Instant::now();
        let mut reputation = Reputation::new(now);
        for accuser in 10..30 {
            for _ in 0..DISPROVED {
                reputation.accuses(now, node(accuser), node(1), AT);
                reputation.closed(now, node(accuser), &node(1), true);
            }
        }
        let muted = (10..30).filter(|accuser| !reputation.may_accuse(now, &node(*accuser), &node(2), AT)).count();
        assert!(muted <= 2, "{muted}");
        assert!(reputation.is_acquitted(now, &node(1)) && !reputation.is_acquitted(now + ACQUITTED_FOR, &node(1)));
    }

    #[test]
    fn what_is_over_is_forgotten() {
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
