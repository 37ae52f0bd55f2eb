//! The client address of a request: that of the connection, or the one that a trusted proxy reports.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// Whether the address is a trusted proxy's.
pub(crate) fn is_proxy(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address.to_canonical()))
}

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestSource {
    /// The address, as far as trusted proxies report it. Must not be logged.
    pub(crate) address: IpAddr,
    /// Whether a trusted proxy wrote something other than an address, or the headers contradict each other. All clients
    /// of that proxy then count as one source.
    pub(crate) is_unreadable: bool,
}

/// The sender of a request that came from `peer`. Each proxy appends the address of its own peer. So the list is read
/// from its end, as long as the entries were written by trusted proxies. The client can forge the entries before that.
///
/// Both `Forwarded` (RFC 7239) and `X-Forwarded-For` are accepted. The registry does not know which of them the proxy
/// writes, and the proxy passes on the other one from the client. So if both are present, they have to lead to the same
/// address.
pub(crate) fn source_of_request(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> RequestSource {
    let list = |name: HeaderName| -> Vec<&str> {
        let lines = headers.get_all(name).iter().map(|line| line.to_str().unwrap_or_default());
        lines.flat_map(|line| line.split(',')).map(str::trim).collect()
    };
    let by_list = follow_proxies(peer, list(FORWARDED_FOR).into_iter().map(address), trusted);
    let by_forwarded = follow_proxies(peer, list(FORWARDED).into_iter().map(forwarded_for), trusted);
    let has_both = headers.contains_key(FORWARDED_FOR) && headers.contains_key(FORWARDED);
    if has_both && is_proxy(peer, trusted) && by_list != by_forwarded {
        return RequestSource { address: peer.to_canonical(), is_unreadable: true };
    }
    if headers.contains_key(FORWARDED_FOR) { by_list } else { by_forwarded }
}

/// The sender according to one header.
fn follow_proxies(
    peer: IpAddr,
    entries: impl DoubleEndedIterator<Item = Option<IpAddr>>,
    trusted: &[IpNet],
) -> RequestSource {
    let mut source = RequestSource { address: peer.to_canonical(), is_unreadable: false };
    for entry in entries.rev() {
        if !is_proxy(source.address, trusted) {
            break;
        }
        // The entry is not an address, so the chain of proxies ends here.
        let Some(address) = entry else { return RequestSource { is_unreadable: true, ..source } };
        source.address = address;
    }
    source
}

/// Parses an address as proxies write it: with or without a port, and IPv6 with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let parsed = bare.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|addr| addr.ip()));
    parsed.ok().map(|address| address.to_canonical())
}

/// The address in `for=` of one `Forwarded` element.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(peer: &str, lines: &[&'static str]) -> String {
        source_by(FORWARDED_FOR, peer, lines).address.to_string()
    }

    fn source_by(name: HeaderName, peer: &str, lines: &[&'static str]) -> RequestSource {
        let trusted = ["10.0.0.0/8".parse().expect("a network"), "::1/128".parse().expect("a network")];
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name.clone(), line.parse().expect("a header"));
        }
        source_of_request(peer.parse().expect("an address"), &headers, &trusted)
    }

    #[test]
    fn only_a_trusted_proxy_determines_the_source() {
        assert_eq!(source("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(source("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(source("::ffff:10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(source("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn headers_written_by_the_sender_are_ignored() {
        assert_eq!(source("10.0.0.1", &["203.0.113.9, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(source("10.0.0.1", &["203.0.113.9", "198.51.100.7, 10.9.9.9"]), "198.51.100.7");
        assert_eq!(source("10.0.0.1", &["nonsense"]), "10.0.0.1");
        assert_eq!(source("10.0.0.1", &["203.0.113.9, nonsense, 10.2.2.2"]), "10.2.2.2");
    }

    #[test]
    fn an_address_is_read_however_a_proxy_writes_it() {
        let is_read = |name: HeaderName, line| {
            let source = source_by(name, "10.0.0.1", &[line]);
            let address = source.address.to_string();
            !source.is_unreadable && ["203.0.113.9", "2001:db8::9"].contains(&address.as_str())
        };
        for line in ["203.0.113.9:5123", "[2001:db8::9]:443", "[2001:db8::9]", "2001:db8::9", "::ffff:203.0.113.9"] {
            assert!(is_read(FORWARDED_FOR, line), "{line}");
        }
        for line in [
            "for=192.0.2.43, for=203.0.113.9:5123",
            "proto=https;For=\"203.0.113.9:5123\";by=10.0.0.1",
            "for=\"[2001:db8::9]:4711\"",
            "for=unknown, for=203.0.113.9, for=10.0.0.7;host=x",
        ] {
            assert!(is_read(FORWARDED, line), "{line}");
        }
        assert_eq!(source_by(FORWARDED, "192.0.2.1", &["for=203.0.113.9"]).address.to_string(), "192.0.2.1");
    }

    #[test]
    fn a_clients_own_header_of_the_other_kind_does_not_choose_its_source() {
        let trusted = ["10.0.0.0/8".parse().expect("a network")];
        let by = |peer: &str, list: &'static str, forwarded: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(FORWARDED_FOR, list.parse().expect("a header"));
            headers.insert(FORWARDED, forwarded.parse().expect("a header"));
            let source = source_of_request(peer.parse().expect("an address"), &headers, &trusted);
            (source.address.to_string(), source.is_unreadable)
        };
        // The client writes one header and the proxy the other, in either order.
        for (list, forwarded) in [
            ("203.0.113.9", "for=198.51.100.7"),
            ("198.51.100.7", "for=203.0.113.9"),
            ("198.51.100.7", "for=_hidden"),
            ("nonsense", "for=198.51.100.7"),
        ] {
            assert_eq!(by("10.0.0.1", list, forwarded), ("10.0.0.1".to_owned(), true), "{list} {forwarded}");
        }
        assert_eq!(by("10.0.0.1", "198.51.100.7", "for=\"198.51.100.7:1\""), ("198.51.100.7".to_owned(), false));
        assert_eq!(by("192.0.2.1", "203.0.113.9", "for=198.51.100.7"), ("192.0.2.1".to_owned(), false));
    }

    #[test]
    fn only_unreadable_headers_of_a_trusted_proxy_are_reported() {
        let is_unreadable = |peer, line| source_by(FORWARDED_FOR, peer, &[line]).is_unreadable;
        assert!(is_unreadable("10.0.0.1", "unknown") && is_unreadable("10.0.0.1", "203.0.113.9, _hidden"));
        assert!(!is_unreadable("192.0.2.1", "unknown"), "a stranger may write what it likes");
        assert!(!is_unreadable("10.0.0.1", "unknown, 203.0.113.9"));
        assert!(source_by(FORWARDED, "10.0.0.1", &["for=_hidden"]).is_unreadable);
    }
}
