//! Texts of a hostile node or registry in the output of the real binary: only printable characters reach the terminal.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{keys::SecretKey, printable::is_printable, proof};

use crate::process::{arg, finished, texts};
use proptest::{prelude::*, test_runner::Config};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    Message, accept,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// Where a server puts its text.
#[derive(Clone, Copy, Debug)]
enum Place {
    Region,
    ServerId,
    Endpoint,
    ErrorMessage,
    CloseReason,
    UpgradeBody,
    UpgradeStatus,
    NoJson,
    HttpBody,
    HttpHeader,
    RelayError,
    RejectedInbox,
    RelayUrl,
}

const PLACES: [Place; 10] = [
    Place::Region,
    Place::ServerId,
    Place::Endpoint,
    Place::ErrorMessage,
    Place::CloseReason,
    Place::UpgradeBody,
    Place::UpgradeStatus,
    Place::NoJson,
    Place::HttpBody,
    Place::HttpHeader,
];

/// The places that only `doctor` reads, at a node that has proved its key. With each, what `doctor` says there.
const PLACES_OF_RELAY: [(Place, &str); 3] = [
    (Place::RelayError, "the node refused to name its relay"),
    (Place::RejectedInbox, "the node refused to name its relay"),
    (Place::RelayUrl, "the node offers no relay for media"),
];

fn key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32])
}

/// Serves the text at the given place in each response. Ends with the test's process.
fn serve(place: Place, text: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let text = text.clone();
            thread::spawn(move || answer(stream, place, &format!("ws://{addr}"), &text));
        }
    });
    addr.to_string()
}

fn answer(mut stream: TcpStream, place: Place, url: &str, text: &str) {
    let http = match place {
        Place::UpgradeBody | Place::HttpBody => {
            format!("HTTP/1.1 403 No\r\ncontent-length: {}\r\n\r\n{text}", text.len())
        }
        Place::UpgradeStatus => format!("HTTP/1.1 403 {text}\r\ncontent-length: 0\r\n\r\n"),
        Place::HttpHeader => {
            format!("HTTP/1.1 302 No\r\nlocation: {text}\r\nserver: {text}\r\ncontent-length: 0\r\n\r\n")
        }
        _ => String::new(),
    };
    if !http.is_empty() {
        let _ = stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(http.as_bytes()));
        return;
    }
    let Ok(mut socket) = accept(stream) else { return };
    let of = |field: Place, honest: &str| if field as u8 == place as u8 { text.to_owned() } else { honest.to_owned() };
    let info = json!({
        "type": "server_info",
        "serverId": of(Place::ServerId, &key().node_id().to_server_id()),
        "endpoint": of(Place::Endpoint, url),
        "region": of(Place::Region, "here"),
        "protocol": 1,
        "nonce": STANDARD.encode([5; 32]),
    });
    let _ = socket.send(Message::text(if matches!(place, Place::NoJson) { text.to_owned() } else { info.to_string() }));
    while let Ok(Message::Text(request)) = socket.read() {
        let request: Value = serde_json::from_str(&request).expect("JSON");
        if matches!(place, Place::CloseReason) {
            let mut end = text.len().min(120);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            let _ = socket.close(Some(CloseFrame { code: CloseCode::Policy, reason: text[..end].into() }));
            continue;
        }
        let answer = if matches!(place, Place::ErrorMessage) {
            json!({"type": "error", "code": text, "message": text, "id": request["id"]})
        } else if let Some(answer) = answer_of_relay(&request, place, text) {
            answer
        } else {
            let challenge = URL_SAFE_NO_PAD.decode(request["challenge"].as_str().unwrap_or_default());
            let Some(challenge) = challenge.ok().and_then(|bytes| bytes.try_into().ok()) else { return };
            let asked = request["url"].as_str().unwrap_or_default();
            let signature = proof::prove_node(&key(), &challenge, &[5; 32], asked);
            json!({"type": "proof", "id": request["id"], "signature": URL_SAFE_NO_PAD.encode(signature)})
        };
        let _ = socket.send(Message::text(answer.to_string()));
    }
}

/// The answer to a request of the servers for media, or to the attaching of an inbox for it.
fn answer_of_relay(request: &Value, place: Place, text: &str) -> Option<Value> {
    let mut answer = match (request["type"].as_str()?, place) {
        ("get_ice_servers", Place::RelayError) => json!({"type": "error", "code": text, "message": text}),
        ("get_ice_servers", Place::RejectedInbox) => json!({"type": "error", "code": "not_registered"}),
        ("attach", Place::RejectedInbox) => json!({"type": "attached", "rejected": [{"index": 0, "code": text}]}),
        ("get_ice_servers", Place::RelayUrl) => {
            let server = json!({"urls": [format!("turn:x{text}")], "username": "u", "credential": "c"});
            json!({"type": "ice_servers", "iceServers": [server]})
        }
        _ => return None,
    };
    answer["id"] = request["id"].clone();
    Some(answer)
}

/// Fails if the outputs contain unprintable characters, or a line that the server has forged. Returns standard output.
fn check(args: &[&str]) -> String {
    let (stdout, stderr) = texts(&finished(args));
    for output in [&stdout, &stderr] {
        for line in output.lines() {
            assert!(line.chars().all(is_printable), "{args:?} shows {line:?}");
            assert!(!line.trim_start().starts_with("FORGED"), "{args:?} shows a line of the server's: {output}");
        }
        assert!(!output.contains('\r'));
    }
    stdout
}

fn show_everywhere(text: &str) {
    let root = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let dir = tempfile::tempdir().expect("a temporary folder");
    for place in PLACES {
        let addr = serve(place, text.to_owned());
        let node = format!("ws://{addr}#{}", key().node_id());
        let registry = format!("http://{addr}");
        let profile = dir.path().join(format!("{place:?}"));
        let sources: [&[&str]; 2] = [&["--node", &node], &["--registry", &registry, "--root", root]];
        for source in sources {
            check(&[&["discover", "--verbose"][..], source].concat());
            check(&[&["--json", "discover", "--verbose"][..], source].concat());
        }
        check(&["doctor", "--node", &node]);
        if !matches!(place, Place::Region) {
            check(&["pair", "--profile", arg(&profile), "AAAAAA-AAAA", "--node", &node]);
        }
    }
    for (place, reached) in PLACES_OF_RELAY {
        let node = format!("ws://{}#{}", serve(place, text.to_owned()), key().node_id());
        for form in [&["doctor"][..], &["--json", "doctor"]] {
            let told = check(&[form, &["--node", &node]].concat());
            assert!(told.contains(reached), "{place:?} is not reached: {told}");
        }
    }
}

#[test]
fn escapes_and_forged_lines_of_a_node_or_registry_reach_no_terminal() {
    show_everywhere("\u{1b}]52;c;eA==\u{7}\u{1b}[2J\nFORGED\r\nFORGED\u{2028}\u{202e}\u{2066}\u{200b}\u{9b}31m");
}

proptest! {
    #![proptest_config(Config { cases: 3, failure_persistence: None, ..Config::default() })]

    #[test]
    fn no_text_of_a_node_or_registry_reaches_the_terminal_as_it_is(
        text in "[a-z\\x00-\\x1f\\x7f-\\u{9f}\\u{200b}-\\u{200f}\\u{2028}-\\u{202e}\\u{2066}-\\u{2069}\\u{feff}]{1,24}",
    ) {
        show_everywhere(&format!("{text}\nFORGED"));
    }
}
