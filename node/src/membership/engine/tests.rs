use std::collections::HashMap;

use chappe_common::{
    beacon::{Beacon, Term},
    federation::FederationId,
    keys::PublicKey,
    record::{Abilities, NodeRecord},
    time::UnixTime,
};
use foca::{Header, Member, Message, State as SwimState};

use super::*;
use crate::membership::{
    accusation::Accusation,
    admission::{Admission, AdmissionRefusal, Policy},
    counts::Reason,
    exchange::ExchangeMessage,
    gossip::Gossip,
    packet::Packet,
};

const CLOCK: UnixTime = UnixTime::from_secs(1_800_000_000);

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32])
}

fn id(n: u8) -> NodeId {
    key(n).node_id()
}

fn federation() -> FederationId {
    FederationId::of_roots(&[key(255).public()])
}

fn record(n: u8, epoch: u64, host: [u8; 4]) -> SignedRecord {
    let record = NodeRecord {
        federation: federation(),
        node: id(n),
        epoch,
        seq: 1,
        issued_at: CLOCK,
        expires_at: CLOCK + Duration::from_secs(86_400),
        client_urls: Vec::new(),
        quic_addrs: vec![(host, 1).into()],
        region: String::new(),
        version: String::new(),
        abilities: Abilities::default(),
    };
    Signed::sign(record, &key(n)).expect("a record")
}

fn settings() -> Settings {
    Settings {
        probe_period: Duration::from_millis(1500),
        probe_timeout: Duration::from_millis(600),
        exchange_every: Duration::from_secs(30),
        admission: Admission { policy: Policy::Open, exempt: Vec::new() },
        probation: Duration::from_secs(86_400),
    }
}

/// Engines on a network without latency or loss, with one clock. Node `n` has the address 10.0.n.1.
struct Net {
    start: Instant,
    elapsed: Duration,
    engines: HashMap<NodeId, Engine>,
    /// The nodes that don't answer.
    silent: Vec<NodeId>,
}

impl Net {
    fn new(nodes: &[u8]) -> Self {
        let mut net =
            Self { start: Instant::now(), elapsed: Duration::ZERO, engines: HashMap::new(), silent: Vec::new() };
        for n in nodes {
            net.add(*n, record(*n, 1, [10, 0, *n, 1]), settings());
        }
        for n in &nodes[1..] {
            net.seek(*n, nodes[0]);
        }
        net
    }

    fn now(&self) -> Now {
        Now { at: self.start + self.elapsed, clock: CLOCK + self.elapsed }
    }

    fn add(&mut self, n: u8, own: SignedRecord, settings: Settings) {
        let beacons = Beacons::new([key(255).public()].into());
        let records = Arc::new(Records::new(federation()));
        let engine = Engine::new(self.now(), settings, key(n), own, records, beacons, u64::from(n));
        self.engines.insert(id(n), engine);
    }

    fn engine(&mut self, n: u8) -> &mut Engine {
        self.engines.get_mut(&id(n)).expect("an engine")
    }

    fn seek(&mut self, n: u8, anchor: u8) {
        let now = self.now();
        let record = self.engine(anchor).own.record.clone();
        self.engine(n).seek(now, record);
        self.settle();
    }

    /// Returns the verdict of `n` on a node with this record.
    fn greet(&mut self, n: u8, record: SignedRecord, reached: bool) -> Verdict {
        let now = self.now();
        self.engine(n).handle_greeting(now, &Greeting { record, ticket: None }, reached)
    }

    fn packet(&mut self, to: u8, from: u8, packet: &Packet) {
        let now = self.now();
        self.engine(to).handle_packet(now, id(from), &packet.encode());
        self.settle();
    }

    fn dial(&mut self, from: NodeId, to: NodeId) {
        let now = self.now();
        let greeting = |engine: &Engine| Greeting { record: engine.own.record.clone(), ticket: None };
        let (Some(ours), Some(theirs)) = (
            self.engines.get(&from).map(greeting),
            self.engines.get(&to).filter(|_| !self.silent.contains(&to)).map(greeting),
        ) else {
            self.engines.get_mut(&from).expect("an engine").handle_dial_failed(now, to);
            return;
        };
        let verdict = self.engines.get_mut(&to).expect("an engine").handle_greeting(now, &ours, true);
        let dialler = self.engines.get_mut(&from).expect("an engine");
        if verdict == Verdict::Welcome {
            dialler.handle_greeting(now, &theirs, true);
        } else {
            dialler.handle_dial_failed(now, to);
        }
    }

