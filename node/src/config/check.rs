//! Checks the bounds of configuration values that their types do not express. Each error says what is allowed.

use std::time::Duration;

use chappe_common::{
    client::{MAX_INBOXES, MAX_MESSAGE},
    config_error::{ConfigError, check_rules},
    forwarded::MAX_TRUSTED_PROXIES,
    printable::is_printable,
    record::MAX_URL_LEN,
    server_url::{Rest, ServerUrlError, check_ice_url, check_url, is_turn},
};
use chappe_discovery::{dns, federation::MAX_DNS_NAMES};

use super::{AdmissionPolicy, Advertised, HANDSHAKES_PART, NodeConfig, can_be_dialled};
use crate::wire::frame::MAX_FRAME;

/// Maximum number of keys that may sign tickets: a list maintained by people.
const MAX_ISSUERS: usize = 64;
/// Maximum length of an allowlist: as many nodes as a node stores records of.
const MAX_ALLOWED: usize = 4096;
/// Maximum number of exempt networks.
const MAX_EXEMPT: usize = 64;
/// Maximum of `limits.max_pending_leases`: half a gigabyte, and over a minute of one core.
const MAX_ATTACHING: usize = 1_000_000;
/// Maximum probation. With a longer one, a federation would get no new homes for a whole release.
const MAX_PROBATION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Maximum number of ICE servers that a client gets. It allocates at each URL of each.
pub(crate) const MAX_ICE_SERVERS: usize = 2;
/// Maximum of all durations. Longer ones are mistakes, and could overflow time arithmetic.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

/// Maximum length of a contact in bytes: a name with an address or a URL.
const MAX_CONTACT: usize = 128;
const CONTACT_ALLOWED: &str = "at most 128 bytes of printable text on one line are allowed";

/// Whether the text may be shown to people.
fn is_contact(text: &str) -> bool {
    text.len() <= MAX_CONTACT && text.chars().all(is_printable)
}

