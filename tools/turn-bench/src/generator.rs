//! The load generator: all clients of a server, and their peers, on one thread that never sleeps.

mod legs;
mod payload;
mod session;
mod tally;

use std::{
    collections::VecDeque,
    fs,
    net::SocketAddrV4,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use chappe_harness::cpu::{Meter, Use};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

pub use self::tally::Faults;
use self::{
    legs::Leg,
    payload::Stamp,
    session::{Progress, Session},
    tally::{End, Flow, Tally, histogram},
};
use crate::{
    addresses::PEER,
    datagrams::Datagrams,
    servers::{Kind, Server},
};

/// The sockets of peers. Several clients share a peer, and are told apart by their relayed addresses.
const PEER_SOCKETS: usize = 2;

/// Channels that clients use, one each.
const FIRST_CHANNEL: u16 = 0x4000;
const CHANNELS: usize = 4000;
const HEADER: usize = 4;

/// Clients that are in the midst of allocating.
const ALLOCATING: usize = 32;
/// How long a request waits for its answer before it is sent again, and how often.
const RETRY: Duration = Duration::from_millis(300);
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Packets sent before the generator looks for received ones.
const BURST: usize = 32;
/// How long a load runs before it is measured.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long the generator may be away from its loop. What it receives after a longer pause has no measured latency: the
/// pause is the machine's, and not of the server.
const MAX_PAUSE: Duration = Duration::from_micros(200);
/// How long packets may be on their way after the last was sent.
const DRAIN: Duration = Duration::from_secs(1);

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Between clients over UDP and peers without a relay.
    Peers,
    /// The same, with clients over TCP.
    PeersOverTcp,
    /// Between pairs of clients over UDP, each bound to the relayed address of the other.
    Hairpin,
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Packets a second, of all clients, both ways together.
    pub rate: f64,
    /// Bytes of the payload.
    pub size: usize,
    /// How long it is measured.
    pub seconds: f64,
}

/// What became of a load.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The time that the server and the generator used.
    pub usage: Use,
    /// Packets sent, with those of the warm-up.
    pub sent: u64,
    /// Received packets that were sent in the measured time.
    pub packets: u64,
    /// The latency of half and of 99 % of the packets, from the time that they were sent.
    pub latency_us: [f64; 2],
    /// The part of the packets whose latency is not measured, since the generator had paused; 0 to 1.
    pub unmeasured: f64,
    /// How late the generator sent 99 % of the packets, in microseconds.
    pub late_us: f64,
    /// Packets that the generator's own sockets dropped.
    pub own_drops: u64,
    /// Faulty packets.
    pub faults: Faults,
}

/// The clients of a server, and their peers.
pub struct Generator {
    server: u32,
    is_turn: bool,
    leg: Leg,
    peers: Vec<Datagrams>,
    relayed: Vec<SocketAddrV4>,
    /// The client of each relayed port.
    by_port: Vec<Option<usize>>,
    flows: Vec<Flow>,
    /// The flows in the order in which they send.
    order: Vec<usize>,
    start: Instant,
    /// What allocating and binding channels took.
    pub allocating: Use,
}

