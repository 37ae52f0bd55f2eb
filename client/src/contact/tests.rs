use super::*;

const VECTORS: &str = include_str!("../../../docs/protocol/vectors/inbox.json");

fn root(role: Role) -> SecretKey {
    SecretKey::from_bytes(&[role.letter(); 32])
}

fn pairing(role: Role, secret: u8) -> Pairing {
    let secret = PairingSecret::from_bytes([secret; 32]);
    Pairing::new(role, secret, root(role), root(role.other()).public()).expect("a usable key")
}

fn contact(role: Role) -> Contact {
    Contact::new("Ada", [1; 32], pairing(role, 2))
}

#[test]
fn inboxes_are_those_of_the_vectors() {
    let secret = PairingSecret::from_bytes([7; 32]);
    let inboxes = [(Role::A, 20_000), (Role::A, 20_001), (Role::B, 20_000), (Role::B, 20_001)].map(|(owner, day)| {
        let pairing = Pairing::new(owner, secret.clone(), root(owner), root(owner.other()).public());
        let own = pairing.expect("a usable key").own_inbox(Day(day));
        let (token, message) = (own.token, b"message");
        let address = Address { inbox: own.inbox(), token }.to_base64url();
        serde_json::json!({
            "owner": char::from(owner.letter()).to_string(),
            "root_seed": hex::encode(root(owner).to_bytes()),
            "root": root(owner).public().to_base64url(),
            "day": day,
            "inbox": own.inbox().to_base64url(),
            "token": hex::encode(token.as_bytes()),
            "address": address,
            "signature_of_message": hex::encode(own.key.sign(message)),
        })
    });
    let made = serde_json::json!({
        "about": "Inboxes of one pairing. docs/protocol/sealing-and-pairing.md says how they are derived.",
        "pairing_secret": hex::encode(secret.as_bytes()),
        "sealing_secret": hex::encode(*secret.sealing_secret()),
        "blinding": hex::encode(*secret.expand(b"chappe/inbox-blinding/v1\0")),
        "inboxes": inboxes,
    });
    let expected: serde_json::Value = serde_json::from_str(VECTORS).expect("the vectors are JSON");
    assert_eq!(made, expected, "\n{}", serde_json::to_string_pretty(&made).expect("JSON"));
}

#[test]
fn both_sides_compute_an_inbox_and_only_its_owner_signs_for_it() {
    let day = Day::new(20_000);
    let now = UnixTime::from_secs(day.start().as_secs() + 5);
    let (a, b) = (pairing(Role::A, 2), pairing(Role::B, 2));
    let own = b.own_inbox(day);
    assert_eq!(a.peer_address(now), Address { inbox: own.inbox(), token: own.token });
    let (inbox, message) = (own.inbox(), b"a lease");
    assert!(inbox.key().verify(message, &own.key.sign(message)));
    // All that A can sign with: its own root and the blinding of either side and of both days.
    let secret = PairingSecret::from_bytes([2; 32]);
    for owner in [Role::A, Role::B] {
        for blinded in [root(Role::A).public(), root(Role::B).public()] {
            let factor = secret.inbox_blinding(owner, &blinded, day);
            assert!(!inbox.key().verify(message, &root(Role::A).blind(&factor).sign(message)));
        }
    }
    assert_ne!(a.own_inbox(day).inbox(), inbox, "the two directions have different inboxes");
    assert_ne!(b.own_inbox(day.after()).inbox(), inbox, "and so have two days");
    assert_ne!(pairing(Role::B, 3).own_inbox(day).inbox(), inbox, "and two pairings");
}

#[test]
fn a_root_key_that_cannot_be_blinded_makes_no_pairing() {
    let secret = PairingSecret::from_bytes([2; 32]);
    assert!(Pairing::new(Role::A, secret, root(Role::A), PublicKey::from_bytes([2; 32])).is_none());
}

fn roots(contact: &Contact) -> Vec<u8> {
    contact.pairings().iter().map(|pairing| pairing.secret().as_bytes()[0]).collect()
}

fn other_pairing(n: u8) -> Pairing {
    let own = SecretKey::from_bytes(&[n; 32]);
    let secret = PairingSecret::from_bytes([n; 32]);
    Pairing::new(Role::B, secret, own, root(Role::A).public()).expect("a usable key")
}

