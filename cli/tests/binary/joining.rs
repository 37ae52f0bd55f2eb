//! A new node joins by a link: real processes of the registry, the nodes, and `node init`.

use std::{
    fs,
    io::Write as _,
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::process::{
    Running, arg, chappe,
    federation::{Listening, init_registry, run_node, start_registry},
    finished, get, texts,
};

/// A user that is not root, and owns no files.
const NOBODY: u32 = 65_534;

/// A registry, and how to invite to its federation.
struct Operator {
    dir: TempDir,
    registry: Running,
    url: String,
}

impl Operator {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = dir.path().join("bootstrap.toml");
        init_registry(&config);
        let (registry, url) = start_registry(&config);
        Self { dir, registry, url }
    }

    /// A join link, as the operator sends it.
    fn link(&self, more: &[&str]) -> String {
        let config = self.dir.path().join("bootstrap.toml");
        let args = ["--json", "bootstrap", "join-link", "--config", arg(&config), "--registry", &self.url];
        let mut making = Running::start(&mut chappe(&[&args[..], more].concat()));
        making.event("join_link")["link"].as_str().expect("a link").to_owned()
    }

    /// A link that invites one node.
    fn invitation(&self) -> String {
        self.link(&["--invite", arg(&self.dir.path().join("root.key"))])
    }
}

/// The command that creates a node by a link, without questions.
fn init(config: &Path, link: &str) -> Command {
    let args = ["--json", "node", "init", "--join", link, "--config", arg(config)];
    chappe(&[&args[..], &["--address", "127.0.0.1", "--tls", "none", "--yes"]].concat())
}

/// Starts a node that was created by a link, at free ports.
fn start(config: &Path) -> Listening {
    let mut command = run_node(config);
    command.env("CHAPPE_CLIENT__URLS", "[]").env("CHAPPE_FEDERATION__ADVERTISE", "[]");
    Listening::start(&mut command)
}

#[test]
fn nodes_join_a_federation_by_invitation_with_a_link_and_no_other_step() {
    let operator = Operator::start();
    let nodes: Vec<Listening> = (0..2)
        .map(|number| {
            let config = operator.dir.path().join(format!("node-{number}/node.toml"));
            let mut making = Running::start(&mut init(&config, &operator.invitation()));
            making.event("made");
            assert!(making.finish().status.success());
            start(&config)
        })
        .collect();
    for node in &nodes {
        node.wait_for("chappe_members", |members| members == 2);
    }
    // A node of the same federation without an invitation stays alone.
    let config = operator.dir.path().join("uninvited/node.toml");
    let made = Running::start(&mut init(&config, &operator.link(&[]))).finish();
    assert!(made.status.success(), "{:?}", texts(&made));
    let uninvited = start(&config);
    nodes[0].wait_for("chappe_handshakes_refused_total", |refused| refused > 0);
    for node in &nodes {
        assert_eq!(node.metric("chappe_members"), 2);
    }
    assert_eq!(uninvited.metric("chappe_members"), 1);
    drop(operator.registry);
}

#[test]
fn nothing_is_overwritten_and_nothing_is_written_halfway() {
    let operator = Operator::start();
    let (config, link) = (operator.dir.path().join("node/node.toml"), operator.link(&[]));
    fs::create_dir_all(config.parent().expect("a folder")).expect("a folder");
    fs::write(config.with_file_name("node.toml"), "mine").expect("a file");
    let refused = Running::start(&mut init(&config, &link)).finish();
    assert!(texts(&refused).1.contains("already exists and is not overwritten"), "{:?}", texts(&refused));
    assert_eq!(fs::read_to_string(&config).expect("a file"), "mine");
    assert!(!config.with_file_name("node-data").exists());
    let other = operator.dir.path().join("other/node.toml");
    let damaged = Running::start(&mut init(&other, &link[..link.len() - 8])).finish();
    assert!(texts(&damaged).1.contains("--join: "), "{:?}", texts(&damaged));
    // What the node would refuse, or no authority would certify, is not written.
    let long = format!("{0}.{0}.{0}.example.org", "a".repeat(50));
    for (address, tls, reason) in [(&*long, "none", "client.urls"), ("127.0.0.1", "acme", "not public")] {
        let args = ["node", "init", "--join", &link, "--config", arg(&other), "--address", address, "--tls", tls];
        let refused = finished(&[&args[..], &["--agree-to-terms", "--yes"]].concat());
        assert!(texts(&refused).1.contains(reason), "{:?}", texts(&refused));
    }
    let unanswered = finished(&["node", "init", "--join", &link, "--config", arg(&other), "--address", "127.0.0.1"]);
    assert!(texts(&unanswered).1.contains("--tls"), "{:?}", texts(&unanswered));
    assert!(!other.parent().expect("a folder").exists());
}

