//! Keeps the leases and codes of this node's sessions registered with their homes.
//!
//! One task for all sessions: it registers again before the homes forget, and at once where a membership change has
//! moved a home. Homes hand nothing over among themselves. What it keeps can be a million things, and members come and go
//! oftener than all of them can be looked at: it looks at a few at a time, and at all of them once a second at most.

pub(crate) mod command;
mod home_index;
mod rescan;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe_common::{
    code::PairingCode,
    keys::NodeId,
    lease::{Inbox, SignedLease},
    redacted::Redacted,
};
use tokio::{sync::mpsc, time::sleep_until};

use self::{
    command::{Command, Key},
    home_index::{HomeIndex, HomeSet},
    rescan::{Rescan, note_moved},
};
use crate::{
    core::Core,
    homes::Registered,
    leases::timing,
    limits::shrink,
    membership::view::View,
    wire::{
        frame::{CodeRegistration, MAX_BATCH, Request},
        ids::SessionId,
    },
};

/// Commands that may wait: what 18,000 sessions send when all attach within a second or two.
pub(crate) const COMMANDS: usize = 16_384;
/// How long a registration that is due waits for others, which are sent with it.
const TOGETHER: Duration = Duration::from_millis(500);
/// The pauses before a home that did not answer is asked again: with the time that it is waited for, about as long as one
/// that is down is taken for a member.
const PUT_AGAIN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(6)];

/// A registration that is kept. A node has one for each of its sessions, so each byte counts.
struct Kept {
    /// The lease of an inbox. A code has none.
    lease: Option<Arc<SignedLease>>,
    placed: HomeSet,
    /// When it is due in the schedule.
    due: Instant,
}

/// A lease that was taken back.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Withdrawal {
    /// When its homes are told.
    due: Instant,
    inbox: Inbox,
    /// The lease's, or a newer one's that its homes have not seen.
    seq: u64,
    homes: Vec<NodeId>,
}

/// A place in the schedule: when the registration is due, and its key, which tells equal times apart.
type Slot = (Instant, Key);

/// The task's state.
pub(crate) struct Publisher {
    core: Arc<Core>,
    kept: HashMap<Key, Kept>,
    /// The claims of the codes that are kept. Apart, since most clients make none.
    claims: HashMap<Key, Redacted<Bytes>>,
    /// The homes of all that is kept.
    places: HomeIndex,
    /// Exactly one slot for each key that is kept.
    schedule: BTreeSet<Slot>,
    /// Withdrawals that their homes are still to be told of.
    withdrawals: BTreeSet<Withdrawal>,
    /// The view by which was placed last.
    view: Arc<View>,
    rescan: Rescan,
    /// What has moved, by its new home, which is told of all of it at the end of the look.
    moved: HashMap<NodeId, Vec<Key>>,
}

/// What one home is to be told.
#[derive(Default)]
struct HomeBatch {
    leases: Vec<SignedLease>,
    codes: Vec<CodeRegistration>,
    drop_leases: Vec<(Inbox, u64)>,
    drop_codes: Vec<(PairingCode, SessionId)>,
    /// How often the home did not answer before.
    tries: usize,
}

