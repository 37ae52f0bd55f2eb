//! A contact: whom this profile has paired with, and what both derive from the secret of their pairing.
//!
//! Owns the derivation of inboxes and of the sealing secret. The callee attaches the inboxes of yesterday, today and
//! tomorrow; the caller sends to today's. That covers clocks that differ by up to a day, and a lease fails long before
//! that, so a caller never tries another day.

use std::fmt;

use chappe_common::{keys::SecretKey, lease::Inbox, place::NodePlace, redacted::Redacted, time::UnixTime};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

/// How many inboxes of one contact are attached at a time.
pub const DAYS_ATTACHED: usize = 3;
/// The most contacts of one profile: a session attaches at most 256 inboxes.
pub const MAX_CONTACTS: usize = chappe_common::client::MAX_INBOXES / DAYS_ATTACHED;
/// The longest name of a contact in bytes.
pub const MAX_NAME: usize = 64;

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

    /// The days whose inboxes a callee has attached: the one before, this one, the next.
    pub const fn attached(self) -> [Self; DAYS_ATTACHED] {
        [Self(self.0.saturating_sub(1)), self, Self(self.0.saturating_add(1))]
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

    /// The key of the inbox at which `owner` is reached on `day`:
    /// `HKDF-SHA256(ikm = secret, no salt, info = "chappe/inbox/v1\0" ‖ letter ‖ day as u32 big endian)` is its seed.
    pub fn inbox_key(&self, owner: Role, day: Day) -> SecretKey {
        let mut info = Vec::with_capacity(21);
        info.extend_from_slice(b"chappe/inbox/v1\0");
        info.push(owner.letter());
        info.extend_from_slice(&day.0.to_be_bytes());
        SecretKey::from_bytes(&self.expand(&info))
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

/// Whom this profile has paired with.
#[derive(Clone, Debug)]
pub struct Contact {
    name: Redacted<String>,
    identity: [u8; 32],
    role: Role,
    secret: PairingSecret,
    nodes: Vec<NodePlace>,
}

impl Contact {
    /// A contact as a pairing or a profile's file has it; `role` is this side's own. Characters that would break a line
    /// or a terminal are left out of the name, which the other side chose.
    pub fn new(name: &str, identity: [u8; 32], role: Role, secret: PairingSecret) -> Self {
        Self { name: Redacted::new(clean_name(name)), identity, role, secret, nodes: Vec::new() }
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

    /// This side's role at the pairing.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The secret of the pairing.
    pub const fn secret(&self) -> &PairingSecret {
        &self.secret
    }

    /// The keys of the inboxes at which this side listens for the contact at `now`.
    pub fn own_inbox_keys(&self, now: UnixTime) -> [SecretKey; DAYS_ATTACHED] {
        Day::of(now).attached().map(|day| self.secret.inbox_key(self.role, day))
    }

    /// The inbox at which the contact listens for this side at `now`.
    pub fn peer_inbox(&self, now: UnixTime) -> Inbox {
        Inbox::new(self.secret.inbox_key(self.role.other(), Day::of(now)).public())
    }
}

/// A name without control characters and of at most [`MAX_NAME`] bytes.
pub(crate) fn clean_name(name: &str) -> String {
    let mut clean: String = name.chars().filter(|c| !c.is_control()).collect();
    while clean.len() > MAX_NAME {
        clean.pop();
    }
    let trimmed = clean.trim().to_owned();
    clean.zeroize();
    trimmed
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &str = include_str!("../../docs/protocol/vectors/inbox.json");

    fn contact(role: Role) -> Contact {
        Contact::new("Ada", [1; 32], role, PairingSecret::from_bytes([2; 32]))
    }

    #[test]
    fn inboxes_are_those_of_the_vectors() {
        let vectors: serde_json::Value = serde_json::from_str(VECTORS).expect("the vectors are JSON");
        let secret = hex::decode(vectors["pairingSecret"].as_str().expect("a text")).expect("hexadecimal");
        let secret = PairingSecret::from_bytes(secret.try_into().expect("32 bytes"));
        assert_eq!(hex::encode(*secret.sealing_secret()), vectors["sealingSecret"]);
        let inboxes = vectors["inboxes"].as_array().expect("a list");
        assert_eq!(inboxes.len(), 4);
        for vector in inboxes {
            let owner = if vector["owner"] == "a" { Role::A } else { Role::B };
            let day = Day(vector["day"].as_u64().expect("a number").try_into().expect("a day"));
            let key = secret.inbox_key(owner, day);
            assert_eq!(hex::encode(*key.to_bytes()), vector["seed"]);
            assert_eq!(Inbox::new(key.public()).to_base64url(), vector["inbox"]);
        }
    }

    #[test]
    fn the_caller_s_inbox_is_one_that_the_callee_attaches_and_never_its_own() {
        let now = UnixTime::from_secs(20_000 * Day::SECONDS + 5);
        let own = |contact: &Contact, now| contact.own_inbox_keys(now).map(|key| Inbox::new(key.public()));
        let (a, b) = (contact(Role::A), contact(Role::B));
        let day = std::time::Duration::from_secs(Day::SECONDS);
        for callee_now in [UnixTime::from_secs(now.as_secs() - Day::SECONDS), now, now + day] {
            assert!(own(&b, callee_now).contains(&a.peer_inbox(now)));
        }
        assert!(!own(&b, now + day + day).contains(&a.peer_inbox(now)));
        assert!(!own(&a, now).contains(&a.peer_inbox(now)), "the two directions have different inboxes");
        assert_ne!(a.peer_inbox(now), a.peer_inbox(now + day), "and so have two days");
    }

    #[test]
    fn a_contact_prints_neither_name_nor_secret() {
        let printed = format!("{:?} {:?}", contact(Role::A), contact(Role::A).id());
        assert!(!printed.contains("Ada") && !printed.contains("[2, 2"), "{printed}");
    }

    #[test]
    fn a_name_from_the_other_side_cannot_break_a_line() {
        assert_eq!(clean_name(" Ada\n\x1b[31m "), "Ada[31m");
        assert_eq!(clean_name(&"é".repeat(40)).len(), MAX_NAME);
    }
}
