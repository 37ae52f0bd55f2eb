//! The client's address behind reverse proxies, by `X-Forwarded-For` and `Forwarded` (RFC 7239).
//!
//! Invariant: only what a trusted proxy has written determines the address.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// Maximum number of networks of trusted proxies: a list maintained by people.
pub const MAX_TRUSTED_PROXIES: usize = 64;

/// Returns whether the address is a trusted proxy's.
pub fn is_proxy(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address.to_canonical()))
}

/// The values of the header fields of a request, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardedFields<'a> {
    /// Of `X-Forwarded-For`.
    pub x_forwarded_for: Vec<&'a [u8]>,
    /// Of `Forwarded`.
    pub forwarded: Vec<&'a [u8]>,
}

/// Why the fields of a trusted proxy do not lead to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedFault {
    /// A trusted proxy wrote something other than an address.
    Unreadable,
    /// Both fields are present and lead to different addresses.
    Contradiction,
}

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestSource {
    /// The address, as far as trusted proxies report it. Must not be logged.
    pub address: IpAddr,
    /// If set, the address is that of a proxy, which all its clients share.
    pub fault: Option<ForwardedFault>,
}

/// Returns the sender of a request that came from `peer`. Each proxy appends the address of its own peer. So the list is
/// read from its end, as long as the entries were written by trusted proxies. The client can forge the entries before
/// that.
///
/// The receiver does not know which of the two fields the proxy writes, and the proxy passes on the other one from the
/// client. So if both are present, they have to lead to the same address.
pub fn source_of_request(peer: IpAddr, fields: &ForwardedFields<'_>, trusted: &[IpNet]) -> RequestSource {
    let by_list = follow_proxies(peer, elements(&fields.x_forwarded_for).map(address), trusted);
    let by_forwarded = follow_proxies(peer, elements(&fields.forwarded).map(forwarded_for), trusted);
    let has_both = !fields.x_forwarded_for.is_empty() && !fields.forwarded.is_empty();
    if has_both && is_proxy(peer, trusted) && by_list != by_forwarded {
        return RequestSource { address: peer.to_canonical(), fault: Some(ForwardedFault::Contradiction) };
    }
    if fields.x_forwarded_for.is_empty() { by_forwarded } else { by_list }
}

/// The elements of all lines of a field. Empty ones do not count (RFC 9110, 5.6.1.2). A line that is no text has one unreadable
/// element.
fn elements<'a>(lines: &[&'a [u8]]) -> impl DoubleEndedIterator<Item = &'a str> {
    const UNREADABLE: &str = "?";
    let lines = lines.iter().map(|line| str::from_utf8(line).unwrap_or(UNREADABLE));
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

