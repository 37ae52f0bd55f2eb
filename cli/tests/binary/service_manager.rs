//! The daemons under a service manager, which these tests play: messages to `NOTIFY_SOCKET`, the watchdog, passed sockets,
//! and SIGHUP.
#![cfg(target_os = "linux")]

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::net::UnixDatagram,
    },
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::channel,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::io::{FdFlags, fcntl_setfd};
use tempfile::TempDir;

use crate::process::{
    PATIENCE, Running, arg, chappe,
    federation::{Federation, init_registry, metric, run_registry},
    finished, texts,
    tls::Certificate,
};

/// The rest of a request for a WebSocket.
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The manager's end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _dir: TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self { socket, path, _dir: dir }
    }

    /// The lines of the next message.
    fn message(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let len = self.socket.recv(&mut message).expect("a message within the test's patience");
        String::from_utf8_lossy(&message[..len]).lines().map(str::to_owned).collect()
    }

    /// The next message that has this line. Others before it are skipped.
    fn message_with(&self, line: &str) -> Vec<String> {
        loop {
            let message = self.message();
            if message.iter().any(|found| found.starts_with(line)) {
                return message;
            }
        }
    }
}

/// A node's folder, with a config of these lines for each section.
struct Folder {
    dir: TempDir,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let made = finished(&["node", "init", "--config", arg(&dir.path().join("node.toml"))]);
        assert!(made.status.success(), "{:?}", texts(&made));
        Self { dir }
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("node.toml")
    }

    /// Writes the config.
    fn write(&self, text: &str) {
        let data = self.dir.path().join("node-data");
        let text = format!("{text}\n[admin]\nlisten = '127.0.0.1:0'\n[federation]\nlisten = '127.0.0.1:0'\n");
        fs::write(self.config(), text.replace("[node]", &format!("[node]\ndata_dir = '{}'", data.display())))
            .expect("a writable folder");
    }

    fn run(&self) -> Command {
        chappe(&["--json", "node", "run", "--config", arg(&self.config())])
    }
}

fn text(ready: &serde_json::Value, key: &str) -> String {
    ready[key].as_str().expect("a text").trim_start_matches("http://").to_owned()
}

#[test]
fn a_daemon_reports_its_start_its_life_and_its_end() {
    let (folder, manager) = (Folder::new(), Manager::new());
    folder.write("[node]\n[client]\nlisten = '127.0.0.1:0'\n");
    let registry = folder.dir.path().join("registry/bootstrap.toml");
    init_registry(&registry);
    for (mut command, status) in
        [(folder.run(), "STATUS=0 sessions, 1 members, 0 links"), (run_registry(&registry), "STATUS=serving")]
    {
        // The process reads the id of its own, so that a child of it would not take itself for the daemon.
        let mut shell = with_own_id(&command, "WATCHDOG_PID");
        shell.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", "400000");
        command = shell;
        let mut daemon = Running::start(&mut command);
        assert_eq!(manager.message(), ["READY=1"], "before anything else");
        daemon.event("ready");
        manager.message_with("WATCHDOG=1");
        assert_eq!(manager.message_with("STATUS="), [status]);
        let since = Instant::now();
        for _ in 0..5 {
            manager.message_with("WATCHDOG=1");
        }
        // Five halves of the limit.
        assert!(since.elapsed() < Duration::from_millis(2 * 5 * 200), "{:?}", since.elapsed());
        daemon.signal("TERM");
        let stopping = manager.message_with("STOPPING=1");
        assert!(stopping[1].starts_with("STATUS="), "{stopping:?}");
        assert!(daemon.finish().status.success());
    }
}

