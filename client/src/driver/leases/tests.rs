use chappe_common::keys::SecretKey;
use rand::{SeedableRng as _, rngs::StdRng};

use super::*;
use crate::{
    contact::{PairingSecret, Role},
    driver::{
        refusals::{Refusal, Refusals},
        requests::RequestedInbox,
    },
};

const DAY: u64 = Day::SECONDS;
const NOON: u64 = 20_000 * DAY + DAY / 2;
const TTL: Duration = Duration::from_secs(300);

fn contact(n: u8) -> Contact {
    let own = SecretKey::from_bytes(&[n; 32]);
    let peer = SecretKey::from_bytes(&[n ^ 0xFF; 32]).public();
    let pairing = Pairing::new(Role::A, PairingSecret::from_bytes([n; 32]), own, peer).expect("a usable key");
    Contact::new("", [n; 32], pairing)
}

/// A session with its clock.
struct World {
    leases: Leases,
    contacts: Vec<Contact>,
    seqs: HashMap<SlotId, u64>,
    random: StdRng,
    start: Instant,
    seconds: u64,
}

impl World {
    fn new(contacts: u8, seconds: u64) -> Self {
        Self {
            leases: Leases::new(SecretKey::from_bytes(&[1; 32]).node_id(), [2; 32]),
            contacts: (1..=contacts).map(contact).collect(),
            seqs: HashMap::new(),
            random: StdRng::seed_from_u64(1),
            start: Instant::now(),
            seconds,
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.seconds + DAY - NOON)
    }

    fn unix(&self) -> UnixTime {
        UnixTime::from_secs(self.seconds)
    }

    fn update(&mut self) -> Vec<Inbox> {
        let (now, unix) = (self.now(), self.unix());
        self.leases.update(self.contacts.iter(), &mut self.random, now, unix)
    }

    fn due(&mut self) -> Vec<Attachment> {
        let now = self.now();
        self.leases.due(self.contacts.iter(), &mut self.seqs, &mut self.random, now, self.seconds * 1000)
    }

    /// Attaches what is due.
    fn attach(&mut self) -> Vec<Attachment> {
        let due = self.due();
        let now = self.now();
        for attachment in &due {
            self.leases.attached(attachment.slot, TTL, &mut self.random, now);
        }
        due
    }

    fn rejected(&mut self, slot: SlotId, reason: Rejected) -> Option<ContactId> {
        let now = self.now();
        self.leases.rejected(slot, reason, &mut self.random, now, self.seconds * 1000)
    }
}

#[test]
fn each_lease_verifies_and_has_nothing_in_common_with_another() {
    let mut world = World::new(30, NOON);
    world.update();
    let attachments = world.attach();
    assert_eq!((attachments.len(), world.leases.len()), (30, 30));
    let count = |part: fn(&Lease) -> Vec<u8>| {
        attachments.iter().map(|attachment| part(&attachment.lease)).collect::<HashSet<_>>().len()
    };
    assert_eq!(count(|lease| lease.inbox.key().as_bytes().to_vec()), 30);
    assert_eq!(count(|lease| lease.session_key.to_vec()), 30);
    assert_eq!(count(|lease| lease.seq.to_be_bytes().to_vec()), 30);
    assert!(count(|lease| lease.expires_at.as_secs().to_be_bytes().to_vec()) > 20);
    for Attachment { lease, proof, .. } in &attachments {
        assert!(Signed::<Lease>::decode(lease.as_bytes().clone()).is_ok());
        assert!(chappe_common::lease::verify_attach(&[2; 32], lease, proof));
        assert!(lease.seq / 1000 <= NOON && lease.seq / 1000 + SEQ_JITTER_MS / 1000 >= NOON - 1);
    }
}

#[test]
fn a_renewal_has_a_new_key_and_the_former_one_opens_until_its_lease_expires() {
    let mut world = World::new(1, NOON);
    world.update();
    let first = world.attach().remove(0);
    assert!(!first.is_renewal && world.due().is_empty());
    world.seconds += TTL.as_secs();
    let second = world.attach().remove(0);
    assert!(second.is_renewal && second.lease.seq > first.lease.seq);
    assert_ne!(second.lease.session_key, first.lease.session_key);
    let keys = |world: &World| world.leases.keys(first.lease.inbox).map(SealingKey::public).collect::<Vec<_>>();
    assert_eq!(keys(&world), [second.lease.session_key, first.lease.session_key]);
    // The first has expired when the next one is made.
    world.seconds = first.lease.expires_at.as_secs() + 1;
    world.update();
    let third = world.attach().remove(0);
    assert!(!keys(&world).contains(&first.lease.session_key));
    assert_eq!(keys(&world)[0], third.lease.session_key);
}

