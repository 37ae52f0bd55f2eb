//! Who asks: the address of the connection, or the one that a trusted proxy in front says.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whether the address is a trusted proxy's.
pub(crate) fn is_proxy(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address.to_canonical()))
}

/// Who sent the request that came from `peer`. Each proxy appends whom it heard the request from, so the list is read
/// from its end, and only as far as those who wrote it are trusted: what comes before is the sender's own invention.
pub(crate) fn of_request(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut source = peer.to_canonical();
    let lines: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
    let entries = lines.iter().rev().flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    for entry in entries {
        if !is_proxy(source, trusted) {
            break;
        }
        match entry.trim().parse::<IpAddr>() {
            Ok(address) => source = address.to_canonical(),
            // A proxy that writes something else can't be followed further.
            Err(_) => break,
        }
    }
    source
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(peer: &str, lines: &[&'static str]) -> String {
        let trusted = ["10.0.0.0/8".parse().expect("a network"), "::1/128".parse().expect("a network")];
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().expect("a header"));
        }
        of_request(peer.parse().expect("an address"), &headers, &trusted).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_says_who_asks() {
        assert_eq!(source("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(source("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(source("::ffff:10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(source("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn what_the_sender_wrote_itself_is_not_believed() {
        assert_eq!(source("10.0.0.1", &["203.0.113.9, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(source("10.0.0.1", &["203.0.113.9", "198.51.100.7, 10.9.9.9"]), "198.51.100.7");
        assert_eq!(source("10.0.0.1", &["nonsense"]), "10.0.0.1");
        assert_eq!(source("10.0.0.1", &["203.0.113.9, nonsense, 10.2.2.2"]), "10.2.2.2");
    }
}
