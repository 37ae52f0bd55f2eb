//! Combining the answers of homes: where is this inbox?
//!
//! All homes are queried concurrently. A lookup ends when two homes of a tag have the same lease and none a newer one,
//! or when all have answered. It also ends at the hedge deadline, which starts once a lease is found and two homes have
//! answered. So a home that denies the lease, returns an older one or is silent redirects nobody. It costs nothing
//! while the other two answer, and at most the hedge if only one does. A lease cannot be redirected, because the inbox
//! has signed it.
//!
//! The next in line is queried too. It has the lease if the registering node's view lacked one of the homes. The lookup
//! waits for it only if the homes know no lease.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chappe_common::{
    keys::NodeId,
    lease::{Address, Lease, SignedLease},
    signed::Unverified,
    time::UnixTime,
};

use crate::{
    membership::view::View,
    placement::{Homes, LookupHomes},
};

/// How many agreeing homes are enough: more than one liar among three.
const AGREEING: usize = 2;

/// Time limits of a lookup.
#[derive(Clone, Copy, Debug)]
pub struct LookupTimes {
    /// Maximum total time.
    pub longest: Duration,
    /// Maximum time after a lease is found and two have answered, so that a quick liar cannot outrun the others.
    pub hedge: Duration,
}

/// The next step of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Wait for more answers until this time.
    Wait(Instant),
    /// The lookup has ended with this lease, or with none.
    Done(Option<SignedLease>),
}

/// A lookup in progress.
#[derive(Debug)]
pub struct Lookup {
    address: Address,
    homes: LookupHomes,
    /// The lease of each home that answered. A silent home has `None`.
    answers: Vec<(NodeId, Option<SignedLease>)>,
    newest: Option<SignedLease>,
    hedge: Duration,
    deadline: Instant,
    /// Whether the hedge has started.
    hedged: bool,
    /// Number of homes that answered or failed, plus one if this node knows a lease.
    responses: usize,
}

impl Lookup {
    /// Starts a lookup at `homes`. `known` is a lease that this node has itself.
    pub fn new(
        now: Instant,
        address: Address,
        homes: LookupHomes,
        known: Option<SignedLease>,
        times: LookupTimes,
    ) -> Self {
        let mut lookup = Self {
            address,
            homes,
            answers: Vec::new(),
            newest: None,
            hedge: times.hedge,
            deadline: now + times.longest,
            hedged: false,
            responses: 0,
        };
        if let Some(known) = known {
            lookup.responses += 1;
            lookup.add_lease(known);
        }
        lookup
    }

