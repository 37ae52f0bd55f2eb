//! A node behind reverse proxies: whose connections they are, and the samples in `deploy/proxy/` with the real programs.
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

use crate::process::{
    PATIENCE, Running, arg, chappe,
    federation::metric,
    finished, get, texts,
    tls::{Certificate, NAME},
};

/// Connections that each source may have in these tests.
const ALLOWANCE: usize = 2;

/// What is read and written, with or without TLS.
trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// A node that trusts proxies on 127.0.0.1.
struct Node {
    _process: Running,
    _dir: TempDir,
    client: SocketAddr,
    admin: String,
}

impl Node {
    fn start(settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = dir.path().join("node.toml");
        let made = finished(&["node", "init", "--config", arg(&config)]);
        assert!(made.status.success(), "{:?}", texts(&made));
        let own = [
            "client.listen=127.0.0.1:0",
            "federation.listen=127.0.0.1:0",
            "admin.listen=127.0.0.1:0",
            "client.trusted_proxies=[\"127.0.0.1/32\", \"::1/128\", \"10.0.0.0/8\"]",
            &format!("limits.source_connections={ALLOWANCE}"),
        ];
        let mut command = chappe(&["--json", "node", "run", "--config", arg(&config)]);
        for setting in own.iter().chain(settings) {
            command.args(["--set", setting]);
        }
        let mut process = Running::start(&mut command);
        let ready = process.event("ready");
        let client = ready["client_addr"].as_str().and_then(|addr| addr.parse().ok()).expect("an address");
        let admin = ready["admin_url"].as_str().expect("a URL").trim_start_matches("http://").to_owned();
        Self { _process: process, _dir: dir, client, admin }
    }

    /// A node with a certificate of its own.
    fn start_with_tls(certificate: &Certificate) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        certificate.write(&cert, &key);
        let [cert, key] = [format!("client.tls_cert={}", cert.display()), format!("client.tls_key={}", key.display())];
        Self::start(&[&cert, &key])
    }

    /// The count of connections whose client a proxy did not tell, for one reason.
    fn refused(&self, code: &str) -> i64 {
        metric(&self.admin, &format!("chappe_proxied_refused_total{{code=\"{code}\"}}"))
    }
}

/// Connects from an address of this machine.
fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let from: IpAddr = from.parse().expect("an address");
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    socket.bind(&SocketAddr::new(from, 0).into()).expect("an address of this machine");
    socket.connect(&to.into()).expect("it listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// A request for a WebSocket with these lines of header fields.
fn upgrade(path: &str, fields: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
    )
}

/// The status of the response to a request, or 0 if the connection is closed without one.
fn status(stream: &mut dyn Stream, request: &[u8]) -> u16 {
    if stream.write_all(request).is_err() {
        return 0;
    }
    let mut head = [0; 12];
    match stream.read_exact(&mut head) {
        Ok(()) => String::from_utf8_lossy(&head[9..]).parse().expect("a status"),
        Err(_) => 0,
    }
}

/// The status of a WebSocket request on a new connection from 127.0.0.1, with a header of the PROXY protocol before it. An
/// open WebSocket is returned, and counts as long as it is kept.
fn proxied(node: &Node, header: &[u8], fields: &str) -> (u16, TcpStream) {
    let mut stream = connect_from("127.0.0.1", node.client);
    stream.write_all(header).expect("it takes a header");
    let status = status(&mut stream, upgrade("/ws", fields).as_bytes());
    (status, stream)
}

fn version_2(source: [u8; 4]) -> Vec<u8> {
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &source[..], &[127, 0, 0, 1, 0x14, 3, 0x22, 6]].concat()
}

