//! Calls of Chromium and Firefox that may use nothing but a node's relay. Browsers that are not installed are skipped.

use std::{path::Path, process::Stdio, time::Duration};

use chappe_node::NodeConfig;
use chappe_testkit::{
    federation::{Federation, no_limits},
    raw::{Raw, inbox, now_ms},
    rerun::rerun,
    tls::Files,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time::timeout,
};

const PAGE: &str = include_str!("turn_browsers/page.html");

/// How long a browser may take to start and to call, on a machine that does other things too.
const BROWSER_PATIENCE: Duration = Duration::from_secs(90);

fn with_turn(config: &mut NodeConfig) {
    no_limits(config);
    config.turn.listen = vec![([127, 0, 0, 1], 0).into()];
    config.turn.allowed_peers = vec!["127.0.0.0/8".parse().expect("a network")];
}

/// Gets the node's own server.
async fn ice_server(raw: &mut Raw) -> Value {
    raw.attach(&inbox(1).0, now_ms()).await;
    raw.send(json!({"type": "get_ice_servers", "id": "i"})).await;
    raw.expect("ice_servers").await["iceServers"][0].clone()
}

/// The node's own server with one of its URLs.
async fn server(federation: &Federation, transport: &str) -> Value {
    let mut server = ice_server(&mut Raw::connect(federation.nodes[0].client_url()).await).await;
    let urls = server["urls"].as_array_mut().expect("a list");
    urls.retain(|url| url.as_str().is_some_and(|url| url.ends_with(transport)));
    assert_eq!(urls.len(), 1, "one URL over {transport}");
    server
}

/// Serves the page until it reports its result.
async fn serve_page(listener: TcpListener, servers: &Value) -> Value {
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let Some((head, body)) = read_request(&mut stream).await else { continue };
        let (kind, answer) = match head.split(' ').nth(1) {
            Some("/") => ("text/html", PAGE.to_owned()),
            Some("/servers") => ("application/json", servers.to_string()),
            Some("/result") => {
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
                return serde_json::from_slice(&body).expect("JSON");
            }
            _ => ("text/plain", String::new()),
        };
        let len = answer.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{answer}"
        );
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

/// Reads a request. Returns its head and body, or `None` if the browser has closed the connection.
async fn read_request(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut request = Vec::new();
    loop {
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
        let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&request[..end]).into_owned();
        let len = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        if request.len() >= end + 4 + len.unwrap_or(0) {
            return Some((head, request.split_off(end + 4)));
        }
    }
}

/// Starts a browser without a window, or says that it is not installed.
fn start(browser: &str, profile: &Path, url: &str) -> Option<Child> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| dir.join(browser).is_file()) {
        println!("skipped: {browser} is not installed");
        return None;
    }
    let mut command = Command::new(browser);
    if browser == "chromium" {
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]);
        command.args(["--disable-background-networking", "--disable-component-update"]);
        // The relay's certificate is of an authority of this test.
        command.args(["--autoplay-policy=no-user-gesture-required", "--ignore-certificate-errors"]);
        command.arg(format!("--user-data-dir={}", profile.display()));
    } else {
        let prefs = r#"
            user_pref("media.autoplay.default", 0);
            user_pref("media.autoplay.blocking_policy", 0);
            user_pref("media.peerconnection.ice.loopback", true);
            user_pref("datareporting.policy.dataSubmissionEnabled", false);
            user_pref("browser.shell.checkDefaultBrowser", false);
        "#;
        std::fs::write(profile.join("user.js"), prefs).expect("a writable folder");
        command.args(["--headless", "--no-remote", "--profile"]).arg(profile);
    }
    let command = command.arg(url).env("HOME", profile).stdout(Stdio::null()).stderr(Stdio::null());
    Some(command.kill_on_drop(true).spawn().expect("it runs"))
}

/// Makes Firefox trust the authority of the test's certificate, by NSS's `certutil` (Debian's package libnss3-tools). Returns
/// whether it is installed.
fn trust_in_firefox(profile: &Path, authority: &Path) -> bool {
    let database = format!("sql:{}", profile.display());
    let make = ["-N", "-d", &database, "--empty-password"];
    let add = ["-A", "-d", &database, "-n", "test", "-t", "C,,", "-i"];
    let run = |command: &mut std::process::Command| command.status().is_ok_and(|status| status.success());
    let is_trusted = run(std::process::Command::new("certutil").args(make))
        && run(std::process::Command::new("certutil").args(add).arg(authority));
    if !is_trusted {
        println!("skipped: needs certutil (Debian's package libnss3-tools)");
    }
    is_trusted
}

/// Calls from one connection of a page to another. Returns the page's result, or `None` if the browser is not installed.
async fn call_with(browser: &str, servers: &Value) -> Option<Value> {
    call_from(&TempDir::new().expect("a folder"), browser, servers).await
}

