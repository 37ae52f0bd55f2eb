//! Keeps the leases and codes of this node's sessions registered with their homes.
//!
//! One task for all sessions. It renews registrations before the homes expire them, and registers at once with new
//! homes after a membership change. Homes do not hand entries to each other. There can be a million registrations, and
//! the view may change more often than all can be rescanned. So the task rescans in small steps, and starts a rescan at
//! most once a second.

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
    homes::LeaseStatus,
    leases::timing,
    limits::shrink,
    membership::view::View,
    wire::{
        frame::{CodeRegistration, MAX_BATCH, Request},
        ids::SessionId,
    },
};

/// Capacity of the command channel: the commands of 18,000 sessions that all attach within two seconds.
pub(crate) const COMMANDS: usize = 16_384;
/// How long a due registration waits, so that others are sent in the same request.
const BATCH_DELAY: Duration = Duration::from_millis(500);
/// Pauses before a home that did not answer is retried. With the request timeouts, the retries last about as long as a
/// failed node stays in the view.
const RETRY_PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(6)];

/// A lease or code that is kept registered. A node has one for each of its sessions' inboxes and codes, so each byte
/// counts.
struct Publication {
    /// `None` for a code.
    lease: Option<Arc<SignedLease>>,
    home_set: HomeSet,
    /// The time of its slot in the schedule.
    due: Instant,
}

/// A lease that is being withdrawn.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Withdrawal {
    /// When the homes are notified.
    due: Instant,
    inbox: Inbox,
    /// The `seq` of the lease, or of a newer one that its homes have not seen.
    seq: u64,
    homes: Vec<NodeId>,
}

/// A slot in the schedule: when the registration is due, and its key.
type Slot = (Instant, Key);

pub(crate) struct Publisher {
    core: Arc<Core>,
    registrations: HashMap<Key, Publication>,
    /// Signed claims of registered codes. Stored separately, because most clients have none.
    claims: HashMap<Key, Redacted<Bytes>>,
    home_index: HomeIndex,
    /// Exactly one slot for each registration.
    schedule: BTreeSet<Slot>,
    /// Withdrawals that were not sent yet.
    withdrawals: BTreeSet<Withdrawal>,
    /// The view by which homes are selected.
    view: Arc<View>,
    rescan: Rescan,
    /// Registrations that moved, by new home. They are sent at the end of a rescan.
    moved: HashMap<NodeId, Vec<Key>>,
}

/// Requests for one home.
#[derive(Default)]
struct HomeBatch {
    leases: Vec<SignedLease>,
    codes: Vec<CodeRegistration>,
    drop_leases: Vec<(Inbox, u64)>,
    drop_codes: Vec<(PairingCode, SessionId)>,
    /// Number of previous attempts.
    tries: usize,
}

impl Publisher {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let view = core.members.view.load_full();
        Self {
            core,
            registrations: HashMap::new(),
            claims: HashMap::new(),
            home_index: HomeIndex::default(),
            schedule: BTreeSet::new(),
            withdrawals: BTreeSet::new(),
            view,
            rescan: Rescan::Done { next: Instant::now() },
            moved: HashMap::new(),
        }
    }

    /// Runs until all command senders are gone.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut view_changes = self.core.members.view_changes();
        let mut batch = Vec::new();
        loop {
            let mut batches = HashMap::new();
            let due = self.schedule.first().map(|(due, _)| *due + BATCH_DELAY);
            let withdrawal = self.withdrawals.first().map(|withdrawal| withdrawal.due);
            let rescan = self.next_rescan();
            // Not biased: during a rescan, that branch is always ready.
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
                self.add_registration(Key::Inbox(lease.inbox), Some(lease), is_renewal);
            }
            Command::KeepCode(CodeRegistration { code, session, claim }) => {
                let key = Key::Code(code, session);
                match claim {
                    Some(claim) => drop(self.claims.insert(key, claim)),
                    None => drop(self.claims.remove(&key)),
                }
                self.add_registration(key, None, false);
            }
            Command::WithdrawLease(inbox, seq) => {
                let Some(registration) = self.remove_lease(inbox, seq) else { return };
                let homes = self.home_index.homes(registration.home_set).map(|(home, _)| home).collect();
                let due = Instant::now() + timing::withdrawal_delay(&mut rand::rng());
                self.withdrawals.insert(Withdrawal { due, inbox, seq, homes });
            }
            Command::WithdrawCode(code, session) => {
                let Some(registration) = self.remove_registration(&Key::Code(code, session)) else { return };
                for (home, _) in self.home_index.homes(registration.home_set) {
                    batches.entry(home).or_default().drop_codes.push((code, session));
                }
            }
            Command::Forget(inbox, seq) => drop(self.remove_lease(inbox, seq)),
            Command::Retry { home, keys, tries } => {
                for key in keys {
                    let Some(registration) = self.registrations.get(&key) else { continue };
                    if self.home_index.homes(registration.home_set).any(|(own, _)| own == home) {
                        let batch = batches.entry(home).or_default();
                        batch.tries = tries;
                        add_to_batch(batch, &key, registration, &self.claims);
                    }
                }
            }
        }
    }

    /// Removes the registration of an inbox, unless its lease is newer than `seq` and so another session's.
    fn remove_lease(&mut self, inbox: Inbox, seq: u64) -> Option<Publication> {
        let key = Key::Inbox(inbox);
        let older = self.registrations.get(&key)?.lease.as_ref().is_some_and(|lease| lease.seq <= seq);
        if older { self.remove_registration(&key) } else { None }
    }

    fn add_registration(&mut self, key: Key, lease: Option<Arc<SignedLease>>, is_renewal: bool) {
        let current = self.registrations.get(&key).and_then(|registration| registration.lease.as_ref());
        if lease.as_ref().is_some_and(|lease| current.is_some_and(|current| current.seq > lease.seq)) {
            return;
        }
        self.note_view();
        let home_set = self.home_index.home_set(&self.view, key.tag());
        let due = if let Some(former) = self.registrations.remove(&key) {
            // A running rescan may have passed this registration already, and will not look at it again.
            note_moved(&mut self.moved, &self.home_index, key, former.home_set, home_set);
            // The newer lease is sent when the older one was due. Leases outlast registrations.
            former.due
        } else {
            // A renewal whose earlier lease is no longer registered here is sent at once: no home may know the inbox.
            let lifetime = self.core.context.config.times.registration;
            let first = || timing::first_refresh(&mut rand::rng(), lifetime);
            self.schedule(key, if is_renewal { Duration::ZERO } else { first() })
        };
        self.registrations.insert(key, Publication { lease, home_set, due });
    }

    fn remove_registration(&mut self, key: &Key) -> Option<Publication> {
        let registration = self.registrations.remove(key)?;
        self.claims.remove(key);
        self.schedule.remove(&(registration.due, *key));
        shrink::shrink_if_sparse(&mut self.registrations);
        shrink::shrink_if_sparse(&mut self.claims);
        Some(registration)
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
            let Some(lease) = self.registrations.get(&key).map(|registration| registration.lease.clone()) else {
                continue;
            };
            if let Some(lease) = lease.filter(|lease| lease.expires_at <= clock) {
                // The client has not renewed it, and the homes have expired it.
                self.registrations.remove(&key);
                self.core.sessions.drop_lease(&lease);
                continue;
            }
            let due =
                self.schedule(key, timing::next_refresh(&mut rand::rng(), self.core.context.config.times.registration));
            if let Some(registration) = self.registrations.get_mut(&key) {
                registration.due = due;
                for (home, _) in self.home_index.homes(registration.home_set) {
                    add_to_batch(batches.entry(home).or_default(), &key, registration, &self.claims);
                }
            }
        }
        shrink::shrink_if_sparse(&mut self.registrations);
    }
}

