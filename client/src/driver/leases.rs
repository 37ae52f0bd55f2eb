//! The leases of one session: for which inboxes, when each is signed anew, and the keys to which callers seal.
//!
//! Pure: it is told the time and given a random source. No two inboxes have anything in common that a home could link
//! them by: each lease has a session key, a `seq`, an expiry and a time of renewal of its own.

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

/// How long a lease lasts, at random within these. Short enough that a node which hides a session's end misleads nobody
/// for long.
const LEASE: std::ops::Range<Duration> = Duration::from_secs(900)..Duration::from_secs(1200);
/// When a lease is renewed at the latest. Its homes hear of it up to two and a half minutes later, and clocks of homes and
/// callers may be ahead by four.
const LONGEST_RENEWAL: Duration = Duration::from_secs(300);
/// By how much a `seq` is behind the clock at most.
const SEQ_JITTER_MS: u64 = 30_000;
/// By how much a `seq` is ahead of the one that it follows, where the clock has not passed that one.
const SEQ_STEP: std::ops::Range<u64> = 1..1000;
/// How much earlier and later than [`DAY_MARGIN`] an inbox is attached and detached, at random for each: what all clients
/// do at one moment of the day would be a burst, and what one client does at one moment would link its inboxes.
const DAY_JITTER: Duration = Duration::from_secs(3600);
/// How long what a node had no room or no rate for waits, and at random up to so much longer: rates are those of a minute,
/// and those whom it refused together must not come back together.
const ATTACH_AGAIN: Duration = Duration::from_secs(60);
const ATTACH_AGAIN_JITTER: Duration = Duration::from_secs(15);
/// How soon a lease may be renewed at the earliest, whatever the node says.
const SHORTEST_RENEWAL: Duration = Duration::from_secs(5);
/// What is due within this time is renewed together: the node sees all of it anyway, and counts messages. Less than half of
/// [`SHORTEST_RENEWAL`], so that what was just attached is not due.
const TOGETHER: Duration = Duration::from_secs(2);
const _: () = assert!(2 * TOGETHER.as_secs() < SHORTEST_RENEWAL.as_secs());
/// How often a lease is outbid at once: each of two devices with one profile would else outbid the other for ever.
const MAX_OUTBIDS: u32 = 3;
/// How far a lease that is outbid may be ahead of this clock. A node that could have leases signed for a later time would
/// take the inbox back with one of them once the client has left it.
const MAX_AHEAD_MS: u64 = 5_000;
/// The most session keys of one inbox: a lease is renewed a few times before it expires.
const MAX_KEYS: usize = 8;

/// Which inbox a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SlotId {
    pairing: PairingId,
    day: Day,
}

impl SlotId {
    /// Whether the inbox's day is not long ago.
    pub(crate) fn is_near(&self, unix: UnixTime) -> bool {
        days_around(unix).contains(&self.day)
    }
}

/// A lease that is to be attached.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) slot: SlotId,
    /// The node has attached the inbox in this session before.
    pub(crate) is_renewal: bool,
    pub(crate) lease: SignedLease,
    pub(crate) proof: [u8; SIGNATURE_LEN],
}

/// Why the node did not attach a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// It knows a newer lease of the same inbox with this `seq`.
    Outdated(u64),
    /// The lease is not valid to it, mostly since one of the two clocks is wrong.
    Invalid,
    /// It has no room or no rate for it now, and may later.
    Busy,
    /// It can't attach it, for another reason of its own: none of the inbox's homes answers, or it takes no more of them.
    Unavailable,
}

/// A key to which callers may have sealed, until its lease has expired.
struct SessionKey {
    key: SealingKey,
    until: UnixTime,
}

struct Slot {
    owner: ContactId,
    /// When the inbox is attached and detached.
    from: UnixTime,
    until: UnixTime,
    /// Derived when the inbox is attached first.
    inbox: Option<OwnInbox>,
    /// The newest last.
    keys: Vec<SessionKey>,
    seq: u64,
    is_attached: bool,
    /// An answer is awaited.
    is_pending: bool,
    due: Instant,
    outbids: u32,
}

impl Slot {
    fn is_open(&self, unix: UnixTime) -> bool {
        self.from <= unix && unix < self.until
    }
}

/// The leases of one session.
pub(crate) struct Leases {
    node: NodeId,
    nonce: [u8; 32],
    slots: HashMap<SlotId, Slot>,
    inboxes: HashMap<Inbox, SlotId>,
    /// Contacts who can call.
    reachable: HashSet<ContactId>,
    /// Until when a pairing's inboxes wait.
    held_back: HashMap<PairingId, Instant>,
    /// When the days have to be looked at again.
    next_day_check: Option<Instant>,
}

