//! The process of the baseline: clients that call, by inbox and by code, on a fixed schedule.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chappe_common::keys::{NodeId, SecretKey};
use chappe_testkit::{
    PATIENCE,
    raw::{address_of, attachment, key_of, lease, now_ms},
    tls::Files,
};
use futures_util::{SinkExt as _, StreamExt as _};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config, tungstenite::Message,
};

use super::{
    BY_CODE, Command,
    caller::{Caller, Recipient, fill},
    inbox_key,
    observation::{Observation, Observed},
};
use crate::{
    baseline_source,
    wire::{Takes, dial},
};

/// The time between two calls of a pair: as often as the node lets an inbox be called.
const CALL_EVERY: Duration = Duration::from_secs(10);
/// Messages of each side in a call: an offer or an answer, and candidates.
pub(super) const OF_CALL: u32 = 10;
/// The time between two candidates of the pair by code: enough for a percentile, and within the rate limit.
const BY_CODE_EVERY: Duration = Duration::from_millis(200);
/// How long messages in flight may take to arrive.
const REST: Duration = Duration::from_secs(5);

/// The parameters of the baseline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The number of pairs that call by inbox. One more pair calls by code.
    pub pairs: u32,
    /// The node's URL.
    pub url: String,
    /// The node's address for clients.
    pub addr: SocketAddr,
    /// The folder of the certificate, if the node serves TLS.
    pub tls: Option<PathBuf>,
}

pub(super) type Socket = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// The observations of all clients.
#[derive(Debug)]
pub(super) struct Shared {
    stretches: Mutex<Vec<Observation>>,
    since: Mutex<Instant>,
}

impl Shared {
    /// Updates the observation of a stretch; of the current one if `stretch` is `None`.
    pub(super) fn record(&self, stretch: Option<usize>, write: impl FnOnce(&mut Observation)) {
        let mut stretches = self.lock();
        let at = stretch.unwrap_or(stretches.len() - 1);
        if let Some(stretch) = stretches.get_mut(at) {
            write(stretch);
        }
    }

    /// The number of the current stretch, and its age in seconds.
    pub(super) fn stretch(&self) -> (usize, u64) {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        (self.lock().len() - 1, since.elapsed().as_secs())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Observation>> {
        self.stretches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the clients, and answers the commands on standard input until it ends.
///
/// # Panics
/// A client can't connect, a client's task panics, or a command isn't valid.
pub fn run(plan: &Plan) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let shared =
            Arc::new(Shared { stretches: Mutex::new(vec![Observation::default()]), since: Mutex::new(Instant::now()) });
        let mut people = gather(plan, &shared).await;
        println!("{}", json!("calling"));
        let (lines, mut asked) = mpsc::channel(1);
        // The course waits for each answer. This process ends with it.
        std::thread::spawn(move || {
            io::stdin().lines().map_while(Result::ok).try_for_each(|line| lines.blocking_send(line))
        });
        while let Some(line) = asked.recv().await {
            people.look_after();
            let answer = match serde_json::from_str(&line).expect("a command") {
                Command::NextStretch => {
                    shared.lock().push(Observation::default());
                    *shared.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                    json!(shared.stretch().0)
                }
                Command::Report(stretches) => {
                    let present = shared.stretch().0;
                    rest(&shared, |number| number < present && stretches.contains(&number)).await;
                    let all = shared.lock();
                    json!(Observed::of(stretches.iter().filter_map(|number| all.get(*number))))
                }
                Command::Finish => {
                    people.stop.send_replace(true);
                    rest(&shared, |_| true).await;
                    people.look_after();
                    people.tasks.shutdown().await;
                    json!(Observed::of(shared.lock().iter()))
                }
            };
            println!("{answer}");
        }
    });
}