impl NodeConfig {
    /// Checks the bounds of all values.
    ///
    /// # Errors
    /// Returns an error that names the first key whose value is out of bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let rules: &[(bool, &'static str, &'static str)] = &[
            (
                self.node.region.len() <= 32 && self.node.region.bytes().all(|b| b.is_ascii_graphic()),
                "node.region",
                "at most 32 printable ASCII characters without spaces are allowed",
            ),
            (is_contact(&self.node.contact), "node.contact", CONTACT_ALLOWED),
            (is_contact(&self.node.abuse_contact), "node.abuse_contact", CONTACT_ALLOWED),
            (self.client.urls.len() <= 4, "client.urls", "at most 4 URLs are allowed"),
            (
                !self.client.urls.is_empty() || !self.client.listen.ip().is_unspecified(),
                "client.urls",
                "name the ws:// or wss:// URL under which clients reach this node: client.listen takes all addresses",
            ),
            (
                !self.federation.advertise.is_empty() || !self.federation.listen.ip().is_unspecified(),
                "federation.advertise",
                "name the address that other nodes dial: federation.listen takes all addresses",
            ),
            (self.client.max_connections >= 1, "client.max_connections", "at least 1 is allowed"),
            (
                self.client.tls_cert.is_none() || self.client.tls_key.is_some(),
                "client.tls_key",
                "name the file of the private key: client.tls_cert is set",
            ),
            (
                self.client.tls_key.is_none() || self.client.tls_cert.is_some(),
                "client.tls_cert",
                "name the file of the certificate: client.tls_key is set",
            ),
            (
                self.client.trusted_proxies.len() <= MAX_TRUSTED_PROXIES,
                "client.trusted_proxies",
                "at most 64 networks are allowed",
            ),
            (
                self.client.trusted_proxies.iter().all(|net| net.prefix_len() > 0),
                "client.trusted_proxies",
                "name the proxies: with a network of all addresses, every client could choose its own address",
            ),
            (self.federation.advertise.len() <= 4, "federation.advertise", "at most 4 addresses are allowed"),
            (
                self.federation.advertise.iter().all(|advertised| {
                    let cannot_be_dialled = matches!(advertised, Advertised::Addr(addr) if !can_be_dialled(addr));
                    advertised.port() != 0 && !cannot_be_dialled
                }),
                "federation.advertise",
                "addresses with a host and a port that others can dial are allowed",
            ),
            (self.federation.max_links >= 1, "federation.max_links", "at least 1 is allowed"),
            (self.federation.max_cached_leases >= 1, "federation.max_cached_leases", "at least 1 is allowed"),
            (
                self.federation.max_queued >= MAX_FRAME,
                "federation.max_queued",
                "at least 69632 bytes are allowed: the largest frame",
            ),
            (self.federation.max_in_flight >= 1, "federation.max_in_flight", "at least 1 is allowed"),
            (self.federation.max_requests >= 1, "federation.max_requests", "at least 1 is allowed"),
            (
                self.federation.max_handshakes >= HANDSHAKES_PART,
                "federation.max_handshakes",
                "at least 16 are allowed: one network may take a sixteenth",
            ),
            (
                self.federation.handshakes_per_second >= 1
                    && self.federation.dial_backs_per_minute >= 1
                    && self.federation.new_leases_per_minute >= 1,
                "federation",
                "every rate is at least 1",
            ),
            (self.federation.max_dials >= 1, "federation.max_dials", "at least 1 is allowed"),
            (self.federation.max_dial_backs >= 1, "federation.max_dial_backs", "at least 1 is allowed"),
            (
                self.federation.admission != AdmissionPolicy::Invite
                    || !self.federation.roots.is_empty()
                    || !self.federation.issuers.is_empty(),
                "federation.issuers",
                "name the keys that may sign tickets: federation.admission is \"invite\", and there are no roots",
            ),
            (self.federation.issuers.len() <= MAX_ISSUERS, "federation.issuers", "at most 64 keys are allowed"),
            (
                self.federation.admission != AdmissionPolicy::Allowlist || !self.federation.allow.is_empty(),
                "federation.allow",
                "name the nodes of the federation: federation.admission is \"allowlist\"",
            ),
            (self.federation.allow.len() <= MAX_ALLOWED, "federation.allow", "at most 4096 nodes are allowed"),
            (
                self.federation.ticket.as_ref().is_none_or(|ticket| {
                    self.federation.roots.is_empty() || ticket.federation() == self.federation.roots().federation()
                }),
                "federation.ticket",
                "the ticket is for another federation than that of federation.roots",
            ),
            (
                self.registry.dns.len() <= MAX_DNS_NAMES && self.registry.dns.iter().all(|name| dns::is_name(name)),
                "registry.dns",
                "at most 4 DNS names are allowed, such as chappe.example.org",
            ),
            (self.federation.exempt.len() <= MAX_EXEMPT, "federation.exempt", "at most 64 networks are allowed"),
            (
                self.registry.record_lifetime >= self.registry.renew_every * 2
                    && self.registry.renew_every >= Duration::from_secs(1),
                "registry.renew_every",
                "at least 1s and at most half of registry.record_lifetime is allowed",
            ),
            (
                self.registry.record_lifetime <= chappe_common::record::MAX_RECORD_LIFETIME,
                "registry.record_lifetime",
                "at most 7 days are allowed",
            ),
            (
                !self.membership.probe_timeout.is_zero()
                    && self.membership.probe_timeout * 2 < self.membership.probe_period,
                "membership.probe_timeout",
                "more than 0s and less than half of membership.probe_period is allowed",
            ),
            (!self.membership.exchange_every.is_zero(), "membership.exchange_every", "more than 0s is allowed"),
            (self.membership.probation <= MAX_PROBATION, "membership.probation", "at most 30days are allowed"),
            (
                self.limits.messages_per_minute >= 1
                    && self.limits.pair_requests_per_minute >= 1
                    && self.limits.source_pair_requests_per_minute >= 1
                    && self.limits.source_factor >= 1
                    && self.limits.source_connections_per_minute >= 1
                    && self.limits.offers_per_minute >= 1,
                "limits",
                "every rate is at least 1 a minute",
            ),
            (
                (1024..=MAX_MESSAGE).contains(&self.limits.max_message),
                "limits.max_message",
                "1024 to 65536 bytes are allowed",
            ),
            (
                self.limits.max_queued >= self.limits.max_message,
                "limits.max_queued",
                "at least limits.max_message is allowed",
            ),
            (
                self.limits.memory_budget >= self.limits.max_queued,
                "limits.memory_budget",
                "at least limits.max_queued is allowed",
            ),
            (self.limits.source_connections >= 1, "limits.source_connections", "at least 1 is allowed"),
            (self.limits.max_sources >= 1, "limits.max_sources", "at least 1 is allowed"),
            (!self.times.write.is_zero(), "times.write", "more than 0s is allowed"),
            (
                (self.limits.max_inboxes..=MAX_ATTACHING).contains(&self.limits.max_pending_leases),
                "limits.max_pending_leases",
                "limits.max_inboxes to 1000000 are allowed",
            ),
            (self.limits.max_inboxes <= MAX_INBOXES, "limits.max_inboxes", "at most 512 are allowed"),
            (
                self.times.pair_warning < self.times.pair_request,
                "times.pair_warning",
                "less than times.pair_request is allowed",
            ),
            (
                self.times.registration >= Duration::from_secs(2)
                    && self.times.registration <= Duration::from_secs(300),
                "times.registration",
                "2s to 300s are allowed",
            ),
            (
                self.ice.credential_lifetime <= Duration::from_secs(3600),
                "ice.credential_lifetime",
                "at most 1h is allowed",
            ),
            (
                self.ice.servers.len() + usize::from(self.turn.is_on()) <= MAX_ICE_SERVERS,
                "ice.servers",
                "at most 2 servers are allowed, and with turn.listen 1 in addition to this node's own",
            ),
            (
                self.ice.servers.iter().all(|server| !server.urls.is_empty()),
                "ice.servers",
                "name at least one URL of each server, such as urls = [\"stun:stun.example.org\"]",
            ),
            (
                self.ice.servers.iter().all(|server| {
                    !server.urls.iter().any(|url| is_turn(url))
                        || server.secret.as_ref().is_some_and(|secret| !secret.as_bytes().is_empty())
                }),
                "ice.servers",
                "add secret = \"…\" (coturn's static-auth-secret) to each server with a turn: or turns: URL: browsers \
                 refuse the whole list without a password",
            ),
        ];
        check_rules(rules)?;
        self.client.acme.check(&self.client)?;
        self.turn.check()?;
        self.budget.check()?;
        self.check_urls()?;
        self.check_times()
    }

    fn check_urls(&self) -> Result<(), ConfigError> {
        let of_client = |url: &String| match check_url(url, &["ws://", "wss://"], Rest::Path) {
            Ok(()) if url.len() > MAX_URL_LEN => Err(ServerUrlError::TooLong(MAX_URL_LEN)),
            checked => checked,
        };
        check_all("client.urls", &self.client.urls, of_client)?;
        let of_registry = |url: &String| check_url(url, &["https://", "http://"], Rest::Path);
        check_all("registry.urls", &self.registry.urls, of_registry)?;
        let ice = self.ice.servers.iter().flat_map(|server| &server.urls);
        check_all("ice.servers", ice, |url| check_ice_url(url))
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        let times = &self.times;
        let positive = [
            ("times.upgrade", times.upgrade),
            ("times.idle", times.idle),
            ("times.pong", times.pong),
            ("times.pair_request", times.pair_request),
            ("times.lookup", times.lookup),
            ("times.delivery", times.delivery),
            ("times.write", times.write),
            ("membership.probe_period", self.membership.probe_period),
            ("membership.exchange_every", self.membership.exchange_every),
            ("ice.credential_lifetime", self.ice.credential_lifetime),
        ];
        let others = [
            ("times.pair_warning", times.pair_warning),
            ("times.pair_error", times.pair_error),
            ("times.lookup_hedge", times.lookup_hedge),
            ("times.drain", times.drain),
        ];
        let is_short = |time: Duration| time <= MAX_TIME;
        let wrong = positive.iter().find(|(_, time)| time.is_zero() || !is_short(*time));
        let wrong = wrong.or_else(|| others.iter().find(|(_, time)| !is_short(*time)));
        match wrong {
            Some((key, time)) if time.is_zero() => Err(ConfigError { key, problem: "more than 0s is allowed".into() }),
            Some((key, _)) => Err(ConfigError { key, problem: "at most 1day is allowed".into() }),
            None => Ok(()),
        }
    }
}

