//! The first words on a link: each side shows its signed record, on a stream that the dialler opens.
//!
//! Who dials only to see a key proven, as a registry or a node that dials back does, opens no stream and is let go.

use bytes::Bytes;
use chappe_common::time::UnixTime;
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize};

use crate::membership::admission::Refusal;

/// The first byte of the stream.
pub(crate) const HELLO_STREAM: u8 = 1;
/// The longest hello in bytes: a record, a ticket, and their frame.
const MAX_HELLO: usize = 1024;

/// What either side says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Hello {
    /// «This is who I am.»
    Record {
        /// The signed record.
        record: Bytes,
        /// The ticket, where the node has one.
        ticket: Option<Bytes>,
        /// The time by the node's clock: whose is wrong shows when many differ.
        clock: UnixTime,
    },
    /// «I won't have this link.»
    Refused {
        /// Why.
        refusal: Refusal,
        /// The time by the node's clock.
        clock: UnixTime,
    },
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

/// What is checked of every input, by the tests and by the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use super::*;

    /// A hello.
    pub const HELLO: (&str, fn(&[u8]) -> bool) = ("hello", |bytes| {
        let Ok((read, [])) = postcard::take_from_bytes::<Hello>(bytes) else { return false };
        let again = postcard::to_allocvec(&read).expect("owned values encode");
        assert_eq!(postcard::from_bytes(&again), Ok(read));
        true
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutated_hellos_read_as_they_are_written() {
        let clock = UnixTime::from_secs(1_800_000_000);
        let corpus = [
            Hello::Record {
                record: Bytes::from_static(b"a record"),
                ticket: Some(Bytes::from_static(b"a ticket")),
                clock,
            },
            Hello::Record { record: Bytes::new(), ticket: None, clock },
            Hello::Refused { refusal: Refusal::Clock, clock },
        ];
        let corpus = corpus.map(|valid| postcard::to_allocvec(&valid).expect("owned values encode"));
        chappe_mutations::run(fuzzed::HELLO, &corpus);
    }
}
