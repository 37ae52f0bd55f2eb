//! A contact: whom this profile has paired with, and what both derive from their pairing.
//!
//! Owns the derivation of inboxes, of their access tokens and of the sealing secret. An inbox is the other side's inbox
//! root key, blinded for one day: both compute it, and only its owner signs for it.

use std::{fmt, time::Duration};

use chappe_common::{
    blinding::{BlindedKey, BlindingFactor},
    endpoint::NodeEndpoint,
    keys::{PublicKey, SecretKey, Signer as _},
    lease::{AccessToken, Address, Inbox},
    redacted::Redacted,
    time::UnixTime,
};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::contact_name::clean_name;

/// How many inboxes of one pairing can be attached at a time: around midnight those of two days.
pub const DAYS_ATTACHED: usize = 2;
/// The most contacts of one profile: their inboxes fit a session around midnight too, with 56 pairings that are not
/// confirmed yet.
pub const MAX_CONTACTS: usize = 200;
/// The most pairings with one contact: the last one that both have used, and others that the contact may or may not have
/// stored. As long as fewer are made between two calls, one of them is on both sides.
pub const MAX_PAIRINGS: usize = 6;
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
    nodes: Vec<NodeEndpoint>,
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
    pub fn with_nodes(mut self, nodes: Vec<NodeEndpoint>) -> Self {
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
    pub fn nodes(&self) -> &[NodeEndpoint] {
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

    /// Whether [`Self::confirm`] would change anything.
    pub(crate) fn would_confirm(&self, id: PairingId) -> bool {
        self.confirmed_index(id).is_some()
    }

    /// Records that the contact has stored this pairing, since it has used or confirmed it, and drops the older ones, by
    /// which it no longer calls. Returns whether anything has changed.
    pub(crate) fn confirm(&mut self, id: PairingId) -> bool {
        let Some(index) = self.confirmed_index(id) else { return false };
        self.pairings.drain(..index);
        (self.in_use, self.is_proved) = (0, true);
        true
    }

    fn confirmed_index(&self, id: PairingId) -> Option<usize> {
        let index = self.pairings.iter().position(|pairing| pairing.id() == id)?;
        let is_known = index < self.in_use || (index == 0 && self.is_proved);
        (!is_known).then_some(index)
    }
}

#[cfg(test)]
mod tests;