impl Publisher {
    /// A publisher with nothing to keep.
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let view = core.members.view.load_full();
        Self {
            core,
            kept: HashMap::new(),
            claims: HashMap::new(),
            places: HomeIndex::default(),
            schedule: BTreeSet::new(),
            withdrawals: BTreeSet::new(),
            view,
            rescan: Rescan::Done { next: Instant::now() },
            moved: HashMap::new(),
        }
    }

    /// Runs until the queue's senders are gone.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut view_changes = self.core.members.view_changes();
        let mut batch = Vec::new();
        loop {
            let mut batches = HashMap::new();
            let due = self.schedule.first().map(|(due, _)| *due + TOGETHER);
            let withdrawal = self.withdrawals.first().map(|withdrawal| withdrawal.due);
            let rescan = self.next_rescan();
            // In any order: while it looks, that is always ready.
            tokio::select! {
                changed = view_changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.note_view();
                }
                () = sleep_until(rescan.unwrap_or_else(Instant::now).into()), if rescan.is_some() => {
                    self.rescan_step(&mut batches);
                    tokio::task::yield_now().await;
                }
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    self.handle_due(Instant::now(), &mut batches);
                }
                () = sleep_until(withdrawal.unwrap_or_else(Instant::now).into()), if withdrawal.is_some() => {
                    self.handle_withdrawals(Instant::now(), &mut batches);
                }
                taken = commands.recv_many(&mut batch, 256) => {
                    if taken == 0 {
                        return;
                    }
                    for command in batch.drain(..) {
                        self.handle_command(command, &mut batches);
                    }
                }
            }
            for (home, batch) in batches {
                let core = self.core.clone();
                self.core.context.tasks.spawn(async move { send_batch(&core, home, batch).await });
            }
        }
    }

    fn handle_command(&mut self, command: Command, batches: &mut HashMap<NodeId, HomeBatch>) {
        match command {
            Command::KeepLease { lease, is_renewal } => {
                self.keep(Key::Inbox(lease.inbox), Some(lease), is_renewal);
            }
            Command::KeepCode(CodeRegistration { code, session, claim }) => {
                let key = Key::Code(code, session);
                match claim {
                    Some(claim) => drop(self.claims.insert(key, claim)),
                    None => drop(self.claims.remove(&key)),
                }
                self.keep(key, None, false);
            }
            Command::WithdrawLease(inbox, seq) => {
                let Some(kept) = self.forget_lease(inbox, seq) else { return };
                let homes = self.places.homes(kept.placed).map(|(home, _)| home).collect();
                let due = Instant::now() + timing::withdrawal_delay(&mut rand::rng());
                self.withdrawals.insert(Withdrawal { due, inbox, seq, homes });
            }
            Command::WithdrawCode(code, session) => {
                let Some(kept) = self.forget(&Key::Code(code, session)) else { return };
                for (home, _) in self.places.homes(kept.placed) {
                    batches.entry(home).or_default().drop_codes.push((code, session));
                }
            }
            Command::Forget(inbox, seq) => drop(self.forget_lease(inbox, seq)),
            Command::PutAgain { home, keys, tries } => {
                for key in keys {
                    let Some(kept) = self.kept.get(&key) else { continue };
                    if self.places.homes(kept.placed).any(|(own, _)| own == home) {
                        let batch = batches.entry(home).or_default();
                        batch.tries = tries;
                        put(batch, &key, kept, &self.claims);
                    }
                }
            }
        }
    }

    /// Keeps the lease of an inbox no more, unless it is newer than `seq`: another session's.
    fn forget_lease(&mut self, inbox: Inbox, seq: u64) -> Option<Kept> {
        let key = Key::Inbox(inbox);
        let older = self.kept.get(&key)?.lease.as_ref().is_some_and(|lease| lease.seq <= seq);
        if older { self.forget(&key) } else { None }
    }

    fn keep(&mut self, key: Key, lease: Option<Arc<SignedLease>>, is_renewal: bool) {
        let kept = self.kept.get(&key).and_then(|kept| kept.lease.as_ref());
        if lease.as_ref().is_some_and(|lease| kept.is_some_and(|kept| kept.seq > lease.seq)) {
            return;
        }
        self.note_view();
        let placed = self.places.place(&self.view, key.tag());
        let due = if let Some(former) = self.kept.remove(&key) {
            // Its slot may be behind what was looked at.
            note_moved(&mut self.moved, &self.places, key, former.placed, placed);
            // Its homes hear of the newer lease when they would have heard of the older one: a lease lasts longer.
            former.due
        } else {
            // What a renewal follows may have been forgotten meanwhile: then no home knows the inbox.
            let registration = self.core.context.config.times.registration;
            let first = || timing::first_refresh(&mut rand::rng(), registration);
            self.schedule(key, if is_renewal { Duration::ZERO } else { first() })
        };
        self.kept.insert(key, Kept { lease, placed, due });
    }

    fn forget(&mut self, key: &Key) -> Option<Kept> {
        let kept = self.kept.remove(key)?;
        self.claims.remove(key);
        self.schedule.remove(&(kept.due, *key));
        shrink::shrink_if_sparse(&mut self.kept);
        shrink::shrink_if_sparse(&mut self.claims);
        Some(kept)
    }

    fn schedule(&mut self, key: Key, wait: Duration) -> Instant {
        let due = Instant::now() + wait;
        self.schedule.insert((due, key));
        due
    }

    fn handle_withdrawals(&mut self, now: Instant, batches: &mut HashMap<NodeId, HomeBatch>) {
        while self.withdrawals.first().is_some_and(|withdrawal| withdrawal.due <= now) {
            let Some(Withdrawal { inbox, seq, homes, .. }) = self.withdrawals.pop_first() else { return };
            for home in homes {
                batches.entry(home).or_default().drop_leases.push((inbox, seq));
            }
        }
    }

    fn handle_due(&mut self, now: Instant, batches: &mut HashMap<NodeId, HomeBatch>) {
        let clock = self.core.context.clock.now();
        while self.schedule.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, key)) = self.schedule.pop_first() else { break };
            let Some(lease) = self.kept.get(&key).map(|kept| kept.lease.clone()) else { continue };
            if let Some(lease) = lease.filter(|lease| lease.expires_at <= clock) {
                // Its client has not renewed it: the homes have forgotten it by themselves.
                self.kept.remove(&key);
                self.core.sessions.drop_lease(&lease);
                continue;
            }
            let due =
                self.schedule(key, timing::next_refresh(&mut rand::rng(), self.core.context.config.times.registration));
            if let Some(kept) = self.kept.get_mut(&key) {
                kept.due = due;
                for (home, _) in self.places.homes(kept.placed) {
                    put(batches.entry(home).or_default(), &key, kept, &self.claims);
                }
            }
        }
        shrink::shrink_if_sparse(&mut self.kept);
    }
}

