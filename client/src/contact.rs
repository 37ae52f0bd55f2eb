//! A contact: a person whom this profile has paired with, and the keys that both sides derive from their pairing.
//!
//! Owns the derivation of inboxes, access tokens and the sealing secret. An inbox is the owner's inbox root key,
//! blinded for one day. Both sides can compute it, but only its owner can sign for it.

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

/// The most inboxes of one pairing that are attached at a time: those of two days around midnight.
pub const DAYS_ATTACHED: usize = 2;
/// The most contacts of one profile. Around midnight, a session can hold their inboxes and those of 56 pairings that
/// are not confirmed yet.
pub const MAX_CONTACTS: usize = 200;
/// The most pairings with one contact: the last one that both have used, and later ones that the contact may not have
/// stored. With fewer than this between two calls, both sides share one.
pub const MAX_PAIRINGS: usize = 6;
/// The shortest time that an inbox is attached before and after its day. It is the largest supported difference
/// between the clocks of caller and callee.
pub const DAY_MARGIN: Duration = Duration::from_secs(3600);

/// The role of a side in the pairing. It tells the two directions apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Typed the code.
    A,
    /// Showed the code.
    B,
}

impl Role {
    /// The other role.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// The letter of the role in derivations.
    pub const fn letter(self) -> u8 {
        match self {
            Self::A => b'a',
            Self::B => b'b',
        }
    }
}

/// Identifies a contact: its identity key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContactId([u8; 32]);

impl ContactId {
    /// The id of the contact with this identity key.
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

/// A day in UTC, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(u32);

impl Day {
    /// Length of a day in seconds. Leap seconds are not counted, as in Unix time.
    pub const SECONDS: u64 = 24 * 3600;

    /// The day with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The day of `now`.
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

    /// The start of the day.
    pub const fn start(self) -> UnixTime {
        UnixTime::from_secs(self.0 as u64 * Self::SECONDS)
    }
}

/// The secret that only the two sides of a pairing have.
#[derive(Clone)]
pub struct PairingSecret(Zeroizing<[u8; 32]>);

impl PairingSecret {
    /// The secret from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, to be stored in a file that only its owner can read.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The factor that blinds the inbox root key `root` of `owner` for `day`, made from the context
    /// `"chappe/inbox/v2\0" ‖ HKDF-SHA256(ikm = secret, no salt, info = "chappe/inbox-blinding/v1\0") ‖ letter ‖ root
    /// ‖ day`, with the day as u32, big endian.
    fn inbox_blinding(&self, owner: Role, root: &PublicKey, day: Day) -> BlindingFactor {
        let mut context = Zeroizing::new([0; 16 + 32 + 1 + 32 + 4]);
        context[..16].copy_from_slice(b"chappe/inbox/v2\0");
        context[16..48].copy_from_slice(self.expand(b"chappe/inbox-blinding/v1\0").as_slice());
        context[48] = owner.letter();
        context[49..81].copy_from_slice(root.as_bytes());
        context[81..].copy_from_slice(&day.0.to_be_bytes());
        BlindingFactor::new(context.as_slice())
    }

    /// The access token of the inbox of `owner` on `day`: the first 16 bytes of `HKDF-SHA256(ikm = secret, no salt,
    /// info = "chappe/inbox-access/v1\0" ‖ letter ‖ day as u32, big endian)`.
    fn access_token(&self, owner: Role, day: Day) -> AccessToken {
        let mut info = Vec::with_capacity(28);
        info.extend_from_slice(b"chappe/inbox-access/v1\0");
        info.push(owner.letter());
        info.extend_from_slice(&day.0.to_be_bytes());
        AccessToken::from_bytes(*self.expand(&info).first_chunk().expect("32 bytes are more than 16"))
    }

    /// The tag that A sends B once it has stored the pairing: `HKDF-SHA256(ikm = secret, no salt, info =
    /// "chappe/pair-stored/v1\0")`.
    pub(crate) fn stored_tag(&self) -> Zeroizing<[u8; 32]> {
        self.expand(b"chappe/pair-stored/v1\0")
    }

    /// The secret for sealing messages (the PSK of HPKE).
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

/// An inbox of this side: its signing key and its access token.
#[derive(Debug)]
pub struct OwnInbox {
    /// Signs leases and the proofs that attach them.
    pub key: BlindedKey,
    /// The token that the contact has to show.
    pub token: AccessToken,
}

impl OwnInbox {
    /// The inbox.
    pub fn inbox(&self) -> Inbox {
        Inbox::new(self.key.public())
    }
}

/// Identifies one of the pairings with a contact, by this side's inbox root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PairingId(PublicKey);

/// One pairing, as this side stores it.
#[derive(Clone)]
pub struct Pairing {
    role: Role,
    secret: PairingSecret,
    own_root: SecretKey,
    peer_root: PublicKey,
}

impl Pairing {
    /// Creates a pairing, new or from a profile's file. `role` is this side's role, `own_root` its inbox root key,
    /// made for this pairing. Returns `None` if `peer_root`, the other side's, cannot be blinded.
    pub fn new(role: Role, secret: PairingSecret, own_root: SecretKey, peer_root: PublicKey) -> Option<Self> {
        let pairing = Self { role, secret, own_root, peer_root };
        pairing.peer_inbox(Day::new(0)).map(|_| pairing)
    }

