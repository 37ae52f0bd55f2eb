//! The client's task: keeps a session with a node, and carries out what the app and the other sides ask.
//!
//! The driver owns the parts and connects them: `search` finds nodes, `sessions` and `requests` hold the connections and
//! what is pending on them, `call_records` the calls, `pending_writes` what the profile has to store. The driver's own
//! steps are in `attaching`, `delivery`, `calling` and `learned`.

mod attaching;
mod call_records;
mod calling;
mod delivery;
mod finished;
mod learned;
pub(crate) mod leases;
mod outbox;
mod pending_writes;
mod record;
mod refusals;
mod requests;
mod search;
mod session;
mod sessions;

use std::time::{Duration, Instant, SystemTime};

use chappe_common::{keys::NodeId, time::UnixTime};
use chappe_discovery::DiscoverError;
use rand::RngExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::search::SearchConfig;
use self::{
    call_records::CallRecords, pending_writes::PendingWrites, requests::Requests, search::Search, sessions::Sessions,
};
use crate::{
    command::Command,
    event::{Event, EventSender, Step, StepKind},
    profile::{Profile, ProfileError},
    seal::CallId,
};

/// How long a farewell may take when the client stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long the inboxes of a new contact wait at most, at random, before they are attached: a node that took part in the
/// pairing must not see them come in the same moment. A call to the contact doesn't wait.
const HOLD_BACK: Duration = Duration::from_secs(3);
/// The longest that the loop sleeps: nothing of its own is due that late.
const IDLE: Duration = Duration::from_secs(3600);

/// Whether there is a session.
#[derive(Clone, Debug)]
pub(crate) enum ConnectionState {
    Searching,
    Connected(NodeId),
    Failed(DiscoverError),
    /// A node was found, and did not attach the inboxes.
    NotAttached,
}

/// The driver's end of the queue of commands.
pub(crate) struct CommandQueue {
    /// For the handles of incoming calls. Weak, so that the queue closes with the app's last handle.
    pub(crate) sender: mpsc::WeakSender<Command>,
    pub(crate) receiver: mpsc::Receiver<Command>,
}

pub(crate) struct Driver {
    profile: Profile,
    events: EventSender,
    commands: CommandQueue,
    connection_state: watch::Sender<ConnectionState>,
    search: Search,
    sessions: Sessions,
    requests: Requests,
    calls: CallRecords,
    pending_writes: PendingWrites,
}

impl Driver {
    pub(crate) fn new(
        profile: Profile,
        search: SearchConfig,
        events: EventSender,
        commands: CommandQueue,
        connection_state: watch::Sender<ConnectionState>,
    ) -> Self {
        Self {
            profile,
            events,
            commands,
            connection_state,
            search: Search::new(search),
            sessions: Sessions::default(),
            requests: Requests::default(),
            calls: CallRecords::default(),
            pending_writes: PendingWrites::default(),
        }
    }

    /// Runs until it is cancelled; then ends the call, says goodbye and returns.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        self.start_search();
        loop {
            self.pump().await;
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = sleep_until(deadline.into()) => self.handle_time().await,
                event = self.search.next() => self.handle_search(event).await,
                // Before texts of nodes: a node that floods must not keep the app from hanging up.
                Some(command) = self.commands.receiver.recv() => self.handle_command(command).await,
                (session, text) = self.sessions.next_text() => {
                    self.handle_text(session, text).await;
                    self.store_confirmation().await;
                    self.store_referral().await;
                }
            }
        }
        self.shut_down().await;
    }

    async fn shut_down(mut self) {
        let outputs = self.calls.shutdown(Instant::now());
        self.perform(outputs, Instant::now());
        self.search.stop();
        let farewell = async {
            while self.sessions.ready().is_some() && self.calls.has_unsent() {
                self.pump().await;
                tokio::select! {
                    biased;
                    () = sleep_until(self.next_deadline().into()) => self.handle_time().await,
                    (session, text) = self.sessions.next_text() => self.handle_text(session, text).await,
                }
            }
        };
        // A peer that is not told in time notices by its own timeout.
        let _ = timeout(FAREWELL, farewell).await;
        self.sessions.close().await;
    }

    fn next_deadline(&self) -> Instant {
        let unix = unix_now();
        let sessions = self.sessions.iter().map(|session| session.next_deadline(unix));
        // Without a session no message can be retried, even if one is overdue.
        let ready = self.sessions.ready().is_some();
        let earliest = sessions.chain(self.requests.next_deadline()).chain(self.calls.next_deadline(ready)).min();
        earliest.unwrap_or_else(|| Instant::now() + IDLE)
    }

    async fn handle_time(&mut self) {
        let now = Instant::now();
        self.handle_session_time(now).await;
        self.expire_requests(now).await;
        self.handle_record_time(now).await;
        let outputs = self.calls.handle_timeout(now);
        self.perform(outputs, now);
    }

    async fn handle_command(&mut self, command: Command) {
        let now = Instant::now();
        // An app that has stopped waiting for an answer loses nothing.
        match command {
            Command::Place { contact, offer, reply } => {
                let _ = reply.send(self.place(contact, offer, now));
            }
            Command::Act { call, action, reply } => {
                let _ = reply.send(self.act(call, action, now));
            }
            Command::AddContact { contact, stored, reply } => {
                let pairing = contact.pairing().id();
                let added = self.change_profile(move |profile| profile.add_contact(contact, stored)).await;
                let _ = reply.send(added);
                let until = now + HOLD_BACK.mul_f64(rand::rng().random_range(0.0..1.0));
                for session in self.sessions.iter_mut() {
                    session.leases.hold_back(pairing, until);
                }
                self.attach_everywhere().await;
            }
            Command::ConfirmPairing { contact, pairing, reply } => {
                let confirmed = self.change_profile(move |profile| profile.confirm(contact, pairing)).await;
                let _ = reply.send(confirmed);
                self.attach_everywhere().await;
            }
            Command::BlockContact { contact, blocked, reply } => {
                let changed = self.change_profile(move |profile| profile.block(contact, blocked)).await;
                let _ = reply.send(changed);
                self.attach_everywhere().await;
            }
            Command::RemoveContact { contact, reply } => {
                let removed = self.change_profile(move |profile| profile.remove_contact(contact)).await;
                let _ = reply.send(removed);
                self.attach_everywhere().await;
            }
            Command::Contacts { reply } => {
                let _ = reply.send(self.profile.contacts().to_vec());
            }
            Command::IceServers { reply } => self.ask_ice_servers(reply).await,
        }
    }

    /// Changes the profile away from the loop's thread, since it writes to the disk.
    async fn change_profile<T: Send + 'static>(
        &mut self,
        change: impl FnOnce(&mut Profile) -> Result<T, ProfileError> + Send + 'static,
    ) -> Result<T, ProfileError> {
        let mut profile = self.profile.clone();
        let changed = tokio::task::spawn_blocking(move || change(&mut profile).map(|result| (profile, result))).await;
        let (profile, result) = changed.expect("changing a profile does not panic")?;
        self.profile = profile;
        Ok(result)
    }

    fn step(&self, call: Option<CallId>, node: NodeId, kind: StepKind) {
        self.events.send(Event::Step(Step { at: Instant::now(), call, node, kind }));
    }
}

fn unix_now() -> UnixTime {
    UnixTime::from(SystemTime::now())
}

fn unix_now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
