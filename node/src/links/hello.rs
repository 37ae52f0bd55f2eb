//! The first message of each side on a link: its signed record, or a refusal. The dialler opens the stream.
//!
//! A dialler that only verifies the key opens no stream: a registry, or a node that dials back.

use bytes::Bytes;
use chappe_common::time::UnixTime;
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize};

use crate::membership::admission::AdmissionRefusal;

/// First byte of a hello stream.
pub(crate) const HELLO_STREAM: u8 = 1;
/// Maximum length of a hello in bytes: a record (512), a ticket with its grant (322), and their framing.
const MAX_HELLO: usize = 1024;

/// A hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Hello {
    /// The sender's identity.
    Record {
        record: Bytes,
        /// The node's ticket, if it has one.
        ticket: Option<Bytes>,
        /// The sender's clock. A wrong clock shows when it differs from several others.
        clock: UnixTime,
    },
    /// The link is refused.
    Refused {
        refusal: AdmissionRefusal,
        /// The sender's clock.
        clock: UnixTime,
    },
}

/// Why a hello could not be sent or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    #[error("the stream of the hello broke")]
    Stream,
    #[error("not a hello")]
    Malformed,
}

/// Writes a hello and finishes the stream.
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

/// Properties that tests and the fuzzer check for every input.
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
    fn mutated_hellos_decode_to_what_they_encode() {
        let clock = UnixTime::from_secs(1_800_000_000);
        let corpus = [
            Hello::Record {
                record: Bytes::from_static(b"a record"),
                ticket: Some(Bytes::from_static(b"a ticket")),
                clock,
            },
            Hello::Record { record: Bytes::new(), ticket: None, clock },
            Hello::Refused { refusal: AdmissionRefusal::Clock, clock },
        ];
        let corpus = corpus.map(|valid| postcard::to_allocvec(&valid).expect("owned values encode"));
        chappe_mutations::run(fuzzed::HELLO, &corpus);
    }
}
