//! A contact: whom this profile has paired with, and what both derive from their pairing.
//!
//! Owns the derivation of inboxes, of their access tokens and of the sealing secret. An inbox is the other side's inbox
//! root key, blinded for one day: both compute it, and only its owner signs for it.

use std::{fmt, time::Duration};

use chappe_common::{
    blinding::{BlindedKey, BlindingFactor},
    keys::{PublicKey, SecretKey, Signer as _},
    lease::{AccessToken, Address, Inbox},
    place::NodePlace,
    printable::is_printable,
    redacted::Redacted,
    time::UnixTime,
};
use hkdf::Hkdf;
use sha2::Sha256;
use unicode_normalization::UnicodeNormalization as _;
use unicode_security::skeleton;
use zeroize::Zeroizing;

/// How many inboxes of one pairing can be attached at a time: around midnight those of two days.
pub const DAYS_ATTACHED: usize = 2;
/// The most contacts of one profile: their inboxes fit a session around midnight too, with 56 pairings that are not
/// confirmed yet.
pub const MAX_CONTACTS: usize = 200;
/// The most pairings with one contact: the last one that both have used, and others that the contact may or may not have
/// stored. As long as fewer are made between two calls, one of them is on both sides.
pub const MAX_PAIRINGS: usize = 6;
/// The longest name of a contact in bytes.
pub const MAX_NAME: usize = 64;
/// How long before and after its day an inbox is attached at least: as far as the clocks of caller and callee may differ.
pub const DAY_MARGIN: Duration = Duration::from_secs(3600);

/// Which of the two a side was at the pairing. It tells the two directions apart for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Asked to pair: typed the code in.
    A,
    /// Showed the code.
    B,
}

impl Role {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The letter that stands for it in derivations.
    pub const fn letter(self) -> u8 {
        match self {
            Self::A => b'a',
            Self::B => b'b',
        }
    }
}

/// A contact's identity key, as the name under which the library knows the contact.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContactId([u8; 32]);

impl ContactId {
    /// The contact with this identity key.
    pub const fn new(identity: [u8; 32]) -> Self {
        Self(identity)
    }

    /// The identity key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ContactId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContactId([redacted])")
    }
}

/// A whole day, UTC, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(u32);

impl Day {
    /// A day's length in seconds; leap seconds are not counted, as in Unix time.
    pub const SECONDS: u64 = 24 * 3600;

    /// The day of that number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The day that `now` is in.
    pub fn of(now: UnixTime) -> Self {
        Self(u32::try_from(now.as_secs() / Self::SECONDS).unwrap_or(u32::MAX))
    }

    /// The day before.
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The day after.
    pub const fn after(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// When it begins.
    pub const fn start(self) -> UnixTime {
        UnixTime::from_secs(self.0 as u64 * Self::SECONDS)
    }
}

/// What both sides of a pairing hold and nobody else.
#[derive(Clone)]
pub struct PairingSecret(Zeroizing<[u8; 32]>);

impl PairingSecret {
    /// A secret from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for a file that only its owner reads.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What blinds the inbox root key `root` of `owner` for `day`: the factor of
    /// `"chappe/inbox/v2\0" ‖ HKDF-SHA256(ikm = secret, no salt, info = "chappe/inbox-blinding/v1\0") ‖ letter ‖ root ‖ day`,
    /// the day as u32 big endian.
    fn inbox_blinding(&self, owner: Role, root: &PublicKey, day: Day) -> BlindingFactor {
        let mut context = Zeroizing::new([0; 16 + 32 + 1 + 32 + 4]);
        context[..16].copy_from_slice(b"chappe/inbox/v2\0");
        context[16..48].copy_from_slice(self.expand(b"chappe/inbox-blinding/v1\0").as_slice());
        context[48] = owner.letter();
        context[49..81].copy_from_slice(root.as_bytes());
        context[81..].copy_from_slice(&day.0.to_be_bytes());
        BlindingFactor::new(context.as_slice())
    }

    /// The token of the inbox of `owner` on `day`: the first 16 bytes of
    /// `HKDF-SHA256(ikm = secret, no salt, info = "chappe/inbox-access/v1\0" ‖ letter ‖ day as u32 big endian)`.
    fn access_token(&self, owner: Role, day: Day) -> AccessToken {
        let mut info = Vec::with_capacity(28);
        info.extend_from_slice(b"chappe/inbox-access/v1\0");
        info.push(owner.letter());
        info.extend_from_slice(&day.0.to_be_bytes());
        AccessToken::from_bytes(*self.expand(&info).first_chunk().expect("32 bytes are more than 16"))
    }

