//! What the certificate is for, and by which challenge each name or address is validated. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::config::ChallengeChoice;

/// The port at which an authority validates by tls-alpn-01 (RFC 8737, 3).
const TLS_PORT: u16 = 443;

/// A host name or an IP address of the certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Identifier {
    Dns(String),
    Ip(IpAddr),
}

impl std::fmt::Display for Identifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

impl Identifier {
    fn of_url(url: &Url) -> Option<Self> {
        match url.host()? {
            // `ws` and `wss` are special schemes, so an address is parsed as one, and a name is in lower case.
            Host::Domain(name) => Some(Self::Dns(name.trim_end_matches('.').to_owned())),
            Host::Ipv4(ip) => Some(Self::Ip(ip.into())),
            Host::Ipv6(ip) => Some(Self::Ip(ip.into())),
        }
    }

    /// Whether it is an address.
    pub(crate) const fn is_ip(&self) -> bool {
        matches!(self, Self::Ip(_))
    }

    /// The server name in the handshake of tls-alpn-01: for an address, that of its reverse mapping (RFC 8738, 6).
    pub(crate) fn server_name(&self) -> String {
        match self {
            Self::Dns(name) => name.clone(),
            Self::Ip(IpAddr::V4(ip)) => {
                let [a, b, c, d] = ip.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            Self::Ip(IpAddr::V6(ip)) => {
                let digits = hex::encode(ip.octets());
                let digits: String = digits.chars().rev().flat_map(|digit| [digit, '.']).collect();
                format!("{digits}ip6.arpa")
            }
        }
    }
}

/// How an identifier is validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ChallengeKind {
    /// A file at port 80 (RFC 8555, 8.3).
    Http01,
    /// A certificate at port 443 (RFC 8737).
    TlsAlpn01,
}

impl ChallengeKind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

/// The identifiers of a certificate, each with its challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identifiers(BTreeMap<Identifier, ChallengeKind>);

impl Identifiers {
    /// Returns the hosts of the `wss://` URLs. Where clients reach port 443, so does the authority: this node's own
    /// listener answers there.
    pub(crate) fn of_urls(urls: &[String], choice: ChallengeChoice) -> Self {
        let urls = urls.iter().filter_map(|url| Url::parse(url).ok()).filter(|url| url.scheme() == "wss");
        let mut identifiers = BTreeMap::new();
        for url in urls {
            let Some(identifier) = Identifier::of_url(&url) else { continue };
            let is_at_tls_port = url.port().unwrap_or(TLS_PORT) == TLS_PORT;
            let kind = match choice {
                ChallengeChoice::TlsAlpn01 => ChallengeKind::TlsAlpn01,
                ChallengeChoice::Auto if is_at_tls_port => ChallengeKind::TlsAlpn01,
                ChallengeChoice::Auto | ChallengeChoice::Http01 => ChallengeKind::Http01,
            };
            // The same host may have a URL at another port.
            let known = identifiers.entry(identifier).or_insert(kind);
            *known = kind.max(*known);
        }
        Self(identifiers)
    }

    /// The names and addresses, sorted.
    pub(crate) fn list(&self) -> Vec<Identifier> {
        self.0.keys().cloned().collect()
    }

    /// The challenge of an identifier. `None` if the certificate is not for it.
    pub(crate) fn challenge(&self, identifier: &Identifier) -> Option<ChallengeKind> {
        self.0.get(identifier).copied()
    }

    /// Whether an identifier is validated by this challenge.
    pub(crate) fn use_challenge(&self, kind: ChallengeKind) -> bool {
        self.0.values().any(|used| *used == kind)
    }

    /// Whether one is an address.
    pub(crate) fn has_ip(&self) -> bool {
        self.0.keys().any(Identifier::is_ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(urls: &[&str], choice: ChallengeChoice) -> Vec<(String, &'static str)> {
        let urls: Vec<_> = urls.iter().map(|url| (*url).to_owned()).collect();
        let Identifiers(all) = Identifiers::of_urls(&urls, choice);
        all.into_iter().map(|(identifier, kind)| (identifier.to_string(), kind.as_str())).collect()
    }

    #[test]
    fn the_challenge_is_chosen_by_the_port_of_the_url() {
        let urls =
            ["wss://Node.example.org", "wss://203.0.113.7:8710/ws", "wss://[2001:db8::7]", "ws://plain.example.org"];
        let http = |host: &str| (host.to_owned(), "http-01");
        let tls = |host: &str| (host.to_owned(), "tls-alpn-01");
        let auto = [tls("node.example.org"), http("203.0.113.7"), tls("2001:db8::7")];
        assert_eq!(of(&urls, ChallengeChoice::Auto), auto);
        let forced = of(&urls, ChallengeChoice::Http01);
        assert!(forced.iter().all(|(_, kind)| *kind == "http-01") && forced.len() == 3);
        let two_ports = ["wss://node.example.org", "wss://node.example.org:8710"];
        assert_eq!(of(&two_ports, ChallengeChoice::Auto), [tls("node.example.org")]);
    }

    #[test]
    fn an_address_is_asked_for_by_the_name_of_its_reverse_mapping() {
        let name = |ip: &str| Identifier::Ip(ip.parse().expect("an address")).server_name();
        assert_eq!(name("192.0.2.1"), "1.2.0.192.in-addr.arpa");
        assert_eq!(
            name("2001:db8::567:89ab"),
            "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
        );
    }
}
