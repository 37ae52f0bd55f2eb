//! Drives a [`Server`](crate::server::Server) on a thread of its own, with one epoll for all its sockets.
//!
//! The relay doesn't share a thread with anything else, so its load can't delay its caller. Packets are received and sent in
//! batches. A packet is sent from the buffer that it was received in.

mod bound;
mod egress;
mod event_loop;
mod listeners;
mod outbox;
mod peers;
mod stream;
mod streams;
mod token;

use std::{
    any::Any,
    io,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::{
    budget::BudgetLevel,
    counters::Counters,
    peer_filter::PeerFilter,
    runtime::{bound::Bound, event_loop::EventLoop},
    server::Config,
};

/// Length of the queue of new connections. The thread takes them within milliseconds, so only a burst must fit.
const NEW_STREAMS: usize = 256;

/// The settings of a relay.
#[derive(Debug)]
pub struct RelayConfig {
    /// The UDP addresses for clients. If the machine has several addresses, name each of them: a response must come from
    /// the address that the request was sent to.
    pub listen: Vec<SocketAddr>,
    /// Bound sockets, each in place of the one of its family in `listen`. An IPv6 socket must receive no IPv4 packets.
    pub passed: Vec<UdpSocket>,
    /// The local addresses of relayed sockets, at most one of each family. Behind a NAT, peers see other addresses.
    pub relay_bind: Vec<IpAddr>,
    /// The server's settings. The relay adds the addresses of its sockets to `listening`.
    pub server: Config,
}

/// A running relay. Its thread ends soon after it is dropped; [`Relay::stop`] waits for that.
#[derive(Debug)]
pub struct Relay {
    new_streams: SyncSender<Box<NewStream>>,
    shared: Arc<Shared>,
    addrs: Vec<SocketAddr>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A connection from a STUN client, accepted by the relay's owner.
pub struct NewStream {
    /// The connection.
    pub socket: TcpStream,
    /// The address of its other end.
    pub addr: SocketAddr,
    /// The TLS session, after its handshake.
    pub tls: Option<Box<rustls::ServerConnection>>,
    /// The bytes that were received already, decrypted.
    pub received: Vec<u8>,
    /// A value to drop when the connection ends, such as a permit of the acceptor.
    pub guard: Box<dyn Any + Send>,
}

/// State that the relay's owner and its thread share.
#[derive(Debug)]
struct Shared {
    waker: EventFd,
    changes: Mutex<Changes>,
    is_draining: AtomicBool,
    is_stopping: AtomicBool,
    snapshot: Mutex<Snapshot>,
}

/// New settings, until the thread takes them.
#[derive(Debug, Default)]
struct Changes {
    filter: Option<PeerFilter>,
    /// The external addresses, at most one of each family.
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
    budget: Option<BudgetLevel>,
}

/// Marks the relay as stopped when the thread ends, even if it has panicked.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.snapshot.lock().unwrap_or_else(PoisonError::into_inner).is_running = false;
    }
}

/// The state of a relay, at most a second old.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The server's counts.
    pub counters: Counters,
    /// The sockets' counts.
    pub io: IoCounters,
    /// Current allocations.
    pub allocations: usize,
    /// Current TCP and TLS connections.
    pub streams: usize,
    /// What the budget and [`Relay::drain`] allow, as the thread applies it. `allocations` is counted after that: from
    /// [`BudgetLevel::NoAllocations`] on, it may be too high for a second, but never too low.
    pub budget: BudgetLevel,
    /// Whether the relay runs. It stops if its epoll fails.
    pub is_running: bool,
}

/// Counts of the sockets since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounters {
    /// Packets that the system did not accept, mostly because a send buffer was full.
    pub sends_failed: u64,
    /// Received packets longer than 2,048 bytes, which are dropped.
    pub truncated: u64,
    /// Errors of receiving sockets.
    pub receives_failed: u64,
    /// Packets dropped because a client doesn't read its connection.
    pub stream_packets_dropped: u64,
    /// TCP and TLS connections added.
    pub streams_opened: u64,
    /// TCP and TLS connections closed, for any reason.
    pub streams_closed: u64,
}

/// The relay accepts no connection now: its queue is full, or it has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the relay accepts no connection now")]
pub struct RelayBusy;

impl Relay {
    /// Starts a relay.
    ///
    /// # Errors
    /// An address cannot be bound, or the system refuses an epoll or a thread.
    pub fn spawn(mut config: RelayConfig) -> io::Result<Self> {
        let (new_streams, receiver) = sync_channel(NEW_STREAMS);
        let snapshot = Snapshot {
            counters: Counters::default(),
            io: IoCounters::default(),
            allocations: 0,
            streams: 0,
            budget: BudgetLevel::Open,
            is_running: true,
        };
        let shared = Arc::new(Shared {
            waker: EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
            changes: Mutex::default(),
            is_draining: AtomicBool::default(),
            is_stopping: AtomicBool::default(),
            snapshot: Mutex::new(snapshot),
        });
        let bound = Bound::bind(&config.listen, std::mem::take(&mut config.passed), &shared.waker)?;
        let addrs = bound.addrs.clone();
        let of_thread = shared.clone();
        let run = move || {
            let _running = Running(of_thread.clone());
            EventLoop::new(config, bound, receiver, of_thread).run();
        };
        let thread = thread::Builder::new().name("turn".to_owned()).spawn(run)?;
        Ok(Self { new_streams, shared, addrs, thread: Mutex::new(Some(thread)) })
    }

    /// The bound UDP addresses, in the order of the configuration.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Hands a connection over to the relay's thread. Does not wait.
    ///
    /// # Errors
    /// The relay accepts no connection now. The connection is closed.
    pub fn add_stream(&self, stream: NewStream) -> Result<(), RelayBusy> {
        self.new_streams.try_send(Box::new(stream)).map_err(|_| RelayBusy)?;
        self.wake();
        Ok(())
    }

    /// Replaces the peer filter. Does not wait.
    pub fn set_filter(&self, filter: PeerFilter) {
        self.shared.changes.lock().unwrap_or_else(PoisonError::into_inner).filter = Some(filter);
        self.wake();
    }

    /// Sets the external address of its family. If it changes, the allocations of that family end. Does not wait.
    pub fn set_external(&self, ip: IpAddr) {
        let mut changes = self.shared.changes.lock().unwrap_or_else(PoisonError::into_inner);
        *(if ip.is_ipv4() { &mut changes.v4 } else { &mut changes.v6 }) = Some(ip);
        drop(changes);
        self.wake();
    }

    /// Sets what the budget allows. If nothing, the allocations end. Does not wait.
    pub fn set_budget(&self, level: BudgetLevel) {
        self.shared.changes.lock().unwrap_or_else(PoisonError::into_inner).budget = Some(level);
        self.wake();
    }

    /// Stops making allocations, as soon as [`Snapshot::budget`] says so. Existing ones continue until the relay is dropped.
    /// Does not wait.
    pub fn drain(&self) {
        self.shared.is_draining.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Whether [`Self::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.shared.is_draining.load(Ordering::Relaxed)
    }

    /// Returns the state of the relay.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops the relay, and waits until its thread has ended and all its sockets are closed: one turn of its loop.
    pub fn stop(&self) {
        self.begin_stop();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It has panicked if there is an error, and has said so.
            let _ = thread.join();
        }
    }

    fn begin_stop(&self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        self.wake();
    }

    fn wake(&self) {
        // Fails only if the counter is at its maximum: then the thread wakes up anyway.
        let _ = self.shared.waker.write(1);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Without waiting: this may be a thread that serves others.
        self.begin_stop();
    }
}