/// Checks each text of a list. The error names the wrong one.
fn check_all<'a>(
    key: &'static str,
    texts: impl IntoIterator<Item = &'a String>,
    check: impl Fn(&String) -> Result<(), ServerUrlError>,
) -> Result<(), ConfigError> {
    for text in texts {
        check(text).map_err(|error| ConfigError { key, problem: format!("`{text}`: {error}").into() })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use chappe_common::keys::SecretKey;

    use std::net::Ipv4Addr;

    use super::*;
    use crate::membership::admission::Policy;

    fn config() -> NodeConfig {
        let mut config = NodeConfig::default();
        config.client.urls = vec!["wss://relay.example".into()];
        config.federation.advertise = vec![Advertised::Addr((Ipv4Addr::new(192, 0, 2, 1), 8711).into())];
        config
    }

    #[test]
    fn the_defaults_lack_only_the_reachable_addresses() {
        assert_eq!(config().check(), Ok(()));
        let key = |config: NodeConfig| config.check().map_err(|error| error.key);
        assert_eq!(key(NodeConfig::default()), Err("client.urls"));
        assert_eq!(key(NodeConfig { client: config().client, ..NodeConfig::default() }), Err("federation.advertise"));
    }

    #[test]
    fn a_value_out_of_bounds_is_named() {
        let mut config = config();
        config.ice.credential_lifetime = Duration::from_secs(3601);
        assert_eq!(config.check().map_err(|error| error.key), Err("ice.credential_lifetime"));
        config.client.tls_cert = Some("cert.pem".into());
        assert_eq!(config.check().map_err(|error| error.key), Err("client.tls_key"));
    }

    #[test]
    fn an_unusable_url_is_refused_with_a_correction() {
        let problem = |set: &dyn Fn(&mut NodeConfig)| {
            let mut config = config();
            set(&mut config);
            config.check().map(|()| String::new()).unwrap_or_else(|error| error.to_string())
        };
        let ice = |urls: &[&str], secret: Option<&str>| {
            let server = serde_json::json!({ "urls": urls, "secret": secret });
            let server: crate::config::IceServer = serde_json::from_value(server).expect("a server");
            problem(&move |config| config.ice.servers = vec![server.clone()])
        };
        for (url, expected) in [
            ("wss://", "client.urls: `wss://`: name a host"),
            ("wss://wss://host", "client.urls: `wss://wss://host`: name the scheme once"),
            ("wss://host:99999", "client.urls: `wss://host:99999`: name a port from 1 to 65535"),
            ("wss://bücher.example", "write the host as it stands in DNS: xn--bcher-kva.example"),
        ] {
            let text = problem(&move |config| config.client.urls = vec![url.to_owned()]);
            assert!(text.contains(expected), "{text}");
        }
        let text = problem(&|config| config.registry.dns = vec!["a b".to_owned()]);
        assert!(text.contains("registry.dns: at most 4 DNS names"), "{text}");
        let text = problem(&|config| config.registry.urls = vec!["registry.example".to_owned()]);
        assert!(text.contains("registry.urls: `registry.example`: begin it with https:// or http://"), "{text}");
        assert!(ice(&["stun://host"], None).contains("write stun:host and no //"));
        assert!(ice(&["stun:host:99999"], None).contains("name a port"));
        assert!(ice(&["turn:host"], None).contains("add secret"));
        assert!(ice(&["turn:host"], Some("")).contains("add secret"));
        assert!(ice(&[], None).contains("name at least one URL"));
        assert_eq!(ice(&["turn:host", "stun:host"], Some("north")), "");
        let text = problem(&|config| config.times.idle = Duration::ZERO);
        assert_eq!(text, "times.idle: more than 0s is allowed");
        let text = problem(&|config| config.times.drain = Duration::MAX);
        assert_eq!(text, "times.drain: at most 1day is allowed");
    }

    #[test]
    fn a_policy_requires_the_keys_or_nodes_that_it_admits() {
        let key = |config: &NodeConfig| config.check().map_err(|error| error.key);
        let root = SecretKey::from_bytes(&[1; 32]).public();
        let mut config = config();
        config.federation.admission = AdmissionPolicy::Invite;
        assert_eq!(key(&config), Err("federation.issuers"));
        config.federation.roots = vec![root];
        assert_eq!(key(&config), Ok(()));
        assert_eq!(config.admission().policy, Policy::Invite(Vec::new()), "without issuers, the roots invite");
        config.federation.admission = AdmissionPolicy::Allowlist;
        assert_eq!(key(&config), Err("federation.allow"));
    }

    #[test]
    fn a_direct_probe_leaves_time_for_indirect_ones() {
        let mut config = config();
        config.membership.probe_timeout = config.membership.probe_period / 2;
        assert_eq!(config.check().map_err(|error| error.key), Err("membership.probe_timeout"));
    }
}
