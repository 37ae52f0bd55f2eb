//! Clients behind an HTTP proxy, which alone can resolve the names of the registry and the node.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::process::{self, Running, arg, chappe, texts};

/// A name that only the proxy resolves.
const RELAY: &str = "relay.example.org";
const REGISTRY: &str = "registry.example.org";
/// `me:secret` in base64.
const CREDENTIALS: &str = "Basic bWU6c2VjcmV0";

/// A proxy that connects every name to this machine, and records its requests.
#[derive(Clone)]
struct Proxy {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(wants: Option<&'static str>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let proxy = Self { port: listener.local_addr().expect("an address").port(), asked: Arc::default() };
        let serving = proxy.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let proxy = serving.clone();
                thread::spawn(move || proxy.serve(stream, wants));
            }
        });
        proxy
    }

    /// Serves one connection. Errors end it.
    fn serve(&self, mut client: TcpStream, wants: Option<&str>) -> Option<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let line = text.lines().next()?.to_owned();
        self.asked.lock().expect("a record").push(line.clone());
        if wants.is_some_and(|wants| !text.contains(wants)) {
            client.write_all(b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n").ok()?;
            return None;
        }
        let mut words = line.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let authority = target.trim_start_matches("http://").split('/').next()?;
        let port: u16 = authority.rsplit_once(':')?.1.parse().ok()?;
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        if method == "CONNECT" {
            client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").ok()?;
        } else {
            server.write_all(&head).ok()?;
        }
        let (mut from, mut to) = (client.try_clone().ok()?, server.try_clone().ok()?);
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        let _ = io::copy(&mut server, &mut client);
        let _ = client.shutdown(Shutdown::Write);
        Some(())
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("a record"))
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// A registry and a node whose names do not resolve.
struct Federation {
    dir: TempDir,
    root: String,
    registry: String,
    node: String,
    _running: Vec<Running>,
}

impl Federation {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config = dir.path().join("registry/bootstrap.toml");
        let mut init = Running::start(&mut chappe(&["--json", "bootstrap", "init", "--config", arg(&config)]));
        let root = init.event("made")["root"].as_str().expect("a key").to_owned();
        let args = ["--json", "bootstrap", "run", "--config", arg(&config), "--set", "http.listen=127.0.0.1:0"];
        let mut registry = Running::start(&mut chappe(&args));
        let url = registry.event("ready")["registry"].as_str().expect("a URL").to_owned();
        let folder = dir.path().join("node");
        fs::create_dir_all(&folder).expect("a folder");
        let config = folder.join("node.toml");
        // The URL contains the port, so choose it first.
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).expect("a port").port();
        let own = format!("ws://{RELAY}:{port}");
        let init = ["node", "init", "--config", arg(&config), "--registry", &url, "--root", &root, "--url", &own];
        assert!(process::finished(&init).status.success());
        let mut node = Running::start(
            chappe(&["--json", "node", "run", "--config", arg(&config)])
                .env("CHAPPE_CLIENT__LISTEN", format!("127.0.0.1:{port}"))
                .env("CHAPPE_FEDERATION__LISTEN", "127.0.0.1:0")
                .env("CHAPPE_FEDERATION__EXEMPT", "[\"127.0.0.0/8\"]"),
        );
        let id = node.event("ready")["id"].as_str().expect("an id").to_owned();
        let registry_url = url.replace("127.0.0.1", REGISTRY);
        Self { dir, root, registry: registry_url, node: format!("{own}#{id}"), _running: vec![registry, node] }
    }
}

/// A client with these proxy variables and no others.
fn client(args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = chappe(args);
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.envs(variables.iter().copied());
    command
}

fn run(args: &[&str], variables: &[(&str, &str)]) -> (bool, String) {
    let output = Running::start(&mut client(args, variables)).finish();
    let (stdout, stderr) = texts(&output);
    (output.status.success(), stdout + &stderr)
}

