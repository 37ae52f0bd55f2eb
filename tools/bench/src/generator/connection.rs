//! One client's connection: opened, upgraded, and heard frame by frame, in a buffer that all share.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::Ipv4Addr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::{TcpSocket, tcp::OwnedReadHalf},
};

use super::{
    Server, Speaks,
    framing::{self, BINARY, Frame, Framing, TEXT},
    outgoing::Outgoing,
};

const BUFFER: usize = 64 * 1024;
/// More than a server says in answer to an upgrade.
const MAX_HEAD: usize = 4096;

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
    static PLAIN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Speaks {
    pub(super) const fn framing(self) -> Framing {
        match self {
            Self::Chappe => Framing::WebSocket(TEXT),
            Self::Frames => Framing::WebSocket(BINARY),
            Self::Lengths => Framing::Length,
        }
    }
}

/// The way in.
#[derive(Debug)]
pub(super) struct Incoming {
    reader: OwnedReadHalf,
    framing: Framing,
    /// What was read of a frame that is not whole.
    partial: Vec<u8>,
}

/// A connection of which every answer is awaited.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) incoming: Incoming,
    pub(super) outgoing: Outgoing,
}

impl Connection {
    /// Opens one from an address of this machine, and upgrades it where the server speaks WebSocket.
    pub(super) async fn open(server: Server, from: Ipv4Addr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // A port of a connection that was closed a moment ago may be taken again: the server's side tells them apart.
        socket.set_reuseaddr(true)?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(server.addr).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(server.addr.ip().into());
        let tls =
            tls.map(|config| ClientConnection::new(config.clone(), name)).transpose().map_err(io::Error::other)?;
        let (reader, writer) = stream.into_split();
        let framing = server.speaks.framing();
        let mut connection = Self {
            incoming: Incoming { reader, framing, partial: Vec::new() },
            outgoing: Outgoing::new(writer, tls.map(Box::new)),
        };
        connection.outgoing.advance()?;
        while connection.outgoing.is_handshaking() {
            connection.read().await?;
        }
        if framing != Framing::Length {
            connection.upgrade(server).await?;
        }
        Ok(connection)
    }

    async fn upgrade(&mut self, server: Server) -> io::Result<()> {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            server.addr
        );
        self.outgoing.say(request.as_bytes(), false)?;
        loop {
            let head = &self.incoming.partial;
            if let Some(end) = head.windows(4).position(|end| end == b"\r\n\r\n") {
                if !head.starts_with(b"HTTP/1.1 101 ") {
                    return Err(io::Error::other("the server doesn't upgrade"));
                }
                self.incoming.partial.drain(..end + 4);
                return Ok(());
            }
            if head.len() > MAX_HEAD {
                return Err(io::Error::other("the server answers without end"));
            }
            self.read().await?;
        }
    }

    /// Says one body.
    pub(super) fn say(&mut self, body: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(body.len() + 14);
        self.incoming.framing.encode(&mut frame, body.len(), 0, |to| to.extend_from_slice(body));
        self.outgoing.say(&frame, false)
    }

    /// The next body.
    pub(super) async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(frame) = self.incoming.framing.decode(&self.incoming.partial) {
                let body = self.incoming.partial[frame.body.clone()].to_vec();
                self.incoming.partial.drain(..frame.body.end);
                if matches!(frame.opcode, TEXT | BINARY) {
                    return Ok(body);
                }
                self.outgoing.say(&pong(&body), false)?;
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        let Self { incoming, outgoing } = self;
        poll_fn(|cx| {
            outgoing.poll_flush(cx)?;
            incoming.poll_read(cx, |bytes, partial| outgoing.decrypt(bytes, partial))
        })
        .await
    }
}

/// The answer to a ping.
pub(super) fn pong(content: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    framing::encode(&mut frame, framing::PONG, content.len(), 0, |to| to.extend_from_slice(content));
    frame
}

impl Incoming {
    pub(super) const fn framing(&self) -> Framing {
        self.framing
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&[u8], &mut Vec<u8>) -> io::Result<()>,
    ) -> Poll<io::Result<()>> {
        READ.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.reader).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            Poll::Ready(take(read.filled(), &mut self.partial))
        })
    }

    /// Reads once, and gives each frame to `hear`. Ready when it has, or the connection is over.
    pub(super) fn poll_frames(
        &mut self,
        cx: &mut Context<'_>,
        out: &RefCell<Outgoing>,
        mut hear: impl FnMut(u8, &[u8]),
    ) -> Poll<io::Result<()>> {
        let framing = self.framing;
        let mut hear_all = |bytes: &[u8]| {
            let mut at = 0;
            while let Some(Frame { opcode, body }) = framing.decode(&bytes[at..]) {
                hear(opcode, &bytes[at..][body.clone()]);
                at += body.end;
            }
            at
        };
        self.poll_read(cx, |bytes, partial| {
            if partial.is_empty() && !out.borrow().is_tls() {
                let used = hear_all(bytes);
                partial.extend_from_slice(&bytes[used..]);
                return Ok(());
            }
            PLAIN.with_borrow_mut(|plain| {
                plain.clear();
                plain.append(partial);
                out.borrow_mut().decrypt(bytes, plain)?;
                let used = hear_all(plain);
                partial.extend_from_slice(&plain[used..]);
                Ok(())
            })
        })
    }
}
