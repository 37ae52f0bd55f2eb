//! What the operator of a registry can set, with defaults that are safe on a small server.
//!
//! Owns names, defaults and bounds. Where the values come from (file, environment, command line) is the binary's
//! business. Times are written as `60s` or `500ms`.

use std::{
    borrow::Cow,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use chappe_common::{
    directory::{MAX_DIRECTORY_LIFETIME, MAX_NODES},
    keys::PublicKey,
    record::MAX_RECORD_LIFETIME,
    server_url::{Rest, check_url},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The whole configuration of a registry.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootstrapConfig {
    /// The registry itself.
    pub bootstrap: BootstrapSection,
    /// Where the records are stored.
    pub storage: StorageSection,
    /// Where nodes and clients connect.
    pub http: HttpSection,
    /// Which federation this is, with what its directories are signed, and by what it places.
    pub federation: FederationSection,
    /// What is served.
    pub directory: DirectorySection,
    /// How listed nodes are looked after.
    pub probing: ProbingSection,
    /// How many nodes of one network are listed.
    pub caps: CapsSection,
    /// Metrics for the operator.
    pub admin: AdminSection,
    /// How much one source may do, and how much all may do together.
    pub limits: LimitsSection,
    /// How long things may take.
    pub times: TimesSection,
}

/// The registry itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootstrapSection {
    /// The folder for the stored records.
    pub data_dir: PathBuf,
}

impl Default for BootstrapSection {
    fn default() -> Self {
        Self { data_dir: PathBuf::from("chappe-bootstrap") }
    }
}

/// Where the records are stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSection {
    /// A PostgreSQL database that several registries share; none: a file in `bootstrap.data_dir`.
    pub url: Option<DatabaseUrl>,
    /// A file with the certificates that the database's is signed by; none: those of the web.
    pub ca: Option<PathBuf>,
}

/// A database's URL. It may hold a password, so it is not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The URL.
    pub const fn new(url: String) -> Self {
        Self(url)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl([redacted])")
    }
}

/// Where nodes and clients connect.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpSection {
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The origins of web pages that may read the answers; `*` for all.
    pub cors_origins: Vec<String>,
    /// Proxies whose `X-Forwarded-For` is believed: the last address in it that isn't one of theirs is who asks.
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

/// Which federation this is, with what its directories are signed, and by what it places.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FederationSection {
    /// The federation's root keys, in base64url.
    pub roots: Vec<PublicKey>,
    /// The file with the delegation from one of the roots to the online key.
    pub delegation: PathBuf,
    /// The file with the online key.
    pub online_key: PathBuf,
    /// The file with the federation's newest beacon note, if there is one. It is read again when it changes.
    pub beacon: PathBuf,
    /// The file with the revocations of online keys, if there are any. It is read again when it changes.
    pub revocations: PathBuf,
}

impl Default for FederationSection {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            delegation: PathBuf::from(crate::keys::DELEGATION_FILE),
            online_key: PathBuf::from(crate::keys::ONLINE_KEY_FILE),
            beacon: PathBuf::from(crate::keys::BEACON_FILE),
            revocations: PathBuf::from(crate::keys::REVOCATIONS_FILE),
        }
    }
}

/// What is served.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DirectorySection {
    /// How long a signed directory counts. It is signed anew when a quarter of that has passed, and every six hours.
    #[serde(with = "humantime_serde")]
    pub lifetime: Duration,
    /// A node that hasn't proved its key for so long is listed no more: its record may live for far longer.
    #[serde(with = "humantime_serde")]
    pub seen_within: Duration,
}

impl Default for DirectorySection {
    fn default() -> Self {
        // As long as is allowed: a mirror that nobody tends to is of use for a week.
        Self {
            lifetime: MAX_DIRECTORY_LIFETIME,
            // Three times a node's interval: two lost registrations are bad luck, three are a node that is gone.
            seen_within: Duration::from_secs(30 * 60),
        }
    }
}

/// How listed nodes are looked after.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbingSection {
    /// How often a listed node has to prove its key; one that has failed to is asked again after a fifth of that.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// After so many failures in a row a node is in no public answer, until it answers again.
    pub failures: u8,
    /// Nodes probed at once.
    pub max_at_once: usize,
}

impl Default for ProbingSection {
    fn default() -> Self {
        // A handshake for each node in five minutes: 1,000 nodes are three a second, and one that is gone leaves the
        // public list within seven minutes or so. One lost probe is bad luck, three in a row are not.
        Self { every: Duration::from_secs(300), failures: 3, max_at_once: 16 }
    }
}