    /// Performs all outputs of the engines, until there are none.
    fn settle(&mut self) {
        loop {
            let mut nodes: Vec<_> = self.engines.keys().copied().collect();
            nodes.sort_unstable();
            let mut idle = true;
            for node in nodes {
                while let Some(output) = self.engines.get_mut(&node).and_then(Engine::poll_output) {
                    idle = false;
                    self.perform(node, output);
                }
            }
            if idle {
                return;
            }
        }
    }

    fn perform(&mut self, node: NodeId, output: Output) {
        let now = self.now();
        if self.silent.contains(&node) {
            return;
        }
        match output {
            Output::Send { to, packet } if !self.silent.contains(&to) => {
                if let Some(engine) = self.engines.get_mut(&to) {
                    engine.handle_packet(now, node, &packet);
                }
            }
            Output::Dial { record } => self.dial(node, record.node),
            Output::Exchange { with } => self.exchange(node, with),
            Output::Send { .. } | Output::Lost { .. } | Output::Gone { .. } | Output::View => {}
        }
    }

    fn exchange(&mut self, asker: NodeId, with: NodeId) {
        let now = self.now();
        let mut sides = [asker, with];
        let mut next = Some(self.engines.get_mut(&asker).expect("an engine").open_exchange(now, with));
        while let Some(message) = next {
            let Some(engine) = self.engines.get_mut(&sides[1]) else { return };
            next = engine.handle_exchange(now, sides[0], message);
            sides.reverse();
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.elapsed + time;
        loop {
            let next =
                self.engines.values().filter_map(Engine::poll_timeout).min().expect("an engine always has a timeout");
            let next = next.saturating_duration_since(self.start);
            if next > until {
                self.elapsed = until;
                return;
            }
            self.elapsed = self.elapsed.max(next);
            let now = self.now();
            let mut due: Vec<_> = self.engines.keys().copied().collect();
            due.sort_unstable();
            for node in due {
                let engine = self.engines.get_mut(&node).expect("an engine");
                if engine.poll_timeout().is_some_and(|at| at <= now.at) {
                    engine.handle_timeout(now);
                }
            }
            self.settle();
        }
    }

    fn knows(&self, n: u8, others: &[u8]) -> bool {
        let engine = &self.engines[&id(n)];
        engine.len() == others.len() && others.iter().all(|other| engine.is_up(&id(*other)))
    }

    fn refused(&mut self, n: u8, reason: Reason) -> u64 {
        self.engine(n).counts().refused(reason)
    }
}

fn member(n: u8, epoch: u64) -> MemberId {
    MemberId { node: id(n), epoch }
}

/// Encodes a packet of the library.
fn swim(src: MemberId, dst: MemberId, message: Message<MemberId>, updates: &[Member<MemberId>]) -> Packet {
    let mut bytes = postcard::to_allocvec(&Header { src, src_incarnation: 0, dst, message }).expect("a header");
    bytes.extend_from_slice(&u16::try_from(updates.len()).expect("few").to_be_bytes());
    for update in updates {
        bytes.extend_from_slice(&postcard::to_allocvec(update).expect("an update"));
    }
    Packet::Swim(bytes.into())
}

/// Encodes a packet with news.
fn gossip(from: u8, to: u8, items: &[Vec<u8>]) -> Packet {
    let Packet::Swim(bytes) = swim(member(from, 1), member(to, 1), Message::Gossip, &[]) else { unreachable!() };
    let mut bytes = bytes.to_vec();
    for item in items {
        bytes.extend_from_slice(&u16::try_from(item.len()).expect("short").to_be_bytes());
        bytes.extend_from_slice(item);
    }
    Packet::Swim(bytes.into())
}

#[test]
fn nodes_that_know_one_find_all() {
    let mut net = Net::new(&[1, 2, 3, 4, 5]);
    net.run(Duration::from_secs(10));
    for n in 1..=5 {
        let others: Vec<_> = (1..=5).filter(|other| *other != n).collect();
        assert!(net.knows(n, &others), "{n}");
    }
}

#[test]
fn a_silent_member_is_down_after_two_series_of_probes_and_back_when_it_speaks() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run(Duration::from_secs(10));
    net.silent.push(id(3));
    net.run(Duration::from_secs(5));
    assert!(net.knows(1, &[2, 3]), "not before the second series");
    net.run(Duration::from_secs(10));
    assert!(net.knows(1, &[2]) && net.knows(2, &[1]));
    net.silent.clear();
    net.run(Duration::from_secs(30));
    assert!(net.knows(1, &[2, 3]) && net.knows(2, &[1, 3]) && net.knows(3, &[1, 2]));
}

