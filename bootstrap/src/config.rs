//! The registry's configuration, with defaults that are safe on a small server.
//!
//! Defines names, defaults and limits. The binary reads the values from the file, the environment and the command line.
//! Durations are written as `60s` or `500ms`.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

pub use chappe_common::config_error::ConfigError;
use chappe_common::{
    config_error::check_rules,
    directory::{MAX_DIRECTORY_LIFETIME, MAX_NODES},
    federation::FederationId,
    keys::PublicKey,
    record::MAX_RECORD_LIFETIME,
    roots::Roots,
    server_url::{Rest, check_url},
    text_or_nothing,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The configuration of a registry.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootstrapConfig {
    /// The registry itself.
    pub bootstrap: BootstrapSection,
    /// The store.
    pub storage: StorageSection,
    /// The public interface.
    pub http: HttpSection,
    /// The federation and its key files.
    pub federation: FederationSection,
    /// The signed directories.
    pub directory: DirectorySection,
    /// Probes of listed nodes.
    pub probing: ProbingSection,
    /// Limits for the nodes of one network.
    pub caps: CapsSection,
    /// The operator's interface.
    pub admin: AdminSection,
    /// Limits for each source, and in total.
    pub limits: LimitsSection,
    /// Time limits.
    pub times: TimesSection,
}

/// The registry itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootstrapSection {
    /// The folder of the embedded store.
    pub data_dir: PathBuf,
    /// What is logged, such as `info` or `warn,chappe_bootstrap=debug`, unless the environment has `CHAPPE_LOG`.
    pub log: String,
}

impl Default for BootstrapSection {
    fn default() -> Self {
        Self { data_dir: PathBuf::from("chappe-bootstrap"), log: "info".to_owned() }
    }
}

/// The store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSection {
    /// The URL of a PostgreSQL database that several registries can share. Without it, a file in `bootstrap.data_dir`
    /// is used.
    pub url: Option<DatabaseUrl>,
    /// A file with the certificates of the database's issuers. Without it, those of browsers are used.
    pub ca: Option<PathBuf>,
}

/// The URL of a database. It may contain a password, so `Debug` does not print it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Wraps a URL.
    pub const fn new(url: String) -> Self {
        Self(url)
    }

    /// The URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl([redacted])")
    }
}

/// The public interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSection {
    /// The address to listen on. Port 0 selects a free port.
    pub listen: SocketAddr,
    /// The origins of web pages that may read responses; `*` allows all.
    pub cors_origins: Vec<String>,
    /// Proxies whose `X-Forwarded-For` and `Forwarded` headers are trusted. The last address that is not a trusted
    /// proxy's is the client's.
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for HttpSection {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 8700).into(),
            cors_origins: vec!["*".to_owned()],
            trusted_proxies: Vec::new(),
        }
    }
}

/// The federation and its key files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FederationSection {
    /// The federation's root keys, in base64url.
    pub roots: Vec<PublicKey>,
    /// The federation's id, if its root keys were rotated. Unset, it is the hash of `roots`.
    #[serde(with = "text_or_nothing")]
    pub id: Option<FederationId>,
    /// The file with the delegation of a root to the online key; with one of each root after a rotation.
    pub delegation: PathBuf,
    /// The file with the online key.
    pub online_key: PathBuf,
    /// The file with the federation's newest beacon, if any. It is read again when it changes.
    pub beacon: PathBuf,
    /// The file with the statements of roots, if any: successions, and revocations of online keys. It is read again when it
    /// changes.
    pub revocations: PathBuf,
}

impl FederationSection {
    /// The pinned roots.
    pub fn roots(&self) -> Roots {
        Roots::pinned(self.roots.clone(), self.id)
    }
}

impl Default for FederationSection {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            id: None,
            delegation: PathBuf::from(crate::keys::DELEGATION_FILE),
            online_key: PathBuf::from(crate::keys::ONLINE_KEY_FILE),
            beacon: PathBuf::from(crate::keys::BEACON_FILE),
            revocations: PathBuf::from(crate::keys::REVOCATIONS_FILE),
        }
    }
}

/// The signed directories.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DirectorySection {
    /// Lifetime of a signed directory. It is renewed after a quarter of this, and at least every six hours.
    #[serde(with = "humantime_serde")]
    pub lifetime: Duration,
    /// A node is delisted if it has not proved its key for this time. Its record may be valid for longer.
    #[serde(with = "humantime_serde")]
    pub node_timeout: Duration,
}

impl Default for DirectorySection {
    fn default() -> Self {
        // The maximum, so that an unattended mirror works for a week.
        Self {
            lifetime: MAX_DIRECTORY_LIFETIME,
            // Three registration intervals of a node: after three lost registrations it is considered gone.
            node_timeout: Duration::from_secs(30 * 60),
        }
    }
}

