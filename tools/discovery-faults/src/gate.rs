//! A proxy in front of a server that adds latency and faults to its connections.
//!
//! Loopback has no latency, so the gate adds it. Each byte takes half a round trip, and the first byte of a connection
//! a whole one more, for the TCP handshake.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

/// The behaviour of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Everything passes.
    Passes,
    /// Nobody answers: the first packet of a connection is lost, and so is its repetition.
    Unanswered,
    /// Connections are accepted, and nothing ever comes.
    Silent,
    /// Connections are accepted, and reset with the first byte.
    Reset,
    /// Nothing listens.
    Refused,
    /// The server's answer comes one byte a second.
    Drips,
}

/// Connections that fill the queue of a socket that nobody accepts from: a queue of none has room for one.
const FILLERS: usize = 4;
/// Chunks under way in one direction.
const UNDER_WAY: usize = 64;

/// A gate. Closed when dropped.
#[derive(Debug)]
pub struct Gate {
    addr: SocketAddr,
    target: Arc<OnceLock<SocketAddr>>,
    /// A socket that is bound and doesn't listen, or listens and is full.
    _held: Option<Held>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
enum Held {
    Bound(#[expect(dead_code, reason = "held for its port")] TcpSocket),
    Full(
        #[expect(dead_code, reason = "held for its queue")] TcpListener,
        #[expect(dead_code, reason = "they fill it")] Vec<TcpStream>,
    ),
}

impl Gate {
    /// A gate on a free port of loopback, so many round trips away.
    ///
    /// # Panics
    /// No port is free, or a full queue takes one more.
    pub async fn bind(traffic: Traffic, round_trip: Duration) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let addr = socket.local_addr().expect("it is bound");
        let target = Arc::new(OnceLock::new());
        let mut tasks = JoinSet::new();
        let held = match traffic {
            Traffic::Refused => Some(Held::Bound(socket)),
            Traffic::Unanswered => {
                let listener = socket.listen(0).expect("a listener");
                Some(Held::Full(listener, fill(addr).await))
            }
            _ => {
                let listener = socket.listen(1024).expect("a listener");
                tasks.spawn(accept(listener, traffic, round_trip, target.clone()));
                None
            }
        };
        Self { addr, target, _held: held, _tasks: tasks }
    }

    /// A gate to a server.
    ///
    /// # Panics
    /// As [`Gate::bind`].
    pub async fn to(target: SocketAddr, traffic: Traffic, round_trip: Duration) -> Self {
        let gate = Self::bind(traffic, round_trip).await;
        gate.lead_to(target);
        gate
    }

    /// The address in front of the gate.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Says which server is behind it.
    ///
    /// # Panics
    /// It was said before.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.set(target).expect("one server is behind a gate");
    }
}

/// Connects until a connection isn't answered any more.
async fn fill(addr: SocketAddr) -> Vec<TcpStream> {
    let mut fillers = Vec::new();
    for _ in 0..FILLERS {
        match timeout(Duration::from_millis(200), TcpStream::connect(addr)).await {
            Ok(Ok(filler)) => fillers.push(filler),
            _ => return fillers,
        }
    }
    panic!("a full queue still takes connections");
}

async fn accept(listener: TcpListener, traffic: Traffic, round_trip: Duration, target: Arc<OnceLock<SocketAddr>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let target = target.clone();
        connections.spawn(async move {
            match traffic {
                Traffic::Silent => std::future::pending().await,
                Traffic::Reset => {
                    sleep(round_trip).await;
                    // Without lingering, what ends a connection is a reset.
                    let _ = stream.set_zero_linger();
                }
                _ => {
                    let Some(target) = target.get() else { return };
                    pass(stream, *target, round_trip, traffic == Traffic::Drips).await;
                }
            }
        });
    }
}

async fn pass(client: TcpStream, target: SocketAddr, round_trip: Duration, drips: bool) {
    let accepted = Instant::now();
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let half = round_trip / 2;
    let forth = carry(from_client, to_server, half, accepted + round_trip);
    let back = async {
        if drips { drip(from_server, to_client).await } else { carry(from_server, to_client, half, accepted).await }
    };
    tokio::join!(forth, back);
}

/// Carries bytes, each of them `delay` long, and as if none had been sent before `earliest`.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration, earliest: Instant) {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(len @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now().max(earliest) + delay;
            if sender.send((due, buffer[..len].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = under_way.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        sleep(delay).await;
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

async fn drip(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    while let Ok(byte) = from.read_u8().await {
        if to.write_u8(byte).await.is_err() {
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(40);

    /// Sends a byte through a gate to a server that sends it back. How long it took.
    async fn echo(traffic: Traffic) -> Result<Duration, ErrorKind> {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a listener");
        let gate = Gate::to(server.local_addr().expect("an address"), traffic, ROUND_TRIP).await;
        let since = Instant::now();
        let client = async {
            let mut stream = TcpStream::connect(gate.addr()).await.map_err(|error| error.kind())?;
            stream.write_all(b"x").await.map_err(|error| error.kind())?;
            stream.read_u8().await.map_err(|error| error.kind())?;
            Ok(since.elapsed())
        };
        let echo = async {
            let (mut stream, _) = server.accept().await.expect("a connection");
            let byte = stream.read_u8().await.expect("a byte");
            stream.write_u8(byte).await.expect("a reader");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            outcome = timeout(Duration::from_millis(500), client) => outcome.unwrap_or(Err(ErrorKind::TimedOut)),
            () = echo => unreachable!("it waits for ever"),
        }
    }

    #[tokio::test]
    async fn each_gate_has_its_documented_effect() {
        let passed = echo(Traffic::Passes).await.expect("an echo");
        // The handshake and the echo.
        assert!(passed >= 2 * ROUND_TRIP, "{passed:?}");
        assert_eq!(echo(Traffic::Refused).await, Err(ErrorKind::ConnectionRefused));
        assert_eq!(echo(Traffic::Reset).await, Err(ErrorKind::ConnectionReset));
        assert_eq!(echo(Traffic::Silent).await, Err(ErrorKind::TimedOut));
        assert_eq!(echo(Traffic::Unanswered).await, Err(ErrorKind::TimedOut));
        let gate = Gate::bind(Traffic::Unanswered, ROUND_TRIP).await;
        assert!(timeout(Duration::from_millis(300), TcpStream::connect(gate.addr())).await.is_err(), "it connects");
    }
}
