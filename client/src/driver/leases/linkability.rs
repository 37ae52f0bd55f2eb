//! Measures what ten colluding homes of forty nodes can link in three days, from the leases of eight clients at one
//! node.
//!
//! The clients are real [`Leases`], placed by the node's placement and registered at the node's times. The homes
//! record all that they receive, with the time. Sessions do not end: `docs/threat-model.md` describes what a new
//! session reveals.

use std::collections::BTreeMap;

use chappe_common::{
    federation::FederationId,
    keys::{PublicKey, SecretKey},
};
use chappe_node::{
    leases::timing,
    placement::{BeaconValue, Candidate, Homes, Network, Tag},
};
use rand::{SeedableRng as _, rngs::StdRng};

use super::*;
use crate::contact::{PairingSecret, Role};

const CLIENTS: u8 = 8;
const CONTACTS: u8 = 8;
const NODES: u8 = 40;
const COLLUDING: u8 = 10;
const DAYS: u64 = 3;
const START: u64 = 20_000 * Day::SECONDS + Day::SECONDS / 2;
/// How long a home keeps a registration (`times.registration`).
const REGISTRATION: Duration = Duration::from_secs(240);

/// Versions farther apart belong to different times: a lease is renewed every few minutes.
const LONGEST_APART: f64 = 900.0;

/// A lease as the colluding homes have seen it, each version once.
struct Seen {
    /// Seconds after the start.
    at: f64,
    lease: Lease,
}

/// The owner of an inbox, unknown to the homes: the client and the contact.
type Owner = (u8, u8);

struct Edge {
    random: StdRng,
    clients: Vec<(Leases, Vec<Contact>)>,
    places: Vec<Candidate>,
    /// The schedule of registrations, and the edge's state of each inbox.
    due: BTreeMap<(u64, u64), Inbox>,
    kept: HashMap<Inbox, SignedLease>,
    owners: HashMap<Inbox, Owner>,
    seqs: HashMap<SlotId, u64>,
    seen: Vec<Seen>,
    start: Instant,
}

impl Edge {
    fn new() -> Self {
        let beacon = BeaconValue::genesis(FederationId::of_roots(&[]));
        let node = |n: u8| NodeId::new(PublicKey::from_bytes([n; 32]));
        let network = |n: u8| Network::of(&([10, 0, n, 1], 1).into());
        let client = |client: u8| {
            let contact = |n: u8| {
                let number = client * CONTACTS + n;
                let (own, peer) = (SecretKey::from_bytes(&[number; 32]), SecretKey::from_bytes(&[255; 32]));
                let secret = PairingSecret::from_bytes([number; 32]);
                let pairing = Pairing::new(Role::A, secret, own, peer.public()).expect("a usable key");
                Contact::new("", [number; 32], pairing)
            };
            (Leases::new(node(1), [0; 32]), (0..CONTACTS).map(contact).collect())
        };
        Self {
            random: StdRng::seed_from_u64(7),
            clients: (0..CLIENTS).map(client).collect(),
            places: (0..NODES).map(|n| Candidate::new(&beacon, node(n), network(n))).collect(),
            due: BTreeMap::new(),
            kept: HashMap::new(),
            owners: HashMap::new(),
            seqs: HashMap::new(),
            seen: Vec::new(),
            start: Instant::now(),
        }
    }

    /// The edge registers a lease. The colluding nodes among its homes record it.
    fn register(&mut self, at: f64, inbox: Inbox) {
        let lease = &self.kept[&inbox];
        let colludes = |home: NodeId| home.as_bytes()[0] < COLLUDING;
        if Homes::of(&self.places, Tag::of_inbox(&inbox)).iter().any(colludes) {
            self.seen.push(Seen { at, lease: Lease::clone(lease) });
        }
    }

    fn schedule(&mut self, at: f64, inbox: Inbox) {
        let number = self.random.random();
        self.due.insert(((at * 1000.0) as u64, number), inbox);
    }

    fn run(&mut self) {
        let mut wake = vec![self.start; self.clients.len()];
        for second in 0..DAYS * Day::SECONDS {
            let (now, unix) = (self.start + Duration::from_secs(second), UnixTime::from_secs(START + second));
            for (client, wake) in wake.iter_mut().enumerate() {
                let (leases, contacts) = &mut self.clients[client];
                // The clients connect at random times within an hour.
                if second < client as u64 * 450 || *wake > now {
                    continue;
                }
                leases.update(contacts.iter(), &mut self.random, now, unix);
                let attachments =
                    leases.due(contacts.iter(), &mut self.seqs, &mut self.random, now, unix.as_secs() * 1000);
                for attachment in &attachments {
                    leases.attached(attachment.slot, Duration::from_secs(300), &mut self.random, now);
                }
                *wake = leases.next_deadline(unix).expect("a client with contacts");
                let new = attachments.iter().filter(|attachment| !attachment.is_renewal).count();
                for attachment in attachments {
                    let inbox = attachment.lease.inbox;
                    self.kept.insert(inbox, attachment.lease);
                    if attachment.is_renewal {
                        continue;
                    }
                    let contact = self.clients[client].0.owner(inbox).expect("an inbox of its own").0;
                    self.owners.insert(inbox, (client as u8, contact.as_bytes()[0]));
                    let at = second as f64 + timing::registration_delay(&mut self.random, new).as_secs_f64();
                    self.register(at, inbox);
                    let refresh = timing::first_refresh(&mut self.random, REGISTRATION).as_secs_f64();
                    self.schedule(at + refresh, inbox);
                }
            }
            while let Some(entry) = self.due.first_entry().filter(|entry| entry.key().0 <= second * 1000) {
                let ((at, _), inbox) = entry.remove_entry();
                if self.kept[&inbox].expires_at <= unix {
                    continue;
                }
                let at = at as f64 / 1000.0;
                self.register(at, inbox);
                let refresh = timing::next_refresh(&mut self.random, REGISTRATION).as_secs_f64();
                self.schedule(at + refresh, inbox);
            }
        }
    }
}