/// The same, with a profile.
async fn call_from(profile: &TempDir, browser: &str, servers: &Value) -> Option<Value> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let mut process = start(browser, profile.path(), &url)?;
    let result = timeout(BROWSER_PATIENCE, serve_page(listener, servers)).await.expect("the page reports in time");
    process.kill().await.expect("it runs");
    assert_eq!(result["error"], Value::Null, "{browser}, {servers}");
    assert_eq!(result["inOrder"], true, "{browser}, {servers}: {result}");
    assert!(result["heard"].as_u64().is_some_and(|heard| heard >= 50), "{result}");
    assert_eq!(result["candidates"], json!(["relay"]), "{browser}, {servers}");
    Some(result)
}

/// Calls over one transport to the relay.
async fn call(browser: &str, transport: &str) {
    let federation = Federation::start(1, with_turn).await;
    let servers = json!([server(&federation, transport).await]);
    call_with(browser, &servers).await;
    federation.shutdown().await;
}

/// Set in the network namespace of a test.
const INSIDE: &str = "CHAPPE_TEST_NAMESPACE";

/// Runs the test of this name again in a network namespace whose firewall drops UDP. Returns whether this is that run.
fn is_without_udp(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    // Browsers gather no candidates on loopback alone.
    let script = "ip link set lo up && ip link add out type veth peer name far && ip link set far up && \
                  ip link set out up && ip addr add 192.0.2.2/24 dev out && ip route add default via 192.0.2.1 && \
                  nft add table inet f && nft 'add chain inet f in { type filter hook input priority 0; }' && \
                  nft add rule inet f in meta l4proto udp counter drop && exec \"$@\"";
    let unshare = || {
        let mut command = std::process::Command::new("unshare");
        command.args(["--map-root-user", "--net", "sh", "-c", script, "sh"]);
        command
    };
    if !unshare().arg("true").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: needs unshare (util-linux), ip (iproute2), nft (nftables), and network namespaces");
        return false;
    }
    rerun(unshare().env(INSIDE, "1"), name);
    false
}

/// Calls where UDP is blocked, while a WebSocket lives on the port of the relay's TCP or TLS.
async fn call_without_udp(with_tls: bool) {
    let [one, other] = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket"));
    one.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
    other.send_to(b"x", one.local_addr().expect("an address")).expect("it is sent");
    assert!(one.recv(&mut [0; 1]).is_err(), "UDP is blocked");
    let dir = TempDir::new().expect("a folder");
    let files = Files::make(dir.path());
    let federation = Federation::start(1, |config| {
        with_turn(config);
        if with_tls {
            config.client.tls_cert = Some(files.certificate());
            config.client.tls_key = Some(files.key());
        }
    })
    .await;
    let url = federation.nodes[0].client_url();
    let mut raw = if with_tls { Raw::connect_tls(url, files.client().into()).await } else { Raw::connect(url).await };
    let server = ice_server(&mut raw).await;
    let has_url = |begin: &str| {
        server["urls"]
            .as_array()
            .is_some_and(|urls| urls.iter().any(|url| url.as_str().is_some_and(|url| url.starts_with(begin))))
    };
    assert!(has_url("turn:") && has_url("turns:") == with_tls, "{server}");
    let servers = json!([server]);
    let calling = call_with("chromium", &servers);
    tokio::pin!(calling);
    // The WebSocket answers all the while.
    loop {
        tokio::select! {
            _ = &mut calling => break,
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                raw.send(json!({"type": "ping"})).await;
                raw.expect("pong").await;
            }
        }
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_calls_through_the_relay_over_udp() {
    call("chromium", "transport=udp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_calls_through_the_relay_over_tcp() {
    call("chromium", "transport=tcp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firefox_calls_through_the_relay_over_udp() {
    call("firefox-esr", "transport=udp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firefox_calls_through_the_relay_over_tcp() {
    call("firefox-esr", "transport=tcp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_calls_over_the_websockets_port_where_udp_is_blocked() {
    if is_without_udp("turn_browsers::chromium_calls_over_the_websockets_port_where_udp_is_blocked") {
        call_without_udp(false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_calls_over_the_tls_port_of_the_websocket_where_udp_is_blocked() {
    if is_without_udp("turn_browsers::chromium_calls_over_the_tls_port_of_the_websocket_where_udp_is_blocked") {
        call_without_udp(true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn firefox_calls_through_the_relay_over_tls() {
    let (dir, profile) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let files = Files::make(dir.path());
    if !trust_in_firefox(profile.path(), &files.authority()) {
        return;
    }
    let federation = Federation::start(1, |config| {
        with_turn(config);
        config.client.tls_cert = Some(files.certificate());
        config.client.tls_key = Some(files.key());
    })
    .await;
    let mut raw = Raw::connect_tls(federation.nodes[0].client_url(), files.client().into()).await;
    let mut server = ice_server(&mut raw).await;
    let urls = server["urls"].as_array_mut().expect("a list");
    urls.retain(|url| url.as_str().is_some_and(|url| url.starts_with("turns:")));
    assert_eq!(urls.len(), 1);
    // Firefox verifies the certificate of a name.
    urls[0] = urls[0].as_str().map(|url| url.replace("127.0.0.1", "localhost")).into();
    call_from(&profile, "firefox-esr", &json!([server])).await;
    federation.shutdown().await;
}
