//! A node is restarted while people call each other and thousands of sessions are open on it: real processes of the nodes, and
//! the client library.
//!
//! `UPGRADE_SESSIONS=10000 UPGRADE_PAIRS=20` is the large size; it needs 20,000 open files (`ulimit -n`).

use std::{
    env,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chappe_client::{Client, Event, Events, contact::ContactId, profile::Profile};
use chappe_common::keys::{NodeId, PublicKey};
use futures_util::{StreamExt as _, future::join_all};
use tempfile::TempDir;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::process::{
    self, PATIENCE, Running,
    federation::{Federation, run_node},
};

/// Longer than any call takes to be set up, also over a node that has just left.
const CALL_LIMIT: Duration = Duration::from_secs(15);

fn size(name: &str, small: usize) -> usize {
    env::var(name).map_or(small, |text| text.parse().expect("a number"))
}

/// A node at fixed ports, which can be restarted.
struct Fixed {
    config: std::path::PathBuf,
    port: u16,
    process: Option<Running>,
    id: String,
    url: String,
}

impl Fixed {
    fn create(federation: &Federation, number: usize) -> Self {
        drop(federation.node(number));
        let port = TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("a port").port();
        let config = federation.folder(number).join("node.toml");
        let mut fixed = Self { config, port, process: None, id: String::new(), url: String::new() };
        fixed.start();
        fixed
    }

    /// Starts it, and waits until it serves.
    fn start(&mut self) {
        let mut command = run_node(&self.config);
        command
            .env("CHAPPE_CLIENT__LISTEN", format!("127.0.0.1:{}", self.port))
            .env("CHAPPE_LIMITS__EXEMPT", "[\"127.0.0.0/8\"]")
            .env("CHAPPE_LIMITS__OFFERS_PER_MINUTE", "100000")
            .env("CHAPPE_LIMITS__SOURCE_CONNECTIONS", "18000")
            .env("CHAPPE_TIMES__DRAIN", "5s");
        let mut process = Running::start(&mut command);
        let ready = process.event("ready");
        self.id = ready["id"].as_str().expect("an id").to_owned();
        self.url = ready["client_url"].as_str().expect("a URL").to_owned();
        self.process = Some(process);
    }
}

struct Person {
    client: Client,
    events: Events,
    _profile: TempDir,
}

impl Person {
    async fn start(federation: &Federation, avoid: &[NodeId]) -> Self {
        let profile = tempfile::tempdir().expect("a temporary folder");
        let opened = Profile::open_or_create(profile.path().join("profile"), "somebody").expect("a profile");
        let root: PublicKey = federation.root.parse().expect("a key");
        let builder = Client::builder(opened).registry(&*federation.url, [root]).avoid(avoid.iter().copied()).private();
        let (client, events) = timeout(PATIENCE, builder.connect()).await.expect("in time").expect("a connection");
        Self { client, events, _profile: profile }
    }

    async fn reachable(&mut self) {
        let found = async {
            while let Some(event) = self.events.next().await {
                if matches!(event, Event::Reachable { .. }) {
                    return;
                }
            }
        };
        timeout(PATIENCE, found).await.expect("attached");
    }
}

/// One call, from the command to the answer.
struct Called {
    began: Instant,
    took: Duration,
    failure: Option<String>,
}

/// Calls again and again until `stop`. `ended` tells when the call is over at the other side, which is busy until then.
async fn keep_calling(
    caller: Client,
    contact: ContactId,
    stop: Arc<AtomicBool>,
    mut ended: mpsc::Receiver<()>,
) -> Vec<Called> {
    let mut calls = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let calling = async {
            let call = caller.call(contact, "the offer").await.map_err(|error| error.to_string())?;
            call.answered().await.map_err(|reason| format!("{reason:?}"))?;
            Ok(call)
        };
        let outcome: Result<_, String> =
            timeout(CALL_LIMIT, calling).await.unwrap_or_else(|_| Err("no answer".to_owned()));
        let took = began.elapsed();
        let failure = match outcome {
            Ok(call) => {
                let _ = call.hang_up().await;
                let _ = timeout(CALL_LIMIT, ended.recv()).await;
                None
            }
            Err(error) => Some(error),
        };
        calls.push(Called { began, took, failure });
        sleep(Duration::from_millis(rand::random_range(50..150))).await;
    }
    calls
}

/// Accepts all calls, and tells when each has ended.
async fn keep_accepting(mut events: Events, ended: mpsc::Sender<()>) {
    while let Some(event) = events.next().await {
        if let Event::IncomingCall { call, .. } = event {
            // The caller may have given up.
            if call.accept("the answer").await.is_ok() {
                call.ended().await;
                let _ = ended.send(()).await;
            }
        }
    }
}