#[test]
fn each_client_that_a_trusted_proxy_names_has_its_own_allowance() {
    let node = Node::start(&[]);
    let names: [(&[u8], &str); 7] = [
        (b"PROXY TCP4 203.0.113.1 127.0.0.1 5123 8710\r\n", ""),
        (&version_2([203, 0, 113, 2]), ""),
        (b"", "X-Forwarded-For: 198.51.100.1, 203.0.113.3\r\n"),
        (b"", "Forwarded: for=198.51.100.1, for=\"203.0.113.4:80\";proto=https\r\n"),
        // A proxy that speaks the PROXY protocol to another, which sends the header on and a field of its own.
        (b"PROXY TCP4 10.0.0.7 127.0.0.1 5123 8710\r\n", "X-Forwarded-For: 203.0.113.5\r\n"),
        // The client that a PROXY header names writes a field of its own.
        (b"PROXY TCP4 203.0.113.6 127.0.0.1 5123 8710\r\n", "X-Forwarded-For: 203.0.113.1\r\n"),
        // Nobody is named: the proxy itself.
        (b"PROXY UNKNOWN\r\n", ""),
    ];
    let mut open = Vec::new();
    for (header, fields) in names {
        for number in 0..=ALLOWANCE {
            let (status, stream) = proxied(&node, header, fields);
            // A connection that is refused by its PROXY header is closed before its request.
            let refused = if header.is_empty() || header.starts_with(b"PROXY TCP4 10.") { 429 } else { 0 };
            let expected = if number < ALLOWANCE { 101 } else { refused };
            assert_eq!(status, expected, "{:?} {fields} {number}", String::from_utf8_lossy(header));
            open.push(stream);
        }
    }
    assert_eq!(metric(&node.admin, "chappe_sessions"), i64::try_from(names.len() * ALLOWANCE).expect("a few"));
    assert_eq!(metric(&node.admin, "chappe_connections_refused_total"), 7);
    // Once a connection has ended, its source may open another.
    open.clear();
    let deadline = Instant::now() + PATIENCE;
    while proxied(&node, names[0].0, "").0 != 101 {
        assert!(Instant::now() < deadline, "the allowance is not given back");
        thread::sleep(Duration::from_millis(20));
    }
    let (_, page) = get(&node.client.to_string(), "/health");
    assert!(page.contains("healthy"), "{page}");
}

#[test]
fn what_a_stranger_writes_has_no_effect() {
    let node = Node::start(&[]);
    let mut open = Vec::new();
    let mut attempt = |request: &[u8]| {
        let mut stream = connect_from("127.0.0.2", node.client);
        let status = status(&mut stream, request);
        open.push(stream);
        status
    };
    // A PROXY header is no request of HTTP.
    let with_header = [b"PROXY TCP4 203.0.113.1 127.0.0.1 5123 8710\r\n", upgrade("/ws", "").as_bytes()].concat();
    assert_eq!(attempt(&with_header), 400);
    thread::sleep(Duration::from_millis(50));
    for (number, field) in
        ["X-Forwarded-For: 203.0.113.1", "X-Forwarded-For: 203.0.113.2", "Forwarded: for=203.0.113.3"]
            .into_iter()
            .enumerate()
    {
        let expected = if number < ALLOWANCE { 101 } else { 0 };
        assert_eq!(attempt(upgrade("/ws", &format!("{field}\r\n")).as_bytes()), expected, "{field}");
    }
    assert_eq!(node.refused("proxy_header") + node.refused("unreadable") + node.refused("contradiction"), 0);
}