    /// What A sends B once it has stored the pairing: `HKDF-SHA256(ikm = secret, no salt, info = "chappe/pair-stored/v1\0")`.
    pub(crate) fn stored_tag(&self) -> Zeroizing<[u8; 32]> {
        self.expand(b"chappe/pair-stored/v1\0")
    }

    /// The secret that sealing mixes in (the PSK of HPKE).
    pub fn sealing_secret(&self) -> Zeroizing<[u8; 32]> {
        self.expand(b"chappe/seal-psk/v1\0")
    }

    fn expand(&self, info: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut out = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, self.0.as_slice())
            .expand(info, out.as_mut_slice())
            .expect("32 bytes are within HKDF's bound");
        out
    }
}

impl fmt::Debug for PairingSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairingSecret([redacted])")
    }
}

/// An inbox of this side: its signing key, and what its contact has to show.
#[derive(Debug)]
pub struct OwnInbox {
    /// Signs leases and the proofs that attach them.
    pub key: BlindedKey,
    /// The token.
    pub token: AccessToken,
}

impl OwnInbox {
    /// The inbox.
    pub fn inbox(&self) -> Inbox {
        Inbox::new(self.key.public())
    }
}

/// Tells the pairings with one contact apart: this side's inbox root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PairingId(PublicKey);

/// What one pairing gave this side.
#[derive(Clone)]
pub struct Pairing {
    role: Role,
    secret: PairingSecret,
    own_root: SecretKey,
    peer_root: PublicKey,
}

impl Pairing {
    /// A pairing as the two sides have made it, or as a profile's file has it. `role` is this side's own, `own_root` its
    /// inbox root key, made for this pairing, and `peer_root` the other side's. `None` if that one can't be blinded.
    pub fn new(role: Role, secret: PairingSecret, own_root: SecretKey, peer_root: PublicKey) -> Option<Self> {
        let pairing = Self { role, secret, own_root, peer_root };
        pairing.peer_inbox(Day::new(0)).map(|_| pairing)
    }

    /// The name of this pairing among those with the same contact.
    pub fn id(&self) -> PairingId {
        PairingId(self.own_root.public())
    }

    /// This side's role.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The secret.
    pub const fn secret(&self) -> &PairingSecret {
        &self.secret
    }

    /// This side's inbox root key.
    pub const fn own_root(&self) -> &SecretKey {
        &self.own_root
    }

    /// The other side's inbox root key.
    pub const fn peer_root(&self) -> &PublicKey {
        &self.peer_root
    }

    /// The inbox at which this side listens on `day`.
    pub fn own_inbox(&self, day: Day) -> OwnInbox {
        let factor = self.secret.inbox_blinding(self.role, &self.own_root.public(), day);
        OwnInbox { key: self.own_root.blind(&factor), token: self.secret.access_token(self.role, day) }
    }

    /// Where the other side listens at `now`.
    pub fn peer_address(&self, now: UnixTime) -> Address {
        let day = Day::of(now);
        let inbox = self.peer_inbox(day).expect("a root key that can't be blinded is refused when a pairing is made");
        Address { inbox, token: self.secret.access_token(self.role.other(), day) }
    }

    fn peer_inbox(&self, day: Day) -> Option<Inbox> {
        let factor = self.secret.inbox_blinding(self.role.other(), &self.peer_root, day);
        self.peer_root.blind(&factor).map(Inbox::new)
    }
}

impl fmt::Debug for Pairing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pairing").field("role", &self.role).finish_non_exhaustive()
    }
}

/// Whom this profile has paired with.
#[derive(Clone, Debug)]
pub struct Contact {
    name: Redacted<String>,
    identity: [u8; 32],
    /// Never empty, the oldest first. The first is the last one that both have used, where there is one; those after
    /// `in_use` may not be stored on the other side.
    pairings: Vec<Pairing>,
    in_use: usize,
    /// Whether the contact is known to have the pairing in use.
    is_proved: bool,
    blocked: bool,
    nodes: Vec<NodePlace>,
}

