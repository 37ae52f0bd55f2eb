//! The app's handle of the client. Starts and stops its task.

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
    nodes_in_use::NodesInUse,
    profile::{Profile, ProfileError},
    protocol::IceServer,
    seal::CallId,
    sealing_key::SealingKey,
};

/// How long a shutdown waits for the task. Ending the calls takes up to two seconds, then closing the sessions.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(4);

/// The client did not start or did not connect.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The search for nodes cannot be set up.
    #[error("cannot set up the search for nodes")]
    Search(#[from] SetupError),
    /// Another process uses the profile, or its folder is not safe to use.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// No node was found. The client is stopped.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// Nodes were found, but none attached the profile's inboxes. Usually the clock is wrong. The client is stopped.
    #[error("no node attached this profile's inboxes; is the clock right?")]
    NotAttached,
    /// The client's task ended before it was connected.
    #[error("the client has stopped")]
    Stopped,
}

/// The contacts were not changed.
#[derive(Debug, thiserror::Error)]
pub enum ContactsError {
    /// The profile rejects the change, or cannot be written.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The client has stopped.
    #[error("the client has stopped")]
    Stopped,
}

/// Configures a client: its profile and where it looks for nodes.
#[derive(Debug)]
pub struct ClientBuilder {
    profile: Profile,
    discovery: DiscoveryBuilder,
    cache: Option<PathBuf>,
    avoid: Vec<NodeId>,
    private: bool,
}

impl ClientBuilder {
    /// Adds a registry. Its directory must be signed under one of these root keys.
    #[must_use]
    pub fn registry(mut self, endpoint: impl Into<Endpoint>, roots: impl IntoIterator<Item = PublicKey>) -> Self {
        self.discovery = self.discovery.registry([endpoint], roots);
        self
    }

    /// Adds a node by address.
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

    /// Changes further settings of the search.
    #[must_use]
    pub fn discovery(mut self, change: impl FnOnce(DiscoveryBuilder) -> DiscoveryBuilder) -> Self {
        self.discovery = change(self.discovery);
        self
    }

    /// Accepts nodes in private networks from contacts and the system's resolver, and shares such nodes with contacts.
    /// For a federation in a private network, and for tests.
    #[must_use]
    pub fn private(mut self) -> Self {
        self.private = true;
        self.discovery = self.discovery.private_network();
        self
    }

    /// Uses this file as the node cache, instead of one in the profile's folder.
    #[must_use]
    pub fn cache(mut self, path: impl Into<PathBuf>) -> Self {
        self.cache = Some(path.into());
        self
    }

    /// Avoids these nodes at first: for example one that the user distrusts, or the contact's node, so that no node
    /// sees both sides.
    #[must_use]
    pub fn avoid(mut self, nodes: impl IntoIterator<Item = NodeId>) -> Self {
        self.avoid.extend(nodes);
        self
    }

    /// Starts the client and returns at once. It connects in the background and reports by events. Blocks on the disk
    /// to read the cache.
    ///
    /// # Errors
    /// The search cannot be set up, or another process uses the profile.
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
        let nodes_in_use = NodesInUse::new(discovery.clone());
        let search = SearchConfig {
            discovery: discovery.clone(),
            avoid: self.avoid,
            nodes_in_use: nodes_in_use.clone(),
            private: self.private,
        };
        let driver = Driver::new(self.profile, search, event_sender, queue, state_sender);
        let mut tasks = JoinSet::new();
        tasks.spawn(driver.run(cancel.clone()));
        let client = Client {
            inner: Arc::new(Inner {
                commands: command_sender,
                connection_state,
                discovery,
                nodes_in_use,
                identity,
                name,
                pairings: AtomicU64::new(0),
                cancel,
                tasks: Mutex::new(tasks),
            }),
        };
        Ok((client, events))
    }

    /// Starts the client and waits until it is connected and its inboxes are attached.
    ///
    /// # Errors
    /// The first search found no node, no node attached the inboxes, or the search cannot be set up. The client is
    /// stopped then.
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
    nodes_in_use: NodesInUse,
    identity: SealingKey,
    name: String,
    /// How many pairings have started: numbers their spans.
    pairings: AtomicU64,
    cancel: CancellationToken,
    /// Dropping it with the last handle aborts the task.
    tasks: Mutex<JoinSet<()>>,
}