/// How many nodes of one network are listed. A node counts where it proved its key. Loopback and `limits.exempt` have
/// no caps.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CapsSection {
    /// Of an IPv4 /24.
    pub ipv4_24: usize,
    /// Of an IPv4 /16.
    pub ipv4_16: usize,
    /// Of an IPv6 /48.
    pub ipv6_48: usize,
    /// Of an IPv6 /32.
    pub ipv6_32: usize,
}

impl Default for CapsSection {
    fn default() -> Self {
        // Two in what one customer rents: nodes admit no more of one /24 or /48 either. Twenty in what a hosting company
        // has many of: whoever rents a thousand addresses there still lists a fiftieth of a large federation.
        Self { ipv4_24: 2, ipv4_16: 20, ipv6_48: 2, ipv6_32: 20 }
    }
}

/// Metrics for the operator.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSection {
    /// The address of `/metrics`; none: not served. Keep it private.
    pub listen: Option<SocketAddr>,
}

/// How much one source may do, and how much all may do together. A source is an IPv4 address or an IPv6 /64.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Nodes listed at once.
    pub max_nodes: usize,
    /// Connections open at once.
    pub max_connections: usize,
    /// Nodes dialled back at once.
    pub max_dials: usize,
    /// New connections of one source in a minute.
    pub connections_per_minute: u32,
    /// Requests of one source in a minute.
    pub requests_per_minute: u32,
    /// Signed notes of all kinds from one source in a minute.
    pub registrations_per_minute: u32,
    /// How often one IP address is dialled back in a minute, whoever asks for it.
    pub dials_per_minute: u32,
    /// Networks to which no rate and no cap applies: a test network.
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
            // A node registers and asks for the list every ten minutes; twenty behind one address may all restart twice in a
            // minute, and each asks again a few times while it is alone.
            registrations_per_minute: 120,
            dials_per_minute: 120,
            exempt: Vec::new(),
        }
    }
}

/// How long things may take.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimesSection {
    /// For the headers of a request, and for an idle connection to send the next one.
    #[serde(with = "humantime_serde")]
    pub headers: Duration,
    /// For a whole request, its dial-back included.
    #[serde(with = "humantime_serde")]
    pub request: Duration,
    /// For a connection, however busy.
    #[serde(with = "humantime_serde")]
    pub connection: Duration,
    /// For each address of a node that is dialled back.
    #[serde(with = "humantime_serde")]
    pub dial: Duration,
    /// For the requests that are under way when the registry stops.
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

/// A value that is out of its bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The key, as in the file: `section.key`.
    pub key: &'static str,
    /// What is wrong and what is allowed.
    pub problem: Cow<'static, str>,
}

impl BootstrapConfig {
    /// Checks what the types of the values can't.
    ///
    /// # Errors
    /// Names the first key whose value is out of its bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let times = &self.times;
        let rules: &[(bool, &'static str, &'static str)] = &[
            (!self.federation.roots.is_empty(), "federation.roots", "at least one root key is needed"),
            (self.federation.roots.len() <= 8, "federation.roots", "at most 8 keys are allowed"),
            (
                self.federation.roots.iter().all(PublicKey::is_usable),
                "federation.roots",
                "one of the keys is no Ed25519 key",
            ),
            (
                (Duration::from_secs(60)..=MAX_DIRECTORY_LIFETIME).contains(&self.directory.lifetime),
                "directory.lifetime",
                "60s to 7days are allowed",
            ),
            (
                !self.directory.seen_within.is_zero() && self.directory.seen_within <= MAX_RECORD_LIFETIME,
                "directory.seen_within",
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
                self.probing.every >= Duration::from_secs(1) && self.probing.every * 2 <= self.directory.seen_within,
                "probing.every",
                "from 1s to half of directory.seen_within is allowed: one lost probe must not delist a node",
            ),
            ((1..=32).contains(&self.probing.failures), "probing.failures", "1 to 32 are allowed"),
            ((1..=1024).contains(&self.probing.max_at_once), "probing.max_at_once", "1 to 1024 are allowed"),
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
        if let Some(&(_, key, problem)) = rules.iter().find(|(holds, ..)| !holds) {
            return Err(ConfigError { key, problem: problem.into() });
        }
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
        config.probing.every = config.directory.seen_within;
        assert_eq!(config.check().map_err(|error| error.key), Err("probing.every"));
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
