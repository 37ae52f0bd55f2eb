//! What other nodes dial: an address, or a name that is resolved again as it changes.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// One of `federation.advertise`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertised {
    /// An address.
    Addr(SocketAddr),
    /// A host's name and a port: of a node at home, whose address changes.
    Name {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Not an address or a name, and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an address or a name and a port are allowed, such as 203.0.113.7:8711, [2001:db8::7]:8711 or home.example.org:8711"
)]
pub struct AdvertisedError;

impl Advertised {
    /// The port.
    pub const fn port(&self) -> u16 {
        match self {
            Self::Addr(addr) => addr.port(),
            Self::Name { port, .. } => *port,
        }
    }
}

/// Whether an address can be one host's: others are refused, also where a name leads to them.
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
        let (host, port) = text.rsplit_once(':').ok_or(AdvertisedError)?;
        let port = port.parse().map_err(|_| AdvertisedError)?;
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let name = host.strip_suffix('.').unwrap_or(host);
        // A last label of digits is an address that was mistyped.
        let is_address = name.rsplit('.').next().is_some_and(|top| top.bytes().all(|byte| byte.is_ascii_digit()));
        if name.len() > 253 || is_address || !name.split('.').all(is_label) {
            return Err(AdvertisedError);
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
    fn addresses_and_names_are_read_as_they_are_written_and_nothing_else_is() {
        for text in ["203.0.113.7:8711", "[2001:db8::7]:8711", "home.example.org:8711", "my-node:1", "example.org.:80"]
        {
            let read: Advertised = text.parse().expect("one");
            assert_eq!(read.to_string(), text);
            assert_eq!(matches!(read, Advertised::Addr(_)), text.starts_with(['2', '[']));
        }
        for text in
            ["home.example.org", "203.0.113.7", "203.0.113:1", "a b:1", "-a:1", ":1", "a..b:1", "a:99999", "[x]:1"]
        {
            assert_eq!(text.parse::<Advertised>(), Err(AdvertisedError), "{text}");
        }
    }
}
