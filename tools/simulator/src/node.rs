//! One simulated node: its engine and what its process holds besides.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use chappe_common::{
    federation::FederationId,
    keys::{NodeId, SecretKey},
    record::{Abilities, NodeRecord, SignedRecord},
    signed::Signed,
    time::UnixTime,
};
use chappe_node::membership::{Engine, Greeting, Now, exchange::ExchangeMessage, records::Records};

use super::{attack::Behaviour, event::Event, links::Links, time::Time};

/// How long a record lives, as nodes have it.
const RECORD_LIFETIME: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Which node: its place in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ix(pub(super) u32);

impl Ix {
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a node has sent since it was made, over all its runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Membership messages: datagrams, and messages of exchanges.
    pub messages: u64,
    /// Their payload in bytes.
    pub bytes: u64,
    /// Links that it has dialled.
    pub links: u64,
    /// Records that it has shown on links, in bytes.
    pub greeted: u64,
    /// Dials that met nobody.
    pub vain_dials: u64,
}

/// A dial under way.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) peer: NodeId,
    pub(super) addr: SocketAddr,
    pub(super) since: Time,
    /// Packets that wait until the connection can carry them.
    pub(super) early: Vec<Bytes>,
    /// Packets of the peer that came before its first words.
    pub(super) inbox: Vec<Bytes>,
    /// Whether an exchange waits for the link.
    pub(super) exchange: bool,
    /// What a malicious member says first, in an exchange of its own.
    pub(super) say: Option<ExchangeMessage>,
    /// Whether the engine wants to know if it fails.
    pub(super) report: bool,
    /// The peer's own dial is on its way, and is waited for.
    pub(super) deferred: bool,
}

/// The dials under way of one node.
#[derive(Debug, Default)]
pub(super) struct Dials {
    pub(super) open: HashMap<u32, Dial>,
    pub(super) by_peer: HashMap<NodeId, u32>,
    pub(super) numbers: u32,
}

/// A node.
pub(super) struct Node {
    pub(super) key: SecretKey,
    pub(super) id: NodeId,
    /// Where it says that it is reached.
    pub(super) shown: SocketAddr,
    pub(super) greeting: Arc<Greeting>,
    /// Its run: raised at each start. 0: it never ran.
    pub(super) epoch: u32,
    /// None: its process isn't running.
    pub(super) engine: Option<Engine>,
    pub(super) records: Arc<Records>,
    /// For when its next wake is queued.
    pub(super) wake_at: Option<Time>,
    pub(super) links: Links,
    pub(super) dials: Dials,
    /// Handshakes of others that it has not judged yet, and dial-backs of its own.
    pub(super) incoming: usize,
    pub(super) dial_backs: usize,
    /// Its process is stopped; what arrives waits.
    pub(super) stopped: bool,
    pub(super) backlog: Vec<Event>,
    /// Since when it has been running and connected without a pause.
    pub(super) steady_since: Time,
    /// What its last run wrote down.
    pub(super) last: Vec<(Arc<SignedRecord>, UnixTime)>,
    pub(super) last_since: Option<UnixTime>,
    /// Whom it seeks when it is alone; none: whom the registry lists.
    pub(super) anchors: Option<Vec<Ix>>,
    pub(super) joining: bool,
    pub(super) behaviour: Option<Box<dyn Behaviour>>,
    pub(super) load: Load,
}

impl Node {
    pub(super) fn new(seed: [u8; 32], federation: FederationId, shown: SocketAddr, now: Now) -> Self {
        let key = SecretKey::from_bytes(&seed);
        let record = sign_record(&key, federation, 0, shown, now.clock);
        Self {
            id: key.node_id(),
            key,
            shown,
            greeting: Arc::new(Greeting { record, ticket: None }),
            epoch: 0,
            engine: None,
            records: Arc::new(Records::new(federation)),
            wake_at: None,
            links: Links::default(),
            dials: Dials::default(),
            incoming: 0,
            dial_backs: 0,
            stopped: false,
            backlog: Vec::new(),
            steady_since: Time::ZERO,
            last: Vec::new(),
            last_since: None,
            anchors: None,
            joining: false,
            behaviour: None,
            load: Load::default(),
        }
    }

    /// Whether its process is there and does what it should.
    pub(super) const fn is_honest(&self) -> bool {
        self.behaviour.is_none()
    }

    pub(super) const fn is_running(&self) -> bool {
        self.engine.is_some()
    }
}

/// The record of a run.
///
/// # Panics
/// It can't be signed: the fields are in bounds.
pub(crate) fn sign_record(
    key: &SecretKey,
    federation: FederationId,
    epoch: u32,
    addr: SocketAddr,
    clock: UnixTime,
) -> SignedRecord {
    let record = NodeRecord {
        federation,
        node: key.node_id(),
        epoch: epoch.into(),
        seq: 1,
        issued_at: clock,
        expires_at: clock + RECORD_LIFETIME,
        client_urls: vec![format!("wss://{}.relay.example", addr.ip())],
        quic_addrs: vec![addr],
        region: "eu-west".to_owned(),
        version: "0.1.0".to_owned(),
        abilities: Abilities::ICE_SERVERS,
    };
    Signed::sign(record, key).expect("a record whose fields are in bounds")
}