impl Generator {
    /// Gets an allocation and a channel for each of `clients` clients.
    ///
    /// # Panics
    /// The server refuses one, or does not answer.
    pub fn connect(server: &Server, clients: usize, route: Route) -> Self {
        let is_turn = server.kind != Kind::Floor;
        let (pid, udp) = (server.process.id(), server.listening.udp);
        let mut leg = match route {
            Route::PeersOverTcp => Leg::tcp(server.listening.tcp.expect("the server takes connections"), clients),
            Route::Peers | Route::Hairpin => Leg::udp(udp),
        };
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let new = |client| Session::new(client, channel(client), unix, is_turn);
        let mut sessions: Vec<_> = (0..clients).map(new).collect();
        let peers: Vec<_> = (0..PEER_SOCKETS).map(|_| Datagrams::bind(PEER)).collect();
        let peer_addrs: Vec<_> = peers.iter().map(|peer| SocketAddrV4::new(PEER, peer.port())).collect();
        let meter = Meter::start(&[pid]);
        exchange(&mut leg, &mut sessions);
        let relayed: Vec<_> = sessions.iter().map(|session| session.relayed.expect("an allocation")).collect();
        for (client, session) in sessions.iter_mut().enumerate() {
            session.bind(match route {
                Route::Hairpin => relayed[client ^ 1],
                Route::Peers | Route::PeersOverTcp => peer_addrs[client % PEER_SOCKETS],
            });
        }
        exchange(&mut leg, &mut sessions);
        let allocating = meter.stop();
        let mut by_port = vec![None; 1 << 16];
        for (client, addr) in relayed.iter().enumerate() {
            by_port[usize::from(addr.port())] = Some(client);
        }
        let flow = |from, to| Flow { from, to, next: 0, expected: 0 };
        let flows: Vec<_> = match route {
            Route::Hairpin => (0..clients).map(|client| flow(End::Client(client), End::Client(client ^ 1))).collect(),
            Route::Peers | Route::PeersOverTcp => (0..clients)
                .flat_map(|client| {
                    let (client, peer) = (End::Client(client), End::Peer(client));
                    [flow(client, peer), flow(peer, client)]
                })
                .collect(),
        };
        let mut order: Vec<_> = (0..flows.len()).collect();
        // The same order for every server.
        order.shuffle(&mut StdRng::seed_from_u64(1));
        let start = Instant::now();
        Self { server: pid, is_turn, leg, peers, relayed, by_port, flows, order, start, allocating }
    }

    /// Sends at a rate, and measures what arrives.
    pub fn load(&mut self, load: &Load) -> Loaded {
        let drops = self.own_drops();
        let begin = self.nanos();
        let window = (begin + nanos(WARM_UP), begin + nanos(WARM_UP + Duration::from_secs_f64(load.seconds)));
        let mut tally = Tally::new(window);
        let mut late = histogram();
        let mut rng = StdRng::seed_from_u64(2);
        let (mut sent, mut meter) = (0_u64, None);
        let mut order = self.order.clone().into_iter().cycle();
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run fit")]
        let mut due = begin as f64;
        let mut last = begin;
        let usage = loop {
            let now = self.nanos();
            tally.has_paused = now - last > nanos(MAX_PAUSE);
            last = now;
            if meter.is_none() && now >= window.0 {
                meter = Some(Meter::start(&[self.server]));
            }
            if now >= window.1
                && let Some(meter) = meter.take()
            {
                break meter.stop();
            }
            for _ in 0..BURST {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time after the start")]
                let moment = due as u64;
                if moment > now {
                    break;
                }
                self.send(order.next().expect("endless"), now, load.size);
                sent += 1;
                late.saturating_record(now - moment);
                // Random gaps, the same ones for every server.
                due -= (1.0 - rng.random::<f64>()).ln() / load.rate * 1e9;
            }
            self.peers.iter_mut().for_each(Datagrams::flush);
            if self.receive(&mut tally, load.size) == 0 {
                std::hint::spin_loop();
            }
        };
        let deadline = Instant::now() + DRAIN;
        while tally.received < sent && Instant::now() < deadline {
            self.receive(&mut tally, load.size);
        }
        let mut faults = tally.faults;
        faults.lost = sent.saturating_sub(tally.received);
        for flow in &mut self.flows {
            // Those that were lost are no gap of the next load.
            flow.expected = flow.next;
        }
        Loaded {
            usage,
            sent,
            packets: tally.packets,
            latency_us: [0.5, 0.99].map(|share| us(tally.latency.value_at_quantile(share))),
            unmeasured: part(tally.packets - tally.latency.len(), tally.packets),
            late_us: us(late.value_at_quantile(0.99)),
            own_drops: self.own_drops() - drops,
            faults,
        }
    }

    fn send(&mut self, index: usize, sent: u64, size: usize) {
        let flow = &mut self.flows[index];
        let number = flow.next;
        flow.next += 1;
        let stamp = Stamp { flow: u32::try_from(index).expect("few flows"), number, sent };
        match flow.from {
            End::Client(client) => {
                let mut packet = [0; HEADER + 1200];
                let packet = &mut packet[..HEADER + size];
                let (header, payload) = packet.split_at_mut(HEADER);
                header[..2].copy_from_slice(&channel(client).to_be_bytes());
                header[2..].copy_from_slice(&u16::try_from(size).expect("a packet").to_be_bytes());
                stamp.write(payload);
                // What is not taken is lost, and counted as such.
                self.leg.send(client, if self.is_turn { packet } else { &packet[HEADER..] });
            }
            End::Peer(client) => {
                self.peers[client % PEER_SOCKETS].queue(self.relayed[client], size, |payload| stamp.write(payload));
            }
        }
    }

