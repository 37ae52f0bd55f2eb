//! A relay of bare TCP frames: a length of four bytes (little-endian), then the body.
//!
//! The sender's task writes a frame to the receiver's socket, and queues only what the system doesn't take. Frames of
//! one read for one receiver go in one write.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, RwLock},
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

use super::{ID, id_of};

const HEAD: usize = 4;
const BUFFER: usize = 64 * 1024;
/// The bytes that may be queued for one client; the node's own bound.
const MAX_WAITING: usize = 256 * 1024;

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

type Peers = Arc<RwLock<HashMap<u64, Arc<Peer>>>>;

struct Peer(Mutex<Out>);

struct Out {
    writer: OwnedWriteHalf,
    waiting: Vec<u8>,
    waker: Option<Waker>,
}

impl Peer {
    fn write(&self, bytes: &[u8]) {
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = if out.waiting.is_empty() { out.writer.try_write(bytes).unwrap_or(0) } else { 0 };
        // Frames beyond the bound are lost, which the generator reports.
        if gone < bytes.len() && (gone > 0 || out.waiting.len() < MAX_WAITING) {
            out.waiting.extend_from_slice(&bytes[gone..]);
            if let Some(waker) = &out.waker {
                waker.wake_by_ref();
            }
        }
    }

    fn poll_flush(&self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let out = &mut *out;
        if out.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            out.waker = Some(cx.waker().clone());
        }
        while !out.waiting.is_empty() {
            match out.writer.try_write(&out.waiting) {
                Ok(gone) => drop(out.waiting.drain(..gone)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if out.writer.as_ref().poll_write_ready(cx)?.is_pending() {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        out.waiting = Vec::new();
        Ok(())
    }
}

/// Serves until the task is ended.
pub(super) async fn serve(listener: TcpListener) {
    let peers = Peers::default();
    let mut clients = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        clients.spawn(serve_client(stream, peers.clone()));
        while clients.try_join_next().is_some() {}
    }
}

async fn serve_client(stream: TcpStream, peers: Peers) {
    let (reader, writer) = stream.into_split();
    let own = Arc::new(Peer(Mutex::new(Out { writer, waiting: Vec::new(), waker: None })));
    let mut client = Client { reader, own, id: None, partial: Vec::new(), peers };
    // The generator reports broken connections: ignore the error.
    let _ = poll_fn(|cx| client.poll(cx)).await;
    if let Some(id) = client.id {
        client.peers.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

struct Client {
    reader: OwnedReadHalf,
    own: Arc<Peer>,
    id: Option<u64>,
    partial: Vec<u8>,
    peers: Peers,
}

impl Client {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.own.poll_flush(cx)?;
        loop {
            let count = READ.with_borrow_mut(|buffer| {
                let mut read = ReadBuf::new(buffer);
                ready!(Pin::new(&mut self.reader).poll_read(cx, &mut read))?;
                let bytes = read.filled();
                if self.partial.is_empty() {
                    let used = self.forward(bytes);
                    self.partial.extend_from_slice(&bytes[used..]);
                } else {
                    let mut whole = std::mem::take(&mut self.partial);
                    whole.extend_from_slice(bytes);
                    let used = self.forward(&whole);
                    self.partial.extend_from_slice(&whole[used..]);
                }
                Poll::Ready(Ok::<_, io::Error>(bytes.len()))
            });
            if ready!(count)? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Forwards all complete frames, adjacent ones for one receiver together. Returns their length in bytes.
    fn forward(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        let mut run: Option<(u64, usize)> = None;
        while let Some(head) = bytes.get(at..).and_then(<[u8]>::first_chunk::<HEAD>) {
            let end = at + HEAD + u32::from_le_bytes(*head) as usize;
            let Some(id) = bytes.get(at + HEAD..end).and_then(id_of) else { break };
            if self.id.is_none() {
                self.id = Some(id);
                self.peers.write().unwrap_or_else(PoisonError::into_inner).insert(id, self.own.clone());
                self.own.write(&bytes[at..at + HEAD + ID]);
                at = end;
                continue;
            }
            match run {
                Some((to, _)) if to == id => {}
                _ => {
                    self.send(run, bytes, at);
                    run = Some((id, at));
                }
            }
            at = end;
        }
        self.send(run, bytes, at);
        at
    }

    fn send(&self, run: Option<(u64, usize)>, bytes: &[u8], end: usize) {
        let Some((to, start)) = run else { return };
        let peer = self.peers.read().unwrap_or_else(PoisonError::into_inner).get(&to).cloned();
        if let Some(peer) = peer {
            peer.write(&bytes[start..end]);
        }
    }
}