impl Leases {
    /// No leases so far, for a session with `node` that was given `nonce`.
    pub(crate) fn new(node: NodeId, nonce: [u8; 32]) -> Self {
        let (slots, inboxes, reachable, held_back) = Default::default();
        Self { node, nonce, slots, inboxes, reachable, held_back, next_day_check: None }
    }

    /// The inboxes of this pairing are not attached before `until`.
    pub(crate) fn hold_back(&mut self, pairing: PairingId, until: Instant) {
        self.held_back.insert(pairing, until);
    }

    /// The contact's inboxes are needed now: it is about to be called, and answers there.
    pub(crate) fn hurry(&mut self, contact: ContactId, now: Instant) {
        for (id, slot) in &mut self.slots {
            if slot.owner == contact && !slot.is_attached && !slot.is_pending {
                self.held_back.remove(&id.pairing);
                slot.due = now;
            }
        }
    }

    /// The inbox of a slot.
    pub(crate) fn inbox_of(&self, id: SlotId) -> Option<Inbox> {
        self.slots.get(&id)?.inbox.as_ref().map(OwnInbox::inbox)
    }

    /// Brings the inboxes in line with `contacts` and the day. Returns those that have to be detached at the node.
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
                    let held_back = self.held_back.get(&id.pairing).copied();
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
                        is_attached: false,
                        is_pending: false,
                        due: held_back.map_or(now, |until| until.max(now)),
                        outbids: 0,
                    });
                }
            }
        }
        self.held_back.retain(|_, until| *until > now);
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
            // One whose time is over stays as long as its day is near, so that no other time is drawn for it.
            is_wanted
        });
        let changes = self.slots.values().flat_map(|slot| [slot.from, slot.until]).filter(|at| *at > unix);
        self.next_day_check = changes.min().map(|at| now + at.saturating_since(unix));
        detached
    }

    /// Signs the leases that are due. An answer to each is awaited from now on. `seqs` are the newest of each inbox in any
    /// session: one that a former node still holds must not be newer.
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
            slot.is_pending = true;
            attachments.push(Attachment { slot: *id, is_renewal: slot.is_attached, lease, proof });
        }
        attachments
    }

    /// The node has attached the lease; `ttl` is when it wants another. Whose inbox it is, where its contact could not call
    /// before.
    pub(crate) fn attached(
        &mut self,
        id: SlotId,
        ttl: Duration,
        random: &mut impl Rng,
        now: Instant,
    ) -> Option<ContactId> {
        let slot = self.slots.get_mut(&id)?;
        (slot.is_attached, slot.is_pending, slot.outbids) = (true, false, 0);
        let longest = ttl.clamp(SHORTEST_RENEWAL, LONGEST_RENEWAL);
        slot.due = now + longest.mul_f64(random.random_range(0.5..1.0));
        self.reachable.insert(slot.owner).then_some(slot.owner)
    }

    /// The node has not attached the lease. Whose inbox it is, where its contact can't call now.
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
            // What was attached before stays so.
            Rejected::Busy | Rejected::Unavailable => {}
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

    /// When something is due, by [`Leases::due`] or [`Leases::update`].
    pub(crate) fn next_deadline(&self, unix: UnixTime) -> Option<Instant> {
        let waiting = self.slots.values().filter(|slot| slot.is_open(unix) && !slot.is_pending);
        waiting.map(|slot| slot.due).chain(self.next_day_check).min()
    }

    /// Whose inbox that is, by which pairing.
    pub(crate) fn owner(&self, inbox: Inbox) -> Option<(ContactId, PairingId)> {
        let id = self.inboxes.get(&inbox)?;
        self.slots.get(id).map(|slot| (slot.owner, id.pairing))
    }

    /// The keys to which a caller may have sealed for that inbox, the newest first.
    pub(crate) fn keys(&self, inbox: Inbox) -> impl Iterator<Item = &SealingKey> {
        let slot = self.inboxes.get(&inbox).and_then(|id| self.slots.get(id));
        slot.into_iter().flat_map(|slot| slot.keys.iter().rev()).map(|key| &key.key)
    }

    /// Whether there is any inbox that is attached at this time or waits to be.
    pub(crate) fn is_wanting(&self, unix: UnixTime, now: Instant) -> bool {
        self.slots
            .values()
            .any(|slot| slot.is_open(unix) && (slot.is_attached || slot.inbox.is_some() || slot.due <= now))
    }

    /// How many inboxes are attached.
    pub(crate) fn len(&self) -> usize {
        self.slots.values().filter(|slot| slot.is_attached).count()
    }
}

/// The days one of whose inboxes may be attached now.
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