impl Contact {
    /// A contact as a pairing has made it. Characters that would break a line or a terminal are left out of the name,
    /// which the other side chose.
    pub fn new(name: &str, identity: [u8; 32], pairing: Pairing) -> Self {
        Self {
            name: Redacted::new(clean_name(name)),
            identity,
            pairings: vec![pairing],
            in_use: 0,
            is_proved: false,
            blocked: false,
            nodes: Vec::new(),
        }
    }

    /// A contact as a profile's file has it: `in_use` is the pairing by which it is called first, and `is_proved` whether
    /// the contact is known to have it. `None` if there is no such pairing, or there are more than [`MAX_PAIRINGS`].
    pub(crate) fn restore(
        name: &str,
        identity: [u8; 32],
        pairings: Vec<Pairing>,
        (in_use, is_proved): (usize, bool),
    ) -> Option<Self> {
        let is_valid = in_use < pairings.len() && pairings.len() <= MAX_PAIRINGS;
        let name = Redacted::new(clean_name(name));
        is_valid.then_some(Self { name, identity, pairings, in_use, is_proved, blocked: false, nodes: Vec::new() })
    }

    /// The name for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same contact under another name.
    #[must_use]
    pub fn renamed(mut self, name: &str) -> Self {
        self.name = Redacted::new(clean_name(name));
        self
    }

    /// The same contact with the nodes that it has passed on last.
    #[must_use]
    pub fn with_nodes(mut self, nodes: Vec<NodePlace>) -> Self {
        self.nodes = nodes;
        self
    }

    /// The same contact, blocked or not: a blocked one finds nobody at this side's inboxes.
    #[must_use]
    pub const fn blocked(mut self, blocked: bool) -> Self {
        self.blocked = blocked;
        self
    }

    /// Whether it is blocked.
    pub const fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Nodes that the contact uses, as it said in the last call; three at most.
    pub fn nodes(&self) -> &[NodePlace] {
        &self.nodes
    }

    /// The name for the library.
    pub const fn id(&self) -> ContactId {
        ContactId(self.identity)
    }

    /// The other side's X25519 identity key.
    pub const fn identity(&self) -> &[u8; 32] {
        &self.identity
    }

    /// The pairing by which this side calls first.
    pub fn pairing(&self) -> &Pairing {
        &self.pairings[self.in_use]
    }

    /// The pairing to call by where nobody was found by that one: the next of all, and after the last the first.
    pub(crate) fn pairing_after(&self, id: PairingId) -> &Pairing {
        let at = self.pairings.iter().position(|pairing| pairing.id() == id).unwrap_or(self.in_use);
        &self.pairings[(at + 1) % self.pairings.len()]
    }

    /// All pairings by which the contact may call, the oldest first.
    pub fn pairings(&self) -> &[Pairing] {
        &self.pairings
    }

    /// Which of the pairings is in use, and whether the contact is known to have it.
    pub(crate) const fn in_use(&self) -> (usize, bool) {
        (self.in_use, self.is_proved)
    }

    /// Whether the contact is known to have stored the newest pairing.
    pub fn is_confirmed(&self) -> bool {
        self.is_proved && self.in_use + 1 == self.pairings.len()
    }

    /// The same contact, which is known to have stored its one pairing, or not.
    #[must_use]
    pub(crate) const fn stored(mut self, stored: bool) -> Self {
        self.is_proved = stored;
        self
    }

    /// The two have paired again. `stored`: the contact is known to have stored the new pairing, which is then used at
    /// once. If not, the former one is, where the contact is known to have that, until it shows that it has the new one.
    /// The contact can call by any of them.
    pub(crate) fn paired_again(&mut self, pairing: Pairing, stored: bool) {
        self.pairings.push(pairing);
        if stored || !self.is_proved {
            (self.in_use, self.is_proved) = (self.pairings.len() - 1, stored);
        }
        if self.pairings.len() > MAX_PAIRINGS {
            // The first stays: it is the last one that both sides are known to have.
            let given_up = if self.in_use == 1 { 2 } else { 1 };
            self.pairings.remove(given_up);
            self.in_use -= usize::from(given_up < self.in_use);
        }
    }

    /// The contact has used or confirmed this pairing: it has stored it, and calls by no older one any more. Says whether
    /// anything has changed.
    pub(crate) fn confirm(&mut self, id: PairingId) -> bool {
        let Some(index) = self.pairings.iter().position(|pairing| pairing.id() == id) else { return false };
        if index < self.in_use || (index == 0 && self.is_proved) {
            return false;
        }
        self.pairings.drain(..index);
        (self.in_use, self.is_proved) = (0, true);
        true
    }
}

