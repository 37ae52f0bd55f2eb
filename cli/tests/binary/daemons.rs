//! Daemons and clients as separate processes that form a federation.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use chappe_common::{
    admission::TicketChain, beacon::Beacon, directory::DirectoryBundle, keys::PublicKey, shard::ShardBundle,
};

use crate::process::{
    self, Running, arg, chappe,
    federation::{Federation, start_registry},
    finished, texts,
};

#[test]
fn two_people_on_their_own_machines_pair_and_call() {
    let federation = Federation::start(2);
    federation.wait_for_a_node();
    let (ada, ben) = (federation.dir.path().join("ada"), federation.dir.path().join("ben"));
    let network = federation.network();

    let profile = ["--json", "pair", "--name", "Ada", "--profile", arg(&ada)];
    let mut showing = Running::start(&mut chappe(&[&profile[..], &network].concat()));
    let code = showing.event("code")["code"].as_str().expect("a code").to_owned();
    let profile = ["--json", "pair", "--name", "Ben", "--profile", arg(&ben)];
    let mut typing = Running::start(&mut chappe(&[&profile[..], &network, &[&code]].concat()));
    let (at_ada, at_ben) = (showing.event("paired"), typing.event("paired"));
    assert_eq!((&at_ada["contact"], &at_ben["contact"]), (&"Ben".into(), &"Ada".into()));
    assert_eq!(at_ada["words"], at_ben["words"]);
    assert!(showing.finish().status.success() && typing.finish().status.success());
    for entry in fs::read_dir(&ada).expect("the profile").filter_map(Result::ok) {
        let mode = entry.metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} is for its owner alone", entry.path());
    }

    // The profile has stored the network settings.
    let mut listening = Running::start(&mut chappe(&["--json", "listen", "--once", "--profile", arg(&ben)]));
    assert_eq!(listening.event("ready")["contacts"], 1);
    let mut calling = Running::start(&mut chappe(&["--json", "call", "--profile", arg(&ada), "Ben", "--seconds", "1"]));
    for side in [&mut calling, &mut listening] {
        let call = side.event("call");
        assert_eq!(call["ok"], true);
        assert!(call["audio_packets"].as_u64().is_some_and(|packets| packets >= 50), "{call}");
    }
    for side in [calling, listening] {
        let output = side.finish();
        assert!(output.status.success(), "{:?}", texts(&output));
    }

    let nobody = finished(&["call", "--profile", arg(&ada), "Carl"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(texts(&nobody).1.contains("no contact is called `Carl`; the profile knows Ben"), "{:?}", texts(&nobody));
}

#[test]
fn a_link_is_all_that_a_new_profile_needs_to_pair_and_be_called() {
    let federation = Federation::start(2);
    federation.wait_for_a_node();
    let (ada, ben) = (federation.dir.path().join("ada"), federation.dir.path().join("ben"));
    let picture = federation.dir.path().join("code.png");
    let profile = ["--json", "pair", "--name", "Ada", "--profile", arg(&ada), "--qr", arg(&picture)];
    let mut showing = Running::start(&mut chappe(&[&profile[..], &federation.network()].concat()));
    let shown = showing.event("code");
    let link = shown["link"].as_str().expect("a link").to_owned();
    assert!(link.starts_with("https://") && link.contains("/i#"), "{link}");
    assert!(fs::read(&picture).expect("a picture").starts_with(b"\x89PNG"));

    // These nodes are on loopback, which a link may contain only for test profiles.
    let refused = finished(&["pair", "--name", "Ben", "--profile", arg(&ben), &link]);
    assert!(texts(&refused).1.contains("private network"), "{:?}", texts(&refused));
    assert!(!ben.exists(), "nothing is made by a command that fails");
    let damaged = finished(&["pair", "--name", "Ben", "--profile", arg(&ben), &link[..link.len() - 8]]);
    assert!(texts(&damaged).1.contains("link"), "{:?}", texts(&damaged));

    // The text of the QR code, as a camera reads it.
    let qr = shown["qr"].as_str().expect("the QR code's text");
    let mut typing = Running::start(&mut chappe(&[
        "--json",
        "pair",
        "--name",
        "Ben",
        "--profile",
        arg(&ben),
        "--private-network",
        qr,
    ]));
    assert_eq!(showing.event("paired")["words"], typing.event("paired")["words"]);
    assert!(showing.finish().status.success() && typing.finish().status.success());

    // Ben's profile has the link's nodes, but no registry.
    let mut listening = Running::start(&mut chappe(&["--json", "listen", "--once", "--profile", arg(&ben)]));
    assert_eq!(listening.event("ready")["contacts"], 1);
    let calling = finished(&["--json", "call", "--profile", arg(&ada), "Ben", "--seconds", "1"]);
    assert!(calling.status.success(), "{:?}", texts(&calling));
    assert!(listening.finish().status.success());
}

#[test]
fn publish_writes_to_a_file_that_is_mounted_by_itself() {
    let federation = Federation::start(1);
    federation.wait_for_a_node();
    let folder = federation.dir.path();
    let config = folder.join("registry/bootstrap.toml");
    let (source, web) = (folder.join("source.txt"), folder.join("web"));
    let mounted = web.join("served.txt");
    fs::create_dir(&web).expect("a folder");
    fs::write(&mounted, "").expect("a file");
    let args = ["bootstrap", "publish", "--registry", &federation.url, "--config", arg(&config), "--format", "txt"];
    let publish = chappe(&[&args[..], &["--output", arg(&mounted)]].concat());
    // As in a container: in a folder that can be written, and in one that cannot.
    for folder in ["true", "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\""] {
        let script = format!("{folder} && mount --bind \"$0\" \"$1/served.txt\" && shift && exec \"$@\"");
        let inside = |command: &Command| {
            let mut shell = Command::new("unshare");
            shell.args(["-rm", "sh", "-c", &script, arg(&source), arg(&web)]);
            shell.arg(command.get_program()).args(command.get_args());
            shell.output().expect("unshare (util-linux) is there")
        };
        fs::write(&source, "the old directory").expect("a file");
        if !inside(&Command::new("true")).status.success() {
            println!("skipped: this system lets nobody make a mount namespace (unshare -rm)");
            return;
        }
        let output = inside(&publish);
        assert!(output.status.success(), "{:?}", texts(&output));
        let text = fs::read_to_string(&source).expect("the mounted file");
        assert!(text.starts_with("chappe1=") && text.lines().count() == 1, "{text}");
        assert_eq!(fs::read_to_string(&mounted).expect("the file below the mount"), "");
    }
}

#[test]
fn a_beacon_lists_the_nodes_of_the_directory_and_the_registry_serves_it() {
    let federation = Federation::start(1);
    federation.wait_for_a_node();
    let folder = federation.dir.path().join("registry");
    let (key, file) = (folder.join("root.key"), folder.join("beacon"));
    let args = [
        "--json",
        "bootstrap",
        "beacon",
        "--key",
        arg(&key),
        "--registry",
        &federation.url,
        "--single-source",
        "--file",
    ];
    let make = |file: &Path, from: &str| {
        let mut made = Running::start(&mut chappe(&[&args[..], &[arg(file), "--from", from]].concat()));
        let made = made.event("made");
        let root: PublicKey = federation.root.parse().expect("a key");
        let beacon = Beacon::decode(fs::read(file).expect("a file"), &[root].into(), SystemTime::now().into());
        let beacon = beacon.expect("a beacon");
        assert_eq!((made["number"].as_u64(), made["eligible"].as_u64()), (Some(beacon.number), Some(1)));
        beacon
    };
    let first = make(&file, "0s");
    assert_eq!(first.before, None);
    // The registry reads it within a few seconds. An operator without the file continues from the served beacon.
    let deadline = Instant::now() + process::PATIENCE;
    let second = loop {
        let second = make(&folder.join("another"), "2h");
        if second.before.is_some() {
            break second;
        }
        assert!(Instant::now() < deadline, "the registry does not serve the first");
        fs::remove_file(folder.join("another")).expect("a file");
        std::thread::sleep(Duration::from_millis(200));
    };
    assert!(second.number > first.number);
    assert_eq!(second.before, Some(first.term.clone()));
}

#[test]
fn discover_and_doctor_report_attempts_causes_and_remedies() {
    let federation = Federation::start(1);
    federation.wait_for_a_node();
    // Nothing listens on port 9 of loopback.
    let dns = ["--dns", "nodes.example", "--doh", "https://dns.example/dns-query,127.0.0.1:9"];
    let lines = |args: &[&str]| -> (Vec<serde_json::Value>, Option<i32>) {
        let output = finished(args);
        let lines = texts(&output).0.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        (lines, output.status.code())
    };
    let find = |lines: &[serde_json::Value], event: &str, source: &str| {
        let matches =
            |line: &&serde_json::Value| line["event"] == event && (source.is_empty() || line["source"] == source);
        lines.iter().rfind(matches).cloned().unwrap_or_else(|| panic!("no {event} {source} in {lines:?}"))
    };
    let (told, status) = lines(&[&["--json", "discover", "-v"][..], &federation.network(), &dns].concat());
    assert_eq!(status, Some(0));
    assert!(find(&told, "source", "registry")["listed"].as_u64() > Some(0), "{told:?}");
    assert_eq!(find(&told, "dial", "registry")["outcome"], "has proved its key");
    assert!(find(&told, "found", "")["ms"].is_u64());
    assert_eq!(find(&told, "confirmation", "")["outcome"], "unconfirmed");

    let (told, status) = lines(&[&["--json", "doctor"][..], &federation.network(), &dns].concat());
    assert_eq!(status, Some(0));
    let dns_line = find(&told, "source", "DNS");
    assert_eq!((&dns_line["label"], &dns_line["error"]), (&"dns.example".into(), &"connection refused".into()));
    assert!(dns_line["means"].is_string() && dns_line["advice"].is_string());
    let verdict = find(&told, "verdict", "");
    assert_eq!((&verdict["ok"], &verdict["problems"][0]), (&true.into(), &"1 of 2 sources on the network fail".into()));

    let nowhere = ["--registry", "http://127.0.0.1:9", "--root", &federation.root];
    let (told, status) = lines(&[&["--json", "doctor"][..], &nowhere, &dns].concat());
    assert_eq!(status, Some(1));
    assert_eq!(find(&told, "not_found", "")["causes"].as_array().map(Vec::len), Some(3));
    assert_eq!(find(&told, "verdict", "")["ok"], false);
    let text = texts(&finished(&[&["doctor"][..], &nowhere].concat())).0;
    assert!(text.contains("it means: ") && text.contains("to do: "), "{text}");
}

#[test]
fn the_operator_publishes_the_nodes_and_removes_one() {
    let federation = Federation::start(1);
    federation.wait_for_a_node();
    let config = federation.dir.path().join("registry/bootstrap.toml");
    let config = ["--config", arg(&config)];
    let root: PublicKey = federation.root.parse().expect("a key");
    let now = || SystemTime::now().into();
    let from = [&["bootstrap", "publish", "--registry", &federation.url][..], &config].concat();
    let publish = |more: &[&str]| finished(&[&from[..], more].concat());

    let zone = texts(&publish(&["--name", "chappe.example.org"])).0;
    assert!(zone.starts_with("chappe.example.org. 300 IN TXT \"chappe1="), "{zone}");
    let txt = texts(&publish(&["--format", "txt"])).0;
    let shard =
        ShardBundle::decode(txt.trim().as_bytes(), &[root].into(), now()).expect("a shard").expect("one that counts");
    assert_eq!(shard.shard().nodes.len(), 1);
    let node = shard.shard().nodes[0].node().to_string();
    let mirror = federation.dir.path().join("directory.bin");
    assert!(publish(&["--format", "mirror", "--output", arg(&mirror)]).status.success());
    let bundle =
        DirectoryBundle::decode(fs::read(&mirror).expect("a file"), &[root].into(), now()).expect("a directory");
    assert_eq!((bundle.directory().seq, bundle.records(now()).count()), (shard.shard().seq, 1));
    assert!(texts(&publish(&[])).1.contains("--name is required"));

    // A running registry has exclusive use of its store, and the error says so.
    let stored = [&["bootstrap", "publish", "--format", "txt"][..], &config].concat();
    let refused = texts(&finished(&stored)).1;
    assert!(refused.contains("set its URL with --registry"), "{refused}");

    let tell = |word: &str| {
        let args = [&["bootstrap", word, &node, "--registry", &federation.url][..], &config].concat();
        let told = finished(&args);
        assert!(told.status.success(), "{:?}", texts(&told));
    };
    tell("remove");
    assert_eq!(texts(&publish(&["--format", "txt"])).0, "", "nobody is left");
    // Two directories within one second would have the same number.
    std::thread::sleep(Duration::from_millis(1100));
    tell("restore");
}

#[test]
fn publish_keeps_a_link_and_writes_straight_into_a_pipe() {
    let federation = Federation::start(1);
    federation.wait_for_a_node();
    let folder = federation.dir.path();
    let config = folder.join("registry/bootstrap.toml");
    let publish = |output: &Path| {
        let args = ["bootstrap", "publish", "--registry", &federation.url, "--config", arg(&config), "--format", "txt"];
        let output = finished(&[&args[..], &["--output", arg(output)]].concat());
        assert!(output.status.success(), "{:?}", texts(&output));
        texts(&output).0
    };
    let (served, link) = (folder.join("served.txt"), folder.join("current.txt"));
    fs::write(&served, "the old directory").expect("a file");
    std::os::unix::fs::symlink("served.txt", &link).expect("a link");
    publish(&link);
    assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
    assert!(fs::read_to_string(&served).expect("the target").starts_with("chappe1="));

    let pipe = folder.join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there");
    assert!(made.success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).expect("what was written")
    });
    publish(&pipe);
    assert!(reader.join().expect("a reader").starts_with("chappe1="));
    assert!(!fs::metadata(&pipe).expect("the pipe").is_file());
    let stdout = publish(Path::new("/dev/stdout"));
    assert_eq!(stdout.lines().count(), 1, "the records alone: {stdout}");

    // The same for files that the root's holder has replaced.
    let (key, delegation) = (folder.join("registry/root.key"), folder.join("registry/delegation"));
    let link = folder.join("delegation");
    std::os::unix::fs::symlink(&delegation, &link).expect("a link");
    let before = fs::read(&delegation).expect("a delegation");
    std::thread::sleep(Duration::from_millis(1100));
    let delegated = finished(&["bootstrap", "delegate", "--key", arg(&key), "--delegation", arg(&link)]);
    assert!(delegated.status.success(), "{:?}", texts(&delegated));
    assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
    assert_ne!(fs::read(&delegation).expect("a delegation"), before);
}

