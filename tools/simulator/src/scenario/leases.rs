//! Scenarios with leases: how evenly they spread over homes, and how lying homes affect lookups.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use chappe_common::{
    federation::FederationId,
    keys::{NodeId, PublicKey, SecretKey},
    lease::{AccessToken, Address, Inbox, Lease, SignedLease},
    record::{Abilities, NodeRecord},
    signed::Signed,
    time::UnixTime,
};
use chappe_node::{
    NodeConfig,
    leases::{
        lookup::{Decision, Lookup, LookupTimes},
        table::{LeaseTable, Registrant},
    },
    membership::view::View,
    placement::{Placement, Tag},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::{Figure, Sizes, worst};

const TOKEN: [u8; 16] = [9; 16];
const CLOCK: UnixTime = UnixTime::from_secs(1_800_000_000);
/// The shortest and the longest round trip to a home over a link that is up, in milliseconds.
const ROUND_TRIP: std::ops::Range<u64> = 20..240;

/// What a hostile home answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// That it knows no such inbox.
    Denies,
    /// With the lease before this one.
    Older,
    /// Nothing. It answers all probes, and drops this.
    Silent,
}

const LIES: [Lie; 3] = [Lie::Denies, Lie::Older, Lie::Silent];

/// A federation's members as placement sees them.
struct Members {
    records: Vec<NodeRecord>,
    placement: Placement,
    rng: StdRng,
}

impl Members {
    fn new(seed: u64, count: usize) -> Self {
        let federation = FederationId::of_roots(&[]);
        let mut rng = StdRng::seed_from_u64(seed ^ 0x6c65_6173_6573);
        let record = |n: usize| {
            let [.., high, low] = n.to_be_bytes();
            NodeRecord {
                federation,
                node: NodeId::new(PublicKey::from_bytes(rng.random())),
                epoch: 1,
                seq: 1,
                issued_at: CLOCK,
                expires_at: CLOCK + Duration::from_secs(3600),
                client_urls: Vec::new(),
                quic_addrs: vec![(Ipv4Addr::new(10, high, low, 1), 8711).into()],
                region: String::new(),
                version: String::new(),
                abilities: Abilities::default(),
            }
        };
        let mut records: Vec<_> = (0..count).map(record).collect();
        records.shuffle(&mut rng);
        Self { records, placement: Placement::genesis(federation), rng }
    }

    fn view(&self, records: &[NodeRecord]) -> View {
        View::new(&self.placement, records.iter().map(|record| (record, true)))
    }

    fn inbox(&mut self) -> Inbox {
        Inbox::new(PublicKey::from_bytes(self.rng.random()))
    }
}

/// Measures how evenly leases spread, and how many inboxes have no honest home.
#[expect(clippy::cast_precision_loss, reason = "a few million")]
pub fn placement(seed: u64, sizes: Sizes) -> Vec<Figure> {
    let mut members = Members::new(seed, sizes.members);
    let all = members.view(&members.records);
    let mut load: HashMap<NodeId, u32> = HashMap::new();
    for _ in 0..sizes.leases.0 {
        let tag = Tag::of_inbox(&members.inbox());
        for home in all.homes(tag).iter() {
            *load.entry(home).or_default() += 1;
        }
    }
    let most = load.values().copied().max().unwrap_or_default();
    let mean = f64::from(sizes.leases.0) * 3.0 / sizes.members as f64;

    // Each of the two views lacks members of the other: of all that either knows, a twentieth.
    let apart = sizes.members / 40;
    let registers = members.view(&members.records[apart..]);
    let looks_up = members.view(&members.records[..sizes.members - apart]);
    let hostile = members.hostile();
    let mut dishonest = 0;
    for _ in 0..sizes.leases.1 {
        let tag = Tag::of_inbox(&members.inbox());
        let holds = registers.homes(tag);
        let found = looks_up.lookup_homes(tag).iter().any(|home| holds.contains(&home) && !hostile.contains(&home));
        dishonest += u32::from(!found);
    }
    let share = f64::from(dishonest) / f64::from(sizes.leases.1) * 100.0;
    let name = |figure: String| format!("{figure} (N = {})", sizes.members);
    let leases = sizes.leases.0;
    // With few leases for each home, chance alone makes the most loaded one: that many deviations are allowed for.
    let even = 1.0 + 0.10_f64.max(4.5 / mean.sqrt());
    vec![
        Figure::target(name(format!("most loaded home / mean, {leases} leases")), f64::from(most) / mean, "", even),
        Figure::target(
            name("lookups that find no honest home, 5 % of the views different, 10 % hostile".to_owned()),
            share,
            "%",
            // Where there are so few homes, a tenth of them has three of a tag's more often.
            if sizes.members >= 100 { 0.2 } else { 1.0 },
        ),
    ]
}