#[test]
fn a_person_at_a_terminal_is_asked() {
    let operator = Operator::start();
    let (config, link) = (operator.dir.path().join("node/node.toml"), operator.link(&["--dns", "chappe.example.org"]));
    let exe = env!("CARGO_BIN_EXE_chappe");
    let command = format!("{exe} node init --join '{link}' --config {}", arg(&config));
    let script = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut script) = script else {
        eprintln!("skipped: script (Debian: bsdutils) is not installed");
        return;
    };
    // A host that cannot be one, then a valid one; TLS by ACME, the default, and its terms; and media.
    let typed = b"a b\nNode.Example.org\n\ny\ny\n";
    script.stdin.take().expect("a pipe").write_all(typed).expect("an open terminal");
    let output = script.wait_with_output().expect("the end");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    let last = shown.trim_end().lines().last().expect("lines").to_owned();
    assert!(last.starts_with("next: ") && shown.matches("next:").count() == 1, "{shown}");
    assert!(shown.contains("open in the firewall: TCP 443, UDP 8711, UDP 3478"), "{shown}");
    let text = fs::read_to_string(&config).expect("a config");
    for line in [
        "urls = [\"wss://node.example.org\"]",
        "advertise = [\"node.example.org:8711\"]",
        "enabled = true",
        "terms_agreed = true",
        "dns = [\"chappe.example.org\"]",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing");
    }
    // With a route by IPv6, the name is served by both families.
    for lines in [
        ["listen = \"0.0.0.0:443\"", "listen = \"[::]:443\""],
        ["listen = [\"0.0.0.0:3478\"]", "listen = [\"0.0.0.0:3478\",\"[::]:3478\"]"],
    ] {
        assert!(text.lines().any(|found| lines.contains(&found)), "{lines:?} are missing: {text}");
    }
}

#[test]
fn root_creates_a_node_as_the_owner_of_its_folder_with_a_unit_for_that_user() {
    let operator = Operator::start();
    let runs_as_nobody = Command::new(env!("CARGO_BIN_EXE_chappe")).arg("--version").uid(NOBODY).output();
    if !runs_as_nobody.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this needs root, and a binary that every user may run");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("root may do this");
    // The folder does not exist yet, but one above it.
    let folder = dir.path().join("a/b");
    let config = folder.join("node.toml");
    let mut making = Running::start(&mut init(&config, &operator.invitation()));
    let made = making.event("made");
    let unit = folder.join("chappe-node.service");
    assert_eq!(made["unit"], arg(&unit));
    for file in ["node.toml", "node-data", "node-data/node.key", "chappe-node.service"] {
        let found = fs::symlink_metadata(folder.join(file)).expect("a file");
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o077), (NOBODY, NOBODY, 0), "{file}");
    }
    let text = fs::read_to_string(&unit).expect("a unit");
    assert!(text.contains(&format!("User={NOBODY}\nGroup={NOBODY}\n")), "{text}");
    assert!(text.contains(&format!("node run --config \"{}\"", arg(&config))), "{text}");
}

#[test]
fn a_secret_link_is_read_from_standard_input_and_leads_to_no_page() {
    let operator = Operator::start();
    let (secret, public) = (operator.invitation(), operator.link(&["--registry", "https://registry.example.org"]));
    assert!(secret.starts_with("CHAPPE-JOIN:") && public.starts_with("https://registry.example.org/join#"));
    let config = operator.dir.path().join("node/node.toml");
    let mut command = init(&config, "-");
    let mut child = command.stdin(Stdio::piped()).spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(format!("{secret}\n").as_bytes()).expect("it reads");
    assert!(child.wait_with_output().expect("the end").status.success());
    assert!(fs::read_to_string(&config).expect("a config").contains("admission = \"invite\""));
}

#[test]
fn a_registry_explains_its_join_links() {
    let operator = Operator::start();
    let (status, page) = get(operator.url.trim_start_matches("http://"), "/join");
    assert_eq!(status, 200);
    assert!(page.contains("chappe node init --join"), "{page}");
}