/// How often versions of two inboxes of one client are closer together than versions of two clients' inboxes. One half
/// means that they reveal nothing. `versions` has a sorted number for each version of each inbox.
fn advantage(versions: &[(Owner, Vec<f64>)]) -> f64 {
    let nearest = |value: f64, others: &[f64]| {
        let at = others.partition_point(|other| *other < value);
        let around = others[at.saturating_sub(1)..].iter().take(2);
        around.map(|other| (value - other).abs()).min_by(f64::total_cmp)
    };
    let (mut same, mut other) = (Vec::new(), Vec::new());
    for (index, (one, values)) in versions.iter().enumerate() {
        for (two, others) in &versions[index + 1..] {
            // Versions of different days are far apart for any client.
            let near = values.iter().filter_map(|value| nearest(*value, others)).filter(|apart| *apart < LONGEST_APART);
            let near: Vec<_> = near.collect();
            if near.len() > 50 {
                let mean = near.iter().sum::<f64>() / near.len() as f64;
                if one.0 == two.0 { &mut same } else { &mut other }.push(mean);
            }
        }
    }
    other.sort_by(f64::total_cmp);
    let farther = |distance: &f64| other.len() - other.partition_point(|other| other <= distance);
    println!("  {} pairs of inboxes of one client, {} of two", same.len(), other.len());
    assert!(same.len() > 100 && other.len() > 1000);
    same.iter().map(farther).sum::<usize>() as f64 / (same.len() * other.len()) as f64
}

#[test]
fn colluding_homes_join_no_inboxes_across_contacts_and_days() {
    let mut edge = Edge::new();
    edge.run();
    let inboxes: HashSet<Inbox> = edge.seen.iter().map(|seen| seen.lease.inbox).collect();
    // Ten of forty nodes include a home of 58 in 100 inboxes.
    println!("{} registrations of {} of {} inboxes were seen", edge.seen.len(), inboxes.len(), edge.owners.len());
    assert!(inboxes.len() > 120 && edge.seen.len() > 50_000);

    // No two leases share a part. Equal expiries and numbers occur by chance.
    let mut parts: HashMap<Vec<u8>, HashSet<Inbox>> = HashMap::new();
    for Seen { lease, .. } in &edge.seen {
        let access = serde_json::to_vec(&lease.access).expect("bytes are JSON");
        for part in [lease.session_key.to_vec(), access] {
            parts.entry(part).or_default().insert(lease.inbox);
        }
    }
    let joined = parts.values().filter(|inboxes| inboxes.len() > 1).count();
    println!("session keys and access hashes that two inboxes have in common: {joined}");
    assert_eq!(joined, 0);

    // Compare the times of signing that a lease reveals, and the times at which the homes receive a new version.
    let near = |value: fn(&Seen) -> f64| {
        let mut versions: HashMap<Inbox, Vec<f64>> = HashMap::new();
        let mut known = HashSet::new();
        for seen in edge.seen.iter().filter(|seen| known.insert((seen.lease.inbox, seen.lease.seq))) {
            versions.entry(seen.lease.inbox).or_default().push(value(seen));
        }
        let mut versions: Vec<_> = versions.into_iter().map(|(inbox, values)| (edge.owners[&inbox], values)).collect();
        for (_, values) in &mut versions {
            values.sort_by(f64::total_cmp);
        }
        advantage(&versions)
    };
    let by_seq = near(|seen| seen.lease.seq as f64 / 1000.0);
    let by_expiry = near(|seen| seen.lease.expires_at.as_secs() as f64);
    let by_arrival = near(|seen| seen.at);
    println!(
        "inboxes of one client are closer: by seq {by_seq:.3}, by expiry {by_expiry:.3}, by arrival {by_arrival:.3}"
    );
    for advantage in [by_seq, by_expiry, by_arrival] {
        assert!((advantage - 0.5).abs() < 0.07, "{advantage}");
    }

    // From day to day: match a contact's new inbox with its old one, among all others of that night.
    let (mut first, mut last) = (HashMap::new(), HashMap::new());
    for seen in &edge.seen {
        first.entry(seen.lease.inbox).or_insert(seen.at);
        last.insert(seen.lease.inbox, seen.at);
    }
    let (mut right, mut nights, mut expected) = (0, 0, 0.0);
    for (comes, at) in first.iter().filter(|(_, at)| **at > 7200.0) {
        let night: Vec<_> = last.iter().filter(|(_, gone)| (0.0..6.0 * 3600.0).contains(&(**gone - at))).collect();
        let is_former = |inbox: &&Inbox| edge.owners[*inbox] == edge.owners[comes] && *inbox != comes;
        if !night.iter().any(|(inbox, _)| is_former(inbox)) {
            continue;
        }
        // The times are independent, so no rule does better than this one, which takes the closest.
        let guess = night.iter().min_by(|(_, one), (_, two)| (**one - at).abs().total_cmp(&(**two - at).abs()));
        nights += 1;
        expected += 1.0 / night.len() as f64;
        right += usize::from(guess.is_some_and(|(inbox, _)| is_former(inbox)));
    }
    println!("inboxes whose former one was among those seen: {nights}; guessed right {right}, by chance {expected:.1}");
    assert!(nights > 20 && (right as f64) < expected + 3.0 * expected.sqrt() + 3.0);
}
