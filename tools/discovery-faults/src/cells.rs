//! The matrix: each fault against each source that it applies to. Each cell is tried with no other source, to check the
//! client's report, and with a working referral, to check that the fault doesn't delay finding a node.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    http::{StatusCode, header::CONTENT_TYPE, header::LOCATION},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use chappe_common::{endpoint::NodeEndpoint, keys::NodeId, time::UnixTime};
use chappe_discovery::{
    Discovery, DiscoveryBuilder, SearchOutcome, cache::Cache, invite::Invite, race::confirm::Confirmation,
    source::SourceKind,
};
use chappe_testkit::ca::Ca;
use tokio::time::{Instant, timeout};

use super::{
    dns::{self, Lie},
    fault::Fault,
    gate::{Gate, Traffic},
    issuer::{Issuer, Listed, When},
    web::Web,
    world::{REGISTRY, World, ZONE, cache_of, endpoint, nobody, now, provider},
};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The longest that a search that fails may take.
const LONGEST: Duration = Duration::from_secs(10);
/// What the clock of a test may be late by: the machine does other things, too.
const LATE: Duration = Duration::from_millis(500);

/// The result of one cell.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The source.
    pub source: SourceKind,
    /// What was wrong with it.
    pub fault: Fault,
    /// What the client says where nothing else works; or that it found a node all the same.
    pub says: String,
    /// How long that took.
    pub alone: Duration,
    /// How long until a node was found where a contact's works.
    pub beside: Option<Duration>,
    /// Unexpected results.
    pub wrong: Vec<String>,
}