#[test]
fn a_leave_is_instant_and_one_of_a_former_run_is_nothing() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run(Duration::from_secs(10));
    let now = net.now();
    let leave = net.engine(3).leave(now).expect("a leave");
    net.settle();
    assert!(net.knows(1, &[2]) && net.knows(2, &[1]));
    // The same node starts again, and an attacker replays its leave and its old record.
    let old = record(3, 1, [10, 0, 3, 1]);
    net.add(3, record(3, 2, [10, 0, 3, 1]), settings());
    net.seek(3, 1);
    net.run(Duration::from_secs(5));
    let items = [NewsKind::Leave.item(leave.as_bytes()), NewsKind::Record.item(old.as_bytes())];
    net.packet(1, 2, &gossip(2, 1, &items));
    assert!(net.knows(1, &[2, 3]));
    assert_eq!(net.engine(1).members().find(|(node, _)| *node == id(3)), Some((id(3), 2)));
    assert_eq!(net.greet(1, old, true), Verdict::Refused(AdmissionRefusal::Stale));
}

#[test]
fn a_stranger_is_dialled_back_before_it_is_a_member() {
    let mut net = Net::new(&[1, 2]);
    let stranger = record(9, 1, [10, 0, 9, 1]);
    assert_eq!(net.greet(1, stranger.clone(), false), Verdict::DialBack);
    assert!(net.knows(1, &[2]));
    assert_eq!(net.greet(1, stranger.clone(), true), Verdict::Welcome);
    assert!(net.knows(1, &[2, 9]));
    // An address may change hands, so it is checked again with each link.
    assert_eq!(net.greet(1, stranger, false), Verdict::DialBack);
}

#[test]
fn a_network_has_two_members_and_a_test_range_any_number() {
    let mut net = Net::new(&[1]);
    assert_eq!(net.greet(1, record(2, 1, [10, 9, 9, 2]), true), Verdict::Welcome);
    assert_eq!(net.greet(1, record(3, 1, [10, 9, 9, 3]), true), Verdict::Welcome);
    assert_eq!(net.greet(1, record(4, 1, [10, 9, 9, 4]), true), Verdict::Refused(AdmissionRefusal::Network));
    assert_eq!(net.greet(1, record(2, 2, [10, 9, 9, 2]), true), Verdict::Welcome, "it is one of the two");
    let mut exempt = settings();
    exempt.admission.exempt = vec!["10.9.0.0/16".parse().expect("a network")];
    net.add(1, record(1, 1, [10, 0, 1, 1]), exempt);
    for n in 2..20 {
        assert_eq!(net.greet(1, record(n, 1, [10, 9, 9, n]), true), Verdict::Welcome);
    }
}

#[test]
fn a_public_node_refuses_to_dial_private_addresses_and_logs_it() {
    let mut net = Net::new(&[2]);
    let mut with_exempt = settings();
    with_exempt.admission.exempt = vec!["10.7.0.0/16".parse().expect("a network")];
    net.add(1, record(1, 1, [45, 0, 1, 1]), with_exempt);
    net.add(3, record(3, 1, [45, 0, 3, 1]), settings());
    net.seek(3, 1);
    let mut second = record(4, 1, [45, 0, 4, 1]).into_value();
    second.quic_addrs.push(([192, 168, 0, 1], 1).into());
    let second = Signed::sign(second, &key(4)).expect("a record");
    let private = record(5, 1, [127, 0, 0, 1]);
    for record in [&second, &private] {
        assert_eq!(net.greet(1, record.clone(), true), Verdict::Refused(AdmissionRefusal::Address));
        net.packet(1, 3, &gossip(3, 1, &[NewsKind::Record.item(record.as_bytes())]));
    }
    assert_eq!(net.engine(1).counts().refused(Reason::Admission), 2);
    net.seek(1, 2);
    assert_eq!(net.engine(1).counts().refused(Reason::Admission), 3);
    assert!(net.knows(1, &[3]));
    assert_eq!(net.greet(1, record(6, 1, [10, 7, 0, 1]), true), Verdict::Welcome, "exempt");
    assert_eq!(net.greet(2, private, true), Verdict::Welcome, "a federation in a private network");
}

