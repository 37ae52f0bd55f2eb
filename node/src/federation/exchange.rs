//! The full exchange: both sides of a link tell all members and records that they know.
//!
//! On joining it is what makes a view complete at once, where gossip would take minutes; every 30 s with one random
//! member it mends what gossip lost.

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use serde::{Deserialize, Serialize};

use crate::membership::member::MemberId;

/// The first byte of the stream.
pub(crate) const EXCHANGE_STREAM: u8 = 2;
/// The longest exchange in bytes: 4,096 members with records of 512 bytes, and their states.
const MAX_EXCHANGE: usize = 3 * 1024 * 1024;

/// All that one node knows of the federation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Exchange {
    /// The members' states, those that are down included.
    pub(crate) members: Vec<foca::Member<MemberId>>,
    /// Signed records.
    pub(crate) records: Vec<Bytes>,
}

/// An exchange failed; nothing was learnt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// The stream broke.
    #[error("the stream of the exchange broke")]
    Stream,
    /// Not an exchange.
    #[error("not an exchange")]
    Malformed,
}

/// Tells `ours` and hears theirs.
pub(crate) async fn ask(connection: &Connection, ours: &Exchange) -> Result<Exchange, ExchangeError> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|_| ExchangeError::Stream)?;
    send.write_all(&[EXCHANGE_STREAM]).await.map_err(|_| ExchangeError::Stream)?;
    tell(&mut send, ours).await?;
    hear(&mut receive).await
}

/// Writes an exchange and ends the stream.
pub(crate) async fn tell(stream: &mut SendStream, ours: &Exchange) -> Result<(), ExchangeError> {
    let bytes = postcard::to_allocvec(ours).map_err(|_| ExchangeError::Malformed)?;
    stream.write_all(&bytes).await.map_err(|_| ExchangeError::Stream)?;
    stream.finish().map_err(|_| ExchangeError::Stream)
}

/// Reads an exchange to the end of the stream.
pub(crate) async fn hear(stream: &mut RecvStream) -> Result<Exchange, ExchangeError> {
    let bytes = stream.read_to_end(MAX_EXCHANGE).await.map_err(|_| ExchangeError::Stream)?;
    match postcard::take_from_bytes(&bytes) {
        Ok((exchange, [])) => Ok(exchange),
        _ => Err(ExchangeError::Malformed),
    }
}