/// Probes of listed nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbingSection {
    /// Interval of probes to a listed node. After a failure, the next probe follows after a fifth of it.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// After this number of consecutive failures a node is not public until it answers again.
    pub failure_threshold: u8,
    /// A node is not public if clients could not connect to it in three probes in a row and for this time.
    #[serde(with = "humantime_serde")]
    pub door_grace: Duration,
    /// Maximal number of concurrent probes.
    pub max_concurrent: usize,
}

impl Default for ProbingSection {
    fn default() -> Self {
        // Probing 1,000 nodes every five minutes takes three handshakes a second. A dead node leaves the public list
        // within about seven minutes. A single lost probe is common, three in a row are not.
        Self {
            interval: Duration::from_secs(300),
            failure_threshold: 3,
            // Longer than a node's pause between registrations, with which it sends members' statements, and than the
            // restart of a proxy. Meanwhile a client loses at most 3 s with such a node.
            door_grace: Duration::from_secs(15 * 60),
            max_concurrent: 16,
        }
    }
}

/// Limits for the nodes of one network. A node counts at the address where it proved its key. Loopback and
/// `limits.exempt` have no limits.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapsSection {
    /// Maximal number of nodes in an IPv4 /24.
    pub ipv4_24: usize,
    /// Maximal number of nodes in an IPv4 /16.
    pub ipv4_16: usize,
    /// Maximal number of nodes in an IPv6 /48.
    pub ipv6_48: usize,
    /// Maximal number of nodes in an IPv6 /32.
    pub ipv6_32: usize,
}

impl Default for CapsSection {
    fn default() -> Self {
        // Two for what one customer rents, because nodes admit no more of a /24 or /48 either. Twenty for a range of a
        // hosting company: an operator who rents a thousand addresses there lists only a fiftieth of a large
        // federation.
        Self { ipv4_24: 2, ipv4_16: 20, ipv6_48: 2, ipv6_32: 20 }
    }
}

/// The operator's interface.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSection {
    /// The address for `/metrics`, which should be private. Without it, no metrics are served.
    pub listen: Option<SocketAddr>,
}

/// Limits for each source, and in total. A source is an IPv4 address or an IPv6 /64.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Maximal number of listed nodes.
    pub max_nodes: usize,
    /// Maximal number of open connections.
    pub max_connections: usize,
    /// Maximal number of concurrent dial-backs.
    pub max_dials: usize,
    /// New connections of one source in a minute.
    pub connections_per_minute: u32,
    /// Requests of one source in a minute.
    pub requests_per_minute: u32,
    /// Signed requests of all kinds from one source in a minute.
    pub registrations_per_minute: u32,
    /// Dial-backs to one IP address in a minute, for all sources together.
    pub dials_per_minute: u32,
    /// Networks without rate limits and caps, for tests.
    pub exempt: Vec<IpNet>,
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            max_nodes: MAX_NODES,
            max_connections: 1024,
            max_dials: 32,
            connections_per_minute: 300,
            requests_per_minute: 600,
            // A node registers and requests the list every ten minutes. Twenty nodes behind one address may all restart
            // twice in a minute, and repeat their list requests until they know other nodes.
            registrations_per_minute: 120,
            dials_per_minute: 120,
            exempt: Vec::new(),
        }
    }
}

/// Time limits.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimesSection {
    /// Time limit for the headers of a request, and for an idle connection until its next request.
    #[serde(with = "humantime_serde")]
    pub headers: Duration,
    /// Time limit for a request, including its dial-back.
    #[serde(with = "humantime_serde")]
    pub request: Duration,
    /// Time limit for a connection, even if it is busy.
    #[serde(with = "humantime_serde")]
    pub connection: Duration,
    /// Time limit for dialling one address of a node.
    #[serde(with = "humantime_serde")]
    pub dial: Duration,
    /// Time limit for running requests when the registry shuts down.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

impl Default for TimesSection {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(5),
            request: Duration::from_secs(10),
            connection: Duration::from_secs(120),
            dial: Duration::from_secs(2),
            drain: Duration::from_secs(3),
        }
    }
}