#[test]
fn sigterm_stops_every_daemon_in_time_and_a_node_takes_its_record_back() {
    let mut federation = Federation::start(1);
    federation.wait_for_a_node();
    for node in federation.nodes.drain(..) {
        let stopping = Instant::now();
        node.signal("TERM");
        let output = node.finish();
        assert!(output.status.success(), "{:?}", texts(&output));
        assert!(stopping.elapsed() < Duration::from_secs(10));
    }
    let gone = finished(&[&["--json", "discover"][..], &federation.network()].concat());
    let (stdout, stderr) = texts(&gone);
    assert_eq!(gone.status.code(), Some(1));
    assert!(stdout.contains("\"event\":\"not_found\"") && stdout.contains("registry"), "{stdout}");
    assert!(stderr.contains("error: no node was found"), "{stderr}");
    let stopping = Instant::now();
    let registry = federation.registry.take().expect("it runs");
    registry.signal("TERM");
    assert!(registry.finish().status.success());
    assert!(stopping.elapsed() < Duration::from_secs(6));
}

#[test]
fn a_killed_registry_restarts_with_its_listed_nodes() {
    let mut federation = Federation::start(1);
    federation.wait_for_a_node();
    let old = federation.registry.take().expect("it runs");
    old.signal("KILL");
    assert!(!old.finish().status.success());
    let config = federation.dir.path().join("registry/bootstrap.toml");
    let (registry, url) = start_registry(&config);
    federation.registry = Some(registry);
    federation.url = url;
    // The node does not know the new address yet: the list is the old one.
    let output = finished(&[&["--json", "discover"][..], &federation.network()].concat());
    assert!(output.status.success(), "{:?}", texts(&output));
}

