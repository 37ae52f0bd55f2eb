//! The URLs of TURN servers (RFC 7065).

use std::{fmt, str::FromStr};

use chappe_common::server_url::check_ice_url;
use serde::Serialize;

/// How a client reaches a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    Udp,
    Tcp,
    Tls,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        })
    }
}

/// A `turn:` or `turns:` URL, with a host that is an IP address or a DNS name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayUrl {
    text: String,
    host: String,
    port: u16,
    transport: Transport,
}

/// The text is not a URL of a TURN server over UDP, TCP or TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a URL of a TURN server")]
pub(crate) struct ParseRelayUrlError;

impl RelayUrl {
    /// A name or an IP address without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) const fn transport(&self) -> Transport {
        self.transport
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for RelayUrl {
    type Err = ParseRelayUrlError;

    fn from_str(text: &str) -> Result<Self, ParseRelayUrlError> {
        // A node sends the text, and it is printed: a host with line breaks could forge output of this program.
        check_ice_url(text).map_err(|_| ParseRelayUrlError)?;
        let (scheme, rest) = text.split_once(':').ok_or(ParseRelayUrlError)?;
        let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
        // Without `transport`, `turn:` is UDP and `turns:` is TLS over TCP (RFC 7065, 3.2).
        let (transport, default) = match (scheme, query) {
            ("turn", "" | "transport=udp") => (Transport::Udp, 3478),
            ("turn", "transport=tcp") => (Transport::Tcp, 3478),
            ("turns", "" | "transport=tcp") => (Transport::Tls, 5349),
            _ => return Err(ParseRelayUrlError),
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or(ParseRelayUrlError)?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| ParseRelayUrlError)?,
            None if port.is_empty() => default,
            None => return Err(ParseRelayUrlError),
        };
        Ok(Self { text: text.to_owned(), host: host.to_owned(), port, transport })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_host_port_and_transport() {
        for (text, host, port, transport) in [
            ("turn:192.0.2.1:3478?transport=udp", "192.0.2.1", 3478, Transport::Udp),
            ("turn:relay.example", "relay.example", 3478, Transport::Udp),
            ("turn:[2001:db8::1]:8710?transport=tcp", "2001:db8::1", 8710, Transport::Tcp),
            ("turns:relay.example?transport=tcp", "relay.example", 5349, Transport::Tls),
            ("turns:[2001:db8::1]", "2001:db8::1", 5349, Transport::Tls),
        ] {
            let url: RelayUrl = text.parse().expect("a URL");
            assert_eq!((url.host(), url.port(), url.transport()), (host, port, transport), "{text}");
        }
        for text in [
            "stun:a:1",
            "turn:",
            "turn:a:b",
            "turn:a:0",
            "turn:[::1",
            "turn:[::1]x",
            "turn:[a]",
            "turn:a\nb",
            "turn:a b",
            "turn:a\u{2028}b",
            "turns:a?transport=udp",
            "turn",
        ] {
            assert!(text.parse::<RelayUrl>().is_err(), "{text}");
        }
    }
}
