//! A UDP relay in front of one node that delays each packet by a random time, in both directions.
//!
//! The kernels of test machines often lack netem. As with netem, packets may overtake each other. To the node, each
//! peer is a port of the relay.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// The largest packet.
const MAX_PACKET: usize = 2048;
/// The most packets in flight. Further packets are lost.
const MAX_UNDER_WAY: usize = 8192;
/// Peers of one node: three times the hosts, and the registry.
const MAX_PEERS: usize = 64;

/// The relay of one node, until it is dropped.
#[derive(Debug)]
pub struct Relay {
    _tasks: JoinSet<()>,
}

struct Packet {
    to: To,
    bytes: Vec<u8>,
}

enum To {
    /// The node, from the socket of that peer.
    Node(Arc<UdpSocket>),
    Peer(SocketAddr),
}

impl Relay {
    /// Relays between `public`, the address for peers, and the node at `node`, with sockets at `inside`.
    ///
    /// # Panics
    /// The address is taken.
    pub async fn start(public: SocketAddr, node: SocketAddr, inside: IpAddr, latency: Range<Duration>) -> Self {
        let public = UdpSocket::bind(public).await.expect("the relay's address is free");
        let mut tasks = JoinSet::new();
        tasks.spawn(run(public, node, inside, latency));
        Self { _tasks: tasks }
    }
}

async fn run(public: UdpSocket, node: SocketAddr, inside: IpAddr, latency: Range<Duration>) {
    let mut peers: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut readers = JoinSet::new();
    let (replies, mut from_node) = mpsc::channel(MAX_UNDER_WAY);
    // Ordered by arrival time, and by number for equal times.
    let mut under_way: BTreeMap<(Instant, u64), Packet> = BTreeMap::new();
    let mut number = 0;
    let mut buffer = vec![0; MAX_PACKET];
    loop {
        let next = under_way.first_key_value().map(|((at, _), _)| *at);
        let packet = tokio::select! {
            biased;
            () = async { match next { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {
                // A packet may be lost: ignore the error.
                match under_way.pop_first() {
                    Some((_, Packet { to: To::Node(socket), bytes })) => drop(socket.send(&bytes).await),
                    Some((_, Packet { to: To::Peer(peer), bytes })) => drop(public.send_to(&bytes, peer).await),
                    None => {}
                }
                continue;
            }
            Some(packet) = from_node.recv() => packet,
            received = public.recv_from(&mut buffer) => {
                // An error means that a peer's port is closed.
                let Ok((len, peer)) = received else { continue };
                let socket = match peers.get(&peer) {
                    Some(socket) => Arc::clone(socket),
                    None if peers.len() >= MAX_PEERS => continue,
                    None => {
                        let Ok(socket) = connect(inside, node).await else { continue };
                        readers.spawn(read(Arc::clone(&socket), peer, replies.clone()));
                        peers.insert(peer, Arc::clone(&socket));
                        socket
                    }
                };
                Packet { to: To::Node(socket), bytes: buffer[..len].to_vec() }
            }
        };
        if under_way.len() < MAX_UNDER_WAY {
            number += 1;
            let wait = if latency.is_empty() { latency.start } else { rand::random_range(latency.clone()) };
            under_way.insert((Instant::now() + wait, number), packet);
        }
    }
}

async fn connect(inside: IpAddr, node: SocketAddr) -> std::io::Result<Arc<UdpSocket>> {
    let socket = UdpSocket::bind((inside, 0)).await?;
    socket.connect(node).await?;
    Ok(Arc::new(socket))
}

/// Receives the node's packets to one peer.
async fn read(socket: Arc<UdpSocket>, peer: SocketAddr, replies: mpsc::Sender<Packet>) {
    let mut buffer = vec![0; MAX_PACKET];
    loop {
        // A killed node is silent to its peers: don't forward that its port is closed.
        let Ok(len) = socket.recv(&mut buffer).await else { continue };
        let packet = Packet { to: To::Peer(peer), bytes: buffer[..len].to_vec() };
        if replies.send(packet).await.is_err() {
            return;
        }
    }
}
