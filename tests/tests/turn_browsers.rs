//! Calls of Chromium and Firefox that may use nothing but a node's relay. Browsers that are not installed are skipped.

use std::{path::Path, process::Stdio, time::Duration};

use chappe_node::NodeConfig;
use chappe_testkit::{
    federation::{Federation, no_limits},
    raw::{Raw, inbox, now_ms},
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

/// The node's own server with one of its URLs.
async fn server(federation: &Federation, transport: &str) -> Value {
    let mut raw = Raw::connect(federation.nodes[0].client_url()).await;
    raw.attach(&inbox(1).0, now_ms()).await;
    raw.send(json!({"type": "get_ice_servers", "id": "i"})).await;
    let mut server = raw.expect("ice_servers").await["iceServers"][0].clone();
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
        command.arg("--autoplay-policy=no-user-gesture-required");
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

/// Calls from one connection of a page to another, over one transport to the relay.
async fn call(browser: &str, transport: &str) {
    let federation = Federation::start(1, with_turn).await;
    let servers = json!([server(&federation, transport).await]);
    let profile = TempDir::new().expect("a folder");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let Some(mut process) = start(browser, profile.path(), &url) else { return };
    let result = timeout(BROWSER_PATIENCE, serve_page(listener, &servers)).await.expect("the page reports in time");
    assert_eq!(result["error"], Value::Null, "{browser}, {transport}");
    assert_eq!(result["inOrder"], true, "{browser}, {transport}: {result}");
    assert!(result["heard"].as_u64().is_some_and(|heard| heard >= 50), "{result}");
    assert_eq!(result["candidates"], json!(["relay"]), "{browser}, {transport}");
    process.kill().await.expect("it runs");
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
