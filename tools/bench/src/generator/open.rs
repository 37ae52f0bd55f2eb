//! The clients of a generator: opened in pairs, brought as far as wanted, and handed over to the load.

use std::{io, net::Ipv4Addr, pin::pin, rc::Rc, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chappe_common::{
    code::PairingCode,
    keys::{NodeId, SecretKey},
};
use chappe_harness::cpu::{Meter, Use};
use chappe_testkit::{
    PATIENCE,
    raw::{address_of, attachment, lease, now_ms},
    tls::Files,
};
use futures_util::{StreamExt as _, stream};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Answer, Command, Plan, Server, Speaks,
    connection::{Connection, Incoming},
    session::{Envelope, Session, Shared, listen},
};

/// How many pairs are being opened at once.
const AT_ONCE: usize = 16;
/// How often a pair is tried, and the pause between: until a node has links to the homes of a large federation.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// The addresses that clients come from: one has ports for 28,000 connections, closed ones included for a minute.
const SOURCES: u32 = 16;
/// Longer than any run; the node allows an hour.
const LEASE: Duration = Duration::from_secs(3500);

/// How far a session is brought. Floors know of one depth alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Registered by a code.
    Code,
    /// One inbox attached.
    Inbox,
    /// Both.
    Both,
    /// Both, and paired by code with its partner.
    Paired,
}

/// What opening cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Opened {
    /// From the first connection until all were as far as wanted.
    pub usage: Use,
    /// How many.
    pub sessions: u32,
    /// How many pairs were not opened at once, as a node sends clients elsewhere that it can't serve yet.
    pub retried: u32,
}

/// Where and how clients connect.
#[derive(Clone)]
pub(super) struct Opener {
    servers: Vec<Server>,
    tls: Option<Arc<ClientConfig>>,
}

/// The clients.
pub(super) struct Clients {
    pids: Vec<u32>,
    pub(super) opener: Opener,
    pub(super) shared: Rc<Shared>,
    pub(super) sessions: Vec<Rc<Session>>,
    pub(super) hearing: JoinSet<u32>,
}

impl Clients {
    pub(super) fn new(plan: &Plan) -> Self {
        let tls = plan.tls.as_ref().map(|dir| Arc::new(Files::in_folder(dir).client()));
        Self {
            pids: plan.pids.clone(),
            opener: Opener { servers: plan.servers.clone(), tls },
            shared: Rc::new(Shared::new()),
            sessions: Vec::new(),
            hearing: JoinSet::new(),
        }
    }

    /// Does what it is told.
    pub(super) async fn handle(&mut self, command: Command) -> Answer {
        match command {
            Command::Connect { sessions, depth } => Answer::Opened(self.connect(sessions, depth).await),
            Command::Load(load) => Answer::Loaded(self.load(load).await),
            Command::Rest { seconds } => {
                let meter = self.meter();
                sleep(Duration::from_secs_f64(seconds)).await;
                Answer::Rested(meter.stop())
            }
            Command::Relocate { servers } => Answer::Relocated(self.relocate(servers).await),
            Command::Disconnect => {
                self.sessions.clear();
                self.hearing.shutdown().await;
                Answer::Disconnected
            }
        }
    }

    pub(super) fn meter(&self) -> Meter {
        Meter::start(&self.pids)
    }

    async fn connect(&mut self, count: u32, depth: Depth) -> Opened {
        assert!(self.sessions.is_empty() && count.is_multiple_of(2), "pairs, and once");
        let meter = self.meter();
        let mut retried = 0;
        let opening = stream::iter((0..count).step_by(2)).map(|first| self.opener.open_pair(first, depth));
        let mut opening = pin!(opening.buffered(AT_ONCE));
        let mut opened = Vec::new();
        while let Some((pair, tries)) = opening.next().await {
            retried += u32::from(tries > 1);
            opened.push(pair.expect("every pair of clients is opened"));
        }
        let usage = meter.stop();
        for (session, incoming) in opened.into_iter().flatten() {
            self.hearing.spawn_local(listen(session.clone(), incoming, self.shared.clone()));
            self.sessions.push(session);
        }
        Opened { usage, sessions: count, retried }
    }
}

impl Opener {
    /// The same clients at other servers.
    pub(super) fn to(&self, servers: Vec<Server>) -> Self {
        Self { servers, tls: self.tls.clone() }
    }

    /// Opens a pair, in a few tries; gives how many.
    async fn open_pair(&self, first: u32, depth: Depth) -> (io::Result<[(Rc<Session>, Incoming); 2]>, u32) {
        for tries in 1.. {
            let opened = timeout(PATIENCE, self.try_pair(first, depth)).await.map_err(io::Error::from).flatten();
            if opened.is_ok() || tries == TRIES {
                return (opened, tries);
            }
            sleep(PAUSE).await;
        }
        unreachable!("the last try returns")
    }