#[test]
fn a_node_that_requests_new_leases_gets_them_after_seconds() {
    let mut world = World::new(3, NOON);
    world.update();
    let due = world.due();
    let now = world.now();
    for attachment in due {
        world.leases.attached(attachment.slot, Duration::ZERO, &mut world.random, now);
    }
    assert!(world.due().is_empty());
    world.seconds += SHORTEST_RENEWAL.as_secs();
    assert_eq!(world.due().len(), 3);
}

#[test]
fn renewals_of_one_client_come_at_times_of_their_own() {
    let mut world = World::new(30, NOON);
    world.update();
    world.attach();
    let dues: HashSet<_> = world.leases.slots.values().filter(|slot| slot.is_attached).map(|slot| slot.due).collect();
    assert_eq!(dues.len(), 30);
}

#[test]
fn around_midnight_the_inboxes_of_both_days_are_attached_and_at_noon_of_one() {
    let midnight = 20_001 * DAY;
    for (seconds, wanted) in [
        (NOON, 5),
        (midnight - DAY_MARGIN.as_secs(), 10),
        (midnight, 10),
        (midnight + DAY_MARGIN.as_secs() - 1, 10),
        (midnight + 3 * DAY_MARGIN.as_secs(), 5),
    ] {
        let mut world = World::new(5, seconds);
        world.update();
        assert_eq!(world.attach().len(), wanted, "{seconds}");
    }
}

#[test]
fn a_session_goes_over_to_the_next_day_at_another_time_for_each_inbox() {
    let mut world = World::new(20, NOON);
    let (mut attached_at, mut detached_at) = (HashSet::new(), HashSet::new());
    let mut leased = HashSet::new();
    while world.seconds < NOON + DAY {
        let detached = world.update();
        detached_at.extend(detached.iter().map(|_| world.seconds));
        for attachment in world.attach() {
            if leased.insert(attachment.lease.inbox) {
                attached_at.insert(world.seconds);
            }
        }
        assert!((20..=40).contains(&world.leases.len()), "{} at {}", world.leases.len(), world.seconds);
        world.seconds += 10;
    }
    assert_eq!((leased.len(), world.leases.len()), (40, 20));
    assert!(attached_at.len() > 15 && detached_at.len() > 15, "{} and {}", attached_at.len(), detached_at.len());
}

#[test]
fn a_stale_lease_is_renewed_a_few_times_and_then_its_contact_is_reported() {
    let mut world = World::new(1, NOON);
    world.update();
    let mut newer = NOON * 1000;
    for _ in 0..MAX_OUTBIDS {
        let attachment = world.due().remove(0);
        assert!(attachment.lease.seq < newer);
        assert_eq!(world.rejected(attachment.slot, Rejected::Outdated(newer)), None);
        newer += 1500;
    }
    let attachment = world.due().remove(0);
    assert!(attachment.lease.seq > newer - 1500);
    let told = world.rejected(attachment.slot, Rejected::Outdated(newer));
    assert_eq!(told, Some(world.contacts[0].id()));
    assert!(world.due().is_empty(), "it waits for a minute");
    world.seconds += 90;
    assert_eq!(world.attach().len(), 1);
}

#[test]
fn a_node_has_no_lease_signed_for_a_later_time_and_a_new_session_goes_on_behind_the_former_one() {
    let mut world = World::new(1, NOON);
    world.update();
    let attachment = world.due().remove(0);
    let ahead = NOON * 1000 + 100_000;
    assert_eq!(world.rejected(attachment.slot, Rejected::Outdated(ahead)), Some(world.contacts[0].id()));
    world.seconds += 90;
    assert!(world.attach()[0].lease.seq <= world.seconds * 1000);
    // The clock was set back, or the earlier session had drawn a higher number.
    let mut world = World::new(1, NOON);
    world.update();
    let former = world.attach().remove(0);
    world.leases = Leases::new(SecretKey::from_bytes(&[9; 32]).node_id(), [3; 32]);
    world.seconds -= 600;
    world.update();
    assert!(world.attach()[0].lease.seq > former.lease.seq);
}

#[test]
fn attached_inboxes_stay_attached_if_a_renewal_finds_no_room() {
    let mut world = World::new(1, NOON);
    world.update();
    world.attach();
    world.seconds += TTL.as_secs();
    let renewal = world.due().remove(0);
    assert_eq!(world.rejected(renewal.slot, Rejected::Busy), None);
    assert_eq!(world.leases.len(), 1);
    world.seconds += 90;
    let renewal = world.due().remove(0);
    assert_eq!(world.rejected(renewal.slot, Rejected::Invalid), Some(world.contacts[0].id()));
    assert_eq!(world.leases.len(), 0);
}

