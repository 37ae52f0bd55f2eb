//! Keeps the leases and codes of this node's sessions registered with their homes.
//!
//! One task for all sessions: it registers again before the homes forget, and at once where a membership change has
//! moved a home. Homes hand nothing over among themselves.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use chappe_common::{
    code::PairingCode,
    keys::NodeId,
    lease::{Inbox, SignedLease},
    time::UnixTime,
};
use rand::RngExt as _;
use tokio::sync::mpsc;

use crate::{
    core::Core,
    federation::frame::{MAX_BATCH, Request},
    locate,
    placement::{Homes, Tag},
    session::SessionId,
};

/// Commands that may wait: what 18,000 sessions send when all attach within a second or two.
pub(crate) const COMMANDS: usize = 16_384;
/// How often due registrations are looked for.
const TICK: Duration = Duration::from_millis(500);

/// What is kept registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// An inbox.
    Inbox(Inbox),
    /// A code of a session.
    Code(PairingCode, SessionId),
}

impl Key {
    fn tag(&self) -> Tag {
        match self {
            Self::Inbox(inbox) => Tag::of_inbox(inbox),
            Self::Code(code, _) => Tag::of_code(code),
        }
    }
}

/// What the sessions tell the task.
#[derive(Debug)]
pub(crate) enum Command {
    /// The session has registered this lease; keep it so.
    KeepLease(SignedLease),
    /// The session has registered this code; keep it so.
    KeepCode(PairingCode, SessionId),
    /// Take this back.
    Withdraw(Key),
}

struct Kept {
    tag: Tag,
    /// The lease, of an inbox.
    lease: Option<SignedLease>,
    homes: Homes,
    /// Where in the schedule it stands.
    slot: Slot,
}

/// A place in the schedule: the time, and a number that tells equal times apart.
type Slot = (Instant, u64);

/// The task's state.
pub(crate) struct Publisher {
    core: Arc<Core>,
    kept: HashMap<Key, Kept>,
    /// Exactly one slot for each key that is kept.
    schedule: BTreeMap<Slot, Key>,
    slots: u64,
}

/// What one home is to be told.
#[derive(Default)]
struct Errand {
    leases: Vec<SignedLease>,
    codes: Vec<(PairingCode, SessionId)>,
    drop_leases: Vec<(Inbox, u64)>,
    drop_codes: Vec<(PairingCode, SessionId)>,
}

impl Publisher {
    /// A publisher with nothing to keep.
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core, kept: HashMap::new(), schedule: BTreeMap::new(), slots: 0 }
    }

    /// Runs until the queue's senders are gone.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut view_changes = self.core.view_changes();
        let mut tick = tokio::time::interval(TICK);
        let mut batch = Vec::new();
        loop {
            let mut errands = HashMap::new();
            tokio::select! {
                biased;
                changed = view_changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.handle_view(&mut errands);
                }
                _ = tick.tick() => self.handle_due(Instant::now(), &mut errands),
                taken = commands.recv_many(&mut batch, 256) => {
                    if taken == 0 {
                        return;
                    }
                    for command in batch.drain(..) {
                        self.handle_command(command, &mut errands);
                    }
                }
            }
            for (home, errand) in errands {
                let core = self.core.clone();
                self.core.tasks.spawn(async move { run_errand(&core, home, errand).await });
            }
        }
    }

    fn handle_command(&mut self, command: Command, errands: &mut HashMap<NodeId, Errand>) {
        match command {
            Command::KeepLease(lease) => self.keep(Key::Inbox(lease.inbox), Some(lease)),
            Command::KeepCode(code, session) => self.keep(Key::Code(code, session), None),
            Command::Withdraw(key) => {
                let Some(kept) = self.forget(&key) else { return };
                for home in kept.homes.iter() {
                    let errand = errands.entry(home).or_default();
                    match (key, &kept.lease) {
                        (Key::Inbox(inbox), Some(lease)) => errand.drop_leases.push((inbox, lease.seq)),
                        (Key::Inbox(_), None) => {}
                        (Key::Code(code, session), _) => errand.drop_codes.push((code, session)),
                    }
                }
            }
        }
    }

    fn keep(&mut self, key: Key, lease: Option<SignedLease>) {
        self.forget(&key);
        let tag = key.tag();
        let homes = self.core.view.load().homes(tag);
        let slot = self.schedule_next(key);
        self.kept.insert(key, Kept { tag, lease, homes, slot });
    }

    fn forget(&mut self, key: &Key) -> Option<Kept> {
        let kept = self.kept.remove(key)?;
        self.schedule.remove(&kept.slot);
        Some(kept)
    }

    fn schedule_next(&mut self, key: Key) -> Slot {
        // Between 40 and 60 % of the time: spreads the load, and leaves room for a second try.
        let wait = self.core.config.times.registration.mul_f64(rand::rng().random_range(0.4..0.6));
        self.slots += 1;
        let slot = (Instant::now() + wait, self.slots);
        self.schedule.insert(slot, key);
        slot
    }

    fn handle_due(&mut self, now: Instant, errands: &mut HashMap<NodeId, Errand>) {
        let clock = UnixTime::from(SystemTime::now());
        while let Some(entry) = self.schedule.first_entry().filter(|entry| entry.key().0 <= now) {
            let key = entry.remove();
            let Some(lease) = self.kept.get(&key).map(|kept| kept.lease.clone()) else { continue };
            if let Some(lease) = lease.filter(|lease| lease.expires_at <= clock) {
                // Its client has not renewed it: the homes have forgotten it by themselves.
                self.kept.remove(&key);
                self.core.local.drop_lease(&lease);
                continue;
            }
            let slot = self.schedule_next(key);
            if let Some(kept) = self.kept.get_mut(&key) {
                kept.slot = slot;
                for home in kept.homes.iter() {
                    put(errands.entry(home).or_default(), key, kept);
                }
            }
        }
    }

    fn handle_view(&mut self, errands: &mut HashMap<NodeId, Errand>) {
        let view = self.core.view.load_full();
        for (key, kept) in &mut self.kept {
            let homes = view.homes(kept.tag);
            for home in homes.iter().filter(|home| !kept.homes.contains(home)) {
                put(errands.entry(home).or_default(), *key, kept);
            }
            kept.homes = homes;
        }
    }
}

fn put(errand: &mut Errand, key: Key, kept: &Kept) {
    match (key, &kept.lease) {
        (Key::Inbox(_), Some(lease)) => errand.leases.push(lease.clone()),
        (Key::Inbox(_), None) => {}
        (Key::Code(code, session), _) => errand.codes.push((code, session)),
    }
}

/// Tells one home. What fails is tried again when it is due.
async fn run_errand(core: &Arc<Core>, home: NodeId, errand: Errand) {
    for leases in errand.leases.chunks(MAX_BATCH) {
        for index in locate::put_batch(core, home, leases, (0..leases.len()).collect()).await {
            // Attached elsewhere meanwhile: the session here has lost it.
            core.found.remove(&leases[index].inbox);
            core.local.drop_lease(&leases[index]);
        }
    }
    for codes in errand.codes.chunks(MAX_BATCH) {
        locate::ask(core, home, Request::ClaimCodes(codes.to_vec())).await;
    }
    for leases in errand.drop_leases.chunks(MAX_BATCH) {
        locate::ask(core, home, Request::DropLeases(leases.to_vec())).await;
    }
    for codes in errand.drop_codes.chunks(MAX_BATCH) {
        locate::ask(core, home, Request::DropCodes(codes.to_vec())).await;
    }
}
