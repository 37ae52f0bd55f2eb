//! The leases of one session: which inboxes it attaches, when each lease is renewed, and the keys that callers seal
//! to.
//!
//! Pure: takes the time and a random source as arguments. A home must not be able to link two inboxes of a client. So
//! each lease has its own random session key, `seq`, expiry and renewal time.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use chappe_common::{
    keys::{NodeId, SIGNATURE_LEN},
    lease::{Inbox, Lease, SignedLease, prove_attach},
    signed::Signed,
    time::UnixTime,
};
use rand::{CryptoRng, Rng, RngExt as _};

use crate::{
    contact::{Contact, ContactId, DAY_MARGIN, Day, OwnInbox, Pairing, PairingId},
    sealing_key::SealingKey,
};

/// The random lifetime of a lease. Short, because a node that hides the end of a session can mislead callers for that
/// long.
const LEASE: std::ops::Range<Duration> = Duration::from_secs(900)..Duration::from_secs(1200);
/// The longest time to the renewal of a lease. Homes receive it up to two and a half minutes later, and the clocks of
/// homes and callers may be ahead by four.
const LONGEST_RENEWAL: Duration = Duration::from_secs(300);
/// How far a `seq` is behind the clock at most.
const SEQ_JITTER_MS: u64 = 30_000;
/// How far a `seq` is ahead of its predecessor, if the clock has not passed that one.
const SEQ_STEP: std::ops::Range<u64> = 1..1000;
/// The random time added to [`DAY_MARGIN`] before an inbox's day and after it. Without it, all clients would attach at
/// the same moment of the day, and one client's inboxes could be linked by time.
const DAY_JITTER: Duration = Duration::from_secs(3600);
/// The pause before a rejected inbox is retried, and the random time added to it. Rate limits are per minute, and
/// clients rejected together must not return together.
const ATTACH_AGAIN: Duration = Duration::from_secs(60);
const ATTACH_AGAIN_JITTER: Duration = Duration::from_secs(15);
/// The shortest time to a renewal, whatever `ttl` the node sends.
const SHORTEST_RENEWAL: Duration = Duration::from_secs(5);
/// Renewals due within this time are sent together, because the node counts messages and sees all of them anyway. Less
/// than half of [`SHORTEST_RENEWAL`], so that an inbox that was just attached is not due.
const TOGETHER: Duration = Duration::from_secs(2);
const _: () = assert!(2 * TOGETHER.as_secs() < SHORTEST_RENEWAL.as_secs());
/// How often an outdated lease is retried at once. Otherwise two devices with one profile would outbid each other
/// forever.
const MAX_OUTBIDS: u32 = 3;
/// How far ahead of this clock a lease may be that is outbid. A node that could make the client sign leases for a
/// later time could take the inbox back with one of them.
const MAX_AHEAD_MS: u64 = 5_000;
/// The most session keys of one inbox. A lease is renewed a few times before it expires.
const MAX_KEYS: usize = 8;

/// Identifies an inbox: a pairing and a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlotId {
    pairing: PairingId,
    day: Day,
}

impl SlotId {
    /// Whether the day is yesterday, today or tomorrow.
    pub(crate) fn is_near(&self, unix: UnixTime) -> bool {
        days_around(unix).contains(&self.day)
    }
}

#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) slot: SlotId,
    /// The inbox is attached in this session already.
    pub(crate) is_renewal: bool,
    pub(crate) lease: SignedLease,
    pub(crate) proof: [u8; SIGNATURE_LEN],
}

/// Why the node did not attach a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// It knows a newer lease of the inbox, with this `seq`.
    Outdated(u64),
    /// The lease is not valid for it, mostly because one of the two clocks is wrong.
    Invalid,
    /// It has no capacity now, or a rate limit applies. A retry may succeed.
    Busy,
    /// It cannot attach it for another reason: no home of the inbox responds, or the homes accept no more.
    Unavailable,
}

