//! One dial: connect, read the node's claim of its id, and make the node prove it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{
    client::{ErrorCode, MAX_MESSAGE, PROTOCOL},
    keys::NodeId,
    proof,
    record::{is_client_url, is_label},
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde::Deserialize;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    Connector, client_async_tls_with_config,
    tungstenite::{Error, Utf8Bytes, http::Uri, protocol::WebSocketConfig},
};

use crate::{
    connection::{Connection, ConnectionError, Socket},
    net::Net,
    reach::{NameError, ReachError},
    source::Candidate,
    this_machine::is_this_machine,
};

/// Time limit of a dial: a slow mobile connection takes four round trips of half a second.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Delay between connection attempts to successive addresses of a host (RFC 8305).
const ADDRESS_STAGGER: Duration = Duration::from_millis(250);
/// How many other messages are skipped before the proof. A correct node sends none.
const MAX_STRAY: usize = 8;

/// Why a dial failed. Another candidate can be tried at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// No complete response within [`DIAL_TIMEOUT`].
    #[error("no answer in time")]
    Timeout,
    /// No connection.
    #[error(transparent)]
    Reach(ReachError),
    /// The server is not a Chappe node.
    #[error("the server is not a Chappe node")]
    NotANode,
    /// The node speaks another version of the protocol.
    #[error("protocol version {0} is not supported")]
    Version(u32),
    /// The address belongs to another node than the expected one.
    #[error("another node is at this address")]
    OtherNode,
    /// The node does not sign for the dialled URL, because its record does not contain it.
    #[error("the node does not use this URL{}", .own.as_ref().map_or_else(String::new, |own| format!("; it uses {own}")))]
    OtherUrl {
        /// The URL that the node claims. It is not verified.
        own: Option<String>,
    },
    /// The signature is invalid: the connection may be intercepted.
    #[error("the node's proof of its key is invalid")]
    Proof,
    /// The node is shutting down and accepts no new clients.
    #[error("the node is shutting down")]
    Leaving,
    /// The connection ended before the proof.
    #[error(transparent)]
    Ended(#[from] ConnectionError),
    /// The system returned no random bytes.
    #[error("the system returned no random bytes")]
    Random,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServerInfo {
    server_id: String,
    endpoint: String,
    region: Option<String>,
    protocol: u32,
    nonce: String,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Reply {
    ServerInfo(ServerInfo),
    Proof {
        id: String,
        signature: String,
    },
    Error {
        id: Option<String>,
        code: Option<ErrorCode>,
    },
    GoingAway,
    #[serde(other)]
    Other,
}

impl From<ReachError> for DialError {
    fn from(error: ReachError) -> Self {
        if error == ReachError::Timeout { Self::Timeout } else { Self::Reach(error) }
    }
}

/// Connects to `candidate` and makes the node prove its key. Calls `progressed` after each step.
///
/// # Errors
/// Why the dial failed. The connection is closed.
pub async fn dial(candidate: &Candidate, net: &Net, progressed: impl Fn() + Send) -> Result<Connection, DialError> {
    timeout(DIAL_TIMEOUT, dial_without_timeout(candidate, net, progressed)).await.unwrap_or(Err(DialError::Timeout))
}

/// Connects to the host of `uri`, through a proxy if one is configured.
async fn connect(uri: &Uri, net: &Net) -> Result<TcpStream, ReachError> {
    let host = uri.host().ok_or(NameError::Invalid)?;
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("wss") { 443 } else { 80 });
    if let Some(proxy) = net.proxies().for_url(&uri.to_string()) {
        // The proxy resolves the name, so no other resolver sees it.
        let mut stream = connect_to(proxy.host(), proxy.port(), net).await?;
        proxy.tunnel(&mut stream, host, port).await?;
        return Ok(stream);
    }
    connect_to(host, port, net).await
}

async fn connect_to(host: &str, port: u16, net: &Net) -> Result<TcpStream, ReachError> {
    let ips = net.names().lookup(host).await?;
    let mut tries: FuturesUnordered<_> = (0..)
        .zip(ips)
        .map(|(n, ip)| async move {
            sleep(ADDRESS_STAGGER * n).await;
            TcpStream::connect((ip, port)).await
        })
        .collect();
    let mut failure = ReachError::Other;
    while let Some(connected) = tries.next().await {
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = ReachError::of_io(&error),
        }
    }
    Err(failure)
}