    async fn try_pair(&self, first: u32, depth: Depth) -> io::Result<[(Rc<Session>, Incoming); 2]> {
        let (mut one, mut other) = tokio::try_join!(self.open(first, depth), self.open(first + 1, depth))?;
        if depth == Depth::Paired && self.server(first).speaks == Speaks::Chappe {
            pair(&mut one, &mut other, first).await?;
        }
        Ok([self.session(first, one), self.session(first + 1, other)])
    }

    fn server(&self, number: u32) -> Server {
        self.servers[number as usize % self.servers.len()]
    }

    /// A client under load, made of a connection.
    pub(super) fn session(&self, number: u32, connection: Connection) -> (Rc<Session>, Incoming) {
        let speaks = self.server(number).speaks;
        Session::new(number, connection, sent(speaks, number ^ 1), heard(speaks, number))
    }

    /// Opens the connection of one client.
    pub(super) async fn open(&self, number: u32, depth: Depth) -> io::Result<Connection> {
        let server = self.server(number);
        let from = Ipv4Addr::new(127, 0, 0, u8::try_from(2 + number % SOURCES).expect("a small number"));
        let mut connection = Connection::open(server, from, self.tls.as_ref()).await?;
        if server.speaks != Speaks::Chappe {
            let id = u64::from(number).to_le_bytes();
            connection.say(&id)?;
            let greeting = connection.next().await?;
            return if greeting == id { Ok(connection) } else { Err(unexpected("a greeting", &greeting)) };
        }
        let info = expect(&mut connection, "server_info").await?;
        if depth != Depth::Inbox {
            let key = "A".repeat(43) + "=";
            say(&mut connection, &json!({"type": "register", "pairingCode": code(number).as_str(), "publicKey": key}))?;
            expect(&mut connection, "registered").await?;
        }
        if depth != Depth::Code {
            let node =
                NodeId::from_server_id(info["serverId"].as_str().unwrap_or_default()).map_err(io::Error::other)?;
            let nonce = STANDARD.decode(info["nonce"].as_str().unwrap_or_default()).map_err(io::Error::other)?;
            let nonce: [u8; 32] = nonce.try_into().map_err(|nonce: Vec<u8>| unexpected("a nonce", &nonce))?;
            let key = inbox_key(number);
            let item = attachment(&key, &nonce, &lease(&key, node, now_ms(), LEASE));
            say(&mut connection, &json!({"type": "attach", "id": "a", "inboxes": [item]}))?;
            let answer = expect(&mut connection, "attached").await?;
            if answer["rejected"] != json!([]) {
                return Err(unexpected("an attached inbox", answer.to_string().as_bytes()));
            }
        }
        Ok(connection)
    }
}

/// Pairs two clients by code.
async fn pair(one: &mut Connection, other: &mut Connection, first: u32) -> io::Result<()> {
    say(one, &json!({"type": "pair_request", "targetCode": code(first + 1).as_str()}))?;
    expect(other, "pair_incoming").await?;
    say(other, &json!({"type": "pair_response", "targetCode": code(first).as_str(), "accepted": true}))?;
    expect(other, "pair_matched").await?;
    expect(one, "pair_matched").await?;
    Ok(())
}

/// What stands around a payload that is sent to a client.
fn sent(speaks: Speaks, to: u32) -> Envelope {
    envelope(speaks, to, || address_of(&inbox_key(to)).to_base64url())
}

/// What stands around a payload that a client gets.
fn heard(speaks: Speaks, to: u32) -> Envelope {
    envelope(speaks, to, || inbox_key(to).public().to_base64url())
}

fn envelope(speaks: Speaks, number: u32, to: impl FnOnce() -> String) -> Envelope {
    match speaks {
        Speaks::Chappe => {
            let before = format!("{{\"type\":\"call_ice\",\"to\":\"{}\",\"payload\":\"", to()).into_bytes();
            Envelope { before, after: b"\"}" }
        }
        Speaks::Frames | Speaks::Lengths => Envelope { before: u64::from(number).to_le_bytes().to_vec(), after: b"" },
    }
}

fn code(number: u32) -> PairingCode {
    PairingCode::from_random(number)
}

fn inbox_key(number: u32) -> SecretKey {
    let mut seed = [1; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_bytes(&seed)
}

fn say(connection: &mut Connection, message: &Value) -> io::Result<()> {
    connection.say(message.to_string().as_bytes())
}

async fn expect(connection: &mut Connection, kind: &str) -> io::Result<Value> {
    let body = connection.next().await?;
    let message: Value = serde_json::from_slice(&body)?;
    if message["type"] == kind { Ok(message) } else { Err(unexpected(kind, &body)) }
}

fn unexpected(what: &str, body: &[u8]) -> io::Error {
    io::Error::other(format!("{what} was expected, not {}", String::from_utf8_lossy(body)))
}