/// The expected result of a cell.
enum Expected {
    /// A cause that says this.
    Cause(&'static str),
    /// A node: what is wrong doesn't matter.
    Found,
    /// A node, and a report that two lists contradict each other.
    Told,
}

/// Servers that have to stay while a search runs.
#[derive(Default)]
struct Servers {
    gates: Vec<Gate>,
    webs: Vec<Web>,
}

/// One try: a client, and what it meets.
struct Try {
    client: DiscoveryBuilder,
    _servers: Servers,
    /// Nodes that are in the client's cache.
    cached: Vec<(NodeId, String)>,
    /// Makes the second answer of a server another than its first.
    switch: Option<Switch>,
}

/// A body that can be exchanged.
#[derive(Clone)]
struct Switch {
    shown: Arc<Mutex<Vec<Bytes>>>,
    next: Vec<Bytes>,
}

/// Tries one fault on one source.
///
/// # Panics
/// A server can't be set up.
pub async fn try_cell(world: &World, source: SourceKind, fault: Fault) -> Cell {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // A node that is gone, but has worked: whatever happens, the cache has to keep it.
    let known = Listed::new(&nobody(), world.federation(), ([127, 0, 0, 1], 9).into(), now());
    let mut wrong = Vec::new();

    let path = dir.path().join("alone");
    let (outcome, alone, lost) = run(world, source, fault, &path, &known, None).await;
    let says = match &outcome {
        Ok((found, _)) if world.has(*found) => "finds a node".to_owned(),
        Ok((found, _)) => {
            wrong.push(format!("believes {}", found.short()));
            "is deceived".to_owned()
        }
        Err(causes) => {
            causes.iter().find(|(kind, _)| *kind == source).map(|(_, cause)| cause.clone()).unwrap_or_default()
        }
    };
    let expected = expected(source, fault);
    match (&expected, &outcome) {
        (Expected::Cause(text), Err(_)) if says.contains(text) => {}
        (Expected::Found, Ok(_)) => {}
        (Expected::Told, Ok((_, Some(Confirmation::Disagreement { .. })))) => {}
        (Expected::Cause(text), _) => wrong.push(format!("«{text}» expected")),
        (Expected::Found, _) => wrong.push("a node expected".to_owned()),
        (Expected::Told, _) => {
            wrong.push(format!("a disagreement expected: {:?}", outcome.as_ref().map(|found| &found.1)))
        }
    }
    if alone > LONGEST + LATE {
        wrong.push("too late".to_owned());
    }

    let path = dir.path().join("beside");
    let contact = &world.nodes[0].listed;
    wrong.extend(lost);
    let (outcome, took, lost) = run(world, source, fault, &path, &known, Some(contact)).await;
    let beside = match outcome {
        Ok((found, _)) if world.has(found) => Some(took),
        _ => {
            wrong.push("nothing found beside a node that works".to_owned());
            None
        }
    };
    wrong.extend(lost);
    Cell { source, fault, says, alone, beside, wrong }
}

type Ended = Result<(NodeId, Option<Confirmation>), Vec<(SourceKind, String)>>;

async fn run(
    world: &World,
    source: SourceKind,
    fault: Fault,
    path: &Path,
    known: &Listed,
    contact: Option<&Listed>,
) -> (Ended, Duration, Option<String>) {
    let Try { mut client, mut cached, switch, _servers } = set_up(world, source, fault).await;
    // Where the fault is that of a cached node, that one has to stay; a second would only hide what is said of it.
    if cached.is_empty() {
        cached.push((known.node(), known.url.clone()));
    }
    let kept = cached[0].0;
    if fault == Fault::CorruptCache {
        std::fs::write(path, GARBAGE).expect("a writable folder");
    } else {
        cache_of(path, world.root(), &cached).await;
    }
    if let Some(contact) = contact {
        client = client.referrals([NodeEndpoint::new(contact.node(), &contact.url).expect("an endpoint")]);
    }
    let discovery = client.cache(path).build().expect("a client");
    if let Some(switch) = switch {
        discovery.ask_all().await;
        *switch.shown.lock().unwrap_or_else(PoisonError::into_inner) = switch.next;
    }
    let began = Instant::now();
    let SearchOutcome { found, report } = search(&discovery).await;
    let took = if found.is_ok() { report.took } else { began.elapsed() };
    let ended = match found {
        Ok(found) => {
            let node = found.connection.node();
            let rest = matches!(fault, Fault::Equivocation).then(|| found.background.finish());
            let confirmation = match rest {
                Some(rest) => Some(rest.await.confirmation),
                None => None,
            };
            Ok((node, confirmation))
        }
        Err(error) => Err(error.causes.into_iter().map(|cause| (cause.source, cause.error.to_string())).collect()),
    };
    (ended, took, lost(path, world, fault, kept))
}

async fn search(discovery: &Discovery) -> SearchOutcome {
    timeout(3 * LONGEST, discovery.search(&[])).await.expect("a search ends by itself")
}

/// Whether the cache still has what it had.
fn lost(path: &Path, world: &World, fault: Fault, kept: NodeId) -> Option<String> {
    if fault == Fault::CorruptCache {
        let kept = std::fs::read_dir(path.parent()?)
            .ok()?
            .flatten()
            .any(|file| std::fs::read(file.path()).is_ok_and(|bytes| bytes == GARBAGE));
        return (!kept).then(|| "the damaged cache file is gone".to_owned());
    }
    if let Err(error) = Cache::open(path, [world.root()]) {
        return Some(format!("the cache is damaged: {error}"));
    }
    let has = std::fs::read_to_string(path).is_ok_and(|text| text.contains(&kept.to_string()));
    (!has).then(|| "the cache has lost a node".to_owned())
}

const GARBAGE: &[u8] = b"{\"version\":2,\"nodes\":[{\"node";

fn expected(source: SourceKind, fault: Fault) -> Expected {
    use Expected::{Cause, Found, Told};
    match (source, fault) {
        (SourceKind::Registry | SourceKind::Dns, _) => match fault {
            Fault::Unanswered | Fault::Silent | Fault::Drips => Cause("no answer in time"),
            Fault::Reset => Cause("the connection was reset"),
            Fault::Refused => Cause("refused"),
            Fault::UntrustedCertificate => Cause("is not trusted"),
            Fault::NoSuchName if source == SourceKind::Registry => Cause("its name does not exist"),
            Fault::NoSuchName => Cause("NXDOMAIN"),
            Fault::ServFail if source == SourceKind::Registry => Cause("no name server answered"),
            Fault::ServFail => Cause("SERVFAIL"),
            Fault::ForgedAddress => Cause("is not trusted"),
            Fault::Forbidden => Cause("403"),
            Fault::UnavailableForLegalReasons => Cause("451"),
            Fault::BlockPage if source == SourceKind::Registry => Cause("not a directory"),
            Fault::BlockPage => Cause("not a DNS message"),
            Fault::Redirect => Cause("302"),
            Fault::Oversized => Cause("too long"),
            Fault::Truncated => Cause("truncated"),
            Fault::TrustedLiar => Cause("not signed by a pinned root"),
            Fault::WrongKey => Cause("signed by"),
            Fault::ReplayedSeq => Cause("older than one that was seen before"),
            Fault::LeapingSeq => Cause("future"),
            Fault::Expired => Cause("expired"),
            Fault::Empty => Cause("lists no node"),
            Fault::StaleNodes => Cause("none connected"),
            Fault::OtherNode => Cause("another node is at this address"),
            Fault::ClockAhead => Cause("the clock may be wrong"),
            Fault::ClockBehind => Cause("the clock may be wrong"),
            Fault::Equivocation => Told,
            Fault::CorruptCache => Found,
        },
        (_, Fault::Unanswered | Fault::Silent | Fault::Drips) => Cause("no answer in time"),
        (_, Fault::Reset) => Cause("the connection was reset"),
        (_, Fault::Refused) => Cause("refused"),
        (_, Fault::UntrustedCertificate) => Cause("is not trusted"),
        (_, Fault::OtherNode) => Cause("another node is at this address"),
        (_, Fault::CorruptCache) => Cause("knows no node"),
        // What somebody printed a year ago should not lead anywhere.
        (SourceKind::Invite, Fault::ClockAhead) => Cause("expired"),
        // The key and the address are what counts.
        _ => Found,
    }
}

async fn set_up(world: &World, source: SourceKind, fault: Fault) -> Try {
    let mut servers = Servers::default();
    let client = match fault {
        Fault::ClockAhead => world.client().clock(|| now() + YEAR),
        Fault::ClockBehind => world.client().clock(|| UnixTime::from_secs(now().as_secs() - YEAR.as_secs())),
        _ => world.client(),
    };
    match source {
        SourceKind::Registry | SourceKind::Dns => {
            let (client, switch) = remote(world, source, fault, client, &mut servers).await;
            Try { client, _servers: servers, cached: Vec::new(), switch }
        }
        _ => {
            let (node, url) = named(world, fault, &mut servers).await;
            let mut cached = Vec::new();
            let client = match source {
                SourceKind::Referral => client.referrals([NodeEndpoint::new(node, &url).expect("an endpoint")]),
                SourceKind::Invite => {
                    client.invite(Invite::new([(node, url)], None, now() + YEAR / 10).expect("a link"))
                }
                SourceKind::Manual => client.manual(format!("{url}#{node}").parse().expect("an address")),
                _ => {
                    cached.push((node, url));
                    client
                }
            };
            Try { client, _servers: servers, cached, switch: None }
        }
    }
}

/// A client that asks a registry, or a provider of DNS over HTTPS, with which something is wrong.
async fn remote(
    world: &World,
    source: SourceKind,
    fault: Fault,
    client: DiscoveryBuilder,
    servers: &mut Servers,
) -> (DiscoveryBuilder, Option<Switch>) {
    let is_registry = source == SourceKind::Registry;
    let at = |client: DiscoveryBuilder, addr: SocketAddr| {
        if is_registry {
            client.registry([endpoint(addr)], [world.root()])
        } else {
            client.zone(ZONE).provider(provider(0, addr))
        }
    };
    let names = [REGISTRY, "one.example"];
    if let Some(traffic) = traffic(fault) {
        let gate = gate_to_nodes(world, source, traffic, servers).await;
        return (at(client, gate), None);
    }
    let untrusted = Ca::new("nobody's").server(&names, b"http/1.1");
    let tls = if fault == Fault::UntrustedCertificate { untrusted.clone() } else { world.tls(&names) };
    if is_registry && matches!(fault, Fault::NoSuchName | Fault::ServFail | Fault::ForgedAddress) {
        // The registry has no address of its own in the configuration: its name is resolved over HTTPS.
        let lie = match fault {
            Fault::NoSuchName => Lie::NoSuchName,
            Fault::ServFail => Lie::ServFail,
            _ => Lie::Addr([127, 0, 0, 1].into()),
        };
        let resolver = Web::serve(Some(tls), move |_, question| dns::answer(&lie, question)).await;
        let impostor = Web::serve(Some(untrusted), |_, _| "hello".into_response()).await;
        let port = impostor.addr().port();
        let client = client.registry([format!("https://{REGISTRY}:{port}")], [world.root()]);
        let client = client.provider(provider(0, resolver.addr()));
        servers.webs.extend([resolver, impostor]);
        return (client, None);
    }
    let (first, then) = lists(world, source, fault);
    let shown = Arc::new(Mutex::new(first));
    let switch = then.map(|next| Switch { shown: shown.clone(), next });
    let web = Web::serve(Some(tls), move |_, question| {
        let lists = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        page(fault).unwrap_or_else(|| match lists.first() {
            Some(directory) if is_registry => directory.clone().into_response(),
            _ => dns::answer(&records(fault, &lists), question),
        })
    })
    .await;
    let addr = web.addr();
    servers.webs.push(web);
    (at(client, addr), switch)
}

/// A node with which something is wrong, and where it is said to be.
async fn named(world: &World, fault: Fault, servers: &mut Servers) -> (NodeId, String) {
    let live = &world.nodes[1].listed;
    if let Some(traffic) = traffic(fault) {
        let gate = Gate::to(live.addr(), traffic, Duration::ZERO).await;
        let addr = gate.addr();
        servers.gates.push(gate);
        return (live.node(), format!("ws://{addr}"));
    }
    match fault {
        Fault::UntrustedCertificate => {
            let tls = Ca::new("nobody's").server(&[], b"http/1.1");
            let web = Web::serve(Some(tls), |_, _| "hello".into_response()).await;
            let addr = web.addr();
            servers.webs.push(web);
            (live.node(), format!("wss://{addr}"))
        }
        Fault::OtherNode => (nobody().node_id(), live.url.clone()),
        _ => (live.node(), live.url.clone()),
    }
}

const fn traffic(fault: Fault) -> Option<Traffic> {
    Some(match fault {
        Fault::Unanswered => Traffic::Unanswered,
        Fault::Silent => Traffic::Silent,
        Fault::Reset => Traffic::Reset,
        Fault::Refused => Traffic::Refused,
        Fault::Drips => Traffic::Drips,
        _ => return None,
    })
}

async fn gate_to_nodes(world: &World, source: SourceKind, traffic: Traffic, servers: &mut Servers) -> SocketAddr {
    let web = if source == SourceKind::Registry {
        world.mirror().await
    } else {
        let shards = world.issuer.shards(When::now(now()), &world.listed());
        let lie = Lie::Texts(shards);
        Web::serve(Some(world.tls(&["one.example"])), move |_, question| dns::answer(&lie, question)).await
    };
    let gate = Gate::to(web.addr(), traffic, Duration::ZERO).await;
    let addr = gate.addr();
    servers.webs.push(web);
    servers.gates.push(gate);
    addr
}

/// A page in the place of an answer.
fn page(fault: Fault) -> Option<Response> {
    const BLOCKED: &str = "<html><body><h1>This site is blocked</h1></body></html>";
    let html = [(CONTENT_TYPE, "text/html")];
    Some(match fault {
        Fault::Forbidden => (StatusCode::FORBIDDEN, html, BLOCKED).into_response(),
        Fault::UnavailableForLegalReasons => (StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS, html, BLOCKED).into_response(),
        Fault::BlockPage => (html, BLOCKED).into_response(),
        Fault::Redirect => (StatusCode::FOUND, [(LOCATION, "https://blocked.example/")]).into_response(),
        Fault::Oversized => {
            ([(CONTENT_TYPE, "application/dns-message")], Bytes::from(vec![0; 4 * 1024 * 1024])).into_response()
        }
        _ => return None,
    })
}

/// The lists that a server shows, and those that it shows the next time where these are others.
fn lists(world: &World, source: SourceKind, fault: Fault) -> (Vec<Bytes>, Option<Vec<Bytes>>) {
    let day = Duration::from_secs(24 * 3600);
    let (now, nodes) = (now(), world.listed());
    let sign = |issuer: &Issuer, when: When, nodes: &[Listed]| match source {
        SourceKind::Registry => vec![issuer.directory(when, nodes)],
        _ => vec![issuer.shard(when, nodes).into()],
    };
    let own = |when| sign(&world.issuer, when, &nodes);
    let today = When::now(now);
    let gone = [1, 2, 3].map(|n| Listed::new(&nobody(), world.federation(), ([127, 0, 0, n], 9).into(), now));
    match fault {
        Fault::TrustedLiar => (sign(&Issuer::new(), today, &nodes), None),
        Fault::WrongKey => (sign(&world.issuer.undelegated(), today, &nodes), None),
        // The newer one has only nodes that are gone: whoever believed the older one would find somebody.
        Fault::ReplayedSeq => (sign(&world.issuer, today, &gone), Some(own(When::earlier(now, day)))),
        Fault::LeapingSeq => (own(When { seq: today.seq + 365 * 24 * 3600 * 1000, ..today }), None),
        Fault::Expired => (own(When::earlier(now, 8 * day)), None),
        Fault::Empty => (sign(&world.issuer, today, &[]), None),
        Fault::Equivocation => (own(today), Some(sign(&world.issuer, today, &nodes[1..]))),
        Fault::StaleNodes => (sign(&world.issuer, today, &gone), None),
        Fault::OtherNode => {
            let impostor = |node: &Listed| Listed::new(&nobody(), world.federation(), node.addr(), now);
            (sign(&world.issuer, today, &nodes.iter().map(impostor).collect::<Vec<_>>()), None)
        }
        _ => (own(today), None),
    }
}

fn records(fault: Fault, lists: &[Bytes]) -> Lie {
    match fault {
        Fault::NoSuchName => Lie::NoSuchName,
        Fault::ServFail => Lie::ServFail,
        Fault::Truncated => Lie::Truncated,
        _ => Lie::Texts(lists.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect()),
    }
}