    /// Receives what has arrived. Returns how many packets that was.
    fn receive(&mut self, tally: &mut Tally, size: usize) -> usize {
        let Self { leg, peers, flows, by_port, relayed, is_turn, start, .. } = self;
        let now = nanos(start.elapsed());
        let mut count = leg.receive(|client, packet| {
            let payload = if *is_turn { unwrap(client, packet) } else { Some(packet) };
            match payload {
                Some(payload) => tally.count(flows, End::Client(client), payload, size, now),
                None => tally.faults.altered += 1,
            }
        });
        for (index, peer) in peers.iter_mut().enumerate() {
            count += peer.receive(|meta, payload| {
                let client = by_port[usize::from(meta.source.port())];
                match client.filter(|client| relayed[*client] == meta.source && client % PEER_SOCKETS == index) {
                    Some(client) => tally.count(flows, End::Peer(client), payload, size, now),
                    None => tally.faults.misrouted += 1,
                }
            });
        }
        count
    }

    fn nanos(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    /// Packets that the system has dropped because the generator was too slow.
    fn own_drops(&self) -> u64 {
        let ports: Vec<_> = self.leg.ports().into_iter().chain(self.peers.iter().map(Datagrams::port)).collect();
        drops(&fs::read_to_string("/proc/net/udp").expect("Linux"), &ports)
    }
}

/// Drives all sessions until each has what it asks for.
fn exchange(leg: &mut Leg, sessions: &mut [Session]) {
    let begin = Instant::now();
    let mut waiting: VecDeque<usize> = (0..sessions.len()).collect();
    // The clients whose request is not answered, and when it was sent.
    let mut asked: Vec<(usize, Instant)> = Vec::new();
    while !(waiting.is_empty() && asked.is_empty()) {
        assert!(begin.elapsed() < MAX_WAIT, "the server does not answer {} clients", asked.len() + waiting.len());
        while asked.len() < ALLOCATING
            && let Some(client) = waiting.pop_front()
        {
            leg.send(client, &sessions[client].request);
            asked.push((client, Instant::now()));
        }
        let (mut next, mut done) = (Vec::new(), Vec::new());
        leg.receive(|client, packet| match sessions[client].handle_answer(packet) {
            Progress::Ignored => {}
            Progress::Next => next.push(client),
            Progress::Done => done.push(client),
        });
        asked.retain(|(client, _)| !done.contains(client));
        let now = Instant::now();
        for (client, since) in &mut asked {
            if next.contains(client) || since.elapsed() > RETRY {
                leg.send(*client, &sessions[*client].request);
                *since = now;
            }
        }
    }
}

/// The channel that a client binds.
fn channel(client: usize) -> u16 {
    FIRST_CHANNEL + u16::try_from(client % CHANNELS).expect("a small number")
}

/// Returns the payload of ChannelData, if it is whole and of the client's channel.
fn unwrap(client: usize, packet: &[u8]) -> Option<&[u8]> {
    let (header, payload) = packet.split_first_chunk::<HEADER>()?;
    let number = u16::from_be_bytes([header[0], header[1]]);
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if number == channel(client) { payload.get(..len) } else { None }
}

/// The dropped packets of local ports in the text of `/proc/net/udp`.
fn drops(text: &str, ports: &[u16]) -> u64 {
    let of_line = |line: &str| {
        let mut fields = line.split_whitespace();
        let (_, port) = fields.nth(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        ports.contains(&port).then(|| fields.last()?.parse::<u64>().ok()).flatten()
    };
    text.lines().filter_map(of_line).sum()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("less than centuries")
}

#[expect(clippy::cast_precision_loss, reason = "packets of a run fit")]
fn part(some: u64, all: u64) -> f64 {
    some as f64 / all.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a run fit")]
fn us(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_those_of_the_ports() {
        let text = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n  \
            521: 0100007F:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2101 2 0 7\n  \
            522: 0100007F:1F91 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2102 2 0 5\n";
        assert_eq!(drops(text, &[8080]), 7);
        assert_eq!(drops(text, &[8080, 8081]), 12);
        assert_eq!(drops(text, &[1]), 0);
    }
}
