//! What stands on the streams of a link as `docs/protocol/federation.md` has it: the first words, and exchanges. Both
//! are small; what doesn't fit or doesn't decode ends the stream.

use bytes::Bytes;
use chappe_common::time::UnixTime;
use chappe_node::membership::{
    admission::Refusal,
    exchange::{ExchangeMessage, MAX_MESSAGE},
};
use quinn::{Connection, RecvStream, SendStream};
use serde::{Deserialize, Serialize};

/// The first byte of the first words.
const HELLO: u8 = 1;
/// The first byte of an exchange.
const EXCHANGE: u8 = 2;
/// The longest first words.
const MAX_HELLO: usize = 1024;

/// What either side says first.
#[derive(Debug, Serialize, Deserialize)]
pub enum Hello {
    /// Who it is: its signed record, its ticket, its clock.
    Record(Bytes, Option<Bytes>, UnixTime),
    /// Why it won't have this link, and its clock.
    Refused(Refusal, UnixTime),
}

/// Begins an exchange.
pub async fn begin_exchange(stream: &mut SendStream) -> Option<()> {
    stream.write_all(&[EXCHANGE]).await.ok()
}

/// Whether the peer begins the first words with this stream.
pub async fn is_hello(stream: &mut RecvStream) -> bool {
    begins_with(stream, HELLO).await
}

/// Whether the peer begins an exchange with this stream.
pub async fn is_exchange(stream: &mut RecvStream) -> bool {
    begins_with(stream, EXCHANGE).await
}

async fn begins_with(stream: &mut RecvStream, byte: u8) -> bool {
    let mut first = [0];
    stream.read_exact(&mut first).await.is_ok() && first == [byte]
}

/// Says the first words over a link that was dialled, and hears the other side's.
pub async fn greet(connection: &Connection, hello: &Hello) -> Option<Hello> {
    let (mut send, mut receive) = connection.open_bi().await.ok()?;
    send.write_all(&[HELLO]).await.ok()?;
    say_hello(&mut send, hello).await?;
    hear_hello(&mut receive).await
}

/// Says the first words, and ends the stream.
pub async fn say_hello(stream: &mut SendStream, hello: &Hello) -> Option<()> {
    stream.write_all(&postcard::to_allocvec(hello).ok()?).await.ok()?;
    stream.finish().ok()
}

/// Hears the first words.
pub async fn hear_hello(stream: &mut RecvStream) -> Option<Hello> {
    postcard::from_bytes(&stream.read_to_end(MAX_HELLO).await.ok()?).ok()
}

/// Says one message of an exchange.
pub async fn say(stream: &mut SendStream, message: &ExchangeMessage) -> Option<()> {
    let bytes = postcard::to_allocvec(message).ok()?;
    stream.write_all(&u32::try_from(bytes.len()).ok()?.to_le_bytes()).await.ok()?;
    stream.write_all(&bytes).await.ok()
}

/// Hears one; none where the peer has said all.
pub async fn hear(stream: &mut RecvStream) -> Option<ExchangeMessage> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).await.ok()?;
    let len = usize::try_from(u32::from_le_bytes(len)).ok().filter(|len| *len <= MAX_MESSAGE)?;
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await.ok()?;
    postcard::from_bytes(&bytes).ok()
}
