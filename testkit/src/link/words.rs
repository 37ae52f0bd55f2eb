//! Greetings and exchanges on the streams of a link, as `docs/protocol/federation.md` defines them. A message that is
//! too large or doesn't decode ends the stream.

use bytes::Bytes;
use chappe_common::time::UnixTime;
use chappe_node::membership::{
    admission::AdmissionRefusal,
    exchange::{ExchangeMessage, MAX_MESSAGE},
};
use quinn::{Connection, RecvStream, SendStream};
use serde::{Deserialize, Serialize};

/// The first byte of a greeting's stream.
const HELLO: u8 = 1;
/// The first byte of an exchange's stream.
const EXCHANGE: u8 = 2;
/// The longest greeting, in bytes.
const MAX_HELLO: usize = 1024;

/// A greeting.
#[derive(Debug, Serialize, Deserialize)]
pub enum Hello {
    /// The sender's signed record, ticket and clock.
    Record(Bytes, Option<Bytes>, UnixTime),
    /// Why the sender refuses the link, and its clock.
    Refused(AdmissionRefusal, UnixTime),
}

/// Begins an exchange.
pub async fn begin_exchange(stream: &mut SendStream) -> Option<()> {
    stream.write_all(&[EXCHANGE]).await.ok()
}

/// Whether the peer has opened this stream for its greeting.
pub async fn is_hello(stream: &mut RecvStream) -> bool {
    begins_with(stream, HELLO).await
}

/// Whether the peer has opened this stream for an exchange.
pub async fn is_exchange(stream: &mut RecvStream) -> bool {
    begins_with(stream, EXCHANGE).await
}

async fn begins_with(stream: &mut RecvStream, byte: u8) -> bool {
    let mut first = [0];
    stream.read_exact(&mut first).await.is_ok() && first == [byte]
}

/// Greets over a link that was dialled, and returns the peer's greeting.
pub async fn greet(connection: &Connection, hello: &Hello) -> Option<Hello> {
    let (mut send, mut receive) = connection.open_bi().await.ok()?;
    send.write_all(&[HELLO]).await.ok()?;
    say_hello(&mut send, hello).await?;
    hear_hello(&mut receive).await
}

/// Sends a greeting, and finishes the stream.
pub async fn say_hello(stream: &mut SendStream, hello: &Hello) -> Option<()> {
    stream.write_all(&postcard::to_allocvec(hello).ok()?).await.ok()?;
    stream.finish().ok()
}

/// Receives a greeting.
pub async fn hear_hello(stream: &mut RecvStream) -> Option<Hello> {
    postcard::from_bytes(&stream.read_to_end(MAX_HELLO).await.ok()?).ok()
}

/// Sends one message of an exchange.
pub async fn say(stream: &mut SendStream, message: &ExchangeMessage) -> Option<()> {
    let bytes = postcard::to_allocvec(message).ok()?;
    stream.write_all(&u32::try_from(bytes.len()).ok()?.to_le_bytes()).await.ok()?;
    stream.write_all(&bytes).await.ok()
}

/// Receives one message of an exchange. Returns `None` after the last.
pub async fn hear(stream: &mut RecvStream) -> Option<ExchangeMessage> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).await.ok()?;
    let len = usize::try_from(u32::from_le_bytes(len)).ok().filter(|len| *len <= MAX_MESSAGE)?;
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await.ok()?;
    postcard::from_bytes(&bytes).ok()
}