#[test]
fn what_a_trusted_proxy_gets_wrong_is_refused_and_counted() {
    let node = Node::start(&[]);
    let over_long = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x10\0", &[0; 4096][..]].concat();
    for header in [&b"PROXY TCP4 203.0.113.999 127.0.0.1 1 2\r\n"[..], &over_long] {
        assert_eq!(proxied(&node, header, "").0, 0);
    }
    for field in ["X-Forwarded-For: unknown", "Forwarded: for=_hidden", "X-Forwarded-For: 203.0.113.1, nonsense"] {
        assert_eq!(proxied(&node, b"", &format!("{field}\r\n")).0, 400, "{field}");
    }
    let both = "X-Forwarded-For: 203.0.113.1\r\nForwarded: for=203.0.113.2\r\n";
    assert_eq!(proxied(&node, b"", both).0, 400);
    let counts = ["proxy_header", "unreadable", "contradiction"].map(|code| node.refused(code));
    assert_eq!(counts, [2, 3, 1]);
    // Nothing after a proxy's whole header is lost, and one in pieces is awaited.
    let mut stream = connect_from("127.0.0.1", node.client);
    for piece in ["PRO", "XY TCP4 203.0.113.1 127.0.0.1", " 1 2\r\nGET /health HT"] {
        stream.write_all(piece.as_bytes()).expect("it takes a piece");
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(status(&mut stream, b"TP/1.1\r\nHost: x\r\n\r\n"), 200);
}

#[test]
fn a_proxy_header_comes_before_tls_and_before_stun() {
    let certificate = Certificate::new();
    let node = Node::start_with_tls(&certificate);
    let mut open = Vec::new();
    for (source, expected) in [(7, 101), (7, 101), (7, 0), (8, 101)] {
        let mut stream = connect_from("127.0.0.1", node.client);
        stream.write_all(&version_2([203, 0, 113, source])).expect("it takes a header");
        let mut stream = certificate.connect(stream);
        assert_eq!(status(&mut stream, upgrade("/", "").as_bytes()), expected, "{source}");
        open.push(stream);
    }
    // Without a PROXY header, the field inside of TLS counts.
    let mut stream = certificate.connect(connect_from("127.0.0.1", node.client));
    assert_eq!(status(&mut stream, upgrade("/", "X-Forwarded-For: 203.0.113.7\r\n").as_bytes()), 429);

    // The relay for media sees the client's address and port, and says so in its Binding response.
    let node = Node::start(&["turn.listen=[\"127.0.0.1:0\"]"]);
    let mut stream = connect_from("127.0.0.1", node.client);
    stream.write_all(&version_2([203, 0, 113, 9])).expect("it takes a header");
    stream.write_all(b"\0\x01\0\0\x21\x12\xa4\x42abcdefghijkl").expect("it takes a request");
    let mut response = [0; 32];
    stream.read_exact(&mut response).expect("a Binding response with an address");
    // XOR-MAPPED-ADDRESS (RFC 8489, 14.2): both are combined with the cookie.
    let address = [0x14, 3, 203, 0, 113, 9].into_iter().zip([0x21, 0x12, 0x21, 0x12, 0xa4, 0x42]);
    let mapped: Vec<u8> = address.map(|(byte, mask)| byte ^ mask).collect();
    assert!(response.windows(mapped.len()).any(|window| window == mapped), "{response:?}");
}

#[test]
fn a_node_behind_a_proxy_that_it_does_not_trust_says_so() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = dir.path().join("node.toml");
    let made = finished(&["node", "init", "--config", arg(&config), "--url", "wss://node.example.org"]);
    assert!(made.status.success(), "{:?}", texts(&made));
    for (trusted, is_warned) in [("[]", true), ("[\"127.0.0.1/32\"]", false)] {
        let set = [
            "client.listen=127.0.0.1:0",
            "federation.listen=127.0.0.1:0",
            &format!("client.trusted_proxies={trusted}"),
        ];
        let with = |args: &[&str]| {
            let mut command = chappe(&[&["--json", "node"][..], args, &["--config", arg(&config)]].concat());
            for setting in set {
                command.args(["--set", setting]);
            }
            command
        };
        let mut node = Running::start(&mut with(&["run"]));
        node.event("ready");
        node.signal("TERM");
        let warning = "client.trusted_proxies is empty: to the node, all clients have the proxy's address";
        let log = texts(&node.finish()).1;
        assert_eq!(log.contains(warning), is_warned, "{log}");
        let doctor = texts(&Running::start(&mut with(&["doctor"])).finish()).0;
        assert_eq!(doctor.contains("\"event\":\"proxy\",\"ok\":false"), is_warned, "{doctor}");
    }
}

/// A program of Debian with a sample of `deploy/proxy/`, ended on drop.
struct Proxy {
    child: Child,
    dir: TempDir,
}