#[test]
fn init_writes_once_and_never_over_anything() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for daemon in ["node", "bootstrap"] {
        let config = dir.path().join(format!("{daemon}.toml"));
        let args = [daemon, "init", "--config", arg(&config)];
        assert!(finished(&args).status.success());
        assert_eq!(fs::metadata(&config).expect("a file").permissions().mode() & 0o777, 0o600);
        let before = fs::read(&config).expect("a file");
        let again = finished(&args);
        assert_eq!(again.status.code(), Some(1));
        let (_, stderr) = texts(&again);
        assert!(stderr.contains(&format!("{daemon}.toml already exists and is not overwritten")), "{stderr}");
        assert_eq!(fs::read(&config).expect("a file"), before);
    }
    for key in ["node-data/node.key", "root.key", "online.key"] {
        let path = dir.path().join(key);
        assert_eq!(fs::metadata(&path).expect("a key").permissions().mode() & 0o777, 0o600);
    }
    // Without the config file, the keys still prevent it.
    for (daemon, key) in [("node", "node-data/node.key"), ("bootstrap", "root.key")] {
        let config = dir.path().join(format!("{daemon}.toml"));
        fs::remove_file(&config).expect("removed");
        let before = fs::read(dir.path().join(key)).expect("a key");
        let (_, stderr) = texts(&finished(&[daemon, "init", "--config", arg(&config)]));
        assert!(stderr.contains(&format!("{key} already exists and is not overwritten")), "{stderr}");
        assert_eq!(fs::read(dir.path().join(key)).expect("a key"), before);
        assert!(!config.exists());
    }
}