#[test]
fn sighup_applies_what_it_can_and_names_what_needs_a_restart() {
    let (folder, manager) = (Folder::new(), Manager::new());
    let certificates = [Certificate::new(), Certificate::new()];
    let files = ["cert.pem", "key.pem"].map(|name| folder.dir.path().join(name));
    certificates[0].write(&files[0], &files[1]);
    let tls = format!("tls_cert = '{}'\ntls_key = '{}'\n", files[0].display(), files[1].display());
    let with = |client: &str, rest: &str| {
        format!("[node]\nlog = 'info'\n[client]\nlisten = '127.0.0.1:0'\n{tls}{client}{rest}")
    };
    folder.write(&with("", ""));
    let mut command = folder.run();
    command.env("NOTIFY_SOCKET", &manager.path);
    let mut daemon = Running::start(&mut command);
    let ready = daemon.event("ready");
    let (client, admin) = (text(&ready, "client_addr"), text(&ready, "admin_url"));
    assert_eq!(manager.message(), ["READY=1"]);
    let reload = || {
        daemon.signal("HUP");
        let reloading = manager.message_with("RELOADING=1");
        let sent: u64 = reloading[1].strip_prefix("MONOTONIC_USEC=").and_then(|at| at.parse().ok()).expect("a time");
        assert!(sent > 0);
        assert_eq!(manager.message(), ["READY=1"], "each reload ends with it");
    };
    // The certificate, although neither its keys nor the interval of the watch require it.
    assert!(handshakes(&certificates[0], &client) && !handshakes(&certificates[1], &client));
    certificates[1].write(&files[0], &files[1]);
    reload();
    assert!(handshakes(&certificates[1], &client) && !handshakes(&certificates[0], &client));

    // A limit, the proxies and the log level at once; the region needs a restart.
    let rest = "[limits]\nsource_connections = 1\nmax_pending_leases = 20000\n";
    let text = with("trusted_proxies = ['127.0.0.1/32']\n", rest).replace("'info'", "'warn'");
    let text = text.replace("[client]", "region = 'eu-west'\n[client]");
    folder.write(&text);
    reload();
    let statuses = |client: &str| -> Vec<u16> {
        let request = |name| {
            let stream = TcpStream::connect(client).expect("it listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
            let mut stream = certificates[1].connect(stream);
            let head = format!("GET /ws HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.{name}\r\n{UPGRADE}");
            stream.write_all(head.as_bytes()).expect("it takes a request");
            let mut status = [0; 12];
            stream.read_exact(&mut status).expect("a status");
            (String::from_utf8_lossy(&status[9..]).parse().expect("a status"), stream)
        };
        // All are open at once.
        let streams: Vec<_> = [1, 1, 2].map(request).into();
        streams.into_iter().map(|(status, _)| status).collect()
    };
    assert_eq!(statuses(&client), [101, 429, 101]);

    // What cannot be applied changes nothing.
    folder.write(&with("", "[limits]\nsource_connections = 0\n"));
    reload();
    let ended = || {
        let deadline = Instant::now() + PATIENCE;
        while metric(&admin, "chappe_sessions") > 0 {
            assert!(Instant::now() < deadline, "the sessions do not end");
            thread::sleep(Duration::from_millis(20));
        }
    };
    ended();
    assert_eq!(statuses(&client), [101, 429, 101]);
    // Neither does a part of it, if the certificate cannot be used.
    fs::write(&files[0], "no certificate").expect("a writable folder");
    folder.write(&text.replace("source_connections = 1", "source_connections = 5"));
    reload();
    ended();
    assert_eq!(statuses(&client), [101, 429, 101]);
    certificates[1].write(&files[0], &files[1]);
    folder.write(&text);
    reload();
    daemon.signal("TERM");
    let (_, log) = texts(&daemon.finish());
    let line =
        |part: &str| log.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("no {part} in {log}"));
    let keys = "keys=\"client.trusted_proxies, limits.source_connections, node.log\"";
    assert!(line("INFO chappe::commands::daemon: reloaded the configuration keys").contains(keys), "{log}");
    assert!(line("restart to apply").contains("keys=\"limits.max_pending_leases, node.region\""), "{log}");
    let refused = line("cannot reload the configuration");
    assert!(refused.contains("node.toml") && refused.contains("limits.source_connections: at least 1"), "{refused}");
    assert!(line("cannot be used").contains("cert.pem"), "the file is named: {log}");
    let unchanged = log.lines().filter(|line| line.contains("no key that applies at once has changed"));
    assert_eq!(unchanged.count(), 1, "the last reload's is below the new level: {log}");
}