fn add_to_batch(batch: &mut HomeBatch, key: &Key, registration: &Publication, claims: &HashMap<Key, Redacted<Bytes>>) {
    match *key {
        Key::Inbox(_) => batch.leases.extend(registration.lease.as_deref().cloned()),
        Key::Code(code, session) => {
            batch.codes.push(CodeRegistration { code, session, claim: claims.get(key).cloned() });
        }
    }
}

/// Sends one home its requests. Registrations are retried if the home does not answer: a home that has just started may
/// learn its members later than they learn of it. After the last retry, they are sent when they are due.
async fn send_batch(core: &Arc<Core>, home: NodeId, batch: HomeBatch) {
    let unanswered = register_all(core, home, &batch).await;
    for leases in batch.drop_leases.chunks(MAX_BATCH) {
        core.homes.send_request(home, Request::DropLeases(leases.to_vec())).await;
    }
    for codes in batch.drop_codes.chunks(MAX_BATCH) {
        core.homes.send_request(home, Request::DropCodes(codes.to_vec())).await;
    }
    if unanswered.is_empty() {
        return;
    }
    let Some(pause) = RETRY_PAUSES.get(batch.tries) else { return };
    tokio::time::sleep(*pause).await;
    // Through the publisher, which knows what was withdrawn meanwhile. It ends only with the node.
    let _ = core.publisher.send(Command::Retry { home, keys: unanswered, tries: batch.tries + 1 }).await;
}

/// Registers leases and codes with one home. Returns the keys that it did not answer. After the first request without
/// an answer, the rest is not sent: each would wait for its timeout.
async fn register_all(core: &Arc<Core>, home: NodeId, batch: &HomeBatch) -> Vec<Key> {
    let mut unanswered = Vec::new();
    for leases in batch.leases.chunks(MAX_BATCH) {
        let answers = if unanswered.is_empty() {
            core.homes.register_batch(home, leases, (0..leases.len()).collect()).await
        } else {
            Vec::new()
        };
        if answers.is_empty() {
            unanswered.extend(leases.iter().map(|lease| Key::Inbox(lease.inbox)));
        }
        for (index, status) in answers {
            if !matches!(status, LeaseStatus::Stale { .. }) {
                continue;
            }
            // The inbox is attached elsewhere now: drop it here.
            let lease = &leases[index];
            core.homes.forget_found(&lease.inbox);
            core.sessions.drop_lease(lease);
            // The publisher ends only with the node.
            let _ = core.publisher.send(Command::Forget(lease.inbox, lease.seq)).await;
        }
    }
    for codes in batch.codes.chunks(MAX_BATCH) {
        let claim = Request::ClaimCodes(codes.to_vec());
        if !unanswered.is_empty() || core.homes.send_request(home, claim).await.is_none() {
            unanswered.extend(codes.iter().map(|code| Key::Code(code.code, code.session)));
        }
    }
    unanswered
}