impl BootstrapConfig {
    /// Checks the values beyond their types.
    ///
    /// # Errors
    /// The first key with an invalid value.
    pub fn check(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let times = &self.times;
        let rules: &[(bool, &'static str, &'static str)] = &[
            (!self.federation.roots.is_empty(), "federation.roots", "at least one root key is needed"),
            (self.federation.roots.len() <= 8, "federation.roots", "at most 8 keys are allowed"),
            (
                self.federation.roots.iter().all(PublicKey::is_usable),
                "federation.roots",
                "one of the keys is not an Ed25519 key",
            ),
            (
                (Duration::from_secs(60)..=MAX_DIRECTORY_LIFETIME).contains(&self.directory.lifetime),
                "directory.lifetime",
                "60s to 7days are allowed",
            ),
            (
                !self.directory.node_timeout.is_zero() && self.directory.node_timeout <= MAX_RECORD_LIFETIME,
                "directory.node_timeout",
                "more than 0s and at most 7days are allowed",
            ),
            (
                self.storage.url.as_ref().is_none_or(|url| {
                    ["postgres://", "postgresql://"].iter().any(|scheme| url.as_str().starts_with(scheme))
                        && url.as_str().parse::<tokio_postgres::Config>().is_ok_and(|url| !url.get_hosts().is_empty())
                }),
                "storage.url",
                "a URL such as postgres://user@host/database is allowed",
            ),
            (
                self.storage.ca.is_none() || self.storage.url.is_some(),
                "storage.ca",
                "it is for the database of storage.url, which is not set",
            ),
            (
                self.probing.interval >= Duration::from_secs(1)
                    && self.probing.interval * 2 <= self.directory.node_timeout,
                "probing.interval",
                "from 1s to half of directory.node_timeout is allowed: one lost probe must not delist a node",
            ),
            ((1..=32).contains(&self.probing.failure_threshold), "probing.failure_threshold", "1 to 32 are allowed"),
            (
                (Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&self.probing.door_grace),
                "probing.door_grace",
                "1s to 1day are allowed",
            ),
            ((1..=1024).contains(&self.probing.max_concurrent), "probing.max_concurrent", "1 to 1024 are allowed"),
            (
                [self.caps.ipv4_24, self.caps.ipv4_16, self.caps.ipv6_48, self.caps.ipv6_32]
                    .iter()
                    .all(|cap| *cap >= 1),
                "caps",
                "every cap is at least 1",
            ),
            ((1..=MAX_NODES).contains(&limits.max_nodes), "limits.max_nodes", "1 to 1000 are allowed"),
            (limits.max_connections >= 1, "limits.max_connections", "at least 1 is allowed"),
            (limits.max_dials >= 1, "limits.max_dials", "at least 1 is allowed"),
            (
                [
                    limits.connections_per_minute,
                    limits.requests_per_minute,
                    limits.registrations_per_minute,
                    limits.dials_per_minute,
                ]
                .iter()
                .all(|rate| *rate >= 1),
                "limits",
                "every rate is at least 1 a minute",
            ),
            (times.request > times.dial, "times.request", "more than times.dial is allowed"),
            (
                [times.headers, times.dial, times.connection].iter().all(|time| !time.is_zero()),
                "times",
                "every time is more than 0s",
            ),
            (
                [times.headers, times.request, times.connection, times.dial, times.drain]
                    .iter()
                    .all(|time| *time <= Duration::from_secs(24 * 3600)),
                "times",
                "every time is at most 1day",
            ),
        ];
        check_rules(rules)?;
        for origin in self.http.cors_origins.iter().filter(|origin| *origin != "*") {
            check_url(origin, &["https://", "http://"], Rest::Nothing).map_err(|error| ConfigError {
                key: "http.cors_origins",
                problem: format!("`{origin}`: {error}; or write * for all").into(),
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_lack_only_the_roots() {
        let mut config = BootstrapConfig::default();
        assert_eq!(config.check().map_err(|error| error.key), Err("federation.roots"));
        config.federation.roots = vec![chappe_common::keys::SecretKey::from_bytes(&[1; 32]).public()];
        assert_eq!(config.check(), Ok(()));
        config.probing.interval = config.directory.node_timeout;
        assert_eq!(config.check().map_err(|error| error.key), Err("probing.interval"));
        config.probing = ProbingSection::default();
        for (origin, is_one) in [
            ("*", true),
            ("https://example.org", true),
            ("https://", false),
            ("https://a:99999", false),
            ("https://a/b", false),
        ] {
            config.http.cors_origins = vec![origin.to_owned()];
            assert_eq!(
                config.check().map_err(|error| error.key),
                if is_one { Ok(()) } else { Err("http.cors_origins") }
            );
        }
        config.http = HttpSection::default();
        config.storage.url = Some(DatabaseUrl::new("postgres://host:99999/database".to_owned()));
        assert_eq!(config.check().map_err(|error| error.key), Err("storage.url"));
        config.storage.url = Some(DatabaseUrl::new("mysql://secret@host".to_owned()));
        assert_eq!(config.check().map_err(|error| error.key), Err("storage.url"));
        assert!(!format!("{config:?}").contains("secret"));
        config.storage.url = None;
        config.limits.max_nodes = MAX_NODES + 1;
        assert_eq!(config.check().map_err(|error| error.key), Err("limits.max_nodes"));
    }
}