#[test]
fn a_ticket_names_its_node_and_is_written_to_the_config() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (registry, node) = (dir.path().join("bootstrap.toml"), dir.path().join("node.toml"));
    assert!(finished(&["bootstrap", "init", "--config", arg(&registry)]).status.success());
    assert!(finished(&["node", "init", "--config", arg(&node)]).status.success());
    let id = finished(&["node", "id", "--key", arg(&dir.path().join("node-data/node.key"))]);
    let id = texts(&id).0.trim().to_owned();
    let key = dir.path().join("root.key");
    let mut invited = Running::start(&mut chappe(&["--json", "node", "invite", &id, "--key", arg(&key)]));
    let invited = invited.event("invited");
    let ticket: TicketChain = invited["ticket"].as_str().expect("a text").parse().expect("a ticket");
    assert_eq!(ticket.node().to_string(), id);
    let root = invited["issuer"].as_str().expect("a key");
    let run = |root: &str| {
        let settings = [
            "client.listen=127.0.0.1:0".to_owned(),
            "federation.listen=127.0.0.1:0".to_owned(),
            format!("federation.ticket={ticket}"),
            format!("federation.roots=[{root:?}]"),
        ];
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        let args = ["--json", "node", "run", "--config", arg(&node)].into_iter().chain(settings);
        Running::start(&mut chappe(&args.collect::<Vec<_>>()))
    };
    let mut running = run(root);
    assert_eq!(running.event("ready")["id"], *id);
    running.signal("TERM");
    assert!(running.finish().status.success());
    let refused = run("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").finish();
    assert!(texts(&refused).1.contains("federation.ticket: the ticket is for another federation"), "{refused:?}");
    // One in 64 ids starts with a hyphen, and must not be parsed as an option.
    let id = format!("-{}", &id[1..]);
    let invited = finished(&["node", "invite", &id, "--key", arg(&key), "--root", &id]);
    assert!(texts(&invited).0.contains("federation.issuers"), "{:?}", texts(&invited));
}

