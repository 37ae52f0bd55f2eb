//! Daemons and commands in a failing environment: outputs that cannot be written, signals, few file descriptors.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::process::{
    self, Running, arg, chappe,
    federation::{Federation, Listening, metric, run_node, run_registry},
    finished, get, texts,
};

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").expect("the device").into()
}

/// The writing end of a pipe whose reader is gone.
fn closed() -> Stdio {
    let (_, writer) = std::io::pipe().expect("a pipe");
    writer.into()
}

/// Waits until a condition holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + process::PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: it does not");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Two people at two nodes pair and call. This exercises attaching, homes, membership and links.
fn pair_and_call(federation: &Federation, [one, two]: [&str; 2]) {
    let profile = |name: &str| federation.dir.path().join(name);
    let (ada, ben) = (profile("ada"), profile("ben"));
    let network = |node| ["--node", node];
    let args = ["--json", "pair", "--name", "Ada", "--profile", arg(&ada)];
    let mut showing = Running::start(&mut chappe(&[&args[..], &network(one)].concat()));
    let code = showing.event("code")["code"].as_str().expect("a code").to_owned();
    let args = ["--json", "pair", "--name", "Ben", "--profile", arg(&ben)];
    let paired = finished(&[&args[..], &network(two), &[&code]].concat());
    assert!(paired.status.success(), "{:?}", texts(&paired));
    assert!(showing.finish().status.success());
    let mut listening = Running::start(&mut chappe(&["--json", "listen", "--once", "--profile", arg(&ben)]));
    assert_eq!(listening.event("ready")["contacts"], 1);
    let called = finished(&["--json", "call", "--profile", arg(&ada), "Ben", "--seconds", "1"]);
    assert!(called.status.success(), "{:?}", texts(&called));
    assert!(listening.finish().status.success());
}

fn plays_on_while_its_log_goes_nowhere(stderr: Stdio, level: &str) {
    let federation = Federation::start(0);
    let one = Listening::start(&mut federation.node(0));
    let two = Listening::start(federation.node(1).env("CHAPPE_LOG", level).stderr(stderr));
    two.wait_for("chappe_members", |members| members == 2);
    two.process.signal("USR1");
    two.wait_for("chappe_log_lines_lost_total", |lines| lines >= 2);
    pair_and_call(&federation, [&one.address, &two.address]);
    drop(one);
    two.wait_for("chappe_members", |members| members == 1);
    assert_eq!(two.metric("chappe_panics_total"), 0);
    assert_eq!(two.health().1["status"], "healthy");
    two.process.signal("TERM");
    assert!(two.process.finish().status.success());
}

#[test]
fn a_node_with_a_full_log_disk_continues_and_counts_lost_lines() {
    plays_on_while_its_log_goes_nowhere(full(), "info");
}

#[test]
fn a_node_goes_on_when_the_reader_of_its_log_is_gone() {
    plays_on_while_its_log_goes_nowhere(closed(), "info");
}

#[test]
fn a_node_with_a_blocked_log_reader_continues_and_reports_lost_lines_later() {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    // As much as the system buffers without a reader.
    writer.write_all(&[b'\n'; 65_536]).expect("a pipe that nobody has written to");
    let federation = Federation::start(0);
    let one = Listening::start(&mut federation.node(0));
    let two = Listening::start(federation.node(1).stderr(writer));
    two.wait_for("chappe_members", |members| members == 2);
    // Each of these is a line in the log.
    two.wait_for("chappe_log_lines_lost_total", |lines| {
        two.process.signal_often("USR1");
        lines >= 1
    });
    pair_and_call(&federation, [&one.address, &two.address]);
    let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
    let told = lines.find(|line| line.contains("log lines were lost; writing the log again"));
    assert!(told.is_some_and(|line| line.contains("lines=")));
    // From here on nobody reads, and stopping must not wait for it.
    two.process.signal("TERM");
    assert!(two.process.finish().status.success());
    drop(lines);
}