fn put(batch: &mut HomeBatch, key: &Key, kept: &Kept, claims: &HashMap<Key, Redacted<Bytes>>) {
    match *key {
        Key::Inbox(_) => batch.leases.extend(kept.lease.as_deref().cloned()),
        Key::Code(code, session) => {
            batch.codes.push(CodeRegistration { code, session, claim: claims.get(key).cloned() });
        }
    }
}

/// Tells one home. What it is to keep is put again where it did not answer: a home that has just started knows its members
/// a moment later than they know it. What fails all the same is tried when it is due.
async fn send_batch(core: &Arc<Core>, home: NodeId, batch: HomeBatch) {
    let missed = put_all(core, home, &batch).await;
    for leases in batch.drop_leases.chunks(MAX_BATCH) {
        core.homes.ask(home, Request::DropLeases(leases.to_vec())).await;
    }
    for codes in batch.drop_codes.chunks(MAX_BATCH) {
        core.homes.ask(home, Request::DropCodes(codes.to_vec())).await;
    }
    if missed.is_empty() {
        return;
    }
    let Some(pause) = PUT_AGAIN.get(batch.tries) else { return };
    tokio::time::sleep(*pause).await;
    // By way of the publisher, which knows what was given back meanwhile. It ends only with the node.
    let _ = core.publisher.send(Command::PutAgain { home, keys: missed, tries: batch.tries + 1 }).await;
}

/// Registers leases and codes with one home; gives back what it did not answer. Who doesn't answer once isn't asked for
/// the rest: each question would be waited for.
async fn put_all(core: &Arc<Core>, home: NodeId, batch: &HomeBatch) -> Vec<Key> {
    let mut missed = Vec::new();
    for leases in batch.leases.chunks(MAX_BATCH) {
        let answers = if missed.is_empty() {
            core.homes.put_batch(home, leases, (0..leases.len()).collect()).await
        } else {
            Vec::new()
        };
        if answers.is_empty() {
            missed.extend(leases.iter().map(|lease| Key::Inbox(lease.inbox)));
        }
        for (index, registered) in answers {
            if !matches!(registered, Registered::Stale { .. }) {
                continue;
            }
            // Attached elsewhere meanwhile: the session here has lost it.
            let lease = &leases[index];
            core.homes.forget_found(&lease.inbox);
            core.sessions.drop_lease(lease);
            // The publisher ends only with the node.
            let _ = core.publisher.send(Command::Forget(lease.inbox, lease.seq)).await;
        }
    }
    for codes in batch.codes.chunks(MAX_BATCH) {
        let claim = Request::ClaimCodes(codes.to_vec());
        if !missed.is_empty() || core.homes.ask(home, claim).await.is_none() {
            missed.extend(codes.iter().map(|code| Key::Code(code.code, code.session)));
        }
    }
    missed
}