/// A running client. Clones are handles of the same client. When the last one is dropped, the client stops without
/// ending its calls; use [`Client::shutdown`].
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
    /// A builder for a client of this profile, without any source of nodes.
    pub fn builder(profile: Profile) -> ClientBuilder {
        ClientBuilder { profile, discovery: Discovery::builder(), cache: None, avoid: Vec::new(), private: false }
    }

    /// The node of the session in use, or `None` if not connected.
    pub fn node(&self) -> Option<NodeId> {
        match &*self.inner.connection_state.borrow() {
            ConnectionState::Connected(node) => Some(*node),
            ConnectionState::Searching | ConnectionState::Failed(_) | ConnectionState::NotAttached => None,
        }
    }

    /// Calls a contact with this session description. Returns before the offer is sent; use [`Call::answered`] to
    /// wait.
    ///
    /// # Errors
    /// Another call is active, too many earlier calls are still ending, there is no such contact, the description is
    /// longer than [`MAX_SDP`](crate::MAX_SDP), or the client has stopped.
    pub async fn call(&self, contact: ContactId, offer_sdp: impl Into<String>) -> Result<Call, CallActionError> {
        self.place(contact, offer_sdp.into(), None).await
    }

    /// Continues an answered call that this client has lost, as by a restart of the app. If the contact's client still has
    /// the call `old`, it replaces that call by the new one without ringing, and its app gets [`Event::CallRejoined`].
    /// Otherwise the new call ends with [`EndReason::PeerHungUp`]. The contact's client waits for 30 s after it has lost
    /// media.
    ///
    /// # Errors
    /// Those of [`Self::call`].
    ///
    /// [`Event::CallRejoined`]: crate::Event::CallRejoined
    /// [`EndReason::PeerHungUp`]: crate::call::EndReason::PeerHungUp
    pub async fn rejoin(
        &self,
        contact: ContactId,
        old: CallId,
        offer_sdp: impl Into<String>,
    ) -> Result<Call, CallActionError> {
        self.place(contact, offer_sdp.into(), Some(old)).await
    }

    async fn place(&self, contact: ContactId, offer: String, rejoins: Option<CallId>) -> Result<Call, CallActionError> {
        let (reply, placed) = oneshot::channel();
        let command = Command::Place { contact, offer, rejoins, reply };
        self.inner.commands.send(command).await.map_err(|_| CallActionError::Stopped)?;
        let PlacedCall { id, status } = placed.await.map_err(|_| CallActionError::Stopped)??;
        Ok(Call { id, contact, commands: self.inner.commands.clone(), status })
    }

    /// The contacts, in the order in which they were paired.
    ///
    /// # Errors
    /// The client has stopped.
    pub async fn contacts(&self) -> Result<Vec<Contact>, ContactsError> {
        let (reply, contacts) = oneshot::channel();
        self.inner.commands.send(Command::Contacts { reply }).await.map_err(|_| ContactsError::Stopped)?;
        contacts.await.map_err(|_| ContactsError::Stopped)
    }

    /// Stores a contact. It can reach this client within a few seconds. Pass `stored` if the contact has stored the
    /// pairing as well. Pairing calls this by itself.
    ///
    /// # Errors
    /// The profile is full or cannot be written.
    pub async fn add_contact(&self, contact: Contact, stored: bool) -> Result<Contact, ContactsError> {
        self.change_contacts(|reply| Command::AddContact { contact, stored, reply }).await
    }

    /// Records that the contact has stored this pairing, and drops the older ones.
    pub(crate) async fn confirm_pairing(&self, contact: ContactId, pairing: PairingId) -> Result<(), ContactsError> {
        self.change_contacts(|reply| Command::ConfirmPairing { contact, pairing, reply }).await
    }

    /// Blocks or unblocks a contact. To a blocked contact, this client appears offline. The setting is stored. Waits
    /// up to five seconds until the nodes in use have detached the contact's inbox, so that they deliver no call after that.
    ///
    /// # Errors
    /// There is no such contact, or the profile cannot be written.
    pub async fn block_contact(&self, contact: ContactId, blocked: bool) -> Result<(), ContactsError> {
        self.change_contacts(|reply| Command::BlockContact { contact, blocked, reply }).await?.finish().await;
        Ok(())
    }

    async fn change_contacts<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, ProfileError>>) -> Command,
    ) -> Result<T, ContactsError> {
        let (reply, changed) = oneshot::channel();
        self.inner.commands.send(command(reply)).await.map_err(|_| ContactsError::Stopped)?;
        Ok(changed.await.map_err(|_| ContactsError::Stopped)??)
    }

    /// Removes a contact, for example because the verification words differed. Waits as [`Self::block_contact`] does.
    ///
    /// # Errors
    /// There is no such contact, or the profile cannot be written.
    pub async fn remove_contact(&self, contact: ContactId) -> Result<(), ContactsError> {
        self.change_contacts(|reply| Command::RemoveContact { contact, reply }).await?.finish().await;
        Ok(())
    }

    /// Requests the node's STUN and TURN servers. Waits up to five seconds.
    ///
    /// # Errors
    /// There is no session, or the node has rejected the request.
    pub async fn ice_servers(&self) -> Result<Vec<IceServer>, IceServersError> {
        let (reply, servers) = oneshot::channel();
        let command = Command::IceServers { reply };
        self.inner.commands.send(command).await.map_err(|_| IceServersError::Stopped)?;
        servers.await.map_err(|_| IceServersError::Stopped)?
    }

    /// Ends the active call, closes the sessions and stops. Takes at most four seconds.
    pub async fn shutdown(self) {
        self.inner.cancel.cancel();
        let tasks = self.inner.tasks.lock().map(|mut tasks| std::mem::take(&mut *tasks));
        if let Ok(mut tasks) = tasks {
            // Tasks that are still running are aborted with the set.
            let _ = timeout(SHUTDOWN_TIMEOUT, async { while tasks.join_next().await.is_some() {} }).await;
        }
    }

    /// The span of a new pairing. Its number reveals nothing about the code or the other side.
    pub(crate) fn pairing_span(&self) -> tracing::Span {
        tracing::debug_span!("pairing", number = self.inner.pairings.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn discovery(&self) -> &Discovery {
        &self.inner.discovery
    }

    pub(crate) fn nodes_in_use(&self) -> &NodesInUse {
        &self.inner.nodes_in_use
    }

    pub(crate) fn identity(&self) -> &SealingKey {
        &self.inner.identity
    }

    pub(crate) fn name(&self) -> &str {
        &self.inner.name
    }
}