/// Sends what is due, and has the node refuse those inboxes for now that `refuses` names. Returns whether the session
/// stays, and the contacts that the app is told about.
fn renew(world: &mut World, refusals: &mut Refusals, refuses: impl Fn(ContactId) -> bool) -> (bool, Vec<ContactId>) {
    world.update();
    let due = world.due();
    let (mut outcomes, mut told) = (Vec::new(), Vec::new());
    for attachment in &due {
        let (owner, _) = world.leases.owner(attachment.lease.inbox).expect("an inbox of a contact");
        if refuses(owner) {
            told.extend(world.rejected(attachment.slot, Rejected::Busy));
            outcomes.push(Err(Rejected::Busy));
        } else {
            let now = world.now();
            world.leases.attached(attachment.slot, TTL, &mut world.random, now);
            outcomes.push(Ok(()));
        }
    }
    let requested: Vec<_> = due.iter().map(RequestedInbox::from).collect();
    let stays = match Refusal::of(&requested, &outcomes, world.leases.is_any_served(world.unix())) {
        Some(refusal) => refusals.handle_refused(refusal),
        None => true,
    };
    (stays, told)
}

#[test]
fn a_node_that_refuses_every_renewal_is_left_before_a_lease_expires() {
    for contacts in [1, 3, 6, 40] {
        let mut world = World::new(contacts, NOON);
        world.update();
        let first_expiry = world.attach().iter().map(|attachment| attachment.lease.expires_at).min();
        let (mut refusals, refused) = (Refusals::default(), std::cell::RefCell::new(HashMap::new()));
        let refuse = |contact| {
            *refused.borrow_mut().entry(contact).or_insert(0) += 1;
            true
        };
        while renew(&mut world, &mut refusals, refuse).0 {
            world.seconds += 1;
            assert!(Some(world.unix()) < first_expiry, "{contacts} contacts: the client stayed");
        }
        let refused = refused.into_inner();
        assert_eq!(refused.len(), usize::from(contacts), "every inbox was refused first");
        assert!(refused.values().any(|times| *times > 1), "the session ended at the first refusal: {refused:?}");
    }
}

#[test]
fn a_contact_whose_renewals_are_refused_is_told_when_its_lease_expires_and_the_session_stays() {
    let mut world = World::new(3, NOON);
    world.update();
    let attached = world.attach();
    let refused = world.contacts[0].id();
    let of_refused = attached.iter().find(|at| world.leases.owner(at.lease.inbox).is_some_and(|by| by.0 == refused));
    let expires_at = of_refused.expect("its inbox").lease.expires_at;
    let mut refusals = Refusals::default();
    let told_at = loop {
        let (stays, told) = renew(&mut world, &mut refusals, |contact| contact == refused);
        assert!(stays, "the others are attached");
        if !told.is_empty() {
            assert_eq!(told, [refused]);
            break world.unix();
        }
        assert!(world.unix() < expires_at + ATTACH_AGAIN + ATTACH_AGAIN_JITTER, "the app was never told");
        world.seconds += 1;
    };
    assert!(told_at >= expires_at);
    assert_eq!(world.leases.len(), 2);
    // It is attached again as soon as the node has capacity.
    world.seconds += 90;
    renew(&mut world, &mut refusals, |_| false);
    assert_eq!(world.leases.len(), 3);
}

#[test]
fn inboxes_of_removed_and_blocked_contacts_are_detached_and_those_of_a_new_one_wait() {
    let mut world = World::new(3, NOON);
    world.update();
    world.attach();
    let removed = world.contacts.remove(0);
    world.contacts[0] = world.contacts[0].clone().blocked(true);
    let detached = world.update();
    assert_eq!((detached.len(), world.leases.len()), (2, 1));
    assert!(world.leases.owner(removed.pairing().own_inbox(Day::new(20_000)).inbox()).is_none());
    let new = contact(9);
    let until = world.now() + Duration::from_secs(3);
    world.leases.delay(new.pairing().id(), until);
    world.contacts.push(new.clone());
    world.update();
    assert!(world.due().is_empty());
    assert_eq!(world.leases.next_deadline(world.unix()), Some(until));
    // The answer to a call arrives at that inbox.
    let now = world.now();
    world.leases.attach_now(new.id(), now);
    assert_eq!(world.attach().len(), 1);
}

#[test]
fn two_hundred_contacts_fit_a_session_at_any_time_of_the_day() {
    let mut world = World::new(200, 20_001 * DAY);
    world.update();
    assert_eq!(world.attach().len(), 400);
    const { assert!(400 <= chappe_common::client::MAX_INBOXES) };
}