#[test]
fn a_record_from_the_future_or_of_the_past_is_refused() {
    let mut net = Net::new(&[1]);
    net.elapsed = Duration::from_secs(90_000);
    assert_eq!(net.greet(1, record(2, 1, [10, 0, 2, 1]), true), Verdict::Refused(AdmissionRefusal::Clock));
    let mut early = Net::new(&[1]);
    let mut future = record(2, 1, [10, 0, 2, 1]).into_value();
    future.issued_at = CLOCK + Duration::from_secs(3600);
    let future = Signed::sign(future, &key(2)).expect("a record");
    assert_eq!(early.greet(1, future, true), Verdict::Refused(AdmissionRefusal::Clock));
}

#[test]
fn invalid_packets_of_members_are_counted_and_change_nothing() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run(Duration::from_secs(10));
    let (me, liar, honest) = (member(1, 1), member(2, 1), member(3, 1));
    let update = |state| [Member::new(honest, 0, state)];
    let raised = Header { src: liar, src_incarnation: 7, dst: me, message: Message::Gossip };
    let raised = Packet::Swim(postcard::to_allocvec(&raised).expect("a header").into());
    for (reason, packet) in [
        (Reason::Forged, swim(honest, me, Message::Gossip, &[])),
        (Reason::Forged, swim(liar, honest, Message::Gossip, &[])),
        (Reason::Epoch, swim(member(2, 9), me, Message::Gossip, &[])),
        (Reason::Incarnation, raised),
        (Reason::Kind, swim(liar, me, Message::TurnUndead, &[])),
        (Reason::Kind, swim(liar, me, Message::Announce, &[])),
        (Reason::Stranger, swim(liar, me, Message::PingReq { target: member(7, 1), probe_number: 1 }, &[])),
        (Reason::Hearsay, swim(liar, me, Message::Gossip, &update(SwimState::Down))),
        (Reason::Hearsay, swim(liar, me, Message::Gossip, &update(SwimState::Suspect))),
        (Reason::Epoch, swim(liar, me, Message::Gossip, &[Member::new(member(3, 8), 0, SwimState::Alive)])),
        (Reason::Malformed, Packet::Swim(Bytes::from_static(b"\xff\xff\xff"))),
    ] {
        let before = net.refused(1, reason);
        net.packet(1, 2, &packet);
        assert_eq!(net.refused(1, reason), before + 1, "{reason:?} {packet:?}");
    }
    net.packet(1, 9, &Packet::Probe(1));
    assert_eq!(net.refused(1, Reason::Stranger), 2);
    net.run(Duration::from_secs(30));
    assert!(net.knows(1, &[2, 3]));
}

fn accuse(by: u8, accused: u8, at: UnixTime) -> Vec<u8> {
    let accusation = Accusation { federation: federation(), accuser: id(by), accused: id(accused), epoch: 1, at };
    NewsKind::Accusation.item(Signed::sign(accusation, &key(by)).expect("an accusation").as_bytes())
}

#[test]
fn false_accusations_are_checked_and_the_third_mutes_its_signer() {
    let mut net = Net::new(&[1, 2, 3, 4, 5, 6]);
    net.run(Duration::from_secs(10));
    for accused in 3..=5 {
        // Node 6 forwards an accusation that node 2 has signed. It counts against node 2.
        let at = net.now().clock;
        net.packet(1, 6, &gossip(6, 1, &[accuse(2, accused, at)]));
        net.run(Duration::from_secs(3));
    }
    assert_eq!((net.engine(1).counts().disproved, net.engine(1).counts().muted), (3, 1));
    let at = net.now().clock;
    net.packet(1, 6, &gossip(6, 1, &[accuse(2, 3, at)]));
    assert_eq!(net.refused(1, Reason::Muted), 1);
    net.packet(1, 6, &gossip(6, 1, &[accuse(6, 3, at)]));
    assert_eq!(net.refused(1, Reason::Muted), 1, "node 6 itself has accused no one falsely");
    net.run(Duration::from_secs(20));
    assert!(net.knows(1, &[2, 3, 4, 5, 6]));
}

