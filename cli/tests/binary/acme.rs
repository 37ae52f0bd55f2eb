//! A node that obtains its certificate from a real authority (`pebble`), by each challenge, and through failures.
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::process::{
    PATIENCE, Running, arg,
    authority::{Authority, Settings, connect_tls, free_addr},
    authority_front::{Fault, Front},
    chappe,
    federation::{init_registry, metric, run_registry},
    finished, get, texts,
};

/// The name that the authority resolves to 127.0.0.1.
const NAME: &str = "relay.example.org";

/// A node's folder and settings.
struct Folder {
    dir: TempDir,
    settings: Vec<String>,
}

/// A running node.
struct Node {
    process: Running,
    client: SocketAddr,
    admin: String,
}

impl Folder {
    /// A node with a URL at this host, which listens where the authority connects.
    fn new(authority: &Authority, host: &str, challenge: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let made = finished(&["node", "init", "--config", arg(&dir.path().join("node.toml"))]);
        assert!(made.status.success(), "{:?}", texts(&made));
        let mut settings = authority.settings();
        settings.extend([
            format!("client.urls=[\"wss://{host}:{}/\"]", authority.tls.port()),
            format!("client.listen={}", authority.tls),
            format!("client.acme.challenge={challenge}"),
            format!("client.acme.http_listen={}", authority.http),
            "federation.listen=127.0.0.1:0".to_owned(),
            "admin.listen=127.0.0.1:0".to_owned(),
            "times.drain=1s".to_owned(),
        ]);
        Self { dir, settings }
    }

    fn set(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
    }

    /// Uses the server in front of the authority.
    fn set_front(&mut self, front: &Front) {
        self.set(&format!("client.acme.directory=https://{}/dir", front.addr));
    }