impl Proxy {
    /// Starts it in a folder that has its configuration. Returns `None`, and says so, if it is not installed.
    fn start(program: &str, package: &str, args: impl Fn(&Path) -> Vec<String>, dir: TempDir) -> Option<Self> {
        let log = fs::File::create(dir.path().join("log")).expect("a writable folder");
        let mut command = Command::new(program);
        command.args(args(dir.path())).env("HOME", dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        match command.spawn() {
            Ok(child) => Some(Self { child, dir }),
            Err(_) => {
                println!("skipped: no {program} here (Debian: {package})");
                None
            }
        }
    }

    /// Waits until it listens.
    fn wait_for(&mut self, addr: SocketAddr) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(addr).is_err() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let has_ended = self.child.try_wait().expect("a child of ours");
            assert!(has_ended.is_none() && Instant::now() < deadline, "{has_ended:?} {log}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // SIGTERM, so that it ends its own processes.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/proxy").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Replaces each part of a sample, which must have it.
fn with(text: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "no `{from}` in the sample");
        text.replace(from, to)
    })
}

fn free_addr() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// What holds for a proxy in front of a node: WebSocket, a path prefix, an allowance for each client, and spoofed header
/// fields without effect.
fn check_proxy(node: &Node, proxy: SocketAddr, certificate: &Certificate, prefixes: &[&str]) {
    let mut open = Vec::new();
    let mut attempt = |from: &str, path: &str, fields: &str| {
        let mut stream = certificate.connect(connect_from(from, proxy));
        let status = status(&mut stream, upgrade(path, fields).as_bytes());
        open.push(stream);
        status
    };
    // Each of two clients has an allowance, which no header field of its own changes.
    for from in ["127.0.0.2", "127.0.0.3"] {
        for number in 0..ALLOWANCE {
            let path = format!("{}ws", prefixes[number % prefixes.len()]);
            assert_eq!(attempt(from, &path, ""), 101, "{from} {path}");
        }
        for fields in ["", "X-Forwarded-For: 203.0.113.9\r\n", "Forwarded: for=203.0.113.9\r\n"] {
            let refused = attempt(from, "/ws", fields);
            assert!(matches!(refused, 429 | 0), "{from} {fields}: {refused}");
        }
    }
    assert_eq!(attempt("127.0.0.4", "/ws", "X-Forwarded-For: 127.0.0.2\r\nForwarded: for=127.0.0.2\r\n"), 101);
    let sessions = i64::try_from(2 * ALLOWANCE + 1).expect("a few");
    assert_eq!(metric(&node.admin, "chappe_sessions"), sessions);
    assert_eq!(metric(&node.admin, "chappe_connections_refused_total"), 6);
    for code in ["proxy_header", "unreadable", "contradiction"] {
        assert_eq!(node.refused(code), 0, "{code}");
    }
    // Messages pass: the node's first is its `server_info`.
    let mut stream = certificate.connect(connect_from("127.0.0.5", proxy));
    assert_eq!(status(&mut stream, upgrade("/", "").as_bytes()), 101);
    let mut seen = Vec::new();
    while !seen.windows(8).any(|window| window == b"protocol") {
        let mut byte = [0; 256];
        let len = stream.read(&mut byte).expect("the node's first message");
        assert!(len > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&byte[..len]);
    }
}

fn written(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).expect("a writable folder");
    path
}

