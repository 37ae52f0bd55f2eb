//! Drives a [`Server`](crate::server::Server) on a thread of its own, with one epoll for all its sockets.
//!
//! The relay doesn't share a thread with anything else, so its load can't delay its caller. Packets are received and sent in
//! batches, and stay in the buffer that they were received in.

pub use event_loop::month;

mod event_loop;
mod listeners;
mod peers;
mod stream;
mod streams;

use std::{
    any::Any,
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::{
    budget::Budget,
    counters::Counters,
    peer_filter::PeerFilter,
    runtime::event_loop::{Bound, EventLoop},
    server::Config,
};

/// Commands that wait for the thread. It takes them within milliseconds; a burst of connections fits.
const COMMANDS: usize = 256;

/// What a relay runs with.
#[derive(Debug)]
pub struct RelayConfig {
    /// The UDP addresses for clients. With several addresses on one machine, each is named, so that answers come from the
    /// address that was asked.
    pub listen: Vec<SocketAddr>,
    /// The local addresses of relayed sockets, at most one of each family. Behind a NAT they are not what peers see.
    pub relay_bind: Vec<IpAddr>,
    /// What the server is made of. Its own addresses are added.
    pub server: Config,
    /// The bytes of this month.
    pub budget: Budget,
}

/// A running relay. Stops when dropped.
#[derive(Debug)]
pub struct Relay {
    commands: SyncSender<Command>,
    waker: Arc<EventFd>,
    snapshot: Arc<Mutex<Snapshot>>,
    addrs: Vec<SocketAddr>,
    thread: Option<JoinHandle<()>>,
}

/// A connection that speaks STUN, accepted elsewhere.
pub struct NewStream {
    /// The connection.
    pub socket: TcpStream,
    /// The address of its other end.
    pub addr: SocketAddr,
    /// The TLS session, after its handshake.
    pub tls: Option<Box<rustls::ServerConnection>>,
    /// What has been received, decrypted.
    pub received: Vec<u8>,
    /// Dropped when the connection ends, such as a permit of the acceptor.
    pub guard: Box<dyn Any + Send>,
}

enum Command {
    Stream(Box<NewStream>),
    Filter(PeerFilter),
    Drain,
    Stop,
}

/// The state of a relay, at most a second old.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What the server has done.
    pub counters: Counters,
    /// What the sockets have done.
    pub io: IoCounters,
    /// Current allocations.
    pub allocations: usize,
    /// Current TCP and TLS connections.
    pub streams: usize,
    /// The bytes of this month.
    pub budget: Budget,
    /// Whether the relay runs. It stops if its epoll fails.
    pub is_running: bool,
}

/// Counts of the sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounters {
    /// Packets that the system did not take, mostly for a full buffer.
    pub sends_failed: u64,
    /// Packets longer than 2,048 bytes.
    pub truncated: u64,
    /// Errors of receiving sockets.
    pub receives_failed: u64,
    /// Packets dropped because a client doesn't read its connection.
    pub stream_packets_dropped: u64,
    /// Connections closed: no STUN, or nothing read or allocated in time.
    pub streams_closed: u64,
}

/// The relay doesn't take another connection: too many wait, or it has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the relay takes no connection now")]
pub struct NotTaken;

impl Relay {
    /// Starts a relay.
    ///
    /// # Errors
    /// An address cannot be bound, or the system refuses an epoll or a thread.
    pub fn spawn(config: RelayConfig) -> io::Result<Self> {
        let (commands, receiver) = sync_channel(COMMANDS);
        let waker = Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let snapshot = Arc::new(Mutex::new(Snapshot {
            counters: Counters::default(),
            io: IoCounters::default(),
            allocations: 0,
            streams: 0,
            budget: config.budget,
            is_running: true,
        }));
        let bound = Bound::bind(&config.listen, &waker)?;
        let addrs = bound.addrs.clone();
        let (of_thread, its_waker) = (snapshot.clone(), waker.clone());
        let run = move || EventLoop::new(config, bound, receiver, its_waker, of_thread).run();
        let thread = thread::Builder::new().name("turn".to_owned()).spawn(run)?;
        Ok(Self { commands, waker, snapshot, addrs, thread: Some(thread) })
    }

    /// The bound UDP addresses, in the order of the configuration.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Hands a connection over. Does not wait.
    ///
    /// # Errors
    /// The relay takes no connection now. The connection is closed.
    pub fn add_stream(&self, stream: NewStream) -> Result<(), NotTaken> {
        self.try_command(Command::Stream(Box::new(stream))).map_err(|_| NotTaken)
    }

    /// Replaces the filter of peers.
    pub fn set_filter(&self, filter: PeerFilter) {
        self.command(Command::Filter(filter));
    }

    /// Makes no new allocations from now on. Running ones go on until [`Self::shutdown`].
    pub fn drain(&self) {
        self.command(Command::Drain);
    }

    /// Returns the state of the relay.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends all allocations, and waits for the thread.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.command(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Waits until the thread takes a command. If it has ended, the command is not needed.
    fn command(&self, command: Command) {
        let _ = self.commands.send(command);
        let _ = self.waker.write(1);
    }

    fn try_command(&self, command: Command) -> Result<(), TrySendError<Command>> {
        self.commands.try_send(command)?;
        let _ = self.waker.write(1);
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop();
    }
}
