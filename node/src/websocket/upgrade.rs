//! The first request of a connection. A WebSocket upgrade is answered here. Any other request goes to the HTTP server.
//!
//! Pure, except for [`read`].

use std::io;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// The maximum length of a request head: that of a browser with large cookies.
const MAX_HEAD: usize = 8 * 1024;
/// The initial buffer size, which fits most heads.
const USUAL_HEAD: usize = 1024;
/// The maximum number of header fields: twice what a browser behind two proxies sends.
pub(crate) const MAX_FIELDS: usize = 64;
/// The magic cookie of STUN (RFC 8489, 5).
const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// The value that is hashed with the client's key (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The first request of a connection.
#[cfg_attr(test, derive(Debug, PartialEq, Eq))]
pub(crate) enum First {
    /// A WebSocket upgrade.
    WebSocket {
        /// The response.
        answer: String,
        /// The request.
        head: Vec<u8>,
        /// The input after the request.
        rest: Vec<u8>,
    },
    /// A STUN message, with all input that was read.
    Stun(Vec<u8>),
    /// Any other request, with all input that was read.
    Http(Vec<u8>),
}

/// The kind of a first request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// A WebSocket upgrade: its response, and the length of the request.
    WebSocket {
        answer: String,
        len: usize,
    },
    Stun,
    Http,
}

/// Reads the first request.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<First> {
    let mut head = Vec::with_capacity(USUAL_HEAD);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(kind) = parse_first(&head) {
            return Ok(match kind {
                Kind::WebSocket { answer, len } => {
                    let rest = head.split_off(len);
                    First::WebSocket { answer, head, rest }
                }
                Kind::Stun => First::Stun(head),
                Kind::Http => First::Http(head),
            });
        }
    }
}

/// Parses the start of a request. Returns `None` while the request is incomplete.
fn parse_first(head: &[u8]) -> Option<Kind> {
    // A client of TURN begins with a request: no method of HTTP begins with these bytes. Browsers send no ALPN for
    // `turns:` URLs, so nothing else tells the two apart. ChannelData begins with 0x40 to 0x4f, as `GET` does with 0x47.
    if matches!(head, [0 | 1, ..]) {
        let cookie = head.get(4..8)?;
        return Some(if cookie == STUN_COOKIE { Kind::Stun } else { Kind::Http });
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    // Parse only `MAX_HEAD` bytes, so that the result doesn't depend on how the request is split into reads.
    match request.parse(&head[..head.len().min(MAX_HEAD)]) {
        Ok(httparse::Status::Complete(len)) => {
            Some(answer(&request).map_or(Kind::Http, |answer| Kind::WebSocket { answer, len }))
        }
        Ok(httparse::Status::Partial) if head.len() < MAX_HEAD => None,
        // Too long or invalid: the HTTP server sends the error.
        _ => Some(Kind::Http),
    }
}

/// Returns the response to `request`, if it is a WebSocket upgrade (RFC 6455, 4.2.1).
fn answer(request: &httparse::Request<'_, '_>) -> Option<String> {
    // Fields with the same name form one list (RFC 9110, 5.3). Empty elements don't count (5.6.1).
    let list = |name: &str| -> Vec<&str> {
        let lines = request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        let values = lines.map(|line| str::from_utf8(line.value).unwrap_or_default());
        values.flat_map(|value| value.split(',')).map(str::trim).filter(|one| !one.is_empty()).collect()
    };
    let contains = |name, token: &str| list(name).iter().any(|one| one.eq_ignore_ascii_case(token));
    let versions = list("sec-websocket-version");
    let is_upgrade = request.method == Some("GET")
        && request.version == Some(1)
        && matches!(path(request.path?)?, "/" | "/ws")
        && contains("upgrade", "websocket")
        && contains("connection", "upgrade")
        && !versions.is_empty()
        && versions.iter().all(|version| *version == "13");
    // With two keys, it would be ambiguous which one the response is for (RFC 6455, 11.3.1).
    let [key] = *list("sec-websocket-key") else { return None };
    if !STANDARD.decode(key).is_ok_and(|key| key.len() == 16) {
        return None;
    }
    let accept = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    is_upgrade.then(|| {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            STANDARD.encode(accept)
        )
    })
}

/// Returns the path of a request target in origin form or absolute form (RFC 9112, 3.2), or `None` for other forms.
fn path(target: &str) -> Option<&str> {
    let path = if target.starts_with('/') {
        target
    } else {
        let (_, rest) = target.split_once("://")?;
        rest.find(['/', '?']).map_or("", |start| &rest[start..])
    };
    // An absolute URI may end with its authority.
    path.split('?').next().map(|path| if path.is_empty() { "/" } else { path })
}