    /// Identifies this pairing among those with the same contact.
    pub fn id(&self) -> PairingId {
        PairingId(self.own_root.public())
    }

    /// This side's role.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The pairing secret.
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

    /// This side's inbox on `day`.
    pub fn own_inbox(&self, day: Day) -> OwnInbox {
        let factor = self.secret.inbox_blinding(self.role, &self.own_root.public(), day);
        OwnInbox { key: self.own_root.blind(&factor), token: self.secret.access_token(self.role, day) }
    }

    /// The other side's address at `now`.
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

/// A person whom this profile has paired with.
#[derive(Clone, Debug)]
pub struct Contact {
    name: Redacted<String>,
    identity: [u8; 32],
    /// Never empty, the oldest first. The first is the last one that both sides have used, if there is one. The
    /// contact may not have stored those after `in_use`.
    pairings: Vec<Pairing>,
    in_use: usize,
    /// Whether the contact is known to have stored the pairing in use.
    is_proved: bool,
    blocked: bool,
    nodes: Vec<NodeEndpoint>,
}

impl Contact {
    /// Creates a contact after its first pairing. The other side chose the name: characters that would break a line or
    /// control a terminal are removed.
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

    /// Creates a contact from a profile's file. `in_use` is the pairing that this side calls by, and `is_proved`
    /// whether the contact is known to have stored it. Returns `None` if there is no such pairing, or more than
    /// [`MAX_PAIRINGS`].
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

    /// The name that people see.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same contact under another name.
    #[must_use]
    pub fn renamed(mut self, name: &str) -> Self {
        self.name = Redacted::new(clean_name(name));
        self
    }

    /// The same contact with these nodes, which replace the earlier ones.
    #[must_use]
    pub fn with_nodes(mut self, nodes: Vec<NodeEndpoint>) -> Self {
        self.nodes = nodes;
        self
    }

    /// The same contact, blocked or not. To a blocked contact, this side appears offline.
    #[must_use]
    pub const fn blocked(mut self, blocked: bool) -> Self {
        self.blocked = blocked;
        self
    }

    /// Whether the contact is blocked.
    pub const fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Nodes that the contact has shared in the last call; three at most.
    pub fn nodes(&self) -> &[NodeEndpoint] {
        &self.nodes
    }

    /// The contact's id.
    pub const fn id(&self) -> ContactId {
        ContactId(self.identity)
    }

    /// The other side's X25519 identity key.
    pub const fn identity(&self) -> &[u8; 32] {
        &self.identity
    }

    /// The pairing in use: this side calls by it first.
    pub fn pairing(&self) -> &Pairing {
        &self.pairings[self.in_use]
    }

    /// The pairing to try after this one has failed. After the last one, the first follows.
    pub(crate) fn pairing_after(&self, id: PairingId) -> &Pairing {
        let at = self.pairings.iter().position(|pairing| pairing.id() == id).unwrap_or(self.in_use);
        &self.pairings[(at + 1) % self.pairings.len()]
    }

    /// All pairings by which the contact may call, the oldest first.
    pub fn pairings(&self) -> &[Pairing] {
        &self.pairings
    }

    /// The index of the pairing in use, and whether the contact is known to have stored it.
    pub(crate) const fn in_use(&self) -> (usize, bool) {
        (self.in_use, self.is_proved)
    }

    /// Whether the contact is known to have stored the newest pairing.
    pub fn is_confirmed(&self) -> bool {
        self.is_proved && self.in_use + 1 == self.pairings.len()
    }

    /// The same contact, with whether it is known to have stored its one pairing.
    #[must_use]
    pub(crate) const fn stored(mut self, stored: bool) -> Self {
        self.is_proved = stored;
        self
    }

    /// Adds a newer pairing; the contact can call by any. If it has `stored` the new one, that one is used at once.
    /// Otherwise the old one stays in use until the contact confirms the new one, if the contact is known to have the
    /// old one.
    pub(crate) fn paired_again(&mut self, pairing: Pairing, stored: bool) {
        self.pairings.push(pairing);
        if stored || !self.is_proved {
            (self.in_use, self.is_proved) = (self.pairings.len() - 1, stored);
        }
        if self.pairings.len() > MAX_PAIRINGS {
            // The first one stays: it is the last that both sides are known to have.
            let given_up = if self.in_use == 1 { 2 } else { 1 };
            self.pairings.remove(given_up);
            self.in_use -= usize::from(given_up < self.in_use);
        }
    }

    /// Whether [`Self::confirm`] would change anything.
    pub(crate) fn would_confirm(&self, id: PairingId) -> bool {
        self.confirmed_index(id).is_some()
    }

    /// Records that the contact has stored this pairing, and drops the older ones: the contact no longer calls by
    /// them. Returns whether anything has changed.
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
