//! What an operator can set, with defaults that are safe on a small server.
//!
//! Owns names and defaults; `check` has the bounds. Where the values come from (file, environment, command line) is the binary's
//! business. Times are written as `60s` or `500ms`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use chappe_common::client::{MAX_INBOXES, MAX_MESSAGE};
pub use chappe_common::config_error::ConfigError;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub(crate) use self::advertised::can_be_dialled;
pub use self::{
    advertised::{Advertised, AdvertisedError},
    federation::{AdmissionPolicy, FederationSection},
};
use crate::membership::{
    Settings,
    admission::{Admission, Policy},
};

mod advertised;
mod check;
mod federation;

/// One /24 or /48 may have `max_handshakes / HANDSHAKES_PART` handshakes under way. Others admit two of its nodes at most, and
/// connections that are held open from one network must not fill all slots.
pub(crate) const HANDSHAKES_PART: usize = 16;

/// The whole configuration of a node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// The node itself.
    pub node: NodeSection,
    /// Where clients connect.
    pub client: ClientSection,
    /// Where other nodes connect, and whom this node belongs to.
    pub federation: FederationSection,
    /// The registries.
    pub registry: RegistrySection,
    /// How members are watched.
    pub membership: MembershipSection,
    /// Metrics and members for the operator.
    pub admin: AdminSection,
    /// How much one client may do.
    pub limits: LimitsSection,
    /// How long things may take.
    pub times: TimesSection,
    /// The STUN and TURN servers that clients are told of.
    pub ice: IceSection,
}

/// The node itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSection {
    /// The folder for the key, the epoch and the known members.
    pub data_dir: PathBuf,
    /// A short name of where the node stands, such as `eu-west`.
    pub region: String,
    /// Whether the node is in reserve: in no public list, and found only by who is told of it.
    pub reserve: bool,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self { data_dir: PathBuf::from("chappe-node"), region: String::new(), reserve: false }
    }
}

/// Where clients connect.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientSection {
    /// The address for clients' WebSockets; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The URLs that clients use; empty: `ws://` (`wss://` with a certificate) and the bound address, which has to be one
    /// that others reach.
    pub urls: Vec<String>,
    /// The most connections at once. The default holds at 20,000 open files with room for links.
    pub max_connections: usize,
    /// The file of the certificate for TLS, with those that it was signed by; PEM. None: no TLS.
    pub tls_cert: Option<PathBuf>,
    /// The file of its private key; PEM.
    pub tls_key: Option<PathBuf>,
}

impl Default for ClientSection {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 8710).into(),
            urls: Vec::new(),
            max_connections: 18_000,
            tls_cert: None,
            tls_key: None,
        }
    }
}

impl NodeConfig {
    /// The rules of admission that these keys are.
    pub fn admission(&self) -> Admission {
        let federation = &self.federation;
        let policy = match federation.admission {
            AdmissionPolicy::Open => Policy::Open,
            AdmissionPolicy::Invite if federation.issuers.is_empty() => Policy::Invite(federation.roots.clone()),
            AdmissionPolicy::Invite => Policy::Invite(federation.issuers.clone()),
            AdmissionPolicy::Allowlist => Policy::Allowlist(federation.allow.iter().copied().collect()),
        };
        Admission { policy, exempt: federation.exempt.clone() }
    }

    /// How members are watched and admitted.
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
    /// The registries' base URLs; empty: the node is known to nobody that it isn't told of.
    pub urls: Vec<String>,
    /// How long a record lives.
    #[serde(with = "humantime_serde")]
    pub record_lifetime: Duration,
    /// How often the record is signed and registered anew; less than half of its life.
    #[serde(with = "humantime_serde")]
    pub renew_every: Duration,
}

impl Default for RegistrySection {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            // A directory that a mirror copied once a day still names nodes that count.
            record_lifetime: Duration::from_secs(24 * 3600),
            renew_every: Duration::from_secs(10 * 60),
        }
    }
}

/// How members are watched. All nodes of a federation should agree on these.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MembershipSection {
    /// One member is probed in every period.
    #[serde(with = "humantime_serde")]
    pub probe_period: Duration,
    /// How long a direct probe may take before others are asked to probe; less than half the period.
    #[serde(with = "humantime_serde")]
    pub probe_timeout: Duration,
    /// How often the full state is exchanged with one random member.
    #[serde(with = "humantime_serde")]
    pub exchange_every: Duration,
    /// How long a new member is nobody's home, and its accusations don't count.
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
            // Twice the longest round trip between continents, and a little: the probe is sent once more meanwhile.
            probe_timeout: Duration::from_millis(600),
            exchange_every: Duration::from_secs(30),
            // To be a home for somebody, a stranger has to run a node for a day.
            probation: Duration::from_secs(24 * 3600),
            // A registry lists nodes that are down for seven minutes: whoever is left alone by them is to go on.
            cut_off_after: Duration::from_secs(10 * 60),
        }
    }
}

