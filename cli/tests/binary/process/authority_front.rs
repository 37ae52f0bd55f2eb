//! A server between a node and `pebble`, for what Debian's version lacks (profiles, renewal information), and for the faults of
//! an authority.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};

use super::authority::connect_tls;

/// What it does with new orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is wrong.
    #[default]
    None,
    /// The rate limit is reached. `Retry-After` has this number of seconds, and the text is hostile.
    Limited(u64),
    /// The response has no end.
    Endless,
}

/// What it has seen, and what it does.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) fault: Fault,
    /// The payloads of new orders.
    pub(crate) orders: Vec<Value>,
    /// The certificates whose renewal window was asked for.
    pub(crate) windows: Vec<String>,
}

/// The server, which runs until the process ends.
pub(crate) struct Front {
    pub(crate) addr: SocketAddr,
    pub(crate) state: Arc<Mutex<State>>,
}

impl Front {
    /// Starts it in front of the authority, with the certificate and key of the authority's API.
    pub(crate) fn start(api: SocketAddr, cert: &PathBuf, key: &PathBuf) -> Self {
        let root = CertificateDer::from_pem_file(cert).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(key).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(vec![root.clone()], key)
            .expect("a certificate");
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, root, state) = (config.clone(), root.clone(), shared.clone());
                thread::spawn(move || serve(stream, config, api, root, addr, &state));
            }
        });
        Self { addr, state }
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.state.lock().expect("nobody panicked").fault = fault;
    }
}

/// A message of HTTP.
struct Message {
    head: String,
    body: Vec<u8>,
}

/// Reads a request. The connection stays open after it.
fn read_request(stream: &mut impl Read) -> Option<Message> {
    let mut bytes = Vec::new();
    let mut some = [0; 4096];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
            break end + 4;
        }
        let read = stream.read(&mut some).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&some[..read]);
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8(bytes).ok()?;
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    while body.len() < length.unwrap_or(0) {
        let read = stream.read(&mut some).ok().filter(|read| *read > 0)?;
        body.extend_from_slice(&some[..read]);
    }
    Some(Message { head, body })
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    api: SocketAddr,
    root: CertificateDer<'static>,
    addr: SocketAddr,
    state: &Mutex<State>,
) -> Option<()> {
    let mut stream = StreamOwned::new(ServerConnection::new(config).expect("a session"), stream);
    while let Some(request) = read_request(&mut stream) {
        let path = request.head.split(' ').nth(1)?.to_owned();
        let is_order = path == "/order-plz";
        let mut ordered = Value::Null;
        if is_order {
            let jws: Value = serde_json::from_slice(&request.body).ok()?;
            ordered = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(jws["payload"].as_str()?).ok()?).ok()?;
        }
        let fault = if is_order { state.lock().expect("nobody panicked").fault } else { Fault::None };
        let answer = match fault {
            Fault::Limited(seconds) => {
                let detail = "too many\u{1b}]0;title\u{7} orders\nWARN forged line";
                let body = json!({ "type": "urn:ietf:params:acme:error:rateLimited", "detail": detail, "status": 429 });
                let head = format!("HTTP/1.1 429 Too Many Requests\r\nRetry-After: {seconds}\r\n");
                Message { head, body: body.to_string().into_bytes() }
            }
            Fault::Endless => {
                stream.write_all(b"HTTP/1.1 201 Created\r\n\r\n").ok()?;
                loop {
                    stream.write_all(&[b' '; 16 * 1024]).ok()?;
                }
            }
            Fault::None => match path.strip_prefix("/renewal-info/") {
                Some(id) => {
                    state.lock().expect("nobody panicked").windows.push(id.to_owned());
                    window()
                }
                None => forward(request, api, root.clone(), addr)?,
            },
        };
        let answer = match (path.as_str(), is_order) {
            ("/dir", _) => with_extensions(answer, addr)?,
            (_, true) if fault == Fault::None => {
                let mut order: Value = serde_json::from_slice(&answer.body).ok()?;
                // badNonce and the like are errors.
                if order.get("finalize").is_some() {
                    for field in ["replaces", "profile"] {
                        if let Some(value) = ordered.get(field) {
                            order[field] = value.clone();
                        }
                    }
                    state.lock().expect("nobody panicked").orders.push(ordered);
                }
                Message { body: order.to_string().into_bytes(), ..answer }
            }
            _ => answer,
        };
        write!(stream, "{}Content-Length: {}\r\n\r\n", answer.head, answer.body.len()).ok()?;
        stream.write_all(&answer.body).ok()?;
    }
    None
}

/// Sends a request on, and reads the response, whose head is without its length.
fn forward(request: Message, api: SocketAddr, root: CertificateDer<'static>, addr: SocketAddr) -> Option<Message> {
    // The authority's URLs, and those that are signed, are of the host that was asked.
    let host = format!("host: {addr}\r\n");
    assert!(request.head.to_lowercase().contains(&host), "{}", request.head);
    let head = request.head.replacen("\r\n", "\r\nConnection: close\r\n", 1).replacen("HTTP/1.1", "HTTP/1.0", 1);
    let mut stream = connect_tls(api, "127.0.0.1", root).ok()?;
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&request.body).ok()?;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
    let body = bytes.split_off(end);
    let head = String::from_utf8(bytes).ok()?.replacen("HTTP/1.0", "HTTP/1.1", 1);
    let is_kept = |line: &&str| {
        let line = line.to_lowercase();
        !line.is_empty() && !line.starts_with("content-length:") && !line.starts_with("connection:")
    };
    let head: String = head.lines().filter(is_kept).map(|line| format!("{line}\r\n")).collect();
    Some(Message { head, body })
}

/// A directory with a profile and renewal information.
fn with_extensions(answer: Message, addr: SocketAddr) -> Option<Message> {
    let mut directory: Value = serde_json::from_slice(&answer.body).ok()?;
    directory["renewalInfo"] = json!(format!("https://{addr}/renewal-info"));
    directory["meta"]["profiles"] = json!({ "classic": "for names", "shortlived": "for addresses" });
    Some(Message { body: directory.to_string().into_bytes(), ..answer })
}

/// «Renew now»: a window that has just ended.
fn window() -> Message {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let text =
        |secs: u64| humantime::format_rfc3339_seconds(UNIX_EPOCH + std::time::Duration::from_secs(secs)).to_string();
    let window = json!({ "start": text(now - 60), "end": text(now - 1) });
    let body = json!({ "suggestedWindow": window }).to_string().into_bytes();
    Message { head: "HTTP/1.1 200 OK\r\nRetry-After: 21600\r\n".to_owned(), body }
}
