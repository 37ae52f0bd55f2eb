//! The header of the PROXY protocol (versions 1 and 2), which a trusted proxy sends before all else.
//!
//! Pure, except for [`read`]. The crate `proxy-header` parses; this file bounds the header, and tells it from TLS, STUN
//! and HTTP.

use std::{io, net::SocketAddr, time::Duration};

use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::sleep};

/// The maximum length of a header of version 2. A sender keeps it below 536 bytes, so that it fits the smallest TCP
/// segment; twice that leaves room for further fields.
const MAX_HEADER: usize = 1024;
/// The maximum length of a header of version 1, by its specification (2.1).
const MAX_LINE: usize = 107;
/// Pause before an incomplete header is looked at again. Senders send it at once, so this is rare.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What a header of version 1 begins with, and one of version 2, with the maximum length of each. The protocol is part of it:
/// a client of an HTTP proxy may send a request with the method `PROXY`.
const SIGNATURES: [(&[u8], usize); 4] = [
    (b"PROXY TCP4 ", MAX_LINE),
    (b"PROXY TCP6 ", MAX_LINE),
    (b"PROXY UNKNOWN\r\n", MAX_LINE),
    (b"\r\n\r\n\0\r\nQUIT\n", MAX_HEADER),
];

/// The start of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// A header of this length. Without a client, the proxy speaks for itself, such as to check the node's health, or it
    /// does not know the client.
    Header { len: usize, client: Option<SocketAddr> },
    /// Something else.
    None,
    /// The header is invalid or too long.
    Invalid,
}

/// Parses the start of a connection. Returns `None` while it is incomplete.
fn parse(input: &[u8]) -> Option<Start> {
    let is_begun = |(signature, _): &(&[u8], usize)| {
        let len = signature.len().min(input.len());
        input[..len] == signature[..len]
    };
    let Some((signature, max)) = SIGNATURES.into_iter().find(is_begun) else { return Some(Start::None) };
    if input.len() < signature.len() {
        return None;
    }
    // A request may name `TCP4` as its target: then no address follows, but the version of HTTP.
    let is_request = |next: &u8| signature.ends_with(b" ") && !next.is_ascii_hexdigit() && *next != b':';
    if input.get(signature.len()).is_some_and(is_request) {
        return Some(Start::None);
    }
    // Parse only `max` bytes, so that the result doesn't depend on how the header is split into reads.
    let head = &input[..input.len().min(max)];
    match ProxyHeader::parse(head, ParseConfig { include_tlvs: false, ..ParseConfig::default() }) {
        Ok((header, len)) => Some(match header.proxied_address() {
            Some(proxied) if proxied.protocol != Protocol::Stream => Start::Invalid,
            proxied => Start::Header { len, client: proxied.map(|proxied| proxied.source) },
        }),
        Err(Error::BufferTooShort) if input.len() < max => None,
        Err(_) => Some(Start::Invalid),
    }
}

/// Reads the header, and nothing after it. Waits for the first bytes of the connection.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Start> {
    let mut head = [0; MAX_HEADER];
    loop {
        let len = stream.peek(&mut head).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(start) = parse(&head[..len]) else {
            sleep(LOOK_EVERY).await;
            continue;
        };
        if let Start::Header { len, .. } = start {
            stream.read_exact(&mut head[..len]).await?;
        }
        return Ok(start);
    }
}

