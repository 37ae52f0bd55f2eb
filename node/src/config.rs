//! The configuration of a node, with defaults that are safe on a small server.
//!
//! Defines names and defaults; `check` has the bounds. The binary loads the values from file, environment and command
//! line. Durations are written as `60s` or `500ms`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use chappe_common::client::{MAX_INBOXES, MAX_MESSAGE};
pub use chappe_common::config_error::ConfigError;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::{
    acme::{AcmeSection, ChallengeChoice},
    advertised::{Advertised, AdvertisedError},
    budget::{BudgetSection, CountedBytes},
    federation::{AdmissionPolicy, FederationSection},
    turn::TurnSection,
};
pub(crate) use self::{
    advertised::can_be_dialled,
    check::MAX_ICE_SERVERS,
    live::{LiveConfig, changed_keys},
};
use crate::membership::{
    Settings,
    admission::{Admission, Policy},
};

mod acme;
mod advertised;
mod budget;
mod check;
mod federation;
mod live;
mod turn;

/// One /24 or /48 may have `max_handshakes / HANDSHAKES_PART` handshakes in progress. Admission allows two members of a
/// network, so connections held open from one network must not fill all slots.
pub(crate) const HANDSHAKES_PART: usize = 16;

/// The configuration of a node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// General settings.
    pub node: NodeSection,
    /// Where clients connect.
    pub client: ClientSection,
    /// Where other nodes connect, and which federation this node belongs to.
    pub federation: FederationSection,
    /// The registries.
    pub registry: RegistrySection,
    /// How members are probed.
    pub membership: MembershipSection,
    /// Metrics and members for the operator.
    pub admin: AdminSection,
    /// Limits for clients.
    pub limits: LimitsSection,
    /// Time limits.
    pub times: TimesSection,
    /// STUN and TURN servers for clients.
    pub ice: IceSection,
    /// The node's own STUN and TURN server.
    pub turn: TurnSection,
    /// How many bytes this machine may receive and send.
    pub budget: BudgetSection,
}

/// General settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSection {
    /// The folder for the key, the epoch and the known members.
    pub data_dir: PathBuf,
    /// A short name of the node's location, such as `eu-west`.
    pub region: String,
    /// Whether this is a reserve node, which no public list contains.
    pub reserve: bool,
    /// Who runs the node, for the page that people see: a name, an address or a URL.
    pub contact: String,
    /// Where to report abuse. If empty, `contact`.
    pub abuse_contact: String,
    /// What is logged, such as `info` or `warn,chappe_node=debug`, unless the environment has `CHAPPE_LOG`.
    pub log: String,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("chappe-node"),
            region: String::new(),
            reserve: false,
            contact: String::new(),
            abuse_contact: String::new(),
            log: "info".to_owned(),
        }
    }
}

/// Where clients connect.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientSection {
    /// The TCP address for client WebSockets. Port 0 selects a free port.
    pub listen: SocketAddr,
    /// The URLs that clients use. If empty, `ws://` (`wss://` with a certificate) and the bound address, which others
    /// have to be able to reach.
    pub urls: Vec<String>,
    /// Maximum concurrent connections. The default fits 20,000 open files, with some left for links.
    pub max_connections: usize,
    /// The PEM file of the TLS certificate and its chain. Without one, clients connect without TLS.
    pub tls_cert: Option<PathBuf>,
    /// The PEM file of the certificate's private key.
    pub tls_key: Option<PathBuf>,
    /// The file `chappe.html`, with which people call. If set, the node serves it at `/call`.
    pub page: Option<PathBuf>,
    /// Networks of reverse proxies that are trusted to tell a client's address. Limits for each source then apply to it.
    pub trusted_proxies: Vec<IpNet>,
    /// A certificate that the node obtains by itself.
    pub acme: AcmeSection,
}

impl ClientSection {
    /// Whether the node terminates TLS itself.
    pub const fn has_tls(&self) -> bool {
        self.tls_cert.is_some() || self.acme.enabled
    }
}

impl Default for ClientSection {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 8710).into(),
            urls: Vec::new(),
            max_connections: 18_000,
            tls_cert: None,
            tls_key: None,
            page: None,
            trusted_proxies: Vec::new(),
            acme: AcmeSection::default(),
        }
    }
}