/// The sender according to one field.
fn follow_proxies(
    peer: IpAddr,
    entries: impl DoubleEndedIterator<Item = Option<IpAddr>>,
    trusted: &[IpNet],
) -> RequestSource {
    let mut source = RequestSource { address: peer.to_canonical(), fault: None };
    for entry in entries.rev() {
        if !is_proxy(source.address, trusted) {
            break;
        }
        // The entry is not an address, so the chain of proxies ends here.
        let Some(address) = entry else { return RequestSource { fault: Some(ForwardedFault::Unreadable), ..source } };
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

    fn trusted() -> [IpNet; 2] {
        ["10.0.0.0/8".parse().expect("a network"), "::1/128".parse().expect("a network")]
    }

    fn source(peer: &str, fields: &ForwardedFields<'_>) -> RequestSource {
        source_of_request(peer.parse().expect("an address"), fields, &trusted())
    }

    fn by_list(peer: &str, lines: &[&'static str]) -> RequestSource {
        let x_forwarded_for = lines.iter().map(|line| line.as_bytes()).collect();
        source(peer, &ForwardedFields { x_forwarded_for, forwarded: Vec::new() })
    }

    fn by_forwarded(peer: &str, line: &str) -> RequestSource {
        source(peer, &ForwardedFields { x_forwarded_for: Vec::new(), forwarded: vec![line.as_bytes()] })
    }

    fn address_by_list(peer: &str, lines: &[&'static str]) -> String {
        by_list(peer, lines).address.to_string()
    }

    #[test]
    fn only_a_trusted_proxy_determines_the_source() {
        assert_eq!(address_by_list("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(address_by_list("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(address_by_list("::ffff:10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(address_by_list("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(by_forwarded("192.0.2.1", "for=203.0.113.9").address.to_string(), "192.0.2.1");
    }

    #[test]
    fn entries_written_by_the_sender_are_ignored() {
        assert_eq!(address_by_list("10.0.0.1", &["203.0.113.9, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(address_by_list("10.0.0.1", &["203.0.113.9", "198.51.100.7, 10.9.9.9"]), "198.51.100.7");
        assert_eq!(address_by_list("10.0.0.1", &["nonsense"]), "10.0.0.1");
        assert_eq!(address_by_list("10.0.0.1", &["203.0.113.9, nonsense, 10.2.2.2"]), "10.2.2.2");
        assert_eq!(by_list("10.0.0.1", &["", "198.51.100.7,", " , "]), by_list("10.0.0.1", &["198.51.100.7"]));
        // A quoted comma of the client's element does not hide the proxy's.
        assert_eq!(by_forwarded("10.0.0.1", "for=\"x, for=198.51.100.7").address.to_string(), "198.51.100.7");
    }

    #[test]
    fn an_address_is_read_however_a_proxy_writes_it() {
        let is_read = |source: RequestSource| {
            source.fault.is_none() && ["203.0.113.9", "2001:db8::9"].contains(&source.address.to_string().as_str())
        };
        for line in ["203.0.113.9:5123", "[2001:db8::9]:443", "[2001:db8::9]", "2001:db8::9", "::ffff:203.0.113.9"] {
            assert!(is_read(by_list("10.0.0.1", &[line])), "{line}");
        }
        for line in [
            "for=192.0.2.43, for=203.0.113.9:5123",
            "proto=https;For=\"203.0.113.9:5123\";by=10.0.0.1",
            "for=\"[2001:db8::9]:4711\"",
            "for=unknown, for=203.0.113.9, for=10.0.0.7;host=x",
        ] {
            assert!(is_read(by_forwarded("10.0.0.1", line)), "{line}");
        }
    }

    #[test]
    fn a_clients_own_field_of_the_other_kind_does_not_choose_its_source() {
        let by = |peer: &str, list: &str, forwarded: &str| {
            let fields =
                ForwardedFields { x_forwarded_for: vec![list.as_bytes()], forwarded: vec![forwarded.as_bytes()] };
            let source = source(peer, &fields);
            (source.address.to_string(), source.fault)
        };
        // The client writes one field and the proxy the other, in either order.
        for (list, forwarded) in [
            ("203.0.113.9", "for=198.51.100.7"),
            ("198.51.100.7", "for=203.0.113.9"),
            ("198.51.100.7", "for=_hidden"),
            ("nonsense", "for=198.51.100.7"),
        ] {
            let expected = ("10.0.0.1".to_owned(), Some(ForwardedFault::Contradiction));
            assert_eq!(by("10.0.0.1", list, forwarded), expected, "{list} {forwarded}");
        }
        assert_eq!(by("10.0.0.1", "198.51.100.7", "for=\"198.51.100.7:1\""), ("198.51.100.7".to_owned(), None));
        assert_eq!(by("192.0.2.1", "203.0.113.9", "for=198.51.100.7"), ("192.0.2.1".to_owned(), None));
    }

    #[test]
    fn only_unreadable_fields_of_a_trusted_proxy_are_faults() {
        let is_faulty = |peer, line| by_list(peer, &[line]).fault == Some(ForwardedFault::Unreadable);
        assert!(is_faulty("10.0.0.1", "unknown") && is_faulty("10.0.0.1", "203.0.113.9, _hidden"));
        assert!(!is_faulty("192.0.2.1", "unknown"), "a stranger may write what it likes");
        assert!(!is_faulty("10.0.0.1", "unknown, 203.0.113.9"));
        assert_eq!(by_forwarded("10.0.0.1", "for=_hidden").fault, Some(ForwardedFault::Unreadable));
        let fields = ForwardedFields { x_forwarded_for: vec![b"\xff"], forwarded: Vec::new() };
        assert_eq!(source("10.0.0.1", &fields).fault, Some(ForwardedFault::Unreadable));
    }
}
