//! A client that sends and receives raw WebSocket frames, without the client library.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chappe_common::{
    keys::{NodeId, SecretKey},
    lease::{AccessToken, Address, Inbox, Lease, SignedLease, prove_attach},
    signed::Signed,
    time::UnixTime,
};
use futures_util::{SinkExt as _, StreamExt as _};
use rand::RngExt as _;
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config, tungstenite::Message,
};

use crate::PATIENCE;

/// A raw connection to a node.
#[derive(Debug)]
pub struct Raw {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The node's first message.
    pub server_info: Value,
}

impl Raw {
    /// Connects and reads `server_info`.
    ///
    /// # Panics
    /// The node doesn't send it.
    pub async fn connect(url: &str) -> Self {
        Self::open(url, None).await
    }

    /// Connects over TLS with this configuration, and reads `server_info`.
    ///
    /// # Panics
    /// The node doesn't send it.
    pub async fn connect_tls(url: &str, trusted: Arc<ClientConfig>) -> Self {
        Self::open(url, Some(Connector::Rustls(trusted))).await
    }

    async fn open(url: &str, connector: Option<Connector>) -> Self {
        let connected = connect_async_tls_with_config(url, None, true, connector);
        let (socket, _) = timeout(PATIENCE, connected).await.expect("a connection in time").expect("a WebSocket");
        let mut raw = Self { socket, server_info: Value::Null };
        raw.server_info = raw.next().await;
        assert_eq!(raw.server_info["type"], "server_info");
        raw
    }

    /// Connects and registers a code, with the key of [`key_of`].
    pub async fn register(url: &str, code: &str) -> Self {
        let mut raw = Self::connect(url).await;
        raw.send(json!({"type": "register", "pairingCode": code, "publicKey": key_of(code)})).await;
        raw.expect("registered").await;
        raw
    }

    /// Sends a message.
    ///
    /// # Panics
    /// The connection is closed.
    pub async fn send(&mut self, message: Value) {
        self.send_text(message.to_string()).await;
    }

    /// Sends a text frame unchanged.
    ///
    /// # Panics
    /// The connection is closed.
    pub async fn send_text(&mut self, text: impl Into<String>) {
        self.send_frame(Message::text(text.into())).await;
    }

    /// Sends any frame.
    ///
    /// # Panics
    /// The connection is closed.
    pub async fn send_frame(&mut self, frame: Message) {
        timeout(PATIENCE, self.socket.send(frame)).await.expect("sent in time").expect("an open connection");
    }

    /// The next frame; `None` once the connection is closed.
    ///
    /// # Panics
    /// None comes in time.
    pub async fn next_frame(&mut self) -> Option<Message> {
        timeout(PATIENCE, self.socket.next()).await.expect("a frame in time")?.ok()
    }

    /// The next message. Skips WebSocket pings and pongs.
    ///
    /// # Panics
    /// None comes in time, or the connection ends.
    pub async fn next(&mut self) -> Value {
        serde_json::from_str(&self.next_text().await).expect("JSON")
    }