/// Properties that the tests and the fuzzer check for every input.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// The start of a connection from a trusted proxy. Its last byte determines where it is cut.
    pub const PROXY_HEADER: (&str, fn(&[u8]) -> bool) = ("proxy_header", |input| {
        let cut = usize::from(input.last().copied().unwrap_or_default()) * input.len() / 256;
        let parsed = parse(input);
        if let Some(earlier) = parse(&input[..cut]) {
            assert_eq!(parsed, Some(earlier), "what comes behind changes nothing");
        }
        if let Some(Start::Header { len, .. }) = parsed {
            assert!(len <= MAX_HEADER && len <= input.len());
            assert_eq!(parse(&input[..len]), parsed);
            assert!(len == 0 || parse(&input[..len - 1]).is_none());
        }
        matches!(parsed, Some(Start::Header { .. }))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2: its command and family, and what comes after its length.
    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).expect("a short header").to_be_bytes();
        [SIGNATURES[3].0, &[command, family], &len, rest].concat()
    }

    const IPV4: &[u8] = &[203, 0, 113, 7, 127, 0, 0, 1, 0x14, 0x03, 0x22, 0x06];

    fn client(input: &[u8]) -> Option<String> {
        match parse(input) {
            Some(Start::Header { len, client }) => {
                assert_eq!(len, input.len());
                Some(client.map_or_else(String::new, |addr| addr.to_string()))
            }
            _ => None,
        }
    }

    #[test]
    fn both_versions_name_the_client() {
        let is = |input: &[u8], expected: &str| assert_eq!(client(input).as_deref(), Some(expected));
        is(b"PROXY TCP4 203.0.113.7 127.0.0.1 5123 8710\r\n", "203.0.113.7:5123");
        is(b"PROXY TCP6 2001:db8::9 ::1 5123 8710\r\n", "[2001:db8::9]:5123");
        is(&version_2(0x21, 0x11, IPV4), "203.0.113.7:5123");
        is(&version_2(0x21, 0x11, &[IPV4, &[4, 0, 3, 1, 2, 3]].concat()), "203.0.113.7:5123");
        let mut ipv6 = [0; 36];
        (ipv6[0], ipv6[15], ipv6[33]) = (0x20, 9, 80);
        is(&version_2(0x21, 0x21, &ipv6), "[2000::9]:80");
        // The proxy itself, or a client whose address it does not know.
        is(b"PROXY UNKNOWN\r\n", "");
        is(&version_2(0x20, 0x11, IPV4), "");
        is(&version_2(0x21, 0, &[]), "");
    }

    #[test]
    fn a_header_in_pieces_is_awaited_and_other_protocols_are_told_apart_at_once() {
        for header in [&b"PROXY TCP4 203.0.113.7 127.0.0.1 5123 8710\r\n"[..], &version_2(0x21, 0x11, IPV4)] {
            for len in 1..header.len() {
                assert_eq!(parse(&header[..len]), None, "{len}");
            }
        }
        let tls = [0x16, 3, 1, 2, 0];
        let stun = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        for other in [&tls[..], &stun, b"GET / HTTP/1.1\r\n", b"POST", b"\r\nGET", b"PROX ", b"\r\n\r\nGET"] {
            assert_eq!(parse(other), Some(Start::None), "{other:?}");
        }
        // Requests of a client that tries to look like the proxy.
        for request in ["PROXY / HTTP/1.1\r\n", "PROXY TCP4 HTTP/1.1\r\n", "PROXY UNKNOWN HTTP/1.1\r\n"] {
            assert_eq!(parse(request.as_bytes()), Some(Start::None), "{request}");
        }
    }

    #[test]
    fn an_invalid_or_long_header_is_refused() {
        let long = version_2(0x21, 0x11, &[IPV4, &[0; MAX_HEADER]].concat());
        for wrong in [
            &b"PROXY TCP4 203.0.113.999 127.0.0.1 5123 8710\r\n"[..],
            b"PROXY TCP4 2001:db8::9 ::1 5123 8710\r\n",
            &[b"PROXY TCP4 ", &[b'1'; 100][..]].concat(),
            &version_2(0x11, 0x11, IPV4),
            &version_2(0x21, 0x41, IPV4),
            &version_2(0x21, 0x12, IPV4),
            &long,
        ] {
            assert_eq!(parse(wrong), Some(Start::Invalid), "{wrong:?}");
        }
    }

    #[test]
    fn mutated_proxy_headers_are_judged_once_they_are_whole_and_not_before() {
        let corpus = [
            b"PROXY TCP4 203.0.113.7 127.0.0.1 5123 8710\r\nGET / HTTP/1.1\r\n".to_vec(),
            b"PROXY TCP6 2001:db8::9 ::1 5123 8710\r\n\x16\x03\x01".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            version_2(0x21, 0x11, IPV4),
            version_2(0x20, 0, &[]),
            version_2(0x21, 0x21, &[7; 60]),
        ];
        chappe_mutations::run(fuzzed::PROXY_HEADER, &corpus);
    }
}