impl NodeConfig {
    /// Returns the admission rules that these settings define.
    pub fn admission(&self) -> Admission {
        let federation = &self.federation;
        let policy = match federation.admission {
            AdmissionPolicy::Open => Policy::Open,
            AdmissionPolicy::Invite => Policy::Invite(federation.issuers.clone()),
            AdmissionPolicy::Allowlist => Policy::Allowlist(federation.allow.iter().copied().collect()),
        };
        Admission { policy, exempt: federation.exempt.clone() }
    }

    /// Returns the settings of the membership engine.
    pub fn membership_settings(&self) -> Settings {
        let membership = &self.membership;
        Settings {
            probe_period: membership.probe_period,
            probe_timeout: membership.probe_timeout,
            exchange_every: membership.exchange_every,
            admission: self.admission(),
            probation: membership.probation,
        }
    }
}

/// The registries.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrySection {
    /// The registries' base URLs. Without any, clients find the node only by links, contacts or their settings.
    pub urls: Vec<String>,
    /// The names under which the federation publishes nodes in DNS. The Rust client queries them too if it learns of the
    /// federation from this node.
    pub dns: Vec<String>,
    /// How long a record is valid.
    #[serde(with = "humantime_serde")]
    pub record_lifetime: Duration,
    /// How often the record is signed and registered again; at most half of its lifetime.
    #[serde(with = "humantime_serde")]
    pub renew_every: Duration,
}

impl Default for RegistrySection {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            dns: Vec::new(),
            // A mirror that copies the directory once a day still lists valid records.
            record_lifetime: Duration::from_secs(24 * 3600),
            renew_every: Duration::from_secs(10 * 60),
        }
    }
}

/// How members are probed. All nodes of a federation should use the same values.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MembershipSection {
    /// One member is probed in each period.
    #[serde(with = "humantime_serde")]
    pub probe_period: Duration,
    /// How long a direct probe may take before other members are asked to probe; less than half of the period.
    #[serde(with = "humantime_serde")]
    pub probe_timeout: Duration,
    /// How often the full state is exchanged with one random member.
    #[serde(with = "humantime_serde")]
    pub exchange_every: Duration,
    /// How long a new member is not a home, and its accusations do not count.
    #[serde(with = "humantime_serde")]
    pub probation: Duration,
    /// How long a node may be alone, while the registry lists others, before it sends its clients to them.
    #[serde(with = "humantime_serde")]
    pub cut_off_after: Duration,
}

impl Default for MembershipSection {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_millis(1500),
            // Slightly more than twice the longest intercontinental round trip: the probe is repeated once meanwhile.
            probe_timeout: Duration::from_millis(600),
            exchange_every: Duration::from_secs(30),
            // To become a home, a stranger has to run a node for a day.
            probation: Duration::from_secs(24 * 3600),
            // A registry lists failed nodes for up to seven minutes. A node whose peers have failed should keep its
            // clients.
            cut_off_after: Duration::from_secs(10 * 60),
        }
    }
}

/// Metrics and members for the operator.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSection {
    /// The address of `/metrics` and `/members`. Not served if unset. Keep it private.
    pub listen: Option<SocketAddr>,
}

