//! The floor: forwards packets by a fixed mapping, with batches on the clients' side and a socket for each client on the
//! peers' side, as this project's relay has them.
//!
//! A client sends one byte to get a relayed address, and then six bytes, the address and port of its peer. Both are
//! answered by the relayed address. Each other packet is forwarded unchanged.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{Listening, announce};
use crate::{
    addresses::{ADDRESS, client_at, client_ip, decode, encode},
    datagrams::Datagrams,
};

/// Batches and packets received before other sockets have their turn, as in this project's relay.
const MAX_BATCHES: usize = 4;
const PEER_PACKETS: usize = 64;

const MAX_CLIENTS: usize = 20_000;

struct Mapping {
    client: SocketAddrV4,
    peer: SocketAddrV4,
    socket: UdpSocket,
    relayed: SocketAddrV4,
}

pub(super) fn serve(ip: Ipv4Addr) {
    let mut clients = Datagrams::bind(ip);
    announce(Listening { udp: SocketAddrV4::new(ip, clients.port()), tcp: None, node: None });
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
    let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
    epoll.add(clients.socket(), readable(u64::MAX)).expect("a socket");
    let mut mappings: Vec<Option<Mapping>> = (0..MAX_CLIENTS).map(|_| None).collect();
    let mut events = [EpollEvent::empty(); 256];
    let mut buffer = [0; 2048];
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE).expect("an epoll");
        let burst = (PEER_PACKETS / count.max(1)).max(1);
        for event in &events[..count] {
            if event.data() != u64::MAX {
                let mapping = usize::try_from(event.data()).ok().and_then(|index| mappings[index].as_ref());
                let mapping = mapping.expect("a client's socket");
                for _ in 0..burst {
                    let Ok(len) = mapping.socket.recv(&mut buffer) else { break };
                    clients.queue(mapping.client, len, |packet| packet.copy_from_slice(&buffer[..len]));
                }
                continue;
            }
            let mut answers = Vec::new();
            for _ in 0..MAX_BATCHES {
                let received = clients.receive(|meta, packet| {
                    let Some(index) = client_at(meta.source.ip()) else { return };
                    match (packet, &mut mappings[index]) {
                        ([_], mapping) => {
                            let socket = UdpSocket::bind((ip, 0)).expect("a free port");
                            socket.set_nonblocking(true).expect("an option of each socket");
                            epoll.add(&socket, readable(index as u64)).expect("a socket");
                            let relayed = SocketAddrV4::new(ip, socket.local_addr().expect("a bound socket").port());
                            let peer = SocketAddrV4::new(client_ip(index), 0);
                            *mapping = Some(Mapping { client: meta.source, peer, socket, relayed });
                            answers.push((meta.source, relayed));
                        }
                        (packet, Some(mapping)) if packet.len() == ADDRESS => {
                            mapping.peer = decode(packet).expect("an address");
                            answers.push((meta.source, mapping.relayed));
                        }
                        (packet, Some(mapping)) => {
                            // What does not fit the buffers is lost, as on any network.
                            let _ = mapping.socket.send_to(packet, mapping.peer);
                        }
                        (_, None) => {}
                    }
                });
                if received == 0 {
                    break;
                }
            }
            for (client, relayed) in answers {
                clients.queue(client, ADDRESS, |packet| packet.copy_from_slice(&encode(relayed)));
            }
        }
        clients.flush();
    }
}