/// This machine's address on the connection. If a proxy on this machine leads to a remote node, the address of the
/// default route.
fn local_ip(stream: &TcpStream, url: &str) -> io::Result<IpAddr> {
    /// A documentation address (RFC 5737). No packet is sent to it.
    const ANYWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
    let ip = stream.local_addr()?.ip();
    if !ip.is_loopback() || is_this_machine(url) {
        return Ok(ip);
    }
    // Connecting a UDP socket only selects the route.
    let routed = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(ANYWHERE)?;
        socket.local_addr()
    });
    Ok(routed.map_or(ip, |addr| addr.ip()))
}

/// The bounds of a connection to a node.
pub(crate) fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4096)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

async fn dial_without_timeout(
    candidate: &Candidate,
    net: &Net,
    progressed: impl Fn() + Send,
) -> Result<Connection, DialError> {
    net.check_tls(&candidate.url)?;
    let uri: Uri = candidate.url.parse().map_err(|_| ReachError::Name(NameError::Invalid))?;
    let doubt = |error: &ReachError| {
        if *error != ReachError::Timeout {
            net.names().distrust_addresses(uri.host().unwrap_or_default());
        }
    };
    let stream = connect(&uri, net).await.inspect_err(doubt)?;
    progressed();
    let local_ip = local_ip(&stream, &candidate.url).map_err(|error| ReachError::of_io(&error))?;
    // Disable Nagle's algorithm: each message is complete and is awaited. The dial also works if this fails.
    let _ = stream.set_nodelay(true);
    let connector = Connector::Rustls(net.tls().clone());
    let (socket, _) = client_async_tls_with_config(uri.clone(), stream, Some(websocket_config()), Some(connector))
        .await
        .map_err(|error| match error {
            Error::Io(_) | Error::Tls(_) | Error::Url(_) => {
                let error = ReachError::of_error(&error);
                doubt(&error);
                error.into()
            }
            _ => DialError::NotANode,
        })?;
    progressed();
    greet(socket, candidate, local_ip).await
}

/// Reads the node's claim of its id from a new WebSocket, and makes the node prove it.
pub(crate) async fn greet(socket: Socket, candidate: &Candidate, local_ip: IpAddr) -> Result<Connection, DialError> {
    // The id is only claimed until `prove` succeeds. No unproven connection leaves this function.
    let unproven = NodeId::new(chappe_common::keys::PublicKey::from_bytes([0; 32]));
    let mut connection =
        Connection { socket, node: unproven, url: candidate.url.clone(), nonce: [0; 32], region: None, local_ip };
    let Reply::ServerInfo(info) = read(&connection.next().await?)? else { return Err(DialError::NotANode) };
    if info.protocol != PROTOCOL {
        return Err(DialError::Version(info.protocol));
    }
    connection.node = NodeId::from_server_id(&info.server_id).map_err(|_| DialError::NotANode)?;
    connection.nonce =
        STANDARD.decode(&info.nonce).ok().and_then(|nonce| nonce.try_into().ok()).ok_or(DialError::NotANode)?;
    // Ignore a region that no valid record could contain: the node may send anything.
    connection.region = info.region.filter(|region| !region.is_empty() && is_label(region));
    if candidate.node.is_some_and(|expected| expected != connection.node) {
        return Err(DialError::OtherNode);
    }
    let own = Some(info.endpoint.clone()).filter(|own| is_client_url(own) && *own != candidate.url);
    // URLs can be spelled in several ways. The node only signs for its own spelling.
    let url = if same_url(&candidate.url, &info.endpoint) { info.endpoint } else { candidate.url.clone() };
    match prove(&mut connection, &url).await {
        Ok(()) => Ok(connection),
        // Another path of the same server, or another name for it.
        Err(DialError::OtherUrl { .. }) => Err(DialError::OtherUrl { own }),
        Err(error) => Err(error),
    }
}