    /// The text of the next message. Skips WebSocket pings and pongs.
    ///
    /// # Panics
    /// None comes in time, or the connection ends.
    pub async fn next_text(&mut self) -> String {
        loop {
            match self.next_frame().await.expect("a message, not the end") {
                Message::Text(text) => return text.as_str().to_owned(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("a message was expected, not {other:?}"),
            }
        }
    }

    /// Expects the next message to have this type, and returns it.
    ///
    /// # Panics
    /// It is another, or none comes.
    pub async fn expect(&mut self, kind: &str) -> Value {
        let message = self.next().await;
        assert_eq!(message["type"], kind, "{message}");
        message
    }

    /// Expects the next message to be this one.
    ///
    /// # Panics
    /// It is another, or none comes.
    pub async fn expect_exactly(&mut self, expected: Value) {
        assert_eq!(self.next().await, expected);
    }

    /// Expects the next message to be this error.
    ///
    /// # Panics
    /// It is another, or none comes.
    pub async fn expect_error(&mut self, code: &str, message: &str) {
        self.expect_exactly(json!({"type": "error", "code": code, "message": message})).await;
    }

    /// Expects that no message is pending: sends a ping, and the next message has to be its pong.
    ///
    /// # Panics
    /// Another message comes first.
    pub async fn expect_silence(&mut self) {
        self.send(json!({"type": "ping"})).await;
        self.expect_exactly(json!({"type": "pong"})).await;
    }

    /// Expects no frame for this long.
    ///
    /// # Panics
    /// A frame comes.
    pub async fn expect_nothing_for(&mut self, time: Duration) {
        if let Ok(frame) = timeout(time, self.socket.next()).await {
            panic!("nothing was expected, not {frame:?}");
        }
    }

    /// Skips other frames until the close frame, and returns its code.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            match self.next_frame().await? {
                Message::Close(frame) => return frame.map(|frame| frame.code.into()),
                _ => continue,
            }
        }
    }

    /// The node's id, from `server_info`.
    ///
    /// # Panics
    /// `server_info` has no valid id.
    pub fn node(&self) -> NodeId {
        NodeId::from_server_id(self.server_info["serverId"].as_str().expect("an id")).expect("an id")
    }

    /// The session's nonce, from `server_info`.
    ///
    /// # Panics
    /// It isn't 32 bytes in standard base64.
    pub fn nonce(&self) -> [u8; 32] {
        let text = self.server_info["nonce"].as_str().expect("a nonce");
        STANDARD.decode(text).expect("base64").try_into().expect("32 bytes")
    }

    /// An element of `attach` for an inbox at this session's node.
    pub fn attachment(&self, key: &SecretKey, seq: u64, lasts: Duration) -> Value {
        let lease = lease(key, self.node(), seq, lasts);
        attachment(key, &self.nonce(), &lease)
    }

    /// Attaches an inbox, and waits until it is attached.
    pub async fn attach(&mut self, key: &SecretKey, seq: u64) {
        let item = self.attachment(key, seq, Duration::from_secs(600));
        self.send(json!({"type": "attach", "id": "attach", "inboxes": [item]})).await;
        let answer = self.expect("attached").await;
        assert_eq!(answer["rejected"], json!([]));
    }
}

/// Signs the lease of an inbox at a node.
///
/// # Panics
/// Never: the key is the inbox's own.
pub fn lease(key: &SecretKey, node: NodeId, seq: u64, lasts: Duration) -> SignedLease {
    let expires_at = UnixTime::from(SystemTime::now()) + lasts;
    let Address { inbox, token } = address_of(key);
    let lease = Lease { inbox, node, session_key: [7; 32], access: token.hash(), seq, expires_at };
    Signed::sign(lease, key).expect("a lease by its own key")
}

/// An element of `attach`: a lease, and its proof for the session with this nonce.
pub fn attachment(key: &SecretKey, nonce: &[u8; 32], lease: &SignedLease) -> Value {
    json!({
        "lease": URL_SAFE_NO_PAD.encode(lease.as_bytes()),
        "proof": URL_SAFE_NO_PAD.encode(prove_attach(key, nonce, lease)),
    })
}

/// The public key that [`Raw::register`] registers with a code: 32 times the code's first byte, in base64.
pub fn key_of(code: &str) -> String {
    STANDARD.encode([code.as_bytes()[0]; 32])
}

/// An inbox key derived from a number, and the text of the inbox's address.
pub fn inbox(number: u8) -> (SecretKey, String) {
    let key = SecretKey::from_bytes(&[number; 32]);
    let text = address_of(&key).to_base64url();
    (key, text)
}

/// The address of the inbox of a key, with the token that [`lease`] uses.
pub fn address_of(key: &SecretKey) -> Address {
    Address { inbox: Inbox::new(key.public()), token: AccessToken::from_bytes([9; 16]) }
}

/// A random address, which nobody has.
pub fn random_address() -> Address {
    let inbox = Inbox::new(SecretKey::from_bytes(&rand::rng().random()).public());
    Address { inbox, token: AccessToken::from_bytes(rand::rng().random()) }
}

/// Milliseconds since 1970, the sequence number of a new lease.
///
/// # Panics
/// The clock is before 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(since.as_millis()).expect("milliseconds that fit")
}