    /// Returns the homes to query.
    pub fn homes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.homes.iter()
    }

    /// Adds a home's answer: the bytes of a lease, or `None`. A lease that is not valid for the inbox counts as `None`.
    pub fn answer(&mut self, now: Instant, clock: UnixTime, view: &View, home: NodeId, bytes: Option<Bytes>) {
        if self.has_answered(&home) {
            return;
        }
        let lease = bytes.and_then(|bytes| {
            let unverified = Unverified::<Lease>::decode(bytes).ok()?;
            let lease = unverified.value();
            if !lease.admits(&self.address) || !is_usable(lease, clock, view) {
                return None;
            }
            // Most homes return the same lease: verify only the first copy.
            let known = self.newest.as_ref().filter(|newest| unverified.is(newest));
            known.cloned().or_else(|| unverified.verify().ok())
        });
        self.answers.push((home, lease.clone()));
        if let Some(lease) = lease {
            self.add_lease(lease);
        }
        self.note_response(now);
    }

    /// Records that a home cannot be queried, or has not answered in time.
    pub fn silent(&mut self, now: Instant, home: NodeId) {
        self.answers.push((home, None));
        self.note_response(now);
    }

    /// Returns whether to wait or to end the lookup.
    pub fn decide(&self, now: Instant) -> Decision {
        let next = self.homes.next().filter(|_| self.newest.is_none());
        let next_is_awaited = next.is_some_and(|next| !self.has_answered(&next));
        let is_settled = self.homes.groups().all(|homes| self.is_settled(homes)) && !next_is_awaited;
        if now >= self.deadline || is_settled {
            Decision::Done(self.newest.clone())
        } else {
            Decision::Wait(self.deadline)
        }
    }

    fn has_answered(&self, home: &NodeId) -> bool {
        self.answers.iter().any(|(answered, _)| answered == home)
    }

    fn note_response(&mut self, now: Instant) {
        self.responses += 1;
        if !self.hedged && self.newest.is_some() && self.responses >= AGREEING {
            self.hedged = true;
            self.deadline = self.deadline.min(now + self.hedge);
        }
    }

    fn add_lease(&mut self, lease: SignedLease) {
        if self.newest.as_ref().is_none_or(|newest| newest.seq < lease.seq) {
            self.newest = Some(lease);
        }
    }

    /// Returns whether the homes of one placement have settled: two have the same lease and none a newer one, or all
    /// have answered.
    fn is_settled(&self, homes: &Homes) -> bool {
        let answers = || self.answers.iter().filter(|(home, _)| homes.contains(home));
        let leases = || answers().filter_map(|(_, lease)| lease.as_ref());
        let newest = leases().max_by_key(|lease| lease.seq);
        let agreeing = newest.map_or(0, |newest| leases().filter(|lease| *lease == newest).count());
        agreeing >= AGREEING || homes.iter().all(|home| answers().any(|(answered, _)| *answered == home))
    }
}

/// Returns whether a lease is usable: it has not expired, and its node is a member.
pub fn is_usable(lease: &Lease, clock: UnixTime, view: &View) -> bool {
    lease.expires_at > clock && view.contains(&lease.node)
}

#[cfg(test)]
mod tests {
    use chappe_common::{
        federation::FederationId,
        keys::{PublicKey, SecretKey},
        lease::{AccessToken, Inbox},
        record::{Abilities, NodeRecord},
        signed::Signed,
    };

    use super::*;
    use crate::placement::{Placement, Tag};

