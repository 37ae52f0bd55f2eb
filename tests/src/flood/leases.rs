//! A hostile node: a member with a record and a link as any other has, which registers leases and forwards messages that
//! no honest node would, as fast as it likes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use chappe_common::{
    federation::FederationId,
    keys::{NodeId, SecretKey},
    link_tls,
    record::{Abilities, NodeRecord},
    signed::Signed,
    time::UnixTime,
};
use quinn::{ClientConfig, Connection, Endpoint, SendStream, crypto::rustls::QuicClientConfig};
use rand::RngExt as _;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{attack::Plan, node::root};
use crate::raw::lease;

/// Requests with leases in a second: 32,000 leases.
const REQUESTS: u32 = 500;
/// Leases of one request: the most that are allowed.
const BATCH: u64 = 64;
/// Requests until the same leases come again: signing costs as much as checking.
const REQUESTS_SIGNED: u64 = 100;
/// Messages to nobody in a second.
const FRAMES: u32 = 20_000;
/// How many of them are written at once.
const BURST: u32 = 20;

/// The hostile node's end of a link.
struct Link {
    connection: Connection,
    key: SecretKey,
    _endpoint: Endpoint,
    answering: JoinSet<()>,
}

impl Link {
    /// Dials the node, shows a record, and answers its probes from then on.
    async fn dial(plan: &Plan) -> Option<Self> {
        let key = SecretKey::from_bytes(&rand::rng().random());
        let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).ok()?;
        let record = record(&key, endpoint.local_addr().ok()?);
        let tls = link_tls::client_config(&key, plan.node_id()).ok()?;
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).ok()?));
        let connection = endpoint.connect_with(config, plan.quic, link_tls::SERVER_NAME).ok()?.await.ok()?;
        let (mut send, mut receive) = connection.open_bi().await.ok()?;
        // The stream of the first words; a record, no ticket, the time.
        let hello = (record.as_bytes().clone(), None::<Bytes>, UnixTime::from(SystemTime::now()));
        let hello = [&[1, 0][..], &postcard::to_allocvec(&hello).ok()?].concat();
        send.write_all(&hello).await.ok()?;
        send.finish().ok()?;
        let answer = receive.read_to_end(1024).await.ok()?;
        if answer.first() != Some(&0) {
            plan.tally.count("link refused");
            return None;
        }
        let mut answering = JoinSet::new();
        answering.spawn(answer_probes(connection.clone()));
        let (theirs, tally) = (connection.clone(), plan.tally.clone());
        answering.spawn(async move {
            let mut lanes = JoinSet::new();
            while let Ok(mut lane) = theirs.accept_uni().await {
                let tally = tally.clone();
                lanes.spawn(async move {
                    while let Ok(Some(chunk)) = lane.read_chunk(64 * 1024, true).await {
                        tally.add("bytes answered", chunk.bytes.len() as u64);
                    }
                });
            }
        });
        plan.tally.count("linked");
        Some(Self { connection, key, _endpoint: endpoint, answering })
    }

    async fn lane(&self, first: u8) -> Option<SendStream> {
        let mut lane = self.connection.open_uni().await.ok()?;
        lane.write_all(&[first]).await.ok()?;
        Some(lane)
    }
}

fn record(key: &SecretKey, addr: SocketAddr) -> Signed<NodeRecord> {
    let now = UnixTime::from(SystemTime::now());
    let record = NodeRecord {
        federation: FederationId::of_roots(&[root().public()]),
        node: key.node_id(),
        epoch: 1,
        seq: 1,
        issued_at: now,
        expires_at: now + Duration::from_secs(3_600),
        client_urls: vec!["ws://127.0.0.1:1".to_owned()],
        quic_addrs: vec![addr],
        region: String::new(),
        version: "0".to_owned(),
        abilities: Abilities::default(),
    };
    Signed::sign(record, key).expect("a record")
}

/// «Are you there?», with the number that the answer repeats.
async fn answer_probes(connection: Connection) {
    while let Ok(packet) = connection.read_datagram().await {
        if let Some((1, number)) = packet.split_first() {
            let _ = connection.send_datagram([&[2], number].concat().into());
        }
    }
}

/// A frame: its length, its header, and what follows.
fn frame(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(header.len() + payload.len()).expect("a short frame");
    [&len.to_le_bytes()[..], header, payload].concat()
}

/// Registers leases: good ones, the same again and again, or such as don't verify.
pub async fn flood(plan: &Plan, forged: bool) {
    let since = Instant::now();
    let mut turn = 0;
    while !plan.is_over() {
        if let Ok(Some(link)) = timeout_at(plan.until, Link::dial(plan)).await {
            let _ = timeout_at(plan.until, register(plan, &link, since, &mut turn, forged)).await;
            drop(link.answering);
        }
        turn += u64::from(plan.some(REQUESTS));
        plan.turn(since, turn, plan.some(REQUESTS)).await;
    }
}

async fn register(plan: &Plan, link: &Link, since: Instant, turn: &mut u64, forged: bool) -> Option<()> {
    let mut lane = link.lane(2).await?;
    let node = link.key.node_id();
    let mut signed = Vec::new();
    loop {
        plan.turn(since, *turn, plan.some(REQUESTS)).await;
        *turn += 1;
        let place = (*turn % REQUESTS_SIGNED) as usize;
        if signed.len() <= place {
            let first = signed.len() as u64 * BATCH;
            signed.push((first..first + BATCH).map(|number| one_lease(node, number, forged)).collect::<Vec<_>>());
        }
        let leases = &signed[place.min(signed.len() - 1)];
        // Header 4, a question; its id; question 0, to keep leases.
        let header = postcard::to_allocvec(&(4_u8, *turn, 0_u8, leases)).ok()?;
        lane.write_all(&frame(&header, b"")).await.ok()?;
        plan.tally.add("leases sent", BATCH);
    }
}

fn one_lease(node: NodeId, number: u64, forged: bool) -> Bytes {
    let mut seed = [0x1E; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    let lease = lease(&SecretKey::from_bytes(&seed), node, crate::raw::now_ms(), Duration::from_secs(3_000));
    let mut bytes = lease.as_bytes().to_vec();
    if forged && let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    bytes.into()
}

/// Forwards messages to inboxes that nobody has.
pub async fn frames_to_nobody(plan: &Plan) {
    let since = Instant::now();
    let mut turn = 0;
    while !plan.is_over() {
        if let Ok(Some(link)) = timeout_at(plan.until, Link::dial(plan)).await {
            let _ = timeout_at(plan.until, forward(plan, &link, since, &mut turn)).await;
            drop(link.answering);
        }
        plan.turn(since, turn, plan.some(FRAMES / BURST)).await;
        turn += u64::from(plan.some(FRAMES / BURST));
    }
}

async fn forward(plan: &Plan, link: &Link, since: Instant, turn: &mut u64) -> Option<()> {
    let mut lane = link.lane(1).await?;
    let payload = format!("\"{}\"", "x".repeat(1_000));
    loop {
        plan.turn(since, *turn, plan.some(FRAMES / BURST)).await;
        *turn += 1;
        let frames = (0..u64::from(BURST)).flat_map(|number| {
            // Header 0, to an inbox; its token; kind 3, an offer; the inbox.
            let inbox: [u8; 32] = rand::rng().random();
            let header = postcard::to_allocvec(&(0_u8, *turn * 100 + number, 3_u8, inbox)).expect("a header");
            frame(&header, payload.as_bytes())
        });
        lane.write_all(&frames.collect::<Vec<_>>()).await.ok()?;
        plan.tally.add("messages sent", u64::from(BURST));
    }
}