#[test]
fn a_registry_applies_changed_limits_and_names_what_needs_a_restart() {
    let (dir, manager) = (tempfile::tempdir().expect("a temporary folder"), Manager::new());
    let file = dir.path().join("bootstrap.toml");
    init_registry(&file);
    let config = fs::read_to_string(&file).expect("the config");
    let write = |bootstrap: &str, limits: &str| {
        let text = config.replace("[bootstrap]", &format!("[bootstrap]\n{bootstrap}"));
        fs::write(&file, text.replace("[limits]", &format!("[limits]\n{limits}"))).expect("a writable folder");
    };
    let mut command = run_registry(&file);
    command.env("NOTIFY_SOCKET", &manager.path);
    let mut registry = Running::start(&mut command);
    let url = text(&registry.event("ready"), "registry");
    assert_eq!(manager.message(), ["READY=1"]);
    let reload = || {
        registry.signal("HUP");
        manager.message_with("RELOADING=1");
        assert_eq!(manager.message(), ["READY=1"], "each reload ends with it");
    };
    let answers = |count: usize| -> Vec<u16> {
        let status = |_| {
            let mut status = [0; 12];
            ask_health(url.parse().expect("an address"))
                .and_then(|mut stream| stream.read_exact(&mut status))
                .expect("an answer");
            String::from_utf8_lossy(&status[9..]).parse().expect("a status")
        };
        (0..count).map(status).collect()
    };
    assert_eq!(answers(4), [200; 4]);
    write("", "requests_per_minute = 3\nmax_nodes = 7");
    reload();
    assert_eq!(answers(4), [200, 200, 200, 429]);
    // What cannot be applied changes nothing, and each source has its whole allowance again after a change.
    write("", "requests_per_minute = 0");
    reload();
    assert_eq!(answers(1), [429]);
    write("log = 'warn'", "requests_per_minute = 2\nmax_nodes = 7");
    reload();
    assert_eq!(answers(3), [200, 200, 429]);
    write("log = 'chappe=loud'", "requests_per_minute = 5\nmax_nodes = 7");
    reload();
    assert_eq!(answers(1), [429]);
    registry.signal("TERM");
    let (_, log) = texts(&registry.finish());
    let lines = |part: &str| log.lines().filter(|line| line.contains(part)).count();
    assert_eq!(lines("reloaded the configuration keys=\"limits.requests_per_minute\""), 1, "{log}");
    assert_eq!(lines("keys=\"bootstrap.log, limits.requests_per_minute\""), 1, "{log}");
    assert_eq!(lines("restart to apply the other changes keys=\"limits.max_nodes\""), 2, "{log}");
    assert_eq!(lines("cannot reload the configuration"), 2, "{log}");
    assert_eq!((lines("every rate is at least 1 a minute"), lines("bootstrap.log: ")), (1, 1), "{log}");
}

/// Whether the node presents this certificate.
fn handshakes(certificate: &Certificate, client: &str) -> bool {
    let mut stream = certificate.connect(TcpStream::connect(client).expect("it listens"));
    stream.conn.complete_io(&mut stream.sock).is_ok()
}

/// The command in a shell that first sets this variable to the id of the process that the command becomes.
fn with_own_id(command: &Command, variable: &str) -> Command {
    in_shell(command, &format!("export {variable}=$$; exec \"$0\" \"$@\""))
}

/// The command as arguments of a bash script. Of a shell's redirections, those of bash take any number.
fn in_shell(command: &Command, script: &str) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", script]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

/// A socket with its name.
type Passed<'a> = (&'a str, &'a dyn AsFd);

