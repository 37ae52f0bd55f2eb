//! The client's task: keeps a session with a node, and carries out what the app and the other sides ask.
//!
//! All state has this one owner. The loop here waits; `link` keeps a session up, `delivery` carries messages to nodes
//! and takes their answers, `calling` moves calls through their states, `learned` writes down
//! what contacts let it know.

mod calling;
mod delivery;
mod finished;
mod learned;
pub(crate) mod leases;
mod link;
mod outbox;
mod record;
mod refusals;
mod session;

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use backon::ExponentialBackoff;
use chappe_common::{keys::NodeId, place::NodePlace, time::UnixTime};
use chappe_discovery::{DiscoverError, Discovery, SearchOutcome, SearchSummary};
use futures_util::future::{self, BoxFuture};
use rand::RngExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    delivery::Pending,
    finished::Finished,
    leases::SlotId,
    record::Record,
    session::{Session, next_text},
};
use crate::{
    call::Calls,
    command::Command,
    contact::{ContactId, PairingId},
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
pub(crate) enum LinkState {
    Searching,
    Connected(NodeId),
    Failed(DiscoverError),
    /// A node was found, and did not attach the inboxes.
    NotAttached,
}

pub(crate) struct Driver {
    profile: Profile,
    discovery: Discovery,
    events: EventSender,
    commands: mpsc::Receiver<Command>,
    /// For the handles of incoming calls. Weak, so that the queue closes with the app's last handle.
    command_sender: mpsc::WeakSender<Command>,
    link: watch::Sender<LinkState>,
    sessions: Vec<Session>,
    connecting: Option<BoxFuture<'static, SearchOutcome>>,
    /// What is left of the last search.
    background_search: Option<BoxFuture<'static, (NodeId, SearchSummary)>>,
    backoff: ExponentialBackoff,
    /// The pauses between searches that find nobody.
    retry: ExponentialBackoff,
    /// The newest `seq` of each inbox, in whichever session it was signed.
    seqs: HashMap<SlotId, u64>,
    /// A pairing that its contact has used, to be written down.
    confirmed: Option<(ContactId, PairingId)>,
    /// What a contact has passed on, to be written down.
    referred: Option<(ContactId, Vec<NodePlace>)>,
    /// Whether nodes in private networks count when a contact passes them on.
    private: bool,
    /// When a search last began without a pause.
    at_once: Option<Instant>,
    /// How many nodes in a row did not attach the inboxes.
    unattached: u32,
    /// Nodes that failed since the last session was ready; another is preferred.
    avoid: Vec<NodeId>,
    requests: HashMap<u64, Pending>,
    next_request: u64,
    next_serial: u64,
    calls: Calls,
    records: HashMap<CallId, Record>,
    finished: Finished,
}

impl Driver {
    pub(crate) fn new(
        profile: Profile,
        (discovery, avoid, private): (Discovery, Vec<NodeId>, bool),
        events: EventSender,
        commands: (mpsc::WeakSender<Command>, mpsc::Receiver<Command>),
        link: watch::Sender<LinkState>,
    ) -> Self {
        Self {
            profile,
            discovery,
            events,
            commands: commands.1,
            command_sender: commands.0,
            link,
            sessions: Vec::new(),
            connecting: None,
            background_search: None,
            backoff: link::backoff(),
            retry: link::retry(),
            seqs: HashMap::new(),
            confirmed: None,
            referred: None,
            private,
            at_once: None,
            unattached: 0,
            avoid,
            requests: HashMap::new(),
            next_request: 0,
            next_serial: 0,
            calls: Calls::default(),
            records: HashMap::new(),
            finished: Finished::default(),
        }
    }

    /// Runs until it is cancelled; then ends the call, says goodbye and returns.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        self.search();
        loop {
            self.pump().await;
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = sleep_until(deadline.into()) => self.handle_time().await,
                outcome = finished_or_never(&mut self.connecting) => self.handle_search(outcome).await,
                (node, summary) = finished_or_never(&mut self.background_search) => self.handle_search_summary(node, summary),
                // Before the nodes' words: one that floods must not keep the app from hanging up.
                Some(command) = self.commands.recv() => self.handle_command(command).await,
                (session, text) = next_text(&mut self.sessions) => {
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
        self.connecting = None;
        let farewell = async {
            while self.sessions.iter().any(Session::is_ready)
                && self.records.values().any(|record| !record.outbox.is_empty())
            {
                self.pump().await;
                tokio::select! {
                    biased;
                    () = sleep_until(self.next_deadline().into()) => self.handle_time().await,
                    (session, text) = next_text(&mut self.sessions) => self.handle_text(session, text).await,
                }
            }
        };
        // Whoever isn't told in time notices by itself.
        let _ = timeout(FAREWELL, farewell).await;
        for session in self.sessions {
            session.connection.close().await;
        }
    }

    fn next_deadline(&self) -> Instant {
        let unix = unix_now();
        let sessions = self.sessions.iter().map(|session| session.next_deadline(unix));
        let requests = self.requests.values().map(|pending| pending.until);
        // Without a session nothing can be tried again, however late it is.
        let ready = self.sessions.iter().any(Session::is_ready);
        let records = self.records.values().filter_map(move |record| record.next_deadline(ready));
        let earliest = sessions.chain(requests).chain(records).chain(self.calls.poll_timeout()).min();
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
                for session in &mut self.sessions {
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

/// What the future comes to; never, where there is none.
async fn finished_or_never<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => future::pending().await,
    }
}

fn unix_now() -> UnixTime {
    UnixTime::from(SystemTime::now())
}

fn unix_now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