/// Measures how hostile homes affect lookups by the node's own rule.
pub fn lookups(seed: u64, sizes: Sizes) -> Vec<Figure> {
    let mut homes = Homes::new(seed, sizes.members);
    let count = sizes.leases.1.min(3000);
    let hedge = homes.times.hedge.as_secs_f64() * 1000.0;
    let mut figures = Vec::new();
    for lie in LIES {
        let (mut misled, mut delays) = (0, Vec::new());
        for _ in 0..count {
            let (misled_here, delay) = homes.one_liar(lie);
            misled += u32::from(misled_here);
            delays.push(delay.as_secs_f64() * 1000.0);
        }
        let name = |figure: &str| format!("one home of three {}: {figure} (N = {})", lie.text(), sizes.members);
        figures.push(Figure::target(name("lookups misled"), f64::from(misled), "lookups", 0.0));
        figures.push(Figure::target(name("longest delay"), worst(&delays), "ms", hedge));
        figures.push(Figure::info(name("mean delay"), super::mean(&delays), "ms"));
    }
    let (mut older, mut none) = (0, 0);
    for _ in 0..count {
        match homes.many_liars() {
            Some(true) => {}
            Some(false) => older += 1,
            None => none += 1,
        }
    }
    let name = |figure: &str| format!("10 % hostile homes that lie as they like: {figure} (N = {})", sizes.members);
    let share = |lookups: u32| f64::from(lookups) / f64::from(count) * 100.0;
    figures.push(Figure::info(name("lookups that end at an older lease of the same inbox"), share(older), "%"));
    figures.push(Figure::info(name("lookups that find nothing"), share(none), "%"));
    figures
}

impl Lie {
    const fn text(self) -> &'static str {
        match self {
            Self::Denies => "denies",
            Self::Older => "answers with an older lease",
            Self::Silent => "drops what it is asked",
        }
    }
}

impl Members {
    fn hostile(&self) -> HashSet<NodeId> {
        // They are in random order.
        self.records.iter().step_by(10).map(|record| record.node).collect()
    }
}

/// Homes with their tables.
struct Homes {
    members: Members,
    view: View,
    hostile: HashSet<NodeId>,
    start: Instant,
    times: LookupTimes,
}

impl Homes {
    fn new(seed: u64, count: usize) -> Self {
        let members = Members::new(seed, count);
        let times = NodeConfig::default().times;
        Self {
            view: members.view(&members.records),
            hostile: members.hostile(),
            members,
            start: Instant::now(),
            times: LookupTimes { longest: times.lookup, hedge: times.lookup_hedge },
        }
    }

    /// Two leases of one inbox, at two nodes, the second newer.
    fn leases(&mut self) -> (SignedLease, SignedLease) {
        let key = SecretKey::from_bytes(&self.members.rng.random());
        let mut sign = |seq| {
            let node = self.members.rng.random_range(0..self.members.records.len());
            let lease = Lease {
                inbox: Inbox::new(key.public()),
                node: self.members.records[node].node,
                session_key: [0; 32],
                access: AccessToken::from_bytes(TOKEN).hash(),
                seq,
                expires_at: CLOCK + Duration::from_secs(240),
            };
            Signed::sign(lease, &key).expect("a lease")
        };
        (sign(1), sign(2))
    }