#[test]
fn nginx_with_the_sample_tells_each_clients_address() {
    let (node, certificate, addr) = (Node::start(&[]), Certificate::new(), free_addr());
    let dir = tempfile::tempdir().expect("a temporary folder");
    certificate.write(&dir.path().join("cert.pem"), &dir.path().join("key.pem"));
    let folder = arg(dir.path());
    let listen = format!("listen {addr} ssl;");
    let text = with(
        &sample("nginx.conf"),
        &[
            ("listen 443 ssl;", listen.as_str()),
            ("    listen [::]:443 ssl;\n", ""),
            ("/etc/letsencrypt/live/node.example.org/fullchain.pem", &format!("{folder}/cert.pem")),
            ("/etc/letsencrypt/live/node.example.org/privkey.pem", &format!("{folder}/key.pem")),
            ("/etc/letsencrypt/live/registry.example.org/fullchain.pem", &format!("{folder}/cert.pem")),
            ("/etc/letsencrypt/live/registry.example.org/privkey.pem", &format!("{folder}/key.pem")),
            ("127.0.0.1:8710", &node.client.to_string()),
        ],
    );
    written(dir.path(), "chappe.conf", &text);
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};\n"))
        .concat();
    let main = format!(
        "daemon off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n{paths}access_log off;\n\
         include {folder}/chappe.conf;\n}}\n"
    );
    written(dir.path(), "nginx.conf", &main);
    let args = |folder: &Path| {
        vec!["-p".to_owned(), arg(folder).to_owned(), "-c".into(), "nginx.conf".into(), "-e".into(), "stderr".into()]
    };
    let Some(mut proxy) = Proxy::start("nginx", "nginx-light", args, dir) else { return };
    proxy.wait_for(addr);
    check_proxy(&node, addr, &certificate, &["/", "/chappe/"]);
}

#[test]
fn caddy_with_the_sample_tells_each_clients_address() {
    let (node, certificate, addr) = (Node::start(&[]), Certificate::new(), free_addr());
    let dir = tempfile::tempdir().expect("a temporary folder");
    certificate.write(&dir.path().join("cert.pem"), &dir.path().join("key.pem"));
    let folder = arg(dir.path());
    let site = |name: &str| {
        format!("\nhttps://{name}:{} {{\n\tbind 127.0.0.1\n\ttls {folder}/cert.pem {folder}/key.pem\n", addr.port())
    };
    let text = with(
        &sample("Caddyfile"),
        &[
            ("\nnode.example.org {\n", site("node.example.org").as_str()),
            ("\nregistry.example.org {\n", &site("registry.example.org")),
            ("127.0.0.1:8710", &node.client.to_string()),
        ],
    );
    // Certificates of its own are for the internet.
    let text = format!("{{\n\tadmin off\n\tauto_https off\n\tstorage file_system {folder}/storage\n}}\n{text}");
    written(dir.path(), "Caddyfile", &text);
    let args = |folder: &Path| {
        ["run", "--adapter", "caddyfile", "--config"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("{}/Caddyfile", arg(folder))])
            .collect()
    };
    let Some(mut proxy) = Proxy::start("caddy", "caddy", args, dir) else { return };
    proxy.wait_for(addr);
    check_proxy(&node, addr, &certificate, &["/", "/chappe/"]);
}

#[test]
fn haproxy_with_the_sample_tells_each_clients_address_in_both_ways() {
    let certificate = Certificate::new();
    let (node, secure) = (Node::start(&[]), Node::start_with_tls(&certificate));
    let (addr, passed_on) = (free_addr(), free_addr());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let pem = written(dir.path(), "chappe.pem", &format!("{}{}", certificate.cert_pem, certificate.key_pem));
    let text = with(
        &sample("haproxy.cfg"),
        &[
            // As many files as this allows may be more than the test may open.
            ("maxconn 40000", "maxconn 100"),
            ("bind :443 ", format!("bind {addr} ").as_str()),
            ("bind :8443\n", &format!("bind {passed_on}\n")),
            ("/etc/haproxy/chappe.pem", arg(&pem)),
            ("server node 127.0.0.1:8710 send-proxy-v2", &format!("server node {} send-proxy-v2", secure.client)),
            ("server node 127.0.0.1:8710\n", &format!("server node {}\n", node.client)),
        ],
    );
    written(dir.path(), "haproxy.cfg", &text);
    // `-db`: it stays in the foreground.
    let args = |folder: &Path| vec!["-db".to_owned(), "-f".into(), format!("{}/haproxy.cfg", arg(folder))];
    let Some(mut proxy) = Proxy::start("haproxy", "haproxy", args, dir) else { return };
    proxy.wait_for(addr);
    check_proxy(&node, addr, &certificate, &["/", "/chappe/"]);
    // The PROXY protocol; the node terminates TLS, and knows no prefix.
    check_proxy(&secure, passed_on, &certificate, &["/"]);
}