    fn command(&self) -> Command {
        let mut command = chappe(&["--json", "node", "run", "--config", arg(&self.dir.path().join("node.toml"))]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command
    }

    fn start(&self) -> Node {
        self.start_by(self.command())
    }

    fn start_by(&self, mut command: Command) -> Node {
        let log = fs::File::options().create(true).append(true).open(self.log_path()).expect("a writable folder");
        let mut process = Running::start(command.stderr(log));
        let ready = process.event("ready");
        let client = ready["client_addr"].as_str().and_then(|addr| addr.parse().ok()).expect("an address");
        let admin = ready["admin_url"].as_str().expect("a URL").trim_start_matches("http://").to_owned();
        Node { process, client, admin }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// What the node has logged, in all of its runs.
    fn log(&self) -> String {
        fs::read_to_string(self.log_path()).expect("a log")
    }

    /// Waits until the log has this text.
    fn wait_for_log(&self, text: &str) {
        eventually(|| {
            self.log().contains(text).then_some(()).ok_or_else(|| format!("no «{text}» in:\n{}", self.log()))
        });
    }
}

impl Node {
    fn readyz(&self) -> (u16, String) {
        get(&self.admin, "/readyz")
    }

    /// Waits until it has a certificate.
    fn wait_until_ready(&self, folder: &Folder) {
        eventually(|| match self.readyz() {
            (200, _) => Ok(()),
            (status, text) => Err(format!("{status} {text}\n{}", folder.log())),
        });
    }

    fn orders(&self, code: &str) -> i64 {
        metric(&self.admin, &format!("chappe_acme_orders_total{{code=\"{code}\"}}"))
    }
}

/// Waits until `check` returns a value.
fn eventually<T>(check: impl Fn() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match check() {
            Ok(value) => return value,
            Err(problem) => assert!(Instant::now() < deadline, "{problem}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The status and the body of a response over TLS, whose certificate is checked.
fn get_over_tls(authority: &Authority, node: &Node, host: &str, path: &str) -> String {
    let mut stream = connect_tls(node.client, host, authority.issuing_root()).expect("a valid certificate");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("it takes a request");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// Ends a node without its knowledge.
fn kill(node: Node) {
    drop(node.process);
}

/// A first request to the node's page for people and to others at the port for http-01.
fn get_plainly(addr: SocketAddr, path: &str) -> (u16, String) {
    get(&addr.to_string(), path)
}

#[test]
fn a_restart_with_a_stored_certificate_asks_nothing_and_serves_although_the_authority_is_away() {
    let Some(mut authority) = Authority::start(Settings::default()) else { return };
    let mut folder = Folder::new(&authority, NAME, "http-01");
    let root = {
        let node = folder.start();
        node.wait_until_ready(&folder);
        // Only challenges are answered, and people are led to the page.
        assert_eq!(get_plainly(authority.http, "/.well-known/acme-challenge/x").0, 404);
        assert_eq!(get_plainly(authority.http, "/").0, 307);
        // A reload has nothing to replace.
        node.process.signal("HUP");
        folder.wait_for_log("reloaded the configuration");
        connect_tls(node.client, NAME, authority.issuing_root()).expect("the certificate");
        kill(node);
        authority.issuing_root()
    };
    let requests = authority.log().lines().count();
    for run in 0..5 {
        let node = folder.start();
        assert_eq!(node.readyz().0, 200, "run {run}: at once");
        connect_tls(node.client, NAME, root.clone()).expect("the stored certificate");
        kill(node);
    }
    assert_eq!(authority.log().lines().count(), requests, "nothing was asked");
    authority.stop();
    let node = folder.start();
    assert_eq!(node.readyz().0, 200);
    connect_tls(node.client, NAME, root).expect("the stored certificate");
    kill(node);
    // It is for another name. The authority is away, and the node says so.
    folder.set(&format!("client.urls=[\"wss://other.example.org:{}/\"]", authority.tls.port()));
    let node = folder.start();
    folder.wait_for_log("could not obtain a certificate: a request to the certificate authority has failed");
    let (status, text) = node.readyz();
    assert!(status == 503 && text.contains("no valid certificate"), "{status} {text}");
    let (status, health) = get(&node.admin, "/health");
    assert!(status == 503 && health.contains("\"no_certificate\""), "{health}");
    assert_eq!(node.orders("unreachable"), 1);
    assert!(connect_tls(node.client, "other.example.org", authority_root_of_nobody()).is_err(), "not the wrong one");
}

/// A root under which nothing was issued.
fn authority_root_of_nobody() -> rustls::pki_types::CertificateDer<'static> {
    rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).expect("a certificate").cert.der().clone()
}

#[test]
fn hosts_that_cannot_be_validated_are_tried_a_bounded_number_of_times() {
    let Some(authority) = Authority::start(Settings::default()) else { return };
    let mut folder = Folder::new(&authority, NAME, "http-01");
    // Port 80 leads elsewhere.
    let elsewhere = free_addr();
    folder.set(&format!("client.acme.http_listen={elsewhere}"));
    for run in 1..=7 {
        let node = folder.start();
        if run <= 4 {
            eventually(|| (node.orders("refused") == 1).then_some(()).ok_or_else(|| folder.log()));
        } else {
            // A restart is not a way around the limit.
            thread::sleep(Duration::from_millis(500));
            assert_eq!(node.orders("refused"), 0);
        }
        assert_eq!(node.readyz().0, 503);
        kill(node);
    }
    let log = folder.log();
    assert!(log.contains("could not validate relay.example.org by http-01"), "{log}");
    assert!(log.contains("TCP port 80 to client.acme.http_listen"), "{log}");
    assert!(log.contains("Connection refused") || log.contains("connection refused"), "the authority's text: {log}");
    assert_eq!(authority.orders(), 4);
    assert_eq!(authority.count("There are now 2 accounts"), 0, "one account");
}

#[test]
fn a_renewed_certificate_is_served_to_new_connections_and_open_ones_continue() {
    // Renewed after half of its life.
    let Some(mut authority) = Authority::start(Settings { validity: 12, ..Settings::default() }) else { return };
    let folder = Folder::new(&authority, NAME, "tls-alpn-01");
    let node = folder.start();
    node.wait_until_ready(&folder);
    let expiry = || metric(&node.admin, "chappe_certificate_expiry_timestamp_seconds");
    let first = expiry();
    let mut open = connect_tls(node.client, NAME, authority.issuing_root()).expect("a valid certificate");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    write!(open, "GET /ws HTTP/1.1\r\nHost: {NAME}\r\n{upgrade}").expect("it takes a request");
    let mut answer = [0; 12];
    open.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"HTTP/1.1 101");
    eventually(|| (expiry() > first && node.orders("issued") >= 2).then_some(()).ok_or_else(|| folder.log()));
    let old = connect_tls(node.client, NAME, authority.issuing_root()).expect("a valid certificate");
    let served = old.conn.peer_certificates().expect("a certificate")[0].clone();
    let before = open.conn.peer_certificates().expect("a certificate")[0].clone();
    assert_ne!(served, before, "a new connection has the new certificate");
    assert_eq!(node.readyz().0, 200);
    // The open one still works: a masked ping, and its pong after the rest of the response.
    open.write_all(&[0x89, 0x80, 1, 2, 3, 4]).expect("it is open");
    let mut received = Vec::new();
    let mut some = [0; 256];
    while !received.ends_with(&[0x8a, 0]) {
        let read = open.read(&mut some).expect("it is open");
        assert!(read > 0, "closed");
        received.extend_from_slice(&some[..read]);
    }
    // Once the last certificate has expired, clients are sent elsewhere.
    authority.stop();
    eventually(|| (node.readyz().0 == 503).then_some(()).ok_or_else(|| folder.log()));
    kill(node);
}

#[test]
fn an_address_has_the_short_profile_and_the_authority_says_when_to_renew() {
    // By its life alone, the certificate would be renewed after 20 s.
    let Some(authority) = Authority::start(Settings { validity: 40, ..Settings::default() }) else { return };
    let front = authority.front();
    let mut folder = Folder::new(&authority, "127.0.0.1", "http-01");
    folder.set_front(&front);
    let began = Instant::now();
    let node = folder.start();
    node.wait_until_ready(&folder);
    eventually(|| (node.orders("issued") == 2).then_some(()).ok_or_else(|| folder.log()));
    assert!(began.elapsed() < Duration::from_secs(18), "{:?}", began.elapsed());
    let state = front.state.lock().expect("nobody panicked");
    assert_eq!(state.orders.len(), 2, "{state:?}");
    assert!(state.orders.iter().all(|order| order["profile"] == "shortlived"), "{state:?}");
    assert!(state.orders[0].get("replaces").is_none(), "{state:?}");
    assert_eq!(state.orders[1]["replaces"], *state.windows[0], "{state:?}");
    kill(node);
}

#[test]
fn an_authority_that_refuses_floods_or_forges_is_left_alone() {
    let Some(authority) = Authority::start(Settings::default()) else { return };
    let front = authority.front();
    let mut folder = Folder::new(&authority, NAME, "http-01");
    folder.set_front(&front);
    front.set(Fault::Endless);
    let node = folder.start();
    eventually(|| (node.orders("unreachable") == 1).then_some(()).ok_or_else(|| folder.log()));
    folder.wait_for_log("the response is longer than 131072 bytes");
    kill(node);
    front.set(Fault::Limited(7200));
    let node = folder.start();
    eventually(|| (node.orders("refused") == 1).then_some(()).ok_or_else(|| folder.log()));
    folder.wait_for_log("rateLimited");
    let log = folder.log();
    assert!(log.contains("too many\\u{1b}]0;title\\u{7} orders\\nWARN forged line"), "escaped: {log}");
    let wait = log.split("retry_in_seconds=").last().and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(wait.is_some_and(|wait| (7100..=7200).contains(&wait)), "{log}");
    kill(node);
    // The wait holds after a restart.
    front.set(Fault::None);
    let node = folder.start();
    thread::sleep(Duration::from_millis(500));
    assert_eq!((node.orders("issued"), front.state.lock().expect("nobody panicked").orders.len()), (0, 0));
    kill(node);
}

#[test]
fn idle_and_long_requests_at_port_80_do_not_keep_the_authority_away() {
    let Some(authority) = Authority::start(Settings::default()) else { return };
    let mut folder = Folder::new(&authority, NAME, "http-01");
    folder.set("limits.exempt=[\"127.0.0.0/8\"]");
    let behind = free_addr();
    folder.set(&format!("client.acme.http_listen={behind}"));
    let gate = Gate::new(authority.http, behind);
    let node = folder.start();
    let idle: Vec<_> = (0..200).map(|_| TcpStream::connect(behind).expect("it listens")).collect();
    let mut long = TcpStream::connect(behind).expect("it listens");
    long.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let _ = write!(long, "GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(64 * 1024));
    let mut answer = Vec::new();
    let _ = long.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{:?}", String::from_utf8_lossy(&answer));
    gate.is_open.store(true, Ordering::Relaxed);
    node.wait_until_ready(&folder);
    // All but 64 of them were closed long before their time limit.
    let closed = idle.iter().filter(|stream| {
        stream.set_nonblocking(true).expect("a socket");
        let mut byte = [0];
        matches!((&mut &**stream).read(&mut byte), Ok(0))
    });
    assert!(closed.count() >= 200 - 64, "too many are open");
    kill(node);
}

/// A server where the authority connects, which holds its connections until it may send them on to the node.
struct Gate {
    is_open: Arc<AtomicBool>,
    held: Arc<AtomicUsize>,
}

impl Gate {
    fn new(at: SocketAddr, to: SocketAddr) -> Self {
        let (is_open, held) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let gate = Self { is_open: is_open.clone(), held: held.clone() };
        let listener = TcpListener::bind(at).expect("a free port");
        thread::spawn(move || {
            for incoming in listener.incoming().flatten() {
                let is_open = is_open.clone();
                held.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || -> std::io::Result<()> {
                    while !is_open.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(10));
                    }
                    let mut outgoing = TcpStream::connect(to)?;
                    let (mut from, mut back) = (incoming.try_clone()?, outgoing.try_clone()?);
                    thread::spawn(move || std::io::copy(&mut from, &mut outgoing));
                    let mut incoming = incoming;
                    std::io::copy(&mut back, &mut incoming)?;
                    incoming.shutdown(std::net::Shutdown::Both)
                });
            }
        });
        gate
    }
}

#[test]
fn an_order_that_a_crash_interrupts_is_continued_by_the_next_run() {
    let Some(authority) = Authority::start(Settings::default()) else { return };
    let mut folder = Folder::new(&authority, NAME, "http-01");
    let behind = free_addr();
    folder.set(&format!("client.acme.http_listen={behind}"));
    let gate = Gate::new(authority.http, behind);
    let node = folder.start();
    eventually(|| (gate.held.load(Ordering::Relaxed) > 0).then_some(()).ok_or_else(|| folder.log()));
    kill(node);
    let node = folder.start();
    folder.wait_for_log("continuing an order");
    gate.is_open.store(true, Ordering::Relaxed);
    node.wait_until_ready(&folder);
    connect_tls(node.client, NAME, authority.issuing_root()).expect("a valid certificate");
    assert_eq!(authority.orders(), 1, "{}", authority.log());
    kill(node);
}

#[test]
fn a_node_is_listed_once_it_has_a_certificate_and_not_before() {
    let Some(authority) = Authority::start(Settings::default()) else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = dir.path().join("bootstrap.toml");
    let root = init_registry(&config);
    let mut command = run_registry(&config);
    let mut registry = Running::start(command.args(["--set", "admin.listen=127.0.0.1:0"]));
    let ready = registry.event("ready");
    let registry_admin = ready["admin_url"].as_str().expect("a URL").trim_start_matches("http://").to_owned();
    let listed = || metric(&registry_admin, "chappe_bootstrap_listed_nodes");
    let mut folder = Folder::new(&authority, NAME, "http-01");
    let behind = free_addr();
    folder.set(&format!("client.acme.http_listen={behind}"));
    folder.set(&format!("registry.urls=[\"{}\"]", ready["registry"].as_str().expect("a URL")));
    folder.set(&format!("federation.roots=[\"{root}\"]"));
    folder.set("federation.exempt=[\"127.0.0.0/8\"]");
    let gate = Gate::new(authority.http, behind);
    let node = folder.start();
    eventually(|| (gate.held.load(Ordering::Relaxed) > 0).then_some(()).ok_or_else(|| folder.log()));
    // A node with a certificate is listed after a fraction of this. The authority waits for five seconds.
    thread::sleep(Duration::from_secs(1));
    assert!(!folder.log().contains("listed by the registry"), "{}", folder.log());
    assert_eq!((listed(), node.readyz().0), (0, 503));
    gate.is_open.store(true, Ordering::Relaxed);
    folder.wait_for_log("listed by the registry");
    eventually(|| (listed() == 1).then_some(()).ok_or_else(|| folder.log()));
    kill(node);
}

#[test]
fn a_port_that_needs_a_privilege_ends_the_start_with_advice() {
    let unprivileged = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    let dropping = ["--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"];
    if unprivileged.trim().parse::<u16>().map_or(true, |first| first <= 80)
        || !Command::new("setpriv").args(dropping).arg("true").status().is_ok_and(|status| status.success())
    {
        println!("skipped: port 80 needs no privilege here, or setpriv cannot drop it (Debian: util-linux)");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = dir.path().join("node.toml");
    assert!(finished(&["node", "init", "--config", arg(&config), "--url", "wss://127.0.0.1:8710"]).status.success());
    let inner = chappe(&["node", "run", "--config", arg(&config), "--set", "federation.listen=127.0.0.1:0"]);
    let mut command = Command::new("setpriv");
    command.args(dropping).arg(inner.get_program()).args(inner.get_args());
    command.args(["--set", "client.acme.enabled=true", "--set", "client.acme.terms_agreed=true"]);
    command.args(["--set", "client.listen=127.0.0.1:0", "--set", "client.acme.http_listen=127.0.0.1:80"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = Running::start(&mut command).finish();
    let (_, errors) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("cannot listen on 127.0.0.1:80 (client.acme.http_listen)"), "{errors}");
    assert!(errors.contains("let systemd pass the socket"), "{errors}");
}

#[test]
fn a_crash_after_each_write_neither_makes_a_second_account_nor_a_second_certificate() {
    let Some(authority) = Authority::start(Settings::default()) else { return };
    let folder = Folder::new(&authority, NAME, "http-01");
    let stored = |name: &str| {
        let folders = fs::read_dir(folder.dir.path().join("node-data/acme"));
        folders.into_iter().flatten().flatten().any(|entry| entry.path().join(name).exists())
    };
    for file in ["attempts", "account", "order", "certificate"] {
        let node = folder.start();
        let deadline = Instant::now() + PATIENCE;
        while !stored(file) {
            assert!(Instant::now() < deadline, "no {file}: {}", folder.log());
            thread::yield_now();
        }
        kill(node);
    }
    let node = folder.start();
    node.wait_until_ready(&folder);
    connect_tls(node.client, NAME, authority.issuing_root()).expect("a valid certificate");
    assert_eq!(authority.count("There are now 1 accounts in memory"), 1, "{}", authority.log());
    assert_eq!(authority.count("There are now 2 accounts in memory"), 0, "{}", authority.log());
    assert_eq!(authority.count("Issued certificate serial"), 1, "{}", authority.log());
    kill(node);
}

/// The command in a mount namespace of its own, where the node's data folder is a disk of this size.
fn on_disk_of(folder: &Folder, pages: usize) -> Command {
    let inner = folder.command();
    let data = folder.dir.path().join("node-data");
    let script = format!("mount -t tmpfs -o mode=700,size={}k tmpfs {} && exec \"$@\"", pages * 4, data.display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(inner.get_program()).args(inner.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Whether this process may mount a file system in a namespace of its own.
fn may_mount() -> bool {
    let tried = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).output();
    let may = tried.is_ok_and(|output| output.status.success());
    if !may {
        println!("skipped: mounting a file system needs root");
    }
    may
}

fn grow_disk(folder: &Folder, node: &Node) {
    let data = folder.dir.path().join("node-data");
    let pid = node.process.id().to_string();
    let grown = Command::new("nsenter").args(["-m", "-t", &pid, "mount", "-o", "remount,size=1m"]).arg(data).status();
    assert!(grown.is_ok_and(|status| status.success()));
}

#[test]
fn on_a_full_disk_nothing_is_ordered_until_there_is_room() {
    let Some(authority) = Authority::start(Settings::default()) else { return };
    if !may_mount() {
        return;
    }
    let folder = Folder::new(&authority, NAME, "http-01");
    // Room for the key and the epoch, and for one file more.
    let node = folder.start_by(on_disk_of(&folder, 3));
    folder.wait_for_log("cannot store the state of client.acme in node.data_dir");
    folder.wait_for_log("free space on the disk");
    assert_eq!((node.orders("not_stored") > 0, authority.orders()), (true, 0));
    grow_disk(&folder, &node);
    node.wait_until_ready(&folder);
    assert_eq!(folder.log().matches("could not obtain a certificate").count(), 1, "once: {}", folder.log());
    kill(node);
}

#[test]
fn a_new_certificate_that_does_not_fit_on_the_disk_is_served_and_stored_once_it_does() {
    let Some(authority) = Authority::start(Settings { chain: 6, ..Settings::default() }) else { return };
    if !may_mount() {
        return;
    }
    // Room for the order, but not for the chain of certificates.
    let folder = Folder::new(&authority, NAME, "http-01");
    let node = folder.start_by(on_disk_of(&folder, 7));
    folder.wait_for_log("cannot store the certificate in node.data_dir");
    node.wait_until_ready(&folder);
    connect_tls(node.client, NAME, authority.issuing_root()).expect("it is served");
    grow_disk(&folder, &node);
    folder.wait_for_log("stored the certificate");
    assert_eq!(folder.log().matches("cannot store the certificate").count(), 1, "once: {}", folder.log());
    kill(node);
}

#[test]
fn a_name_and_an_address_get_certificates_by_each_challenge() {
    // Some nonces are rejected, as authorities do. The request is then repeated, at most twice.
    let Some(authority) = Authority::start(Settings { rejected_nonces: 3, ..Settings::default() }) else { return };
    let mut orders = 0;
    for host in [NAME, "127.0.0.1"] {
        for challenge in ["http-01", "tls-alpn-01"] {
            let mut folder = Folder::new(&authority, host, challenge);
            folder.set("client.acme.contact=erika@example.org");
            let node = folder.start();
            node.wait_until_ready(&folder);
            let answer = get_over_tls(&authority, &node, host, "/readyz");
            assert!(answer.starts_with("HTTP/1.1 200"), "{host} by {challenge}: {answer}");
            orders += 1;
            assert_eq!(authority.count("Issued certificate serial"), orders, "{host} by {challenge}");
            assert_eq!(node.orders("issued"), 1);
            let expiry = metric(&node.admin, "chappe_certificate_expiry_timestamp_seconds");
            let start = metric(&node.admin, "chappe_certificate_start_timestamp_seconds");
            assert!((expiry - start - 90 * 24 * 3600).abs() < 10, "{start} to {expiry}");
        }
    }
}