#[test]
fn a_client_goes_through_the_proxy_that_the_environment_names() {
    let federation = Federation::start();
    let proxy = Proxy::start(None);
    let url = proxy.url();
    let by_node = ["discover", "--verbose", "--node", &federation.node];
    let by_registry = ["discover", "--verbose", "--registry", &federation.registry, "--root", &federation.root];

    let (ok, text) = run(&by_node, &[]);
    assert!(!ok && text.contains("no proxy is set in the environment"), "{text}");
    for variable in ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"] {
        let (ok, text) = run(&by_node, &[(variable, &url)]);
        // As in curl: in capitals, the variable could be a header of a CGI request.
        assert!(ok || variable == "HTTP_PROXY", "{variable}: {text}");
        if ok {
            assert!(text.contains(&format!("connections use the proxy {url}")), "{text}");
            let asked = proxy.asked();
            assert!(asked.iter().any(|line| line.starts_with(&format!("CONNECT {RELAY}:"))), "{asked:?}");
        }
    }
    // The registry's list, and the node in it.
    let deadline = Instant::now() + process::PATIENCE;
    loop {
        let (ok, text) = run(&by_registry, &[("ALL_PROXY", &url)]);
        if ok {
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
        thread::sleep(Duration::from_millis(100));
    }
    let asked = proxy.asked();
    assert!(asked.iter().any(|line| line.starts_with(&format!("GET http://{REGISTRY}:"))), "{asked:?}");

    // A host in NO_PROXY is reached directly, here with a name that does not resolve.
    let (ok, text) = run(&by_node, &[("ALL_PROXY", &url), ("NO_PROXY", "example.org")]);
    assert!(!ok && proxy.asked().iter().all(|line| !line.contains(RELAY)), "{text}");

    // The other client commands.
    let through = [("ALL_PROXY", url.as_str())];
    let profile = |name: &str| federation.dir.path().join(name);
    let (ada, ben) = (profile("ada"), profile("ben"));
    let pair = ["--json", "pair", "--node", &federation.node, "--profile"];
    let mut showing = Running::start(&mut client(&[&pair[..], &[arg(&ada), "--name", "Ada"]].concat(), &through));
    let code = showing.event("code")["code"].as_str().expect("a code").to_owned();
    let mut typing = Running::start(&mut client(&[&pair[..], &[arg(&ben), "--name", "Ben", &code]].concat(), &through));
    showing.event("paired");
    typing.event("paired");
    assert!(showing.finish().status.success() && typing.finish().status.success());
    let media = ["--media-ip", "127.0.0.1", "--profile"];
    let listen = [&["--json", "listen", "--once"][..], &media, &[arg(&ben)]].concat();
    let mut listening = Running::start(&mut client(&listen, &through));
    listening.event("ready");
    let (ok, text) = run(&[&["call", "Ben", "--seconds", "1"][..], &media, &[arg(&ada)]].concat(), &through);
    assert!(ok, "{text}");
    assert!(listening.finish().status.success());
    let (ok, text) = run(&["doctor", "--profile", arg(&ada)], &through);
    assert!(ok && text.contains(&format!("use the proxy {url}")), "{text}");
}

#[test]
fn proxy_errors_are_reported_and_the_proxy_is_not_bypassed() {
    let federation = Federation::start();
    let by_node = ["discover", "--verbose", "--node", &federation.node];
    let proxy = Proxy::start(Some(CREDENTIALS));
    let (ok, text) = run(&by_node, &[("ALL_PROXY", &proxy.url())]);
    assert!(!ok && text.contains("HTTP status 407") && text.contains("user:password"), "{text}");
    let (ok, text) = run(&by_node, &[("ALL_PROXY", &proxy.url().replace("http://", "http://me:secret@"))]);
    assert!(ok && !text.contains("secret"), "{text}");
    let (ok, text) = run(&by_node, &[("ALL_PROXY", "socks5://127.0.0.1:1080")]);
    assert!(!ok && text.contains("only http://host:port works"), "{text}");
    for value in ["socks://me:secret@127.0.0.1:9050", "nonsense here"] {
        let (ok, text) = run(&by_node, &[("ALL_PROXY", value)]);
        assert!(!ok && text.contains("malformed proxy in the environment variable ALL_PROXY"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
    // The proxy's name is not resolved: port 53 would reveal it, and DNS over HTTPS is only reachable through the
    // proxy.
    let (ok, text) = run(&by_node, &[("ALL_PROXY", "http://proxy.example.org:3128")]);
    assert!(!ok && text.contains("set the proxy by its IP address"), "{text}");
}