    const CLOCK: UnixTime = UnixTime::from_secs(1_000_000);
    const TIMES: LookupTimes = LookupTimes { longest: Duration::from_millis(800), hedge: Duration::from_millis(250) };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[1; 32])
    }

    fn address() -> Address {
        Address { inbox: Inbox::new(key().public()), token: AccessToken::from_bytes([9; 16]) }
    }

    fn lease(seq: u64, change: impl FnOnce(&mut Lease)) -> SignedLease {
        let (inbox, node) = (Inbox::new(key().public()), NodeId::new(PublicKey::from_bytes([1; 32])));
        let mut lease = Lease {
            inbox,
            node,
            session_key: [0; 32],
            access: AccessToken::from_bytes([9; 16]).hash(),
            seq,
            expires_at: CLOCK + Duration::from_secs(60),
        };
        change(&mut lease);
        Signed::sign(lease, &key()).expect("a lease")
    }

    /// Members, each in a network of its own.
    fn view(members: u8) -> View {
        let federation = FederationId::of_roots(&[]);
        let record = |n: u8| NodeRecord {
            federation,
            node: NodeId::new(PublicKey::from_bytes([n; 32])),
            epoch: 1,
            seq: 1,
            issued_at: CLOCK,
            expires_at: CLOCK,
            client_urls: Vec::new(),
            quic_addrs: vec![([10, 0, n, 1], 1).into()],
            region: String::new(),
            version: String::new(),
            abilities: Abilities::default(),
        };
        let records: Vec<_> = (1..=members).map(record).collect();
        View::new(&Placement::genesis(federation), records.iter().map(|record| (record, true)))
    }

    struct Run {
        start: Instant,
        view: View,
        homes: Vec<NodeId>,
        lookup: Lookup,
    }

    impl Run {
        fn new(known: Option<SignedLease>) -> Self {
            let (start, view) = (Instant::now(), view(9));
            let homes = view.lookup_homes(Tag::of_inbox(&address().inbox));
            let lookup = Lookup::new(start, address(), homes, known, TIMES);
            Self { start, homes: homes.iter().collect(), view, lookup }
        }

        /// Answers for the home with this index, and returns the decision.
        fn answer(&mut self, at: u64, home: usize, lease: Option<&SignedLease>) -> Decision {
            let now = self.start + ms(at);
            let bytes = lease.map(|lease| lease.as_bytes().clone());
            self.lookup.answer(now, CLOCK, &self.view, self.homes[home], bytes);
            self.lookup.decide(now)
        }

        fn wait_until(&self, at: u64) -> Decision {
            Decision::Wait(self.start + ms(at))
        }
    }

    fn done(lease: &SignedLease) -> Decision {
        Decision::Done(Some(lease.clone()))
    }

    #[test]
    fn a_home_that_lies_denies_or_is_silent_costs_nothing_while_two_are_honest() {
        let (old, new) = (lease(5, |_| {}), lease(6, |_| {}));
        for lie in [Some(&old), None] {
            let mut run = Run::new(None);
            run.answer(10, 0, lie);
            run.answer(40, 1, Some(&new));
            assert_eq!(run.answer(60, 2, Some(&new)), done(&new), "{lie:?}");
        }
        let mut run = Run::new(None);
        run.answer(40, 1, Some(&new));
        assert_eq!(run.answer(60, 2, Some(&new)), done(&new), "the third is silent");
    }

    #[test]
    fn an_older_lease_that_arrives_first_does_not_redirect_the_lookup() {
        let (old, new) = (lease(5, |_| {}), lease(6, |_| {}));
        let mut run = Run::new(None);
        assert_eq!(run.answer(1, 0, Some(&old)), run.wait_until(800));
        assert_eq!(run.answer(200, 1, Some(&new)), run.wait_until(450));
        assert_eq!(run.lookup.decide(run.start + ms(450)), done(&new));
    }

    #[test]
    fn with_one_honest_home_a_lie_costs_the_hedge() {
        let new = lease(6, |_| {});
        let mut run = Run::new(None);
        run.answer(10, 0, None);
        assert_eq!(run.answer(40, 1, Some(&new)), run.wait_until(290));
        assert_eq!(run.lookup.decide(run.start + ms(290)), done(&new));
        let mut run = Run::new(None);
        run.answer(10, 0, None);
        run.lookup.silent(run.start, run.homes[2]);
        assert_eq!(run.answer(40, 1, Some(&new)), done(&new), "all have answered or failed");
    }

    #[test]
    fn a_quick_liar_does_not_outrun_the_others() {
        let (old, new) = (lease(5, |_| {}), lease(6, |_| {}));
        let mut run = Run::new(None);
        assert_eq!(run.answer(20, 0, Some(&old)), run.wait_until(800));
        assert_eq!(run.answer(600, 1, Some(&new)), run.wait_until(800));
        assert_eq!(run.answer(700, 2, Some(&new)), done(&new));
    }

    #[test]
    fn two_homes_that_know_nothing_do_not_end_the_search() {
        let new = lease(6, |_| {});
        let mut run = Run::new(None);
        run.answer(10, 0, None);
        assert_eq!(run.answer(20, 1, None), run.wait_until(800));
        assert_eq!(run.answer(400, 2, Some(&new)), done(&new));
        let mut run = Run::new(None);
        for home in 0..2 {
            run.answer(10, home, None);
        }
        assert_eq!(run.lookup.decide(run.start + ms(800)), Decision::Done(None));
    }

    #[test]
    fn the_lookup_waits_for_the_next_in_line_only_if_the_homes_know_no_lease() {
        let new = lease(6, |_| {});
        let mut run = Run::new(None);
        for home in 0..2 {
            run.answer(10, home, None);
        }
        assert_eq!(run.answer(20, 2, None), run.wait_until(800));
        assert_eq!(run.answer(30, 3, Some(&new)), done(&new), "it is a home by the registering node's view");
        let mut run = Run::new(None);
        for home in 0..3 {
            run.answer(10, home, None);
        }
        assert_eq!(run.answer(30, 3, None), Decision::Done(None));
    }

    #[test]
    fn an_unusable_or_foreign_lease_counts_as_no_lease() {
        let stranger = NodeId::new(PublicKey::from_bytes([99; 32]));
        let other = {
            let key = SecretKey::from_bytes(&[2; 32]);
            let lease = Lease { inbox: Inbox::new(key.public()), ..lease(9, |_| {}).into_value() };
            Signed::sign(lease, &key).expect("a lease")
        };
        let over = lease(9, |lease| lease.expires_at = CLOCK);
        let gone = lease(9, |lease| lease.node = stranger);
        let closed = lease(9, |lease| lease.access = AccessToken::from_bytes([8; 16]).hash());
        for wrong in [other, over, gone, closed] {
            let mut run = Run::new(None);
            assert_eq!(run.answer(10, 0, Some(&wrong)), run.wait_until(800));
        }
        let mut run = Run::new(None);
        let mut forged = lease(9, |_| {}).as_bytes().to_vec();
        forged[40] ^= 1;
        run.lookup.answer(run.start, CLOCK, &run.view, run.homes[0], Some(forged.into()));
        assert_eq!(run.lookup.decide(run.start), run.wait_until(800), "signed by another than the inbox");
    }

    #[test]
    fn a_lease_known_here_counts_unless_a_home_has_a_newer_one() {
        let (old, new) = (lease(5, |_| {}), lease(6, |_| {}));
        let mut run = Run::new(Some(old.clone()));
        assert_eq!(run.lookup.decide(run.start), run.wait_until(800));
        assert_eq!(run.answer(5, 2, None), run.wait_until(255));
        assert_eq!(run.lookup.decide(run.start + ms(255)), done(&old));
        run.answer(10, 0, Some(&new));
        assert_eq!(run.answer(20, 1, Some(&new)), done(&new));
    }

    #[test]
    fn a_home_that_answers_twice_counts_once() {
        let old = lease(5, |_| {});
        let mut run = Run::new(None);
        run.answer(10, 0, Some(&old));
        assert_eq!(run.answer(20, 0, Some(&old)), run.wait_until(800));
    }

    #[test]
    fn around_a_switch_the_homes_of_both_elections_have_to_answer() {
        let (old, new) = (lease(5, |_| {}), lease(6, |_| {}));
        let (start, view) = (Instant::now(), view(9));
        let (now_homes, then_homes) = {
            // Two tags that share no home stand in for two placements.
            let homes = |n: u8| view.homes(Tag::of_inbox(&Inbox::new(PublicKey::from_bytes([n; 32]))));
            let first = homes(0);
            let apart = |homes: &Homes| homes.iter().all(|home| !first.contains(&home));
            (first, (1..).map(homes).find(apart).expect("such a tag"))
        };
        let mut lookup =
            Lookup::new(start, address(), LookupHomes::new(now_homes, None, Some(then_homes)), None, TIMES);
        assert_eq!(lookup.homes().count(), 6);
        // The old homes still have the lease from before; it was renewed at the new ones only.
        for home in then_homes.iter() {
            lookup.answer(start, CLOCK, &view, home, Some(old.as_bytes().clone()));
        }
        assert_eq!(lookup.decide(start), Decision::Wait(start + ms(250)));
        for home in now_homes.iter().take(2) {
            lookup.answer(start, CLOCK, &view, home, Some(new.as_bytes().clone()));
        }
        assert_eq!(lookup.decide(start), done(&new));
    }
}