/// A name that shows as what it is: composed (NFC), of printable characters, with single spaces, and of at most
/// [`MAX_NAME`] bytes.
pub(crate) fn clean_name(name: &str) -> String {
    let shown = name.nfc().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(|c| is_printable(*c));
    let mut clean = Zeroizing::new(String::new());
    for c in shown {
        let doubles_a_space = c == ' ' && (clean.is_empty() || clean.ends_with(' '));
        if !doubles_a_space && clean.len() + c.len_utf8() <= MAX_NAME {
            clean.push(c);
        }
    }
    clean.trim_end().to_owned()
}

/// Whether two names look the same to a person, or differ in upper and lower case alone: by the skeletons of Unicode
/// Technical Standard 39.
fn look_the_same(a: &str, b: &str) -> bool {
    let lower = |name: &str| skeleton(name).collect::<String>().to_lowercase();
    let look = |name: &str| skeleton(&lower(name)).filter(|c| *c != ' ').collect::<String>();
    look(a) == look(b)
}

/// `wanted`, or with a number behind it where one of `taken` looks the same.
pub(crate) fn told_apart(wanted: &str, taken: &[Contact]) -> String {
    let clean = clean_name(wanted);
    let wanted = if clean.is_empty() { "contact" } else { &clean };
    let numbered = (2..).map(|n| {
        let number = format!(" {n}");
        let end = wanted.floor_char_boundary(MAX_NAME - number.len());
        format!("{}{number}", wanted[..end].trim_end())
    });
    let is_free = |name: &String| taken.iter().all(|known| !look_the_same(known.name(), name));
    std::iter::once(wanted.to_owned()).chain(numbered).find(is_free).expect("some number is free")
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &str = include_str!("../../docs/protocol/vectors/inbox.json");

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
        let inboxes =
            [(Role::A, 20_000), (Role::A, 20_001), (Role::B, 20_000), (Role::B, 20_001)].map(|(owner, day)| {
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
        // The side that knows that the other has stored it uses it at once, and can still be called by the former one.
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

    /// One side calls the other by each of its pairings, until one is the other's too; both learn of it.
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
    fn whatever_is_lost_of_up_to_five_pairings_between_two_calls_each_can_call_the_other() {
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
                        // What the other would come to is looked at on copies; then one of them calls.
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

    #[test]
    fn a_name_from_the_other_side_cannot_break_a_line() {
        assert_eq!(clean_name(" Ada\x1b[31m "), "Ada[31m");
        assert_eq!(clean_name("Ada\nLovelace\u{2028}\u{3000}  x"), "Ada Lovelace x");
        assert_eq!(clean_name("\u{202e}eci\u{2066}lA\u{200b}\u{feff}\u{3164}\u{2800}"), "ecilA");
        assert_eq!(clean_name("Zoe\u{308}"), "Zo\u{eb}");
        assert_eq!(clean_name("мир 东京"), "мир 东京");
        assert_eq!(clean_name(&"é".repeat(40)).len(), MAX_NAME);
    }

    #[test]
    fn a_second_name_that_looks_like_the_first_gets_a_number() {
        let named = |name: &str| Contact::new(name, [1; 32], pairing(Role::A, 2));
        for (first, second) in [
            ("Bob", "Bob"),
            ("Bob", "B\u{200b}o\u{202e}b\u{2069}"),
            ("Bob", "Bоb"),
            ("Bob", "bob"),
            ("Bob", "𝐁𝐨𝐛"),
            ("paypal", "раураl"),
            ("Ill", "lIl"),
            ("Ann Lee", "AnnLee"),
            ("Zoë", "Zoe\u{308}"),
            ("contact", "\u{200b}"),
        ] {
            let told = told_apart(second, &[named(first)]);
            assert!(told.ends_with(" 2"), "{first} and {second:?} become {told:?}");
        }
        for (first, second) in [("Bob", "Rob"), ("Ада", "Ева"), ("王", "玉")] {
            assert_eq!(told_apart(second, &[named(first)]), second);
        }
        let long = "x".repeat(MAX_NAME);
        assert_eq!(told_apart(&long, &[named(&long)]), format!("{} 2", "x".repeat(MAX_NAME - 2)));
    }
}