/// The number of contacts that are stored in a profile.
fn contacts(profile: &Path) -> usize {
    let text = fs::read_to_string(profile.join("profile.json")).expect("the profile");
    let profile: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    profile["contacts"].as_array().expect("a list").len()
}

#[test]
fn one_process_at_a_time_uses_a_profile_and_codes_are_hidden_from_other_users() {
    let federation = Federation::start(1);
    federation.wait_for_a_node();
    let (ada, ben) = (federation.dir.path().join("ada"), federation.dir.path().join("ben"));
    let network = federation.network();

    // The code comes from standard input, so it is in no list of processes.
    let profile = ["--json", "pair", "--name", "Ada", "--profile", arg(&ada)];
    let picture = federation.dir.path().join("code.png");
    let mut showing = Running::start(&mut chappe(&[&profile[..], &network, &["--qr", arg(&picture)]].concat()));
    let code = showing.event("code")["code"].as_str().expect("a code").to_owned();
    let mode = fs::metadata(&picture).expect("the picture").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "whoever reads the picture can pair");
    let profile = ["--json", "pair", "--name", "Ben", "--profile", arg(&ben), "-"];
    let mut typing = chappe(&[&profile[..], &network].concat());
    let mut typing = Running::start(typing.stdin(std::process::Stdio::piped()));
    typing.tell(&code);
    let arguments = fs::read(format!("/proc/{}/cmdline", typing.id())).expect("Linux");
    assert!(!String::from_utf8_lossy(&arguments).contains(&code));
    showing.event("paired");
    typing.event("paired");
    assert!(showing.finish().status.success() && typing.finish().status.success());

    // While one command listens, no other command can use the profile.
    let mut listening = Running::start(&mut chappe(&["--json", "listen", "--profile", arg(&ben)]));
    listening.event("ready");
    let before = fs::read(ben.join("network.json")).expect("the network");
    let id = listening.id();
    for command in [
        &["listen", "--profile", arg(&ben)][..],
        &["call", "--profile", arg(&ben), "Ada"],
        &["pair", "--profile", arg(&ben), "--system-resolver"],
        &["pair", "--profile", arg(&ben), "--forget", "Ada"],
        &["pair", "--profile", arg(&ben), "--block", "Ada"],
        &["discover", "--profile", arg(&ben)],
        &["doctor", "--profile", arg(&ben)],
    ] {
        let refused = finished(command);
        let (printed, told) = texts(&refused);
        assert_eq!(refused.status.code(), Some(1), "{command:?}: {told}");
        assert_eq!(printed, "", "{command:?}");
        assert!(told.contains(&format!("another process uses the profile {} (process {id})", ben.display())), "{told}");
    }
    assert_eq!(fs::read(ben.join("network.json")).expect("the network"), before);
    assert_eq!(contacts(&ben), 1);
    // A killed process releases the profile too.
    listening.signal("KILL");
    assert!(!listening.finish().status.success());
    let again = finished(&["discover", "--profile", arg(&ben)]);
    assert!(again.status.success(), "{:?}", texts(&again));

    // Folders of other users and symbolic links are not used.
    fs::set_permissions(&ben, fs::Permissions::from_mode(0o755)).expect("the owner");
    let refused = texts(&finished(&["discover", "--profile", arg(&ben)])).1;
    assert!(refused.contains(&format!("chmod 700 {}", ben.display())), "{refused}");
    fs::set_permissions(&ben, fs::Permissions::from_mode(0o700)).expect("the owner");
    let target = federation.dir.path().join("target");
    fs::write(&target, "mine").expect("a file");
    fs::remove_file(ben.join("in-use.lock")).expect("the lock");
    std::os::unix::fs::symlink(&target, ben.join("in-use.lock")).expect("a link");
    let refused = texts(&finished(&["discover", "--profile", arg(&ben)])).1;
    assert!(refused.contains("it is a symbolic link, which is not followed here: remove it"), "{refused}");
    assert_eq!(fs::read_to_string(&target).expect("a file"), "mine");
    let data = federation.dir.path().join("node-0/node-data");
    drop(federation.nodes);
    fs::remove_file(data.join("lock")).expect("the node's lock");
    std::os::unix::fs::symlink(&target, data.join("lock")).expect("a link");
    let config = federation.dir.path().join("node-0/node.toml");
    let node = ["node", "run", "--config", arg(&config), "--set", "client.listen=127.0.0.1:0"];
    let refused = texts(&finished(&[&node[..], &["--set", "federation.listen=127.0.0.1:0"]].concat())).1;
    assert!(refused.contains("it is a symbolic link"), "{refused}");
    assert_eq!(fs::read_to_string(&target).expect("a file"), "mine", "the node does not empty it");
}