#[test]
fn a_command_that_cannot_print_its_error_exits_with_status_1() {
    let missing = ["node", "run", "--config", "/nowhere/node.toml"];
    for stderr in [full(), closed()] {
        let output = Running::start(chappe(&missing).stderr(stderr)).finish();
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn help_and_version_fail_on_a_full_disk_and_end_quietly_without_a_reader() {
    for args in [&["--help"][..], &["--version"], &["node", "run", "--help"], &["help"]] {
        let run = |stdout| chappe(args).stdout(stdout).output().expect("it runs");
        let output = run(full());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(texts(&output).1.contains("cannot write to standard output"), "{:?}", texts(&output));
        let output = run(closed());
        assert_eq!((output.status.code(), texts(&output).1.as_str()), (Some(0), ""), "{args:?}");
        assert_eq!(finished(args).status.code(), Some(0), "{args:?}");
    }
    // A wrong command line has its own status, whether or not the text can be written.
    let output = chappe(&["nonsense"]).stderr(full()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn an_invalid_log_filter_in_the_environment_is_an_error_that_names_the_variable() {
    for args in [&["discover"][..], &["node", "run", "--config", "/nowhere/node.toml"]] {
        for filter in ["warn,chappe_node=dbug", "nonsense=,x", "!"] {
            let output = chappe(args).env("CHAPPE_LOG", filter).output().expect("it runs");
            let text = texts(&output).1;
            assert_eq!(output.status.code(), Some(1), "{args:?}, {filter}: {text}");
            assert!(text.contains("error: CHAPPE_LOG in the environment: "), "{args:?}, {filter}: {text}");
            assert!(text.contains("write a level such as"), "{args:?}, {filter}: {text}");
        }
    }
}

#[test]
fn a_command_with_a_closed_output_ends_quietly_and_one_with_a_full_disk_reports_it() {
    let federation = Federation::start(1);
    federation.wait_for_a_node();
    let config = federation.dir.path().join("registry/bootstrap.toml");
    let publish = ["bootstrap", "publish", "--registry", &federation.url, "--config", arg(&config), "--format", "txt"];
    let commands = [[&["--json", "discover"][..], &federation.network()].concat(), publish.to_vec()];
    for command in commands {
        let run = |stdout| chappe(&command).stdout(stdout).output().expect("it runs");
        let output = run(closed());
        assert_eq!((output.status.code(), texts(&output).1.as_str()), (Some(0), ""), "{command:?}");
        let output = run(full());
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(texts(&output).1.contains("cannot write to standard output"), "{:?}", texts(&output));
    }
    // Otherwise it would wait for calls for ever.
    let profile = federation.dir.path().join("zoe");
    let args = ["--json", "listen", "--profile", arg(&profile), "--name", "Zoe"];
    let mut listen = chappe(&[&args[..], &federation.network()].concat());
    let output = listen.stdout(closed()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{:?}", texts(&output));
}

#[test]
fn other_signals_are_logged_and_do_not_end_a_daemon_and_three_signals_drain() {
    for stop in ["TERM", "INT", "QUIT"] {
        let federation = Federation::start(0);
        let node = Listening::start(&mut federation.node(0));
        let registry = federation.registry.as_ref().expect("it runs");
        let names = ["HUP", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "XFSZ", "STKFLT"];
        // Real-time signals; not each `kill` knows their names.
        for name in names.into_iter().chain(["35", "40", "64"]) {
            node.process.signal(name);
            registry.signal(name);
        }
        node.wait_for("chappe_members", |members| members == 1);
        assert_eq!(node.health().1["status"], "healthy");
        node.process.signal(stop);
        let output = node.process.finish();
        assert!(output.status.success());
        let log = texts(&output).1;
        assert!(log.contains("reloaded the configuration"), "{log}");
        assert!(log.contains("ignored SIGUSR1") && log.contains("ignored SIGSTKFLT"), "{log}");
        assert_eq!(log.matches("ignored SIGRTMIN+").count(), 3, "{log}");
        assert!(!log.contains("ERROR"), "stopping is no failure: {log}");
        registry.signal(stop);
        let mut federation = federation;
        let output = federation.registry.take().expect("it runs").finish();
        assert!(output.status.success(), "{:?}", texts(&output));
        assert!(texts(&output).1.contains("reloaded the configuration"));
    }
}

#[test]
fn a_local_federation_stops_when_its_terminal_closes() {
    let mut up = Running::start(&mut chappe(&["--json", "up", "--nodes", "1"]));
    up.event("call");
    up.signal("HUP");
    let output = up.finish();
    assert!(output.status.success(), "{:?}", texts(&output));
    let log = texts(&output).1;
    assert!(!log.contains("ignored SIGHUP"), "{log}");
}

/// The same command in a shell with a limit on open files.
fn limited(command: &Command, limit: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell
}

/// Requests a WebSocket. Returns the connection and the status of the response.
fn upgrade(addr: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(process::PATIENCE)).expect("a socket");
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it takes a request");
    let mut status = [0; 12];
    let _ = stream.read_exact(&mut status);
    (stream, String::from_utf8_lossy(&status[9..]).into_owned())
}

#[test]
fn a_node_with_few_files_warns_and_at_the_limit_accepts_its_operator_and_other_nodes() {
    let federation = Federation::start(0);
    let mut command = federation.node(0);
    command.env("CHAPPE_LIMITS__EXEMPT", "[\"127.0.0.0/8\"]");
    let node = Listening::start(&mut limited(&command, "-n 200"));
    let clients: Vec<_> = (0..72).map(|_| upgrade(&node.client)).collect();
    assert!(clients.iter().all(|(_, status)| status == "101"));
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(&node.client).expect("the system accepts")).collect();
    assert_eq!(upgrade(&node.client).1, "503");
    assert_eq!(node.health().0, 200);
    assert_eq!(node.metric("chappe_sessions"), 72);
    assert!(node.metric("chappe_connections_refused_total") >= 42);
    let other = Listening::start(&mut federation.node(1));
    other.wait_for("chappe_members", |members| members == 2);
    node.wait_for("chappe_members", |members| members == 2);
    assert_eq!(node.metric("chappe_accept_errors_total"), 0);
    // A released slot is available for the next connection.
    drop((clients, silent));
    node.wait_for("chappe_sessions", |sessions| sessions == 0);
    assert_eq!(upgrade(&node.client).1, "101");
    node.process.signal("TERM");
    let log = texts(&node.process.finish()).1;
    assert!(log.contains("client.max_connections is 18000, but this process may open only 200 files"), "{log}");
    assert!(log.contains("client.max_connections is reached"), "{log}");
}

#[test]
fn a_node_raises_its_file_limit_to_the_maximum() {
    let federation = Federation::start(0);
    let mut command = federation.node(0);
    command.env("CHAPPE_LIMITS__EXEMPT", "[\"127.0.0.0/8\"]").env("CHAPPE_CLIENT__MAX_CONNECTIONS", "150");
    let node = Listening::start(&mut limited(&command, "-Sn 64"));
    let clients: Vec<_> = (0..150).map(|_| upgrade(&node.client)).collect();
    assert!(clients.iter().all(|(_, status)| status == "101"));
    node.process.signal("TERM");
    let log = texts(&node.process.finish()).1;
    assert!(!log.contains("this process may open"), "{log}");
}

#[test]
fn a_registry_with_few_files_warns_and_at_the_limit_answers_its_operator() {
    let mut federation = Federation::start(0);
    drop(federation.registry.take());
    let mut command = run_registry(&federation.dir.path().join("registry/bootstrap.toml"));
    command.env("CHAPPE_ADMIN__LISTEN", "127.0.0.1:0").env("CHAPPE_LIMITS__EXEMPT", "[\"127.0.0.0/8\"]");
    let mut registry = Running::start(&mut limited(&command, "-n 160"));
    let ready = registry.event("ready");
    let addr = |key: &str| ready[key].as_str().expect("a URL").trim_start_matches("http://").to_owned();
    let (public, admin) = (addr("registry"), addr("admin_url"));
    let idle: Vec<_> = (0..60).map(|_| TcpStream::connect(&public).expect("the system accepts")).collect();
    assert_eq!(get(&public, "/health").0, 200);
    assert_eq!(get(&public, "/servers").0, 503);
    assert_eq!(get(&admin, "/health").0, 200);
    assert_eq!(metric(&admin, "chappe_bootstrap_accept_errors_total"), 0);
    assert!(metric(&admin, "chappe_bootstrap_connections_refused_total{reason=\"Full\"}") >= 30);
    drop(idle);
    registry.signal("TERM");
    let log = texts(&registry.finish()).1;
    assert!(log.contains("limits.max_connections is 1024, but this process may open only 160 files"), "{log}");
    assert!(log.contains("rejecting connections: limits.max_connections is reached"), "{log}");
}

/// Sets the soft limit on the size of files that a process may write. Larger writes fail.
fn limit_file_size(process: &Running, bytes: &str) {
    let set = Command::new("prlimit").args(["--pid", &process.id().to_string(), &format!("--fsize={bytes}:")]).status();
    assert!(set.expect("prlimit (util-linux) is there").success());
}

#[test]
fn a_registry_with_a_full_disk_reports_it_and_accepts_changes_afterwards() {
    let mut federation = Federation::start(0);
    drop(federation.registry.take());
    let mut command = run_registry(&federation.dir.path().join("registry/bootstrap.toml"));
    let mut registry = Running::start(command.env("CHAPPE_ADMIN__LISTEN", "127.0.0.1:0"));
    let ready = registry.event("ready");
    let addr = |key: &str| ready[key].as_str().expect("a URL").trim_start_matches("http://").to_owned();
    let (public, admin) = (addr("registry"), addr("admin_url"));
    federation.url = format!("http://{public}");
    let health = || serde_json::from_str::<serde_json::Value>(&get(&public, "/health").1).expect("JSON");
    assert_eq!(health()["status"], "healthy");

    limit_file_size(&registry, "4096");
    let node = Listening::start(&mut federation.node(0));
    eventually("it notices", || health()["status"] == "read_only");
    let problem = health()["problems"][0].as_str().expect("a text").to_owned();
    assert!(problem.contains("File too large"), "{problem}");
    assert_eq!(metric(&admin, "chappe_bootstrap_store_failing"), 1);
    assert!(metric(&admin, "chappe_bootstrap_failed_commits_total") >= 1);
    assert_eq!(get(&public, "/servers").0, 200, "what it has is served");

    limit_file_size(&registry, "unlimited");
    eventually("it recovers", || health()["status"] == "healthy");
    // The node retries by itself.
    eventually("the node is listed", || health()["nodes"] == 1);
    assert_eq!(metric(&admin, "chappe_bootstrap_store_failing"), 0);
    drop(node);
    registry.signal("TERM");
    let log = texts(&registry.finish()).1;
    for said in ["the store fails", "the store works again"] {
        assert_eq!(log.matches(said).count(), 1, "{log}");
    }
}

/// Copies a node's folder with its key and epoch.
fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[test]
fn a_node_comes_back_by_itself_after_a_copy_of_its_folder_has_run() {
    for end in ["TERM", "KILL"] {
        let federation = Federation::start(0);
        let nodes: Vec<_> = (0..3).map(|number| Listening::start(&mut federation.node(number))).collect();
        let all = |nodes: &[Listening]| {
            for node in nodes {
                node.wait_for("chappe_members", |members| members == 3);
            }
        };
        all(&nodes);
        let copied = federation.dir.path().join("copy");
        copy_folder(&federation.folder(0), &copied);
        let copy = Listening::start(&mut run_node(&copied.join("node.toml")));
        copy.wait_for("chappe_members", |members| members == 3);
        copy.process.signal(end);
        copy.process.finish();
        eventually("the original is a member again", || {
            let (status, health) = nodes[0].health();
            (status, &health["status"]) == (200, &"healthy".into())
                && nodes.iter().all(|node| node.metric("chappe_members") == 3)
        });
        pair_and_call(&federation, [&nodes[0].address, &nodes[1].address]);
        all(&nodes);
        let [original, ..] = <[_; 3]>::try_from(nodes).map_err(|_| "three nodes").expect("three nodes");
        original.process.signal("TERM");
        let log = texts(&original.process.finish()).1;
        assert!(log.contains("other nodes know a later run with this node's key; beginning a new one"), "{log}");
    }
}

#[test]
fn an_unreachable_node_sends_its_clients_to_the_registrys_nodes() {
    let federation = Federation::start(0);
    let one = Listening::start(federation.node(0).env("CHAPPE_MEMBERSHIP__CUT_OFF_AFTER", "3s"));
    let two = Listening::start(&mut federation.node(1));
    one.wait_for("chappe_members", |members| members == 2);
    let (client, status) = upgrade(&one.client);
    assert_eq!(status, "101");
    // The node stays listed: the registry probes it every five minutes.
    two.process.signal("STOP");
    eventually("it knows that it is cut off", || one.health().0 == 503);
    let (_, health) = one.health();
    assert_eq!(health["status"], "cut_off");
    assert!(health["problems"][0].as_str().is_some_and(|text| text.contains("no other node answers")), "{health}");
    let mut told = Vec::new();
    eventually("its client is sent away", || {
        let mut piece = [0; 4096];
        let count = (&client).read(&mut piece).expect("it says so");
        told.extend_from_slice(&piece[..count]);
        String::from_utf8_lossy(&told).contains("going_away")
    });
    two.process.signal("CONT");
    eventually("it takes clients again", || one.health().0 == 200);
}

#[test]
fn a_node_uses_no_proxy_of_the_environment() {
    let federation = Federation::start(0);
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    proxy.set_nonblocking(true).expect("a socket of ours");
    let url = format!("http://{}", proxy.local_addr().expect("an address"));
    let mut node = federation.node(0);
    node.env_remove("NO_PROXY").env_remove("no_proxy");
    let _node = Listening::start(node.env("HTTP_PROXY", &url).env("HTTPS_PROXY", &url).env("ALL_PROXY", &url));
    federation.wait_for_a_node();
    assert!(proxy.accept().is_err(), "nobody has come to the proxy");
}

#[test]
fn a_node_that_never_had_members_keeps_its_clients() {
    let federation = Federation::start(0);
    let stranger = Listening::start(&mut federation.node(1));
    federation.wait_for_a_node();
    // The node stays listed, but does not answer.
    stranger.process.signal("KILL");
    let mut node = federation.node(0);
    let one = Listening::start(node.env("CHAPPE_MEMBERSHIP__CUT_OFF_AFTER", "1s"));
    // It reads the registry's list several times in the meantime, and must not change its state.
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        let (status, health) = one.health();
        assert_eq!((status, &health["status"]), (200, &"healthy".into()), "{health}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_node_accepts_every_form_of_a_request_that_http_allows() {
    let federation = Federation::start(0);
    let node = Listening::start(&mut federation.node(0));
    let status = |head: &str| {
        let mut stream = TcpStream::connect(&node.client).expect("it listens");
        stream.set_read_timeout(Some(process::PATIENCE)).expect("a socket");
        stream.write_all(head.as_bytes()).expect("it takes a request");
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("it answers");
        String::from_utf8_lossy(&status[9..]).into_owned()
    };
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    for (line, fields) in [
        ("GET /ws", "Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: websocket"),
        ("GET http://relay.example/ws?a=b", "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: WebSocket"),
        ("GET http://relay.example", "connection: close, upgrade\r\nupgrade:websocket"),
    ] {
        assert_eq!(status(&format!("{line} HTTP/1.1\r\nHost: x\r\n{fields}\r\n{key}")), "101", "{line}");
    }
    for line in ["GET /health", "HEAD /health", "GET /health?x=1", "GET http://relay.example/health"] {
        assert_eq!(status(&format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n")), "200", "{line}");
    }
    assert_eq!(status("GET /health HTTP/1.0\r\n\r\n"), "200");
}

#[test]
fn a_daemon_neither_follows_a_link_in_its_folder_nor_uses_one_that_others_may_change() {
    let federation = Federation::start(0);
    let registry = federation.dir.path().join("registry");
    let (node, store) = (federation.folder(0).join("node-data"), registry.join("bootstrap-data"));
    let mut federation = federation;
    drop(federation.registry.take());
    let _made = federation.node(0);
    let victim = federation.dir.path().join("victim");
    fs::write(&victim, "precious").expect("a file");
    let refused = |command: &mut Command, reason: &str| {
        let output = Running::start(command).finish();
        assert_eq!(output.status.code(), Some(1), "{:?}", texts(&output));
        assert!(texts(&output).1.contains(reason), "{:?}", texts(&output));
        assert_eq!(fs::read_to_string(&victim).expect("still there"), "precious");
    };
    let registry_config = registry.join("bootstrap.toml");
    symlink(&victim, node.join("lock")).expect("a link");
    refused(&mut federation.node(0), "it is a symbolic link");
    fs::remove_file(node.join("lock")).expect("a link");
    fs::rename(store.join("registry.redb"), registry.join("elsewhere")).expect("a store");
    symlink(&victim, store.join("registry.redb")).expect("a link");
    refused(&mut run_registry(&registry_config), "is a symbolic link");
    for folder in [&node, &store] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("a folder of ours");
    }
    refused(&mut federation.node(0), "everybody may write in");
    refused(&mut run_registry(&registry_config), "everybody may write in");
    for folder in [&node, &store] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o770)).expect("a folder of ours");
        if chown(folder, None, Some(12_345)).is_err() {
            println!("skipped: only root can give a folder to another group");
            return;
        }
    }
    refused(&mut federation.node(0), "the group 12345 may write in");
    refused(&mut run_registry(&registry_config), "the group 12345 may write in");
    // Only root can change the owner of a folder.
    for folder in [&node, &store] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("a folder of ours");
        if chown(folder, Some(12_345), None).is_err() {
            println!("skipped: only root can give a folder to another user");
            return;
        }
    }
    refused(&mut federation.node(0), "belongs to another user (12345)");
    refused(&mut run_registry(&registry_config), "belongs to another user (12345)");
}

#[test]
fn a_node_follows_the_name_that_it_advertises_to_another_address() {
    let federation = Federation::start(0);
    let hosts = federation.dir.path().join("hosts");
    let point_to = |addr: &str| fs::write(&hosts, format!("{addr} home.chappe.example\n")).expect("a file");
    point_to("127.0.0.1");
    // In the node's own namespace, the system's resolver reads this file.
    let namespace = |command: &Command| {
        let mut shell = Command::new("unshare");
        shell.args(["-rm", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\"", arg(&hosts)]);
        shell.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            value.map(|value| shell.env(name, value));
        }
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        shell
    };
    if !namespace(&Command::new("true")).status().is_ok_and(|status| status.success()) {
        println!("skipped: this system lets nobody make a mount namespace (unshare -rm)");
        return;
    }
    let others: Vec<_> = (1..3).map(|number| Listening::start(&mut federation.node(number))).collect();
    let port = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let mut command = federation.node(0);
    command.args(["--set", &format!("federation.listen=0.0.0.0:{port}")]);
    command.env("CHAPPE_FEDERATION__ADVERTISE", format!("[\"home.chappe.example:{port}\"]"));
    let node = Listening::start(&mut namespace(&command));
    let address_at = |other: &Listening| {
        let (_, members) = get(&other.admin, "/members");
        let members: serde_json::Value = serde_json::from_str(&members).expect("JSON");
        let of_it = members["members"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|one| node.address.contains(one["node"].as_str().expect("an id")))
            .cloned();
        of_it.map(|one| one["quicAddrs"][0].as_str().expect("an address").to_owned())
    };
    let all_at = |addr: &str| others.iter().all(|other| address_at(other) == Some(format!("{addr}:{port}")));
    eventually("all know it at its first address", || all_at("127.0.0.1"));
    point_to("127.0.0.2");
    eventually("all know it at its second address", || all_at("127.0.0.2"));
    node.wait_for("chappe_members", |members| members == 3);
    pair_and_call(&federation, [&node.address, &others[0].address]);
}