#[test]
fn a_new_pairing_is_used_once_the_contact_is_known_to_have_it() {
    let mut contact = Contact::new("Ada", [1; 32], other_pairing(1)).stored(true);
    assert!(contact.is_confirmed() && !contact.confirm(other_pairing(1).id()));
    contact.paired_again(other_pairing(2), false);
    assert_eq!((roots(&contact), contact.pairing().id()), (vec![1, 2], other_pairing(1).id()));
    assert!(!contact.is_confirmed());
    assert!(!contact.confirm(other_pairing(1).id()), "the former one says nothing about the new one");
    assert!(!contact.confirm(other_pairing(9).id()));
    assert!(contact.confirm(other_pairing(2).id()));
    assert_eq!((roots(&contact), contact.is_confirmed()), (vec![2], true));
    // A side that knows that the other has stored the pairing uses it at once. It can still be called by the old one.
    contact.paired_again(other_pairing(3), true);
    assert_eq!((roots(&contact), contact.pairing().id()), (vec![2, 3], other_pairing(3).id()));
    assert!(contact.confirm(other_pairing(3).id()));
    assert_eq!(roots(&contact), [3]);
}

#[test]
fn a_first_pairing_that_came_to_nothing_gives_way_to_the_next() {
    let mut contact = Contact::new("Ada", [1; 32], other_pairing(1));
    assert!(!contact.is_confirmed());
    contact.paired_again(other_pairing(2), false);
    assert_eq!(contact.pairing().id(), other_pairing(2).id());
    assert_eq!(contact.pairing_after(other_pairing(2).id()).id(), other_pairing(1).id());
    assert!(contact.confirm(other_pairing(2).id()) && contact.is_confirmed());
}

/// Which message of a pairing is lost.
#[derive(Clone, Copy, Debug)]
enum Lost {
    Answer,
    Stored,
    Nothing,
}

/// One side calls the other by each of its pairings, until the other has that one too. Both then confirm it.
fn call(from: &mut Contact, to: &mut Contact) -> bool {
    let mut id = from.pairing().id();
    for _ in 0..from.pairings().len() {
        let secret = *from.pairings().iter().find(|one| one.id() == id).expect("its own").secret().as_bytes();
        let known = to.pairings().iter().find(|one| *one.secret().as_bytes() == secret).map(Pairing::id);
        if let Some(known) = known {
            to.confirm(known);
            from.confirm(id);
            return true;
        }
        id = from.pairing_after(id).id();
    }
    false
}

#[test]
fn loss_in_up_to_five_pairings_between_two_calls_leaves_both_able_to_call() {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    let mut random = StdRng::seed_from_u64(1);
    let all: Vec<_> = (1..=31).map(other_pairing).collect();
    let other_pairing = |n: usize| all[n - 1].clone();
    for _ in 0..1000 {
        let mut number = 1;
        let first = |stored| Contact::new("", [1; 32], other_pairing(1)).stored(stored);
        let mut sides = [first(true), first(random.random())];
        let mut since_call = 0;
        for _ in 0..30 {
            if since_call == MAX_PAIRINGS - 1 || random.random_range(0..4) == 0 {
                for order in [[0, 1], [1, 0]] {
                    // The outcome of the other side's call is computed on copies; then one of them calls.
                    let [mut from, mut to] = order.map(|side| sides[side].clone());
                    assert!(call(&mut from, &mut to), "{:?} {:?}", roots(&sides[0]), roots(&sides[1]));
                }
                let [one, two] = &mut sides;
                let called = if random.random() { call(one, two) } else { call(two, one) };
                assert!(called);
                since_call = 0;
                continue;
            }
            (number, since_call) = (number + 1, since_call + 1);
            let shows = usize::from(random.random::<bool>());
            let lost = [Lost::Answer, Lost::Stored, Lost::Nothing][random.random_range(0..3)];
            sides[shows].paired_again(other_pairing(number), false);
            if !matches!(lost, Lost::Answer) {
                sides[1 - shows].paired_again(other_pairing(number), true);
            }
            if matches!(lost, Lost::Nothing) {
                sides[shows].confirm(other_pairing(number).id());
            }
        }
    }
}

#[test]
fn a_contact_prints_neither_name_nor_secret() {
    let printed = format!("{:?} {:?}", contact(Role::A), contact(Role::A).id());
    assert!(!printed.contains("Ada") && !printed.contains("[2, 2"), "{printed}");
}