#[test]
fn a_contact_is_removed_without_a_network() {
    let mut federation = Federation::start(1);
    federation.wait_for_a_node();
    let (ada, ben) = (federation.dir.path().join("ada"), federation.dir.path().join("ben"));
    let network = federation.network();
    let profile = ["--json", "pair", "--name", "Ada", "--profile", arg(&ada)];
    let mut showing = Running::start(&mut chappe(&[&profile[..], &network].concat()));
    let code = showing.event("code")["code"].as_str().expect("a code").to_owned();
    let profile = ["--json", "pair", "--name", "Ben", "--profile", arg(&ben), &code];
    let mut typing = Running::start(&mut chappe(&[&profile[..], &network].concat()));
    showing.event("paired");
    typing.event("paired");
    assert!(showing.finish().status.success() && typing.finish().status.success());
    federation.nodes.clear();
    drop(federation.registry.take());

    assert_eq!((contacts(&ada), contacts(&ben)), (1, 1));
    // No network settings: the pairing that would follow fails, but the contact is removed.
    fs::remove_file(ada.join("network.json")).expect("the network");
    let unknown = finished(&["pair", "--profile", arg(&ada), "--forget", "Carl"]);
    assert!(texts(&unknown).1.contains("no contact is called `Carl`"), "{:?}", texts(&unknown));
    assert_eq!(contacts(&ada), 1);
    let alone = finished(&["pair", "--profile", arg(&ada), "--forget", "Ben"]);
    assert_eq!((alone.status.code(), texts(&alone).0.as_str()), (Some(1), "removed Ben\n"), "{:?}", texts(&alone));
    assert_eq!(contacts(&ada), 0);
    // Neither the stored registry nor a given node is reachable. Nothing listens on port 9 of loopback.
    let searching = ["pair", "--profile", arg(&ben), "--forget", "Ada", "--node", "ws://127.0.0.1:9"];
    let searching = Running::start(&mut chappe(&searching));
    assert_eq!(searching.line().as_deref(), Some("removed Ada"));
    assert_eq!(contacts(&ben), 0);
    searching.signal("KILL");
    searching.finish();
}

