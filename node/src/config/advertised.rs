//! The addresses that other nodes dial. A name is resolved again as its addresses change.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
};

use chappe_common::server_url::{ServerUrlError, check_host};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// An entry of `federation.advertise`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertised {
    /// A fixed address.
    Addr(SocketAddr),
    /// A host name and a port, for a node at home whose address changes.
    Name {
        /// The host name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// The text is not an address or a name with a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdvertisedError {
    /// Not an address or a name with a port.
    #[error(
        "an address or a name and a port are allowed, such as 203.0.113.7:8711, [2001:db8::7]:8711 or \
         home.example.org:8711"
    )]
    Form,
    /// A name with letters that DNS does not allow. The error says what to write instead.
    #[error(transparent)]
    Host(ServerUrlError),
}

impl Advertised {
    /// Returns the port.
    pub const fn port(&self) -> u16 {
        match self {
            Self::Addr(addr) => addr.port(),
            Self::Name { port, .. } => *port,
        }
    }
}

/// Returns whether an address can belong to one host. Others are refused, even if a name resolves to them.
pub(crate) fn can_be_dialled(addr: &SocketAddr) -> bool {
    let ip = addr.ip().to_canonical();
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && ip != Ipv4Addr::BROADCAST
}

impl From<SocketAddr> for Advertised {
    fn from(addr: SocketAddr) -> Self {
        Self::Addr(addr)
    }
}

impl FromStr for Advertised {
    type Err = AdvertisedError;

    fn from_str(text: &str) -> Result<Self, AdvertisedError> {
        if let Ok(addr) = text.parse() {
            return Ok(Self::Addr(addr));
        }
        let (host, port) = text.rsplit_once(':').ok_or(AdvertisedError::Form)?;
        let port = port.parse().map_err(|_| AdvertisedError::Form)?;
        if !host.is_ascii() {
            check_host(host).map_err(AdvertisedError::Host)?;
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let name = host.strip_suffix('.').unwrap_or(host);
        // If the last label is all digits, it is a mistyped IPv4 address.
        let is_address = name.rsplit('.').next().is_some_and(|top| top.bytes().all(|byte| byte.is_ascii_digit()));
        if name.len() > 253 || is_address || !name.split('.').all(is_label) {
            return Err(AdvertisedError::Form);
        }
        Ok(Self::Name { host: host.to_owned(), port })
    }
}

impl fmt::Display for Advertised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => addr.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl Serialize for Advertised {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Advertised {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_parse_and_nothing_else_does() {
        for text in ["203.0.113.7:8711", "[2001:db8::7]:8711", "home.example.org:8711", "my-node:1", "example.org.:80"]
        {
            let read: Advertised = text.parse().expect("one");
            assert_eq!(read.to_string(), text);
            assert_eq!(matches!(read, Advertised::Addr(_)), text.starts_with(['2', '[']));
        }
        for text in
            ["home.example.org", "203.0.113.7", "203.0.113:1", "a b:1", "-a:1", ":1", "a..b:1", "a:99999", "[x]:1"]
        {
            assert_eq!(text.parse::<Advertised>(), Err(AdvertisedError::Form), "{text}");
        }
        let refused = "bücher.example:8711".parse::<Advertised>().expect_err("not as in DNS");
        assert!(refused.to_string().ends_with(": xn--bcher-kva.example"), "{refused}");
    }
}