/// Limits for clients.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Messages of one session per minute. A candidate counts as a tenth.
    pub messages_per_minute: u32,
    /// Pair and link requests of one session per minute.
    pub pair_requests_per_minute: u32,
    /// Pair and link requests of one source (IPv4 address or IPv6 /64) per minute.
    pub source_pair_requests_per_minute: u32,
    /// Messages of one source, as a multiple of a session's. Many sessions may share a carrier's NAT.
    pub source_factor: u32,
    /// New connections of one source per minute.
    pub source_connections_per_minute: u32,
    /// Concurrent connections of one source.
    pub source_connections: usize,
    /// `call_offer` messages to one inbox per minute.
    pub offers_per_minute: u32,
    /// Maximum inboxes of one session.
    pub max_inboxes: usize,
    /// Maximum unverified leases of all sessions; each takes half a kilobyte and 80 µs.
    pub max_pending_leases: usize,
    /// Maximum message size in bytes.
    pub max_message: usize,
    /// Maximum bytes queued for one client. Beyond it, the client is closed as too slow.
    pub max_queued: usize,
    /// Maximum bytes of all clients' queues and incomplete messages. The first 8 KiB of each client in each direction
    /// are not counted.
    pub memory_budget: usize,
    /// Maximum sources with stored rates, 160 bytes each. Beyond it, connections are refused if no source can be
    /// removed.
    pub max_sources: usize,
    /// Networks without rate limits, for tests.
    pub exempt: Vec<IpNet>,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            messages_per_minute: 100,
            pair_requests_per_minute: 10,
            source_pair_requests_per_minute: 60,
            source_factor: 20,
            source_connections_per_minute: 300,
            // Enough for a carrier's NAT, without letting one address take all slots.
            source_connections: 1000,
            offers_per_minute: 6,
            max_inboxes: MAX_INBOXES,
            // Less than a second of one core: an accepted client is done before it gives up.
            max_pending_leases: 10_000,
            max_message: MAX_MESSAGE,
            max_queued: 256 * 1024,
            // Enough for a thousand clients that read nothing.
            memory_budget: 256 * 1024 * 1024,
            // Four times the sources of a full node with one connection each.
            max_sources: 65_536,
            exempt: Vec::new(),
        }
    }
}

/// Time limits.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimesSection {
    /// From accepting a connection to the end of its WebSocket upgrade.
    #[serde(with = "humantime_serde")]
    pub upgrade: Duration,
    /// Silence after which a session is pinged.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// Silence after a ping after which a session is closed.
    #[serde(with = "humantime_serde")]
    pub pong: Duration,
    /// A client that reads nothing of its queue for this long is closed.
    #[serde(with = "humantime_serde")]
    pub write: Duration,
    /// How long a pair or link request waits for its answer.
    #[serde(with = "humantime_serde")]
    pub pair_request: Duration,
    /// How long before the end of a request both sides are warned.
    #[serde(with = "humantime_serde")]
    pub pair_warning: Duration,
    /// Delay of the answer to a request that cannot be processed; the same for every reason.
    #[serde(with = "humantime_serde")]
    pub pair_error: Duration,
    /// Time limit of requests to homes.
    #[serde(with = "humantime_serde")]
    pub lookup: Duration,
    /// How long to wait for the other homes after one answered with a lease, unless two agree before.
    #[serde(with = "humantime_serde")]
    pub lookup_hedge: Duration,
    /// How long the callee's node may take to confirm a message.
    #[serde(with = "humantime_serde")]
    pub delivery: Duration,
    /// How long homes store a lease or code after its last registration; 2 to 300 s.
    #[serde(with = "humantime_serde")]
    pub registration: Duration,
    /// How long clients have to leave when the node stops.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for TimesSection {
    fn default() -> Self {
        Self {
            upgrade: Duration::from_secs(5),
            idle: Duration::from_secs(60),
            pong: Duration::from_secs(30),
            // As long as a silent client is tolerated.
            write: Duration::from_secs(30),
            pair_request: Duration::from_secs(120),
            pair_warning: Duration::from_secs(30),
            // People expect an answer within a second, and a lookup takes less than this.
            pair_error: Duration::from_millis(900),
            lookup: Duration::from_millis(800),
            // The longest round trip: a home that quickly returns an old lease cannot outrun the honest ones.
            lookup_hedge: Duration::from_millis(250),
            delivery: Duration::from_secs(2),
            registration: Duration::from_secs(240),
            drain: Duration::from_secs(5),
        }
    }
}

/// STUN and TURN servers for clients.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IceSection {
    /// The servers.
    pub servers: Vec<IceServer>,
    /// Lifetime of credentials made from a shared secret; at most one hour.
    #[serde(with = "humantime_serde")]
    pub credential_lifetime: Duration,
}

impl Default for IceSection {
    fn default() -> Self {
        Self { servers: Vec::new(), credential_lifetime: Duration::from_secs(3600) }
    }
}

/// One STUN or TURN server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IceServer {
    /// `stun:`, `turn:` and `turns:` URLs.
    pub urls: Vec<String>,
    /// The secret shared with the server (coturn's `static-auth-secret`). Not needed for STUN.
    pub secret: Option<Secret>,
}

/// A shared secret, redacted in debug output.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}