/// Waits up to [`REST`] until all messages of these stretches have arrived and have outcomes.
async fn rest(shared: &Shared, is_meant: impl Fn(usize) -> bool) {
    let is_there = || {
        let stretches = shared.lock();
        let mut meant = stretches.iter().enumerate().filter(|(number, _)| is_meant(*number));
        meant.all(|(_, one)| {
            one.arrived + one.wrong + one.refused >= one.sent && one.delivered + one.refused >= one.sent
        })
    };
    let _ = timeout(REST, async {
        while !is_there() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

struct Callers {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Callers {
    /// A client whose connection ended has recorded that. Panics have to be found here: in a newcomer they would show
    /// nowhere.
    fn look_after(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            ended.expect("the honest make no mistake");
        }
    }
}

/// Connects the clients, and starts each on its schedule.
async fn gather(plan: &Plan, shared: &Arc<Shared>) -> Callers {
    let place =
        Place { plan: plan.clone(), trusted: plan.tls.as_ref().map(|dir| Arc::new(Files::in_folder(dir).client())) };
    let (stop, stopped) = watch::channel(false);
    let mut sides = Vec::new();
    for number in 0..plan.pairs * 2 {
        let (own, peer) = (inbox_key(number), inbox_key(number ^ 1));
        let (mut socket, info) = place.open(baseline_source(number)).await.expect("a node that takes clients");
        attach(&mut socket, &info, &own).await;
        sides.push((socket, Recipient::Inbox(address_of(&peer).to_base64url())));
    }
    let mut by_code = Vec::new();
    for (number, code) in BY_CODE.iter().enumerate() {
        let (mut socket, _) =
            place.open(baseline_source(900 + number as u32)).await.expect("a node that takes clients");
        say(&mut socket, &json!({"type": "register", "pairingCode": code, "publicKey": key_of(code)})).await;
        hear(&mut socket, "registered").await;
        by_code.push(socket);
    }
    if let [one, other] = &mut by_code[..] {
        say(one, &json!({"type": "pair_request", "targetCode": BY_CODE[1]})).await;
        hear(other, "pair_incoming").await;
        say(other, &json!({"type": "pair_response", "targetCode": BY_CODE[0], "accepted": true})).await;
        hear(other, "pair_matched").await;
        hear(one, "pair_matched").await;
    }
    let doors = [BY_CODE[1], BY_CODE[0]].map(Recipient::Code);
    sides.extend(by_code.into_iter().zip(doors));
    let (mut tasks, begin) = (JoinSet::new(), Instant::now() + Duration::from_millis(500));
    for (number, (socket, to)) in (0_u32..).zip(sides) {
        // Spread the pairs' calls over the time between two calls of a pair.
        let (every, first) = match to {
            Recipient::Inbox(_) => {
                (CALL_EVERY / OF_CALL, CALL_EVERY.mul_f64(f64::from(number / 2) / f64::from(plan.pairs)))
            }
            Recipient::Code(_) => (BY_CODE_EVERY, Duration::ZERO),
        };
        let person = Caller {
            socket,
            to,
            fills: [fill(number), fill(number ^ 1)],
            is_caller: number.is_multiple_of(2),
            // The callee sends half an interval after the caller.
            begin: begin + first + every / 2 * (number % 2),
            epoch: begin,
            every,
            shared: shared.clone(),
            stopped: stopped.clone(),
            open: HashMap::new(),
        };
        tasks.spawn(person.call());
    }
    tasks.spawn(newcomers(place, begin, shared.clone()));
    sleep_until(begin).await;
    Callers { tasks, stop }
}

/// Attempts of a newcomer to attach: a node under attack may be congested for a moment.
const TRIES: u32 = 10;

/// Twice a second a newcomer connects and attaches an inbox.
async fn newcomers(place: Place, begin: Instant, shared: Arc<Shared>) {
    let (place, mut there) = (Arc::new(place), JoinSet::new());
    for number in 0.. {
        sleep_until(begin + Duration::from_millis(500) * number).await;
        while there.try_join_next().is_some() {}
        let (place, shared) = (place.clone(), shared.clone());
        there.spawn(async move {
            let opened = timeout(Duration::from_secs(2), place.open(baseline_source(1_000 + number % 1_000))).await;
            let opened = opened.ok().and_then(Result::ok);
            shared.record(None, |now| {
                now.came += 1;
                now.not_let_in += u64::from(opened.is_none());
            });
            let is_attached = match opened {
                Some(opened) => timeout(Duration::from_secs(2), come(opened, number, &shared)).await == Ok(Some(())),
                None => false,
            };
            shared.record(None, |now| now.not_attached += u64::from(!is_attached));
        });
    }
}

/// Attaches a newcomer's inbox.
async fn come((mut socket, info): (Socket, Value), number: u32, shared: &Shared) -> Option<()> {
    let mut seed = [0xC0; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    let message = attach_message(&info, &SecretKey::from_bytes(&seed), Duration::from_secs(30));
    for _ in 0..TRIES {
        socket.send(Message::text(message.to_string())).await.ok()?;
        let Some(Ok(Message::Text(text))) = socket.next().await else { return None };
        let answer: Value = serde_json::from_str(text.as_str()).ok()?;
        if answer["type"] == "attached" && answer["rejected"] == json!([]) {
            return Some(());
        }
        let is_put_off = answer["code"] == "congested";
        shared.record(None, |now| now.put_off += u64::from(is_put_off));
        sleep(Duration::from_millis(50)).await;
    }
    None
}

/// How to connect to the node.
struct Place {
    plan: Plan,
    trusted: Option<Arc<ClientConfig>>,
}

impl Place {
    /// Opens a connection, and returns it with the node's first message.
    async fn open(&self, source: IpAddr) -> io::Result<(Socket, Value)> {
        let stream = dial(source, self.plan.addr, Takes::All).await?;
        let connector = self.trusted.clone().map_or(Connector::Plain, Connector::Rustls);
        let opened = client_async_tls_with_config(&self.plan.url, stream, None, Some(connector)).await;
        let (mut socket, _) = opened.map_err(io::Error::other)?;
        match socket.next().await {
            Some(Ok(Message::Text(text))) => Ok((socket, serde_json::from_str(text.as_str())?)),
            _ => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

async fn say(socket: &mut Socket, message: &Value) {
    socket.send(Message::text(message.to_string())).await.expect("an open connection");
}

/// Expects the next message to have this type.
async fn hear(socket: &mut Socket, kind: &str) -> Value {
    let next = timeout(PATIENCE, socket.next()).await.expect("an answer in time");
    let text = next.expect("an answer").expect("an answer").into_text().expect("a text");
    let answer: Value = serde_json::from_str(text.as_str()).expect("JSON");
    assert_eq!(answer["type"], kind, "{answer}");
    answer
}

async fn attach(socket: &mut Socket, info: &Value, key: &SecretKey) {
    say(socket, &attach_message(info, key, Duration::from_secs(3_600))).await;
    assert_eq!(hear(socket, "attached").await["rejected"], json!([]));
}

fn attach_message(info: &Value, key: &SecretKey, lasts: Duration) -> Value {
    let node = NodeId::from_server_id(info["serverId"].as_str().expect("an id")).expect("an id");
    let nonce = STANDARD.decode(info["nonce"].as_str().expect("a nonce")).expect("base64");
    let lease = lease(key, node, now_ms(), lasts);
    let item = attachment(key, &nonce.try_into().expect("32 bytes"), &lease);
    json!({"type": "attach", "id": "a", "inboxes": [item]})
}
