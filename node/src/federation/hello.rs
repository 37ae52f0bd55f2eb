//! The first words on a link: each side shows its signed record, on a stream that the dialler opens.
//!
//! Who dials only to see a key proven, as a registry does, opens no stream and is let go after a moment.

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize};

/// The first byte of the stream.
pub(crate) const HELLO_STREAM: u8 = 1;
/// The longest hello in bytes: a record and its frame.
const MAX_HELLO: usize = 1024;

/// What either side says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Hello {
    /// «This is who I am», with the signed record.
    Record(Bytes),
    /// «I won't have this link», with the reason.
    Refused(Refusal),
}

/// Why a link is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum Refusal {
    /// Both have dialled at once, and the other dial stays.
    #[error("the other side's own dial stays")]
    Duplicate,
    /// The record is of another federation.
    #[error("the other side is of another federation")]
    Federation,
    /// The record's times don't fit the clock.
    #[error("the record has expired or is from the future by the other side's clock")]
    Clock,
    /// The record doesn't verify, or is of another key than the link.
    #[error("the record does not verify")]
    Record,
    /// No room for another link or member.
    #[error("the other side has no room for more")]
    Full,
}

/// A hello could not be sent or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    /// The stream broke.
    #[error("the stream of the first words broke")]
    Stream,
    /// Not a hello.
    #[error("not a hello")]
    Malformed,
}

/// Writes a hello and ends the stream.
pub(crate) async fn send(stream: &mut SendStream, hello: &Hello) -> Result<(), HelloError> {
    let bytes = postcard::to_allocvec(hello).map_err(|_| HelloError::Malformed)?;
    stream.write_all(&bytes).await.map_err(|_| HelloError::Stream)?;
    stream.finish().map_err(|_| HelloError::Stream)
}

/// Reads a hello to the end of the stream.
pub(crate) async fn receive(stream: &mut RecvStream) -> Result<Hello, HelloError> {
    let bytes = stream.read_to_end(MAX_HELLO).await.map_err(|_| HelloError::Stream)?;
    match postcard::take_from_bytes(&bytes) {
        Ok((hello, [])) => Ok(hello),
        _ => Err(HelloError::Malformed),
    }
}
