//! The client: what an app holds. Starts the task that does the work, and stops it.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chappe_common::keys::{NodeId, PublicKey};
use chappe_discovery::{
    DiscoverError, Discovery, DiscoveryBuilder, SetupError, invite::Invite, manual::ManualNode, registry::Endpoint,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    command::{COMMANDS, CallActionError, Command, IceServersError, PlacedCall},
    contact::{Contact, ContactId, PairingId},
    driver::{CommandQueue, ConnectionState, Driver, SearchConfig},
    event::{self, Events},
    handle::Call,
    profile::{Profile, ProfileError},
    protocol::IceServer,
    sealing_key::SealingKey,
};

/// How long a shutdown waits for the task: its farewell takes two seconds, and closing one.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(4);

/// The client did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The search for nodes can't be set up.
    #[error("cannot set up the search for nodes")]
    Search(#[from] SetupError),
    /// Another process uses the profile, or its folder is not to be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// No node was found. The client is not running then.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// Nodes were found, and none attached the profile's inboxes. Mostly the clock is wrong.
    #[error("no node takes this profile's inboxes; is the clock right?")]
    NotAttached,
    /// The client's task ended before it was connected.
    #[error("the client has stopped")]
    Stopped,
}

/// A contact was not added or removed.
#[derive(Debug, thiserror::Error)]
pub enum ContactsError {
    /// The profile refuses, or the disk does.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The client has stopped.
    #[error("the client has stopped")]
    Stopped,
}

/// Says whose client it is and where it looks for nodes.
#[derive(Debug)]
pub struct ClientBuilder {
    profile: Profile,
    discovery: DiscoveryBuilder,
    cache: Option<PathBuf>,
    avoid: Vec<NodeId>,
    private: bool,
}

impl ClientBuilder {
    /// Looks for nodes in the directory of this registry, which has to rest on one of these roots.
    #[must_use]
    pub fn registry(mut self, endpoint: impl Into<Endpoint>, roots: impl IntoIterator<Item = PublicKey>) -> Self {
        self.discovery = self.discovery.registry([endpoint], roots);
        self
    }

    /// Adds a node that a person named.
    #[must_use]
    pub fn node(mut self, node: ManualNode) -> Self {
        self.discovery = self.discovery.manual(node);
        self
    }

    /// Adds the nodes of a link or QR code.
    #[must_use]
    pub fn link(mut self, link: Invite) -> Self {
        self.discovery = self.discovery.invite(link);
        self
    }

    /// Says more of where and how to look for nodes.
    #[must_use]
    pub fn discovery(mut self, change: impl FnOnce(DiscoveryBuilder) -> DiscoveryBuilder) -> Self {
        self.discovery = change(self.discovery);
        self
    }

    /// Takes nodes in private networks that contacts pass on or that the system's resolver leads to, and passes on its
    /// own: for a federation in a network of one's own, and for tests.
    #[must_use]
    pub fn private(mut self) -> Self {
        self.private = true;
        self.discovery = self.discovery.private_network();
        self
    }

    /// Remembers nodes in this file instead of the profile's folder.
    #[must_use]
    pub fn cache(mut self, path: impl Into<PathBuf>) -> Self {
        self.cache = Some(path.into());
        self
    }

    /// Prefers any other node to these at first: one that the person distrusts, or the one of the other side, so that no
    /// node sees both ends.
    #[must_use]
    pub fn avoid(mut self, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        self.avoid.extend(nodes);
        self
    }

    /// Starts the client and returns at once; it connects by itself and tells by events. Reads the cache from the disk.
    ///
    /// # Errors
    /// The search can't be set up, or another process uses the profile.
    pub fn start(mut self) -> Result<(Client, Events), StartError> {
        self.profile.hold()?;
        let cache = self.cache.unwrap_or_else(|| self.profile.nodes_file());
        let discovery = self.discovery.referrals(self.profile.referrals()).cache(cache).build()?;
        let (command_sender, commands) = mpsc::channel(COMMANDS);
        let (state_sender, connection_state) = watch::channel(ConnectionState::Searching);
        let (event_sender, events) = event::queue();
        let (identity, name) = (self.profile.identity().clone(), self.profile.name().to_owned());
        let cancel = CancellationToken::new();
        let queue = CommandQueue { sender: command_sender.downgrade(), receiver: commands };
        let search = SearchConfig { discovery: discovery.clone(), avoid: self.avoid, private: self.private };
        let driver = Driver::new(self.profile, search, event_sender, queue, state_sender);
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run(cancel.clone()));
        let client = Client {
            inner: Arc::new(Inner {
                commands: command_sender,
                connection_state,
                discovery,
                identity,
                name,
                pairings: AtomicU64::new(0),
                cancel,
                tasks: Mutex::new(tasks),
            }),
        };
        Ok((client, events))
    }

    /// Starts the client and waits until it is connected and reachable.
    ///
    /// # Errors
    /// The first search has found no node, or the search can't be set up; nothing keeps running then.
    pub async fn connect(self) -> Result<(Client, Events), StartError> {
        let (client, events) = self.start()?;
        let mut state = client.inner.connection_state.clone();
        let settled = state.wait_for(|state| !matches!(state, ConnectionState::Searching)).await;
        match settled.map(|state| state.clone()) {
            Ok(ConnectionState::Connected(_)) => Ok((client, events)),
            Ok(ConnectionState::Failed(error)) => Err(error.into()),
            Ok(ConnectionState::NotAttached) => Err(StartError::NotAttached),
            Ok(ConnectionState::Searching) | Err(_) => Err(StartError::Stopped),
        }
    }
}