/// A key that callers may seal to until its lease expires.
struct SessionKey {
    key: SealingKey,
    until: UnixTime,
}

struct Slot {
    owner: ContactId,
    /// When to attach and detach the inbox.
    from: UnixTime,
    until: UnixTime,
    /// Derived when the inbox is first attached.
    inbox: Option<OwnInbox>,
    /// The newest is last.
    keys: Vec<SessionKey>,
    seq: u64,
    /// When the lease that was sent last expires, and the one that is attached.
    sent_until: UnixTime,
    attached_until: UnixTime,
    is_attached: bool,
    /// The node has rejected the last renewal for its own reasons. Its former lease is attached until it expires.
    is_refused: bool,
    /// The node has not responded yet.
    is_pending: bool,
    due: Instant,
    outbids: u32,
}

impl Slot {
    fn is_open(&self, unix: UnixTime) -> bool {
        self.from <= unix && unix < self.until
    }
}

pub(crate) struct Leases {
    node: NodeId,
    nonce: [u8; 32],
    slots: HashMap<SlotId, Slot>,
    inboxes: HashMap<Inbox, SlotId>,
    /// Contacts with an attached inbox: they can call.
    reachable: HashSet<ContactId>,
    /// Until when the inboxes of a pairing are not attached.
    delayed_until: HashMap<PairingId, Instant>,
    /// When [`Self::update`] is due, because a day starts or ends.
    next_day_check: Option<Instant>,
}

impl Leases {
    /// Without leases, for a session with `node`. `nonce` is the node's nonce of this session.
    pub(crate) fn new(node: NodeId, nonce: [u8; 32]) -> Self {
        let (slots, inboxes, reachable, delayed_until) = Default::default();
        Self { node, nonce, slots, inboxes, reachable, delayed_until, next_day_check: None }
    }

    /// Delays the inboxes of a pairing until then.
    pub(crate) fn delay(&mut self, pairing: PairingId, until: Instant) {
        self.delayed_until.insert(pairing, until);
    }

    /// Attaches the contact's inboxes without delay. The contact is about to be called, and its answer arrives there.
    pub(crate) fn attach_now(&mut self, contact: ContactId, now: Instant) {
        for (id, slot) in &mut self.slots {
            if slot.owner == contact && !slot.is_attached && !slot.is_pending {
                self.delayed_until.remove(&id.pairing);
                slot.due = now;
            }
        }
    }

    pub(crate) fn inbox_of(&self, id: SlotId) -> Option<Inbox> {
        self.slots.get(&id)?.inbox.as_ref().map(OwnInbox::inbox)
    }