#[test]
fn a_blocked_contact_cannot_call_until_it_is_unblocked() {
    let federation = Federation::start(1);
    federation.wait_for_a_node();
    let (ada, ben) = (federation.dir.path().join("ada"), federation.dir.path().join("ben"));
    let network = federation.network();
    let profile = ["--json", "pair", "--name", "Ada", "--profile", arg(&ada)];
    let mut showing = Running::start(&mut chappe(&[&profile[..], &network].concat()));
    let code = showing.event("code")["code"].as_str().expect("a code").to_owned();
    let paired = finished(&[&["pair", "--name", "Ben", "--profile", arg(&ben), &code][..], &network].concat());
    assert!(paired.status.success() && showing.finish().status.success(), "{:?}", texts(&paired));

    let change = |args: &[&str]| finished(&[&["--json", "pair", "--profile", arg(&ada)][..], args].concat());
    let unknown = change(&["--block", "Carl"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(texts(&unknown).1.contains("no contact is called `Carl`"), "{:?}", texts(&unknown));
    let both = change(&["--block", "Ben", "--unblock", "Ben"]);
    assert_eq!(both.status.code(), Some(2), "{:?}", texts(&both));

    let call = || {
        let mut listening = Running::start(&mut chappe(&["--json", "listen", "--once", "--profile", arg(&ada)]));
        listening.event("ready");
        let called = finished(&["--json", "call", "--profile", arg(&ben), "Ada", "--seconds", "1"]);
        listening.signal("TERM");
        listening.finish();
        called
    };
    let blocked = change(&["--block", "Ben"]);
    assert_eq!(texts(&blocked).0, "{\"event\":\"blocked\",\"contact\":\"Ben\"}\n", "{:?}", texts(&blocked));
    assert_eq!(contacts(&ada), 1);
    let called = call();
    assert_eq!(called.status.code(), Some(1), "{:?}", texts(&called));
    assert!(texts(&called).1.contains("the contact is not connected anywhere"), "{:?}", texts(&called));
    let unblocked = change(&["--unblock", "Ben"]);
    assert_eq!(texts(&unblocked).0, "{\"event\":\"unblocked\",\"contact\":\"Ben\"}\n", "{:?}", texts(&unblocked));
    let called = call();
    assert!(called.status.success(), "{:?}", texts(&called));
}

#[test]
fn a_profile_made_by_a_link_learns_the_root_and_outlives_the_link_s_nodes() {
    let mut federation = Federation::start(1);
    federation.wait_for_a_node();
    let (ada, ben) = (federation.dir.path().join("ada"), federation.dir.path().join("ben"));
    let profile = ["--json", "pair", "--qr", "--profile", arg(&ada)];
    let mut showing = Running::start(&mut chappe(&[&profile[..], &federation.network()].concat()));
    let link = showing.event("code")["link"].as_str().expect("a link").to_owned();
    let opened = ["--json", "pair", "--profile", arg(&ben), "--private-network", &link];
    let mut opening = Running::start(&mut chappe(&opened));
    showing.event("paired");
    opening.event("paired");
    assert!(showing.finish().status.success() && opening.finish().status.success());
    let known: serde_json::Value =
        serde_json::from_slice(&fs::read(ben.join("network.json")).expect("the network")).expect("JSON");
    assert_eq!(
        (&known["roots"][0], &known["registries"][0]),
        (&federation.root.as_str().into(), &federation.url.as_str().into())
    );

    // The link's only node stops, and another one starts.
    let other = federation.start_node(1);
    federation.nodes.clear();
    let deadline = Instant::now() + process::PATIENCE;
    while !finished(&["discover", "--profile", arg(&ben)]).status.success() {
        assert!(Instant::now() < deadline, "the profile depends on the link's nodes");
        std::thread::sleep(Duration::from_millis(100));
    }
    other.signal("TERM");
    assert!(other.finish().status.success());
}

#[test]
fn a_node_reached_by_another_url_reports_its_own() {
    let federation = Federation::start(1);
    federation.wait_for_a_node();
    let found = texts(&finished(&[&["--json", "discover"][..], &federation.network()].concat())).0;
    let found: serde_json::Value = serde_json::from_str(found.trim()).expect("JSON");
    let (own, node) = (found["url"].as_str().expect("a URL"), found["node"].as_str().expect("an id"));
    let other = format!("{}#{node}", own.replace("127.0.0.1", "localhost"));
    let told = texts(&finished(&["discover", "--node", &other])).0;
    assert!(told.contains(&format!("the node does not use this URL; it uses {own}")), "{told}");
    assert!(told.contains(&format!("to do: use the node's URL {own}")) && !told.contains("another node"), "{told}");
}

#[test]
fn a_wrong_config_is_explained() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = dir.path().join("node.toml");
    let run = |text: &str, variable: Option<&str>| {
        fs::write(&config, text).expect("a writable folder");
        let mut command = chappe(&["node", "run", "--config", arg(&config)]);
        if let Some(value) = variable {
            command.env("CHAPPE_CLIENT__MAX_CONNECTIONS", value);
        }
        let output = Running::start(&mut command).finish();
        assert_eq!(output.status.code(), Some(1));
        texts(&output).1
    };
    let text = run("[client]\nlissten = 1", None);
    assert!(text.contains("node.toml: unknown key client.lissten; the keys of [client] are listen, urls"), "{text}");
    let text = run("", Some("many"));
    assert!(text.contains("CHAPPE_CLIENT__MAX_CONNECTIONS in the environment: client.max_connections: "), "{text}");
    assert!(text.contains("write a value such as 18000"), "{text}");
    for (text, told) in [
        ("[client]\nurls = ['wss://wss://host']", "client.urls: `wss://wss://host`: name the scheme once"),
        ("[client]\nurls = ['wss://bücher.example']", "write the host as it stands in DNS: xn--bcher-kva.example"),
        ("[ice]\nservers = [{ urls = ['stun://host'] }]", "ice.servers: `stun://host`: write stun:host and no //"),
        ("[ice]\nservers = [{ urls = ['turn:host'] }]", "ice.servers: add secret"),
        ("[client]\nurls = 'wss://host'", "write a value such as [\"wss://node.example.org\"]"),
    ] {
        let private = "[federation]\nlisten = '127.0.0.1:0'\n";
        let listen = if text.starts_with("[client]") { "" } else { "[client]\nlisten = '127.0.0.1:0'\n" };
        let text = run(&format!("{private}{listen}{text}"), None);
        assert!(text.contains(told), "{text}");
    }
    fs::write(&config, "").expect("a writable folder");
    for (variable, value, told) in [
        (
            "CHAPPE_CLIENT_LISTEN",
            "127.0.0.1:0",
            "unknown variable CHAPPE_CLIENT_LISTEN in the environment; did you mean CHAPPE_CLIENT__LISTEN?",
        ),
        ("CHAPPE_NODE__DATA_DIR", "", "CHAPPE_NODE__DATA_DIR in the environment: node.data_dir: the path is empty"),
        // Alone, without the key of the certificate.
        (
            "CHAPPE_CLIENT__TLS_CERT",
            "",
            "CHAPPE_CLIENT__TLS_CERT in the environment: client.tls_cert: the path is empty",
        ),
    ] {
        let mut command = chappe(&["node", "run", "--config", arg(&config), "--set", "client.listen=127.0.0.1:0"]);
        command.args(["--set", "federation.listen=127.0.0.1:0"]).env(variable, value);
        let (_, text) = texts(&Running::start(&mut command).finish());
        assert!(text.contains(told), "{text}");
    }
    let missing = dir.path().join("missing.toml");
    let (_, text) = texts(&finished(&["bootstrap", "run", "--config", arg(&missing)]));
    assert!(text.contains("cannot read the config file") && text.contains("missing.toml"), "{text}");
}

#[test]
fn missing_arguments_are_reported_before_files_are_created() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = dir.path().join("node.toml");
    let output = finished(&["node", "init", "--config", arg(&config), "--registry", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(texts(&output).1.contains("--root"), "{:?}", texts(&output));
    assert!(!config.exists());

    let profile = dir.path().join("profile");
    let output = finished(&["pair", "--profile", arg(&profile)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(texts(&output).1.contains("add --registry URL --root KEY"), "{:?}", texts(&output));
    assert!(!profile.exists(), "a profile keeps the name that it is made with");
}