struct Inner {
    commands: mpsc::Sender<Command>,
    connection_state: watch::Receiver<ConnectionState>,
    discovery: Discovery,
    identity: SealingKey,
    name: String,
    /// How many pairings have started: numbers their spans.
    pairings: AtomicU64,
    cancel: CancellationToken,
    /// Dropped with the last handle, which ends the task.
    tasks: Mutex<JoinSet<()>>,
}

/// A running client. Clones are handles of the same one; when the last is dropped, it stops without a farewell.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("node", &self.node()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of this profile that is not told so far where to look for nodes.
    pub fn builder(profile: Profile) -> ClientBuilder {
        ClientBuilder { profile, discovery: Discovery::builder(), cache: None, avoid: Vec::new(), private: false }
    }

    /// The node at which this client is reachable now.
    pub fn node(&self) -> Option<NodeId> {
        match &*self.inner.connection_state.borrow() {
            ConnectionState::Connected(node) => Some(*node),
            ConnectionState::Searching | ConnectionState::Failed(_) | ConnectionState::NotAttached => None,
        }
    }

    /// Calls a contact with this session description. Returns at once; [`Call::answered`] waits.
    ///
    /// # Errors
    /// Another call is active, there is no such contact, or the description is too long.
    pub async fn call(&self, contact: ContactId, offer_sdp: impl Into<String>) -> Result<Call, CallActionError> {
        let (reply, placed) = oneshot::channel();
        let command = Command::Place { contact, offer: offer_sdp.into(), reply };
        self.inner.commands.send(command).await.map_err(|_| CallActionError::Stopped)?;
        let PlacedCall { id, status } = placed.await.map_err(|_| CallActionError::Stopped)??;
        Ok(Call { id, contact, commands: self.inner.commands.clone(), status })
    }

    /// The contacts.
    ///
    /// # Errors
    /// The client has stopped.
    pub async fn contacts(&self) -> Result<Vec<Contact>, ContactsError> {
        let (reply, contacts) = oneshot::channel();
        self.inner.commands.send(Command::Contacts { reply }).await.map_err(|_| ContactsError::Stopped)?;
        contacts.await.map_err(|_| ContactsError::Stopped)
    }

    /// Stores a contact; within a few seconds it can reach this client. `stored`: the contact is known to have stored the
    /// pairing as well. Pairing does this by itself.
    ///
    /// # Errors
    /// The profile is full, or the disk says no.
    pub async fn add_contact(&self, contact: Contact, stored: bool) -> Result<Contact, ContactsError> {
        self.change_contacts(|reply| Command::AddContact { contact, stored, reply }).await
    }

    /// The contact has shown that it has stored this pairing: the ones before it are forgotten.
    pub(crate) async fn confirm_pairing(&self, contact: ContactId, pairing: PairingId) -> Result<(), ContactsError> {
        self.change_contacts(|reply| Command::ConfirmPairing { contact, pairing, reply }).await
    }

    /// Blocks a contact, or ends that: a blocked contact finds nobody when it calls, and stays a contact. Survives a
    /// restart.
    ///
    /// # Errors
    /// There is no such contact, or the disk says no.
    pub async fn block_contact(&self, contact: ContactId, blocked: bool) -> Result<(), ContactsError> {
        self.change_contacts(|reply| Command::BlockContact { contact, blocked, reply }).await
    }

    async fn change_contacts<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, ProfileError>>) -> Command,
    ) -> Result<T, ContactsError> {
        let (reply, changed) = oneshot::channel();
        self.inner.commands.send(command(reply)).await.map_err(|_| ContactsError::Stopped)?;
        Ok(changed.await.map_err(|_| ContactsError::Stopped)??)
    }

    /// Forgets a contact, for instance because the words of the pairing were not the same on both sides.
    ///
    /// # Errors
    /// There is no such contact, or the disk says no.
    pub async fn remove_contact(&self, contact: ContactId) -> Result<(), ContactsError> {
        self.change_contacts(|reply| Command::RemoveContact { contact, reply }).await
    }

    /// STUN and TURN servers, as the node names them.
    ///
    /// # Errors
    /// There is no session now, or the node refuses.
    pub async fn ice_servers(&self) -> Result<Vec<IceServer>, IceServersError> {
        let (reply, servers) = oneshot::channel();
        let command = Command::IceServers { reply };
        self.inner.commands.send(command).await.map_err(|_| IceServersError::Stopped)?;
        servers.await.map_err(|_| IceServersError::Stopped)?
    }

    /// Ends an active call, says goodbye to the node and stops. Returns within four seconds.
    pub async fn shutdown(self) {
        self.inner.cancel.cancel();
        let tasks = self.inner.tasks.lock().map(|mut tasks| std::mem::take(&mut *tasks));
        if let Ok(mut tasks) = tasks {
            // What hasn't ended by then is aborted with the set.
            let _ = timeout(SHUTDOWN_TIMEOUT, async { while tasks.join_next().await.is_some() {} }).await;
        }
    }

    /// The span of a new pairing. Its number says nothing about the code or the other side.
    pub(crate) fn pairing_span(&self) -> tracing::Span {
        tracing::debug_span!("pairing", number = self.inner.pairings.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn discovery(&self) -> &Discovery {
        &self.inner.discovery
    }

    pub(crate) fn identity(&self) -> &SealingKey {
        &self.inner.identity
    }

    pub(crate) fn name(&self) -> &str {
        &self.inner.name
    }
}