/// Metrics and members for the operator.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSection {
    /// The address of `/metrics` and `/members`; none: not served. Keep it private.
    pub listen: Option<SocketAddr>,
}

/// How much one client may do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Messages of one session in a minute; candidates count a tenth.
    pub messages_per_minute: u32,
    /// Pair and link requests of one session in a minute.
    pub pair_requests_per_minute: u32,
    /// Pair and link requests of one source (IPv4 address, IPv6 /64) in a minute.
    pub source_pair_requests_per_minute: u32,
    /// How many times a session's messages one source may send: a carrier's NAT holds many sessions.
    pub source_factor: u32,
    /// New connections of one source in a minute.
    pub source_connections_per_minute: u32,
    /// Connections of one source at once.
    pub source_connections: usize,
    /// `call_offer`s to one inbox in a minute.
    pub offers_per_minute: u32,
    /// Inboxes of one session.
    pub max_inboxes: usize,
    /// Inboxes of all sessions that wait to be verified, half a kilobyte and 80 µs each.
    pub max_pending_leases: usize,
    /// The largest message in bytes.
    pub max_message: usize,
    /// What may wait for one client in bytes; more, and the client is too slow.
    pub max_queued: usize,
    /// What may wait for all clients, and of their messages that are not whole, in bytes, besides 8 KiB of each
    /// in each direction.
    pub memory_budget: usize,
    /// The most sources whose rates are remembered at once, 160 bytes each; beyond, and where none can be forgotten,
    /// connections are refused.
    pub max_sources: usize,
    /// Sources to which no rate applies: a test network.
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
            // A carrier's NAT; one address doesn't take the places of all.
            source_connections: 1000,
            offers_per_minute: 6,
            max_inboxes: MAX_INBOXES,
            // Less than a second of a processor: who is let in is done before it gives up.
            max_pending_leases: 10_000,
            max_message: MAX_MESSAGE,
            max_queued: 256 * 1024,
            // A thousand clients that read nothing.
            memory_budget: 256 * 1024 * 1024,
            // Four times the sources of a full node, each on a connection of its own.
            max_sources: 65_536,
            exempt: Vec::new(),
        }
    }
}

/// How long things may take.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimesSection {
    /// From the first byte of a connection to the end of its WebSocket upgrade.
    #[serde(with = "humantime_serde")]
    pub upgrade: Duration,
    /// A session that says nothing for so long is pinged.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// A pinged session that stays silent for so long is closed.
    #[serde(with = "humantime_serde")]
    pub pong: Duration,
    /// A client that takes nothing for so long of what waits for it is closed.
    #[serde(with = "humantime_serde")]
    pub write: Duration,
    /// How long a pair or link request waits for its answer.
    #[serde(with = "humantime_serde")]
    pub pair_request: Duration,
    /// How long before its end both sides are warned.
    #[serde(with = "humantime_serde")]
    pub pair_warning: Duration,
    /// When a request that cannot be processed is answered: the same time for every reason.
    #[serde(with = "humantime_serde")]
    pub pair_error: Duration,
    /// How long a home may take to answer.
    #[serde(with = "humantime_serde")]
    pub lookup: Duration,
    /// How long the other homes are waited for once one has answered with a lease, unless two agree before.
    #[serde(with = "humantime_serde")]
    pub lookup_hedge: Duration,
    /// How long the callee's node may take to confirm a message.
    #[serde(with = "humantime_serde")]
    pub delivery: Duration,
    /// How long homes keep a lease or a code unless it is registered again; 120 to 300 s.
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
            // As long as a silent client is borne.
            write: Duration::from_secs(30),
            pair_request: Duration::from_secs(120),
            pair_warning: Duration::from_secs(30),
            // Within the second in which people expect an answer, and longer than a lookup takes.
            pair_error: Duration::from_millis(900),
            lookup: Duration::from_millis(800),
            // The longest round trip: a home that answers at once with an old lease can't outrun the honest ones.
            lookup_hedge: Duration::from_millis(250),
            delivery: Duration::from_secs(2),
            registration: Duration::from_secs(240),
            drain: Duration::from_secs(5),
        }
    }
}

/// The STUN and TURN servers that clients are told of.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IceSection {
    /// The servers.
    pub servers: Vec<IceServer>,
    /// How long credentials made of a shared secret are valid; one hour at most.
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
    /// The secret shared with the server (coturn's `static-auth-secret`); none for STUN.
    pub secret: Option<Secret>,
}

/// A shared secret, which is never printed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The secret's bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}