    /// Adds and removes inboxes for these contacts and the current day. Returns the inboxes to detach at the node.
    pub(crate) fn update<'a>(
        &mut self,
        contacts: impl Iterator<Item = &'a Contact>,
        random: &mut impl Rng,
        now: Instant,
        unix: UnixTime,
    ) -> Vec<Inbox> {
        let mut wanted = HashSet::new();
        for contact in contacts.filter(|contact| !contact.is_blocked()) {
            for pairing in contact.pairings() {
                for day in days_around(unix) {
                    let id = SlotId { pairing: pairing.id(), day };
                    wanted.insert(id);
                    let delayed_until = self.delayed_until.get(&id.pairing).copied();
                    self.slots.entry(id).or_insert_with(|| Slot {
                        owner: contact.id(),
                        from: saturating_sub(
                            day.start(),
                            DAY_MARGIN + DAY_JITTER.mul_f64(random.random_range(0.0..1.0)),
                        ),
                        until: day.after().start() + DAY_MARGIN + DAY_JITTER.mul_f64(random.random_range(0.0..1.0)),
                        inbox: None,
                        keys: Vec::new(),
                        seq: 0,
                        sent_until: UnixTime::from_secs(0),
                        attached_until: UnixTime::from_secs(0),
                        is_attached: false,
                        is_refused: false,
                        is_pending: false,
                        due: delayed_until.map_or(now, |until| until.max(now)),
                        outbids: 0,
                    });
                }
            }
        }
        self.delayed_until.retain(|_, until| *until > now);
        let mut detached = Vec::new();
        let (inboxes, reachable) = (&mut self.inboxes, &mut self.reachable);
        self.slots.retain(|id, slot| {
            slot.keys.retain(|key| key.until > unix);
            let is_wanted = wanted.contains(id);
            if !is_wanted || slot.until <= unix {
                if let Some(inbox) = slot.inbox.take().map(|own| own.inbox()) {
                    inboxes.remove(&inbox);
                    if slot.is_attached || slot.is_pending {
                        detached.push(inbox);
                    }
                }
                slot.keys.clear();
                slot.is_attached = false;
                if !is_wanted {
                    reachable.remove(&slot.owner);
                }
            }
            // A slot stays while its day is near, so that no second random time is drawn for it.
            is_wanted
        });
        let changes = self.slots.values().flat_map(|slot| [slot.from, slot.until]).filter(|at| *at > unix);
        self.next_day_check = changes.min().map(|at| now + at.saturating_since(unix));
        detached
    }

    /// Signs the leases that are due and marks them as pending. `seqs` holds the newest `seq` of each inbox in any
    /// session: a new lease must be newer than the one of an earlier session.
    pub(crate) fn due<'a>(
        &mut self,
        contacts: impl Iterator<Item = &'a Contact>,
        seqs: &mut HashMap<SlotId, u64>,
        random: &mut impl CryptoRng,
        now: Instant,
        unix_ms: u64,
    ) -> Vec<Attachment> {
        let unix = UnixTime::from_secs(unix_ms / 1000);
        let pairings: HashMap<PairingId, &Pairing> =
            contacts.flat_map(Contact::pairings).map(|pairing| (pairing.id(), pairing)).collect();
        let mut attachments = Vec::new();
        for (id, slot) in &mut self.slots {
            let soon = if slot.is_attached { now + TOGETHER } else { now };
            if slot.is_pending || !slot.is_open(unix) || slot.due > soon {
                continue;
            }
            let Some(pairing) = pairings.get(&id.pairing) else { continue };
            let own = slot.inbox.get_or_insert_with(|| pairing.own_inbox(id.day));
            self.inboxes.insert(own.inbox(), *id);
            let behind = unix_ms.saturating_sub(random.random_range(0..SEQ_JITTER_MS));
            let former = seqs.get(id).map_or(slot.seq, |former| slot.seq.max(*former));
            slot.seq = behind.max(former.saturating_add(random.random_range(SEQ_STEP)));
            seqs.insert(*id, slot.seq);
            let lasts = random.random_range(LEASE.start.as_secs()..LEASE.end.as_secs());
            let (expires_at, key) = (unix + Duration::from_secs(lasts), SealingKey::generate(random));
            let lease = Lease {
                inbox: own.inbox(),
                node: self.node,
                session_key: key.public(),
                access: own.token.hash(),
                seq: slot.seq,
                expires_at,
            };
            let lease = Signed::sign(lease, &own.key).expect("a lease of its own inbox is within its bounds");
            let proof = prove_attach(&own.key, &self.nonce, &lease);
            slot.keys.drain(..slot.keys.len().saturating_sub(MAX_KEYS - 1));
            slot.keys.push(SessionKey { key, until: expires_at });
            slot.sent_until = expires_at;
            slot.is_pending = true;
            attachments.push(Attachment { slot: *id, is_renewal: slot.is_attached, lease, proof });
        }
        attachments
    }

    /// Handles a lease that the node has attached. `ttl` is the time to the renewal that the node asks for. Returns
    /// the inbox's contact if it could not call before.
    pub(crate) fn attached(
        &mut self,
        id: SlotId,
        ttl: Duration,
        random: &mut impl Rng,
        now: Instant,
    ) -> Option<ContactId> {
        let slot = self.slots.get_mut(&id)?;
        (slot.is_attached, slot.is_refused, slot.is_pending, slot.outbids) = (true, false, false, 0);
        slot.attached_until = slot.sent_until;
        let longest = ttl.clamp(SHORTEST_RENEWAL, LONGEST_RENEWAL);
        slot.due = now + longest.mul_f64(random.random_range(0.5..1.0));
        self.reachable.insert(slot.owner).then_some(slot.owner)
    }

    /// Handles a lease that the node has rejected. Returns the inbox's contact if it cannot call now.
    pub(crate) fn rejected(
        &mut self,
        id: SlotId,
        reason: Rejected,
        random: &mut impl Rng,
        now: Instant,
        unix_ms: u64,
    ) -> Option<ContactId> {
        let slot = self.slots.get_mut(&id)?;
        slot.is_pending = false;
        match reason {
            Rejected::Outdated(seq) if slot.outbids < MAX_OUTBIDS && seq <= unix_ms + MAX_AHEAD_MS => {
                slot.outbids += 1;
                slot.seq = slot.seq.max(seq);
                slot.due = now;
                return None;
            }
            // An inbox that was attached stays attached until its lease expires.
            Rejected::Busy | Rejected::Unavailable => {
                slot.is_refused = true;
                slot.is_attached &= slot.attached_until.as_secs() > unix_ms / 1000;
            }
            Rejected::Outdated(_) | Rejected::Invalid => slot.is_attached = false,
        }
        slot.outbids = 0;
        slot.due = now + ATTACH_AGAIN + ATTACH_AGAIN_JITTER.mul_f64(random.random_range(0.0..1.0));
        let owner = slot.owner;
        if self.slots.values().any(|slot| slot.owner == owner && slot.is_attached) {
            return None;
        }
        self.reachable.remove(&owner);
        Some(owner)
    }

    /// When [`Leases::due`] or [`Leases::update`] has work to do.
    pub(crate) fn next_deadline(&self, unix: UnixTime) -> Option<Instant> {
        let waiting = self.slots.values().filter(|slot| slot.is_open(unix) && !slot.is_pending);
        waiting.map(|slot| slot.due).chain(self.next_day_check).min()
    }

    /// The contact and pairing of an inbox.
    pub(crate) fn owner(&self, inbox: Inbox) -> Option<(ContactId, PairingId)> {
        let id = self.inboxes.get(&inbox)?;
        self.slots.get(id).map(|slot| (slot.owner, id.pairing))
    }

    /// The keys that a caller may have sealed to for this inbox, the newest first.
    pub(crate) fn keys(&self, inbox: Inbox) -> impl Iterator<Item = &SealingKey> {
        let slot = self.inboxes.get(&inbox).and_then(|id| self.slots.get(id));
        slot.into_iter().flat_map(|slot| slot.keys.iter().rev()).map(|key| &key.key)
    }

    /// Whether any inbox is attached, was sent to the node, or is due.
    pub(crate) fn has_active_inbox(&self, unix: UnixTime, now: Instant) -> bool {
        self.slots
            .values()
            .any(|slot| slot.is_open(unix) && (slot.is_attached || slot.inbox.is_some() || slot.due <= now))
    }

    /// Whether the node serves any inbox: its lease has not expired, and its last renewal was not rejected for the node's
    /// own reasons.
    pub(crate) fn is_any_served(&self, unix: UnixTime) -> bool {
        self.slots.values().any(|slot| slot.is_attached && !slot.is_refused && slot.attached_until > unix)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.values().filter(|slot| slot.is_attached).count()
    }
}

/// The days whose inboxes may be attached now.
fn days_around(unix: UnixTime) -> [Day; 3] {
    let today = Day::of(unix);
    [today.before(), today, today.after()]
}

fn saturating_sub(at: UnixTime, time: Duration) -> UnixTime {
    UnixTime::from_secs(at.as_secs().saturating_sub(time.as_secs()))
}

#[cfg(test)]
mod linkability;

#[cfg(test)]
mod tests;