async fn prove(connection: &mut Connection, url: &str) -> Result<(), DialError> {
    const ID: &str = "prove";
    let mut challenge = [0; 32];
    getrandom::fill(&mut challenge).map_err(|_| DialError::Random)?;
    let request = serde_json::json!({
        "type": "prove",
        "id": ID,
        "challenge": URL_SAFE_NO_PAD.encode(challenge),
        "url": url,
    });
    connection.send(request.to_string()).await?;
    for _ in 0..MAX_STRAY {
        match read(&connection.next().await?)? {
            Reply::Proof { id, signature } if id == ID => {
                let signature = URL_SAFE_NO_PAD.decode(signature).ok().and_then(|bytes| bytes.try_into().ok());
                let proven = signature.is_some_and(|signature| {
                    proof::verify_node(&connection.node, &challenge, &connection.nonce, url, &signature)
                });
                return if proven { Ok(()) } else { Err(DialError::Proof) };
            }
            Reply::Error { id, code } if id.as_deref() == Some(ID) => {
                let other_url = code == Some(ErrorCode::BadMessage);
                return Err(if other_url { DialError::OtherUrl { own: None } } else { DialError::NotANode });
            }
            Reply::GoingAway => return Err(DialError::Leaving),
            _ => {}
        }
    }
    Err(DialError::NotANode)
}

fn read(text: &Utf8Bytes) -> Result<Reply, DialError> {
    serde_json::from_str(text).map_err(|_| DialError::NotANode)
}

/// Whether two URLs are equivalent: scheme and host ignore case, and a path of `/` equals an empty one.
fn same_url(a: &str, b: &str) -> bool {
    fn normal(url: &str) -> Option<(String, &str)> {
        let (scheme, rest) = url.split_once("://")?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Some((format!("{scheme}://{host}").to_ascii_lowercase(), if path == "/" { "" } else { path }))
    }
    normal(a).is_some() && normal(a) == normal(b)
}

/// Checks for the tests and the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// A node's message during a dial.
    pub const REPLY: (&str, fn(&[u8]) -> bool) =
        ("reply to a dial", |text| str::from_utf8(text).is_ok_and(|text| read(&Utf8Bytes::from(text)).is_ok()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_spellings_of_one_address_are_the_same_and_two_addresses_are_not() {
        assert!(same_url("wss://Relay.Example/", "wss://relay.example"));
        assert!(same_url("ws://127.0.0.1:80", "ws://127.0.0.1:80"));
        for (a, b) in [
            ("ws://relay.example", "wss://relay.example"),
            ("ws://relay.example", "ws://relay.example:81"),
            ("ws://relay.example/ws", "ws://relay.example"),
            ("ws://relay.example/WS", "ws://relay.example/ws"),
            ("relay.example", "relay.example"),
        ] {
            assert!(!same_url(a, b), "{a} {b}");
        }
    }

    #[test]
    fn mutated_replies_are_read_or_refused() {
        let corpus = [
            r#"{"type":"server_info","serverId":"ed25519:AA","endpoint":"wss://a","region":null,"protocol":1,"nonce":"AA"}"#,
            r#"{"type":"proof","id":"1","signature":"AA"}"#,
            r#"{"type":"error","message":"x","code":"bad_message","id":"1"}"#,
            r#"{"type":"going_away","reason":"shutdown","nodes":["AA"],"graceSeconds":5}"#,
            r#"{"type":"later","x":[{"y":1e3}]}"#,
        ];
        chappe_mutations::run(fuzzed::REPLY, &corpus);
    }
}