#[test]
fn an_accusation_of_yesterday_and_one_with_another_signature_are_refused() {
    let mut net = Net::new(&[1, 2, 3, 4]);
    net.run(Duration::from_secs(10));
    net.packet(1, 2, &gossip(2, 1, &[accuse(2, 3, UnixTime::from_secs(CLOCK.as_secs() - 86_400))]));
    assert_eq!(net.refused(1, Reason::Clock), 1);
    let mut forged = accuse(2, 3, net.now().clock);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    net.packet(1, 4, &gossip(4, 1, &[forged]));
    assert_eq!(net.refused(1, Reason::Signature), 1);
    // A node that forwards an invalid signature is muted.
    let at = net.now().clock;
    net.packet(1, 4, &gossip(4, 1, &[accuse(2, 3, at)]));
    assert_eq!(net.refused(1, Reason::Muted), 1);
}

#[test]
fn claims_of_missing_nodes_count_against_the_claimant() {
    let mut net = Net::new(&[1, 2]);
    net.run(Duration::from_secs(5));
    for n in 10..80 {
        net.packet(1, 2, &gossip(2, 1, &[NewsKind::Record.item(record(n, 1, [10, 1, n, 1]).as_bytes())]));
        net.run(Duration::from_secs(1));
    }
    assert_eq!(net.engine(1).counts().false_claims, 32);
    assert!(net.refused(1, Reason::Muted) + net.refused(1, Reason::Rate) >= 38);
    assert!(net.knows(1, &[2]));
    assert_eq!(net.engine(1).open_counts(), OpenCounts::default());
}

#[test]
fn equal_views_have_nothing_to_exchange_and_others_become_equal() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run(Duration::from_secs(40));
    let now = net.now();
    let summary = net.engine(1).open_exchange(now, id(2));
    assert_eq!(net.engine(2).handle_exchange(now, id(1), summary), None);
    // Only node 1 learns of two more nodes.
    for n in [4, 5] {
        net.add(n, record(n, 1, [10, 0, n, 1]), settings());
        assert_eq!(net.greet(1, record(n, 1, [10, 0, n, 1]), true), Verdict::Welcome);
    }
    net.exchange(id(2), id(1));
    net.settle();
    assert!(net.knows(2, &[1, 3, 4, 5]));
}

#[test]
fn an_unsolicited_exchange_message_is_refused() {
    let mut net = Net::new(&[1, 2, 3]);
    let now = net.now();
    let unsolicited = ExchangeMessage::Members { buckets: vec![0], members: Vec::new(), beacon: None, newest: 0 };
    assert_eq!(net.engine(1).handle_exchange(now, id(2), unsolicited), None);
    assert_eq!(net.refused(1, Reason::Kind), 1);
}

#[test]
fn a_member_that_starts_again_while_it_is_accused_is_not_held_against_its_accuser() {
    let mut net = Net::new(&[1, 2, 3, 4]);
    net.run(Duration::from_secs(10));
    net.silent.push(id(3));
    let at = net.now().clock;
    net.packet(1, 2, &gossip(2, 1, &[accuse(2, 3, at)]));
    net.run(Duration::from_secs(2));
    assert_eq!(net.greet(1, record(3, 2, [10, 0, 3, 1]), true), Verdict::Welcome);
    assert_eq!(net.engine(1).counts().disproved, 0);
}

#[test]
fn a_stranger_has_no_exchange_and_a_malformed_one_ends() {
    let mut net = Net::new(&[1, 2]);
    let now = net.now();
    let summary = net.engine(2).open_exchange(now, id(1));
    assert_eq!(net.engine(1).handle_exchange(now, id(9), summary), None);
    assert_eq!(net.refused(1, Reason::Stranger), 1);
    let short = ExchangeMessage::Summary { buckets: vec![0; 3], beacon: 0 };
    assert_eq!(net.engine(1).handle_exchange(now, id(2), short), None);
    assert_eq!(net.refused(1, Reason::Malformed), 1);
}

#[test]
fn exchanges_carry_the_beacon_even_between_equal_views() {
    let mut net = Net::new(&[1, 2]);
    net.run(Duration::from_secs(40));
    let term = Term { value: [1; 32], eligible: vec![id(1)] };
    let root: PublicKey = key(255).public();
    let beacon = Beacon { federation: federation(), root, number: 5, from: CLOCK, before: None, term };
    let beacon = Signed::sign(beacon, &key(255)).expect("a beacon");
    let now = net.now();
    net.engine(1).learn_beacon(now, beacon.as_bytes());
    net.exchange(id(1), id(2));
    assert_eq!(net.engine(2).beacon().as_ref(), Some(beacon.as_bytes()));
    net.add(3, record(3, 1, [10, 0, 3, 1]), settings());
    net.seek(3, 1);
    net.run(Duration::from_secs(5));
    assert_eq!(net.engine(3).beacon().as_ref(), Some(beacon.as_bytes()), "a joiner's own first exchange brings it");
}