    /// What a home has kept after both were registered with it. Hostile ones have kept both.
    fn kept(&self, lie: Option<Lie>, older: &SignedLease, newer: &SignedLease) -> Option<SignedLease> {
        match lie {
            Some(Lie::Older) => Some(older.clone()),
            Some(Lie::Denies | Lie::Silent) => None,
            None => {
                let mut table = LeaseTable::new(10, self.times.longest * 1000);
                for lease in [older, newer, older] {
                    let from = Registrant { node: lease.node, epoch: 1 };
                    // The older one is refused once the newer is there.
                    let _ = table.register(self.start, CLOCK, from, lease.clone().into());
                }
                table.find(self.start, &newer.inbox).map(|lease| SignedLease::clone(lease))
            }
        }
    }

    /// Looks an inbox up among homes of which some lie. What is found, and after how long.
    fn look_up(
        &self,
        (older, newer): (&SignedLease, &SignedLease),
        answers: &[(NodeId, Option<Lie>, Duration)],
    ) -> (Option<SignedLease>, Duration) {
        let homes = self.view.lookup_homes(Tag::of_inbox(&newer.inbox));
        let address = Address { inbox: newer.inbox, token: AccessToken::from_bytes(TOKEN) };
        let mut lookup = Lookup::new(self.start, address, homes, None, self.times);
        let mut answers = answers.to_vec();
        answers.sort_by_key(|(_, lie, after)| if *lie == Some(Lie::Silent) { self.times.longest } else { *after });
        let mut deadline = self.times.longest;
        for (home, lie, after) in answers {
            let after = if lie == Some(Lie::Silent) { self.times.longest } else { after };
            if deadline < after {
                break;
            }
            let now = self.start + after;
            match lie {
                Some(Lie::Silent) => lookup.silent(now, home),
                _ => {
                    let bytes = self.kept(lie, older, newer).map(|lease| lease.as_bytes().clone());
                    lookup.answer(now, CLOCK, &self.view, home, bytes);
                }
            }
            match lookup.decide(now) {
                Decision::Done(found) => return (found, after),
                Decision::Wait(until) => deadline = until - self.start,
            }
        }
        match lookup.decide(self.start + deadline) {
            Decision::Done(found) => (found, deadline),
            Decision::Wait(_) => (None, Duration::MAX),
        }
    }

    fn homes_of(&mut self, lease: &SignedLease) -> Vec<(NodeId, Duration)> {
        let homes: Vec<_> = self.view.homes(Tag::of_inbox(&lease.inbox)).iter().collect();
        let rng = &mut self.members.rng;
        homes.into_iter().map(|home| (home, Duration::from_millis(rng.random_range(ROUND_TRIP)))).collect()
    }

    /// A lookup with one liar among the homes: whether it was misled, and how much longer it took than without.
    fn one_liar(&mut self, lie: Lie) -> (bool, Duration) {
        let (older, newer) = self.leases();
        let homes = self.homes_of(&newer);
        let liar = self.members.rng.random_range(0..homes.len());
        let answers = |liar: Option<usize>| -> Vec<_> {
            let lies = |n: usize| (liar == Some(n)).then_some(lie);
            homes.iter().enumerate().map(|(n, (home, after))| (*home, lies(n), *after)).collect()
        };
        let (_, before) = self.look_up((&older, &newer), &answers(None));
        let (found, after) = self.look_up((&older, &newer), &answers(Some(liar)));
        (found.as_ref() != Some(&newer), after.saturating_sub(before))
    }

    /// A lookup where a tenth of all members lies: whether it finds the newest lease, or an older one, or none.
    fn many_liars(&mut self) -> Option<bool> {
        let (older, newer) = self.leases();
        let homes = self.homes_of(&newer);
        let rng = &mut self.members.rng;
        let lie = |home: &NodeId, rng: &mut StdRng| self.hostile.contains(home).then(|| LIES[rng.random_range(0..3)]);
        let answers: Vec<_> = homes.iter().map(|(home, after)| (*home, lie(home, rng), *after)).collect();
        let (found, _) = self.look_up((&older, &newer), &answers);
        found.map(|found| found == newer)
    }
}
