//! What the types of the configuration's values can't say: their bounds, each with what is allowed.

use std::time::Duration;

use chappe_common::{
    client::{MAX_INBOXES, MAX_MESSAGE},
    federation::FederationId,
};

use super::{AdmissionPolicy, Advertised, NodeConfig};
use crate::federation::{frame::MAX_FRAME, links::HANDSHAKES_PART};

/// The most keys that may sign tickets: a list that people keep.
const MAX_ISSUERS: usize = 64;
/// The most nodes in an allowlist: as many as a node keeps records.
const MAX_ALLOWED: usize = 4096;
/// The most exempt networks.
const MAX_EXEMPT: usize = 64;
/// The most of `limits.max_attaching`: half a gigabyte, and over a minute of a processor.
const MAX_ATTACHING: usize = 1_000_000;
/// The longest probation: beyond it, a federation would be without new homes for a whole release.
const MAX_PROBATION: Duration = Duration::from_secs(30 * 24 * 3600);

/// A value that is out of its bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct ConfigError {
    /// The key, as in the file: `section.key`.
    pub key: &'static str,
    /// What is wrong and what is allowed.
    pub problem: &'static str,
}

impl NodeConfig {
    /// Checks what the types of the values can't.
    ///
    /// # Errors
    /// Names the first key whose value is out of its bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let rules: &[(bool, &'static str, &'static str)] = &[
            (
                self.node.region.len() <= 32 && self.node.region.bytes().all(|b| b.is_ascii_graphic()),
                "node.region",
                "at most 32 printable ASCII characters without spaces are allowed",
            ),
            (self.client.urls.len() <= 4, "client.urls", "at most 4 URLs are allowed"),
            (
                self.client.urls.iter().all(|url| {
                    url.len() <= 128 && url.is_ascii() && (url.starts_with("ws://") || url.starts_with("wss://"))
                }),
                "client.urls",
                "ws:// or wss:// URLs of at most 128 characters are allowed",
            ),
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
            (self.federation.advertise.len() <= 4, "federation.advertise", "at most 4 addresses are allowed"),
            (
                self.federation.advertise.iter().all(|advertised| {
                    let is_all = matches!(advertised, Advertised::Addr(addr) if addr.ip().is_unspecified());
                    advertised.port() != 0 && !is_all
                }),
                "federation.advertise",
                "addresses with a host and a port that others can dial are allowed",
            ),
            (self.federation.max_links >= 1, "federation.max_links", "at least 1 is allowed"),
            (self.federation.max_found >= 1, "federation.max_found", "at least 1 is allowed"),
            (
                self.federation.max_queued >= MAX_FRAME,
                "federation.max_queued",
                "at least 69632 bytes are allowed: the largest frame",
            ),
            (self.federation.max_outcomes >= 1, "federation.max_outcomes", "at least 1 is allowed"),
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
                    self.federation.roots.is_empty()
                        || ticket.federation == FederationId::of_roots(&self.federation.roots)
                }),
                "federation.ticket",
                "the ticket is for another federation than that of federation.roots",
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
                self.limits.max_held >= self.limits.max_queued,
                "limits.max_held",
                "at least limits.max_queued is allowed",
            ),
            (self.limits.source_connections >= 1, "limits.source_connections", "at least 1 is allowed"),
            (self.limits.max_sources >= 1, "limits.max_sources", "at least 1 is allowed"),
            (!self.times.write.is_zero(), "times.write", "more than 0s is allowed"),
            (
                (self.limits.max_inboxes..=MAX_ATTACHING).contains(&self.limits.max_attaching),
                "limits.max_attaching",
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
            (self.ice.servers.len() <= 8, "ice.servers", "at most 8 servers are allowed"),
            (
                self.ice
                    .servers
                    .iter()
                    .flat_map(|server| &server.urls)
                    .all(|url| ["stun:", "stuns:", "turn:", "turns:"].iter().any(|scheme| url.starts_with(scheme))),
                "ice.servers",
                "URLs with stun:, stuns:, turn: or turns: are allowed",
            ),
        ];
        match rules.iter().find(|(holds, ..)| !holds) {
            Some(&(_, key, problem)) => Err(ConfigError { key, problem }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use chappe_common::keys::SecretKey;

    use super::*;
    use crate::membership::admission::Policy;

    fn config() -> NodeConfig {
        let mut config = NodeConfig::default();
        config.client.urls = vec!["wss://relay.example".into()];
        config.federation.advertise = vec![Advertised::Addr((Ipv4Addr::new(192, 0, 2, 1), 8711).into())];
        config
    }

    #[test]
    fn the_defaults_lack_only_what_nobody_can_guess() {
        assert_eq!(config().check(), Ok(()));
        let key = |config: NodeConfig| config.check().map_err(|error| error.key);
        assert_eq!(key(NodeConfig::default()), Err("client.urls"));
        assert_eq!(key(NodeConfig { client: config().client, ..NodeConfig::default() }), Err("federation.advertise"));
    }

    #[test]
    fn a_value_out_of_its_bounds_is_named() {
        let mut config = config();
        config.ice.credential_lifetime = Duration::from_secs(3601);
        assert_eq!(config.check().map_err(|error| error.key), Err("ice.credential_lifetime"));
        config.client.tls_cert = Some("cert.pem".into());
        assert_eq!(config.check().map_err(|error| error.key), Err("client.tls_key"));
    }

    #[test]
    fn a_policy_names_whom_it_admits() {
        let key = |config: &NodeConfig| config.check().map_err(|error| error.key);
        let root = SecretKey::from_bytes(&[1; 32]).public();
        let mut config = config();
        config.federation.admission = AdmissionPolicy::Invite;
        assert_eq!(key(&config), Err("federation.issuers"));
        config.federation.roots = vec![root];
        assert_eq!(key(&config), Ok(()));
        assert_eq!(config.admission().policy, Policy::Invite(vec![root]), "without issuers, the roots invite");
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