#[test]
fn an_aging_record_is_requested_again() {
    let mut net = Net::new(&[1, 2]);
    net.run(Duration::from_secs(10));
    // Twenty of its twenty-four hours have passed, and node 2 has signed another record meanwhile.
    net.elapsed += Duration::from_secs(20 * 3600);
    let mut fresh = record(2, 1, [10, 0, 2, 1]).into_value();
    (fresh.seq, fresh.issued_at, fresh.expires_at) =
        (2, net.now().clock, net.now().clock + Duration::from_secs(86_400));
    net.engine(2).renew(Signed::sign(fresh, &key(2)).expect("a record"));
    net.run(Duration::from_secs(120));
    assert_eq!(net.engine(1).records.any(&id(2)).map(|record| record.seq), Some(2));
    assert!(net.knows(1, &[2]));
}

#[test]
fn a_member_on_probation_is_not_believed_once_three_others_are_past_it() {
    let mut net = Net::new(&[1, 2, 3]);
    net.run(Duration::from_secs(10));
    net.elapsed += Duration::from_secs(86_400);
    for n in 1..=3 {
        let mut fresh = record(n, 1, [10, 0, n, 1]).into_value();
        (fresh.seq, fresh.issued_at) = (2, net.now().clock);
        fresh.expires_at = net.now().clock + Duration::from_secs(86_400);
        net.engine(n).renew(Signed::sign(fresh, &key(n)).expect("a record"));
    }
    net.run(Duration::from_secs(120));
    let mut young = record(4, 1, [10, 0, 4, 1]).into_value();
    (young.issued_at, young.expires_at) = (net.now().clock, net.now().clock + Duration::from_secs(86_400));
    net.add(4, Signed::sign(young, &key(4)).expect("a record"), settings());
    net.seek(4, 1);
    net.run(Duration::from_secs(40));
    assert!(net.knows(1, &[2, 3, 4]));
    let at = net.now().clock;
    net.packet(1, 4, &gossip(4, 1, &[accuse(4, 2, at)]));
    assert_eq!(net.refused(1, Reason::Muted), 1);
    // The new node has learned from three members that only it is on probation.
    let now = net.now();
    let homes =
        net.engine(4).view(now).homes(crate::placement::Tag::of_inbox(&chappe_common::lease::Inbox::new(*id(9).key())));
    assert!(!homes.contains(&id(4)) && homes.iter().count() == 3);
}

#[test]
fn records_from_an_exchange_are_not_gossiped() {
    let mut net = Net::new(&[1]);
    let known = |n: u8| record(n, 1, [10, 0, n, 1]);
    for n in 2..=4 {
        assert_eq!(net.greet(1, known(n), true), Verdict::Welcome);
    }
    let now = net.now();
    // Both are dialled and are up.
    let records = vec![known(5).as_bytes().clone()];
    net.engine(1).handle_exchange(now, id(2), ExchangeMessage::Records { records, wanted: Vec::new(), beacon: None });
    let news = gossip(2, 1, &[NewsKind::Record.item(known(6).as_bytes())]);
    net.engine(1).handle_packet(now, id(2), &news.encode());
    for n in 5..=6 {
        assert_eq!(net.greet(1, known(n), true), Verdict::Welcome);
    }
    let mut spread = Vec::new();
    for _ in 0..50 {
        net.elapsed += Duration::from_millis(100);
        let now = net.now();
        let engine = net.engine(1);
        engine.handle_timeout(now);
        while let Some(output) = engine.poll_output() {
            let Output::Send { packet, .. } = output else { continue };
            let Ok(Packet::Swim(packet)) = Packet::decode(&packet) else { continue };
            for item in Gossip::decode(&packet).expect("a packet").items {
                if let Some((NewsKind::Record, note)) = NewsKind::split(item) {
                    spread.push(postcard::take_from_bytes::<NodeRecord>(note).expect("a record").0.node);
                }
            }
        }
    }
    assert!(spread.contains(&id(6)) && spread.contains(&id(2)));
    assert!(!spread.contains(&id(5)));
}