/// The command with these sockets as its files 3, 4, …, as systemd passes them.
fn with_sockets(command: &Command, sockets: &[Passed<'_>]) -> Command {
    let mut redirections = String::new();
    for (index, (_, socket)) in sockets.iter().enumerate() {
        // The shell inherits it. The listener stays ours.
        fcntl_setfd(socket.as_fd(), FdFlags::empty()).expect("a file of ours");
        redirections += &format!(" {}<&{}", 3 + index, socket.as_fd().as_raw_fd());
    }
    let names: Vec<_> = sockets.iter().map(|(name, _)| *name).collect();
    let mut shell = in_shell(command, &format!("export LISTEN_PID=$$; exec \"$0\" \"$@\"{redirections}"));
    shell.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    shell
}

#[test]
fn a_restart_on_passed_sockets_refuses_no_connection() {
    let federation = Federation::start(0);
    let other = federation.start_node(1);
    let (client, udp) = (TcpListener::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0"));
    let (client, udp) = (client.expect("a port"), udp.expect("a port"));
    // systemd's backlog; the standard library's is 128.
    rustix::net::listen(&client, 4096).expect("a listener of ours");
    let turn = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let (addr, quic, stun) =
        [client.local_addr(), udp.local_addr(), turn.local_addr()].map(|addr| addr.expect("an address")).into();
    let start = || {
        let mut command = federation.node(0);
        command.env("CHAPPE_ADMIN__LISTEN", "127.0.0.1:0").env("CHAPPE_LIMITS__EXEMPT", "[\"127.0.0.0/8\"]");
        command.env("CHAPPE_TURN__LISTEN", format!("[\"{stun}\"]"));
        let mut node =
            Running::start(&mut with_sockets(&command, &[("client", &client), ("federation", &udp), ("turn", &turn)]));
        let ready = node.event("ready");
        assert_eq!(ready["client_addr"], addr.to_string());
        assert_eq!(ready["quic_addr"], quic.to_string());
        assert_eq!(ready["turn_addr"], stun.to_string());
        (node, text(&ready, "admin_url"))
    };
    let (mut node, mut admin) = start();
    // One thread connects every few milliseconds and waits for nothing; the other reads the responses.
    let (is_stopping, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (sender, connected) = channel::<io::Result<TcpStream>>();
    let connecting = thread::spawn({
        let is_stopping = is_stopping.clone();
        move || {
            while !is_stopping.load(Ordering::Relaxed) {
                let _ = sender.send(ask_health(addr));
                thread::sleep(Duration::from_millis(4));
            }
        }
    });
    let reading = thread::spawn({
        let answered = answered.clone();
        move || {
            let mut errors = Vec::new();
            for stream in connected {
                match stream.and_then(read_health) {
                    Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => errors.push(error),
                }
            }
            errors
        }
    });
    let mut gaps = Vec::new();
    for _ in 0..3 {
        let before = answered.load(Ordering::Relaxed);
        let deadline = Instant::now() + PATIENCE;
        while answered.load(Ordering::Relaxed) < before + 50 || metric(&admin, "chappe_members") < 2 {
            assert!(Instant::now() < deadline, "clients are not served, or the other node does not see this one");
            thread::sleep(Duration::from_millis(10));
        }
        // It stays until the node closes it, so that the node drains for as long as it may.
        let session = open_session(addr);
        let stopping = Instant::now();
        node.signal("TERM");
        assert!(node.finish().status.success());
        let stopped = stopping.elapsed();
        (node, admin) = start();
        gaps.push((stopped, stopping.elapsed() - stopped));
        drop(session);
    }
    is_stopping.store(true, Ordering::Relaxed);
    connecting.join().expect("the connecting thread");
    let errors = reading.join().expect("the reading thread");
    let answered = answered.load(Ordering::Relaxed);
    println!("{answered} connections answered, {} failed; drained and started in {gaps:?}", errors.len());
    assert!(errors.is_empty() && gaps.iter().all(|(drained, _)| *drained > Duration::from_millis(500)), "{errors:?}");
    // The relay for media serves on its passed socket, too.
    let probe = UdpSocket::bind("127.0.0.1:0").expect("a port");
    probe.set_read_timeout(Some(PATIENCE)).expect("a socket");
    probe.send_to(b"\0\x01\0\0\x21\x12\xa4\x42abcdefghijkl", stun).expect("a packet");
    let mut response = [0; 128];
    let (_, from) = probe.recv_from(&mut response).expect("a Binding response");
    assert_eq!((from, &response[..2]), (stun, &[1, 1][..]));
    drop(other);
}

/// Connects and sends a request.
fn ask_health(addr: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")?;
    Ok(stream)
}

/// Expects the whole response.
fn read_health(mut stream: TcpStream) -> io::Result<()> {
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    if response.starts_with("HTTP/1.1 200") && response.ends_with('}') {
        Ok(())
    } else {
        Err(io::Error::other(response))
    }
}

/// Opens a WebSocket.
fn open_session(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    let request = format!("GET /ws HTTP/1.1\r\nHost: x\r\n{UPGRADE}");
    stream.write_all(request.as_bytes()).expect("it takes a request");
    let mut status = [0; 12];
    stream.read_exact(&mut status).expect("a status");
    assert_eq!(&status[9..], b"101");
    stream
}

#[test]
fn a_registry_serves_on_passed_sockets_and_a_restart_refuses_no_request() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("bootstrap.toml");
    init_registry(&file);
    let [http, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let [http_addr, admin_addr] = [&http, &admin].map(|listener| listener.local_addr().expect("an address"));
    for _ in 0..2 {
        // It waits until the registry serves.
        let waiting = ask_health(http_addr).expect("the socket is bound");
        let mut command = with_sockets(&run_registry(&file), &[("http", &http), ("admin", &admin)]);
        let mut registry = Running::start(&mut command);
        let ready = registry.event("ready");
        assert_eq!(text(&ready, "registry"), http_addr.to_string());
        assert_eq!(text(&ready, "admin_url"), admin_addr.to_string());
        read_health(waiting).expect("the response to the first connection");
        assert_eq!(metric(&admin_addr.to_string(), "chappe_bootstrap_listed_nodes"), 0);
        registry.signal("TERM");
        assert!(registry.finish().status.success());
    }
    let output = Running::start(&mut with_sockets(&run_registry(&file), &[("client", &http)])).finish();
    assert_eq!(output.status.code(), Some(1));
    let error = texts(&output).1;
    assert!(error.contains("a socket named `client` was passed") && error.contains("one of http, admin"), "{error}");
}

#[test]
fn systemds_own_tool_passes_a_socket() {
    let folder = Folder::new();
    folder.write("[node]\n[client]\nlisten = '127.0.0.1:1'\n");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--fdname=client", &format!("--listen={free}")]);
    command.arg(env!("CARGO_BIN_EXE_chappe")).args(folder.run().get_args());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if !Command::new("systemd-socket-activate").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: no systemd-socket-activate here (Debian: systemd)");
        return;
    }
    let mut node = Running::start(&mut command);
    // It listens within milliseconds, and becomes the node at the first connection, which waits.
    let deadline = Instant::now() + PATIENCE;
    let waiting = loop {
        match ask_health(free) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(text(&node.event("ready"), "client_addr"), free.to_string());
    read_health(waiting).expect("the response to the first connection");
    node.signal("TERM");
    assert!(node.finish().status.success());
}

#[test]
fn a_passed_socket_leads_people_at_port_80_to_the_node() {
    let folder = Folder::new();
    // Nothing listens at port 1: the node has no certificate, and does not need one here.
    folder.write(
        "[node]\n[client]\nlisten = '127.0.0.1:0'\nurls = ['wss://node.example.org:8443/ws']\n[client.acme]\nenabled = true\n\
         terms_agreed = true\ndirectory = 'https://127.0.0.1:1/dir'",
    );
    let http = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut node = Running::start(&mut with_sockets(&folder.run(), &[("http", &http)]));
    node.event("ready");
    let mut stream = TcpStream::connect(http.local_addr().expect("an address")).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    // Whatever host is asked for.
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n").expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(
        answer.starts_with("HTTP/1.1 307 ") && answer.contains("location: https://node.example.org:8443/\r\n"),
        "{answer}"
    );
}

#[test]
fn a_socket_of_the_wrong_name_or_kind_is_refused_and_another_processs_is_left_alone() {
    let folder = Folder::new();
    folder.write("[node]\n[client]\nlisten = '127.0.0.1:0'\n");
    let (tcp, udp) =
        (TcpListener::bind("127.0.0.1:0").expect("a port"), UdpSocket::bind("127.0.0.1:0").expect("a port"));
    let cases: [(&[Passed<'_>], &str); 4] = [
        (&[("clients", &tcp)], "a socket named `clients` was passed"),
        (&[("client", &udp)], "the socket named `client` that was passed cannot be used"),
        (&[("client", &tcp), ("client", &tcp)], "two sockets named `client` were passed"),
        (&[("federation", &tcp)], "the socket named `federation` that was passed cannot be used"),
    ];
    for (sockets, expected) in cases {
        let output = Running::start(&mut with_sockets(&folder.run(), sockets)).finish();
        assert_eq!(output.status.code(), Some(1));
        assert!(texts(&output).1.contains(expected), "{:?}", texts(&output));
    }
    // Inherited from a parent that systemd has passed them to.
    let mut command = folder.run();
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1").env("LISTEN_FDNAMES", "client");
    let mut node = Running::start(&mut command);
    assert_ne!(text(&node.event("ready"), "client_addr"), tcp.local_addr().expect("an address").to_string());
}