/// An open session that leaves when the node says so, as a client does: it opens another one first.
async fn idle(first: String, others: Vec<String>) -> Duration {
    let (mut socket, _) = connect_async(&first).await.expect("a session");
    let is_told = async {
        while let Some(Ok(message)) = socket.next().await {
            if matches!(&message, Message::Text(text) if text.contains("going_away")) {
                return;
            }
        }
        panic!("the session was closed without a word");
    };
    is_told.await;
    let told = Instant::now();
    sleep(Duration::from_millis(rand::random_range(0..2_000))).await;
    let next = &others[rand::random_range(0..others.len())];
    let (_next, _) = connect_async(next).await.expect("another node takes it");
    drop(socket);
    told.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_a_node_is_restarted() {
    let (sessions, pairs) = (size("UPGRADE_SESSIONS", 200), size("UPGRADE_PAIRS", 6));
    let federation = Federation::start(0);
    let mut nodes: Vec<Fixed> = (0..3).map(|number| Fixed::create(&federation, number)).collect();
    let ids: Vec<NodeId> = nodes.iter().map(|node| node.id.parse().expect("an id")).collect();
    federation.wait_for_a_node();

    // Half of the people call from the node that will be restarted, the others are called there.
    let people = join_all((0..pairs).map(|pair| {
        let federation = &federation;
        let (restarted, another) = ([ids[1], ids[2]], [ids[0], ids[1]]);
        async move {
            let (at_first, at_second) = if pair % 2 == 0 { (restarted, another) } else { (another, restarted) };
            let mut ada = Person::start(federation, &at_first).await;
            let mut bob = Person::start(federation, &at_second).await;
            let shown = timeout(PATIENCE, bob.client.show_code()).await.expect("in time").expect("a code");
            let code = shown.code().parse().expect("the code reads back");
            let both = async { tokio::join!(ada.client.pair(&code), shown.paired()) };
            let (at_ada, at_bob) = timeout(PATIENCE, both).await.expect("in time");
            at_bob.expect("paired");
            ada.reachable().await;
            bob.reachable().await;
            (ada, bob, at_ada.expect("paired").contact.id())
        }
    }))
    .await;
    let urls: Vec<String> = nodes.iter().map(|node| format!("{}/ws", node.url)).collect();
    let others = urls[1..].to_vec();
    let mut idling = tokio::task::JoinSet::new();
    for number in 0..sessions {
        idling.spawn(idle(urls[0].clone(), others.clone()));
        if number % 200 == 199 {
            sleep(Duration::from_millis(50)).await;
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut calling = tokio::task::JoinSet::new();
    let mut kept = Vec::new();
    for (ada, bob, contact) in people {
        let (end, ended) = mpsc::channel(1);
        calling.spawn(keep_calling(ada.client.clone(), contact, stop.clone(), ended));
        kept.push((ada, bob.client, tokio::spawn(keep_accepting(bob.events, end)), bob._profile));
    }
    sleep(Duration::from_secs(3)).await;

    // The restart, as a service manager does it.
    let began = Instant::now();
    let old = nodes[0].process.take().expect("it runs");
    old.signal("TERM");
    let ended = tokio::task::spawn_blocking(move || old.finish()).await.expect("it ends");
    assert!(ended.status.success(), "{:?}", process::texts(&ended));
    let drained = began.elapsed();
    let starting = Instant::now();
    nodes[0].start();
    let started = starting.elapsed();
    sleep(Duration::from_secs(5)).await;
    stop.store(true, Ordering::Relaxed);

    let calls: Vec<Called> = calling.join_all().await.into_iter().flatten().collect();
    let moved: Vec<Duration> = idling.join_all().await;
    let during = |call: &&Called| call.began + call.took >= began && call.began <= began + drained + started;
    let failed: Vec<_> = calls.iter().filter_map(|call| call.failure.as_ref()).collect();
    let mut times: Vec<_> = calls.iter().filter(during).map(|call| call.took).collect();
    times.sort_unstable();
    let most = |times: &[Duration], part: usize| {
        times.get((times.len() * part / 100).min(times.len().saturating_sub(1))).copied()
    };
    println!(
        "{sessions} sessions, {pairs} pairs: {} calls, {} of them during the restart, {} failed; drained in {drained:?}, \
         serving again {started:?} later; a call during the restart took {:?} (median), {:?} (p95), {:?} (longest); the \
         sessions had moved after at most {:?}",
        calls.len(),
        times.len(),
        failed.len(),
        most(&times, 50),
        most(&times, 95),
        times.last(),
        moved.iter().max(),
    );
    assert!(failed.is_empty(), "{failed:?}");
    assert!(!times.is_empty() && moved.len() == sessions);
    for (ada, bob, accepting, _profile) in kept {
        accepting.abort();
        tokio::join!(ada.client.shutdown(), bob.shutdown());
    }
}
