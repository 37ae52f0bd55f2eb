//! The client address of a request: that of the connection, or the one that a trusted proxy reports.

use std::net::IpAddr;

use chappe_common::forwarded::{self, ForwardedFields, RequestSource};
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// The sender of a request that came from `peer`.
pub(crate) fn source_of_request(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> RequestSource {
    let lines = |name: HeaderName| headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
    let fields = ForwardedFields { x_forwarded_for: lines(FORWARDED_FOR), forwarded: lines(FORWARDED) };
    forwarded::source_of_request(peer, &fields, trusted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_header_fields_are_read() {
        let trusted = ["10.0.0.0/8".parse().expect("a network")];
        let source = |name: HeaderName, line: &'static str| {
            let mut headers = HeaderMap::new();
            headers.append(name.clone(), "for=203.0.113.1, 203.0.113.1".parse().expect("a header"));
            headers.append(name, line.parse().expect("a header"));
            let source = source_of_request([10, 0, 0, 1].into(), &headers, &trusted);
            source.address.to_string()
        };
        assert_eq!(source(FORWARDED_FOR, "198.51.100.7"), "198.51.100.7");
        assert_eq!(source(FORWARDED, "for=198.51.100.7"), "198.51.100.7");
    }
}