/// Properties that the tests and the fuzzer check for every input.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// The first request of a connection. Its last byte determines where it is cut.
    pub const HEAD: (&str, fn(&[u8]) -> bool) = ("head", |head| {
        let cut = usize::from(head.last().copied().unwrap_or_default()) * head.len() / 256;
        let parsed = parse_first(head);
        if let Some(earlier) = parse_first(&head[..cut]) {
            assert_eq!(parsed, Some(earlier.clone()), "what comes behind changes nothing");
        }
        if let Some(Kind::WebSocket { answer, len }) = &parsed {
            assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\n"));
            assert_eq!(parse_first(&head[..*len]), parsed);
        }
        parsed.is_some()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = "GET /ws?x=1 HTTP/1.1\r\nHost: relay.example\r\nUPGRADE: WebSocket\r\nConnection: keep-alive, \
                           Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

    fn is_http(request: &str) -> bool {
        parse_first(request.as_bytes()) == Some(Kind::Http)
    }

    #[test]
    fn the_rfcs_request_has_the_rfcs_answer() {
        let Some(Kind::WebSocket { answer, len }) = parse_first(REQUEST.as_bytes()) else { panic!("no upgrade") };
        assert!(answer.ends_with("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"), "{answer}");
        assert_eq!(len, REQUEST.len());
    }

    #[test]
    fn stun_is_known_by_its_first_byte_and_its_cookie() {
        let request = *b"\x00\x03\x00\x00\x21\x12\xa4\x42";
        for len in 1..8 {
            assert_eq!(parse_first(&request[..len]), None, "{len}");
        }
        assert_eq!(parse_first(&request), Some(Kind::Stun));
        // The first byte of ChannelData can be a letter of an HTTP method: it is never the first of a connection.
        assert_eq!(parse_first(b"G"), None);
        assert_eq!(parse_first(&[0x40, 0, 0, 4, 1, 2, 3, 4]), Some(Kind::Http));
    }

    #[test]
    fn incomplete_upgrade_requests_are_plain_http() {
        assert!(!is_http(REQUEST));
        for (from, to) in [
            ("/ws", "/health"),
            ("GET", "POST"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("Version: 13", "Version: 8"),
            ("WebSocket\r", "h2c\r"),
            ("-alive, Upgrade", "-alive"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "short"),
        ] {
            let request = REQUEST.replace(from, to);
            assert!(request != REQUEST && is_http(&request), "{to}");
        }
        assert!(is_http("nonsense\r\n\r\n") && is_http("\0\x01\0\0nope") && is_http("\x02"));
        assert!(is_http(&format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(MAX_HEAD))));
    }

    #[test]
    fn all_spellings_of_one_upgrade_are_one() {
        for (from, to) in [
            ("Connection: keep-alive, Upgrade", "Connection: keep-alive\r\nConnection: Upgrade"),
            ("Connection: keep-alive, Upgrade", "connection:upgrade\r\nX: y\r\nCONNECTION:\t, keep-alive ,"),
            ("UPGRADE: WebSocket", "Upgrade: h2c\r\nUpgrade: websocket"),
            ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13"),
            ("GET /ws?x=1", "GET http://relay.example/ws?x=1"),
            ("GET /ws?x=1", "GET HTTP://relay.example:8710"),
            ("GET /ws?x=1", "GET http://relay.example?x=/health"),
            ("GET /ws?x=1", "GET /?http://other.example/x"),
            ("GET /ws?x=1", "\r\nGET /ws?"),
        ] {
            let request = REQUEST.replace(from, to);
            assert!(request != REQUEST && !is_http(&request), "{to}");
        }
        for (from, to) in [
            ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13, 8"),
            ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"),
            ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: "),
            ("GET /ws?x=1", "GET http://relay.example/health"),
            ("GET /ws?x=1", "GET *"),
            ("GET /ws?x=1", "GET relay.example:80"),
        ] {
            let request = REQUEST.replace(from, to);
            assert!(request != REQUEST && is_http(&request), "{to}");
        }
    }

    #[test]
    fn a_head_that_is_too_long_is_so_however_it_arrives() {
        let long = |by: usize| {
            let field = "X: ".to_owned() + &"x".repeat(MAX_HEAD + by - REQUEST.len() - "X: \r\n".len()) + "\r\n";
            REQUEST.replacen("Host", &(field + "Host"), 1)
        };
        assert!(long(0).len() == MAX_HEAD && !is_http(&long(0)));
        assert!(is_http(&long(1)) && is_http(&long(1)[..MAX_HEAD]));
    }

    #[tokio::test]
    async fn a_request_is_read_in_pieces_and_bytes_after_it_are_kept() {
        let (mut client, mut server) = tokio::io::duplex(7);
        let send = async {
            let sent = format!("{REQUEST}behind");
            tokio::io::AsyncWriteExt::write_all(&mut client, sent.as_bytes()).await
        };
        let (sent, first) = tokio::join!(send, async {
            let first = read(&mut server).await;
            drop(server);
            first
        });
        let First::WebSocket { rest, .. } = first.expect("a request") else { panic!("an upgrade") };
        assert!("behind".as_bytes().starts_with(&rest) && (sent.is_ok() || rest.len() < 6));
    }

    #[test]
    fn mutated_heads_are_judged_once_they_are_whole_and_not_before() {
        let http = "POST /health HTTP/1.1\r\nHost: [::1]:8710\r\nContent-Length: 2\r\n\r\n{}";
        let with = |to| REQUEST.replace("Host: relay.example\r\n", to) + "behind";
        let corpus =
            [REQUEST.to_owned(), http.to_owned(), with("Host: x\r\nCookie: a=b\r\n"), with("Sec-WebSocket-Key: x\r\n")];
        chappe_mutations::run(fuzzed::HEAD, &corpus);
    }
}
