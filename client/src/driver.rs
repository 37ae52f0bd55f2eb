//! The client's task: keeps a session with a node, and carries out the app's commands and the peers' messages.
//!
//! The driver owns the parts and connects them: `search` finds nodes, `sessions` and `requests` hold the connections and
//! what is pending on them, `call_records` the calls, `pending_writes` what the profile has to store. The driver's own
//! steps are in `attaching`, `delivery`, `calling`, `negotiating` and `learning`.

mod attaching;
mod call_record;
mod call_records;
mod calling;
mod delivery;
mod finished_calls;
mod learning;
pub(crate) mod leases;
mod negotiating;
mod outbox;
mod pending_writes;
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

/// How long the client may take to end its calls when it stops.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest random delay before the inboxes of a new contact are attached. A node that took part in the pairing
/// must not see them appear at the same moment. A call to the contact skips the delay.
const MAX_ATTACH_DELAY: Duration = Duration::from_secs(3);
/// The longest sleep of the loop when no deadline is set.
const IDLE: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
pub(crate) enum ConnectionState {
    Searching,
    Connected(NodeId),
    Failed(DiscoverError),
    /// Nodes were found, but several in a row did not attach the inboxes.
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

    /// Runs until `cancel` fires. Then ends the calls within [`END_TIMEOUT`] and closes the sessions.
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
        let end_calls = async {
            while self.sessions.ready().is_some() && self.calls.has_unsent() {
                self.pump().await;
                tokio::select! {
                    biased;
                    () = sleep_until(self.next_deadline().into()) => self.handle_time().await,
                    (session, text) = self.sessions.next_text() => self.handle_text(session, text).await,
                }
            }
        };
        // A peer that does not receive the end in time ends the call by its own timeout.
        let _ = timeout(END_TIMEOUT, end_calls).await;
        self.sessions.close().await;
        // The next client has to know until when the nodes were in use.
        self.search.discovery().cache().flush().await;
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
        self.handle_negotiation_time(now);
        let outputs = self.calls.handle_timeout(now);
        self.perform(outputs, now);
    }

    async fn handle_command(&mut self, command: Command) {
        let now = Instant::now();
        // Send errors are ignored: the app no longer waits.
        match command {
            Command::Place { contact, offer, rejoins, reply } => {
                let _ = reply.send(self.place_call(contact, offer, rejoins, now));
            }
            Command::Act { call, action, reply } => {
                let _ = reply.send(self.handle_call_action(call, action, now));
            }
            Command::Renegotiate { call, offer, reply } => {
                let _ = reply.send(self.renegotiate(call, offer, now));
            }
            Command::AddContact { contact, stored, reply } => {
                let pairing = contact.pairing().id();
                let added = self.change_profile(move |profile| profile.add_contact(contact, stored)).await;
                let _ = reply.send(added);
                let until = now + MAX_ATTACH_DELAY.mul_f64(rand::rng().random_range(0.0..1.0));
                for session in self.sessions.iter_mut() {
                    session.leases.delay(pairing, until);
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
                let detaching = self.attach_everywhere().await;
                let _ = reply.send(changed.map(|()| detaching));
            }
            Command::RemoveContact { contact, reply } => {
                let removed = self.change_profile(move |profile| profile.remove_contact(contact)).await;
                let detaching = self.attach_everywhere().await;
                let _ = reply.send(removed.map(|()| detaching));
            }
            Command::Contacts { reply } => {
                let _ = reply.send(self.profile.contacts().to_vec());
            }
            Command::IceServers { reply } => self.request_ice_servers(reply).await,
        }
    }

    /// Changes a copy of the profile on a blocking thread, because it writes to the disk.
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

    fn report_step(&self, call: Option<CallId>, node: NodeId, kind: StepKind) {
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
