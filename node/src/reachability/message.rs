//! The request of a node to be tried, and the reply.

use bytes::Bytes;
use chappe_common::{
    keys::NodeId,
    reachability::{Family, Reachability, ReachabilityError, SignedReachability},
    record::NodeRecord,
    signed::{DecodeError, Signed},
    time::UnixTime,
};
use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Maximum length of a message in bytes: a record (512) or a statement (320), and a few numbers.
const MAX_MESSAGE: usize = 600;

/// The request of a node to be tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckRequest {
    /// The asker's signed record.
    pub(crate) record: Bytes,
    /// The asker's clock.
    pub(crate) clock: UnixTime,
    /// The port of its relay for UDP, if the relay is at the asker's address.
    pub(crate) stun_udp: Option<u16>,
    /// Whether its relay answers at the client URLs, over TCP or TLS.
    pub(crate) stun_streams: bool,
}

/// The reply to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CheckReply {
    /// A signed statement.
    Statement(Bytes),
    /// Nothing was tried.
    Refused(CheckRefusal),
}

/// Why a member tries nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum CheckRefusal {
    /// The asker asks too often, or too many do.
    #[error("it was asked too often")]
    Rate,
    /// Too many checks are in progress.
    #[error("it has too many checks in progress")]
    Busy,
    /// The asker is not a member.
    #[error("it does not know this node as a member")]
    NotAMember,
    /// The request or its record is not valid now.
    #[error("the request or the record in it is not valid")]
    Malformed,
    /// The asker's address is private, special, or in the member's own network.
    #[error("it sees this node at a private address, or in its own network")]
    Address,
}

impl CheckRefusal {
    pub(crate) const ALL: [Self; 5] = [Self::Rate, Self::Busy, Self::NotAMember, Self::Malformed, Self::Address];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Busy => "busy",
            Self::NotAMember => "not_a_member",
            Self::Malformed => "malformed",
            Self::Address => "address",
        }
    }
}

/// Why a statement about this node does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StatementFault {
    #[error("its reply is not one")]
    Malformed,
    #[error("its statement does not verify, or is another member's")]
    Signature,
    #[error("its statement is about another node")]
    Subject,
    #[error("its statement is about another record")]
    Record,
    #[error("its statement is old, or one of the two clocks is wrong")]
    Time,
}

impl StatementFault {
    pub(crate) const ALL: [Self; 5] = [Self::Malformed, Self::Signature, Self::Subject, Self::Record, Self::Time];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Signature => "signature",
            Self::Subject => "subject",
            Self::Record => "record",
            Self::Time => "time",
        }
    }
}

impl From<ReachabilityError> for StatementFault {
    fn from(error: ReachabilityError) -> Self {
        match error {
            ReachabilityError::Subject => Self::Subject,
            ReachabilityError::Record => Self::Record,
            ReachabilityError::Time => Self::Time,
        }
    }
}

/// Checks a reply of `observer` about the node of `record`, which has just asked.
///
/// # Errors
/// The statement does not count.
pub(crate) fn check_statement(
    bytes: Bytes,
    observer: NodeId,
    family: Family,
    record: &NodeRecord,
    now: UnixTime,
) -> Result<SignedReachability, StatementFault> {
    let statement = Signed::<Reachability>::decode(bytes).map_err(|error| match error {
        DecodeError::Signature => StatementFault::Signature,
        DecodeError::Length | DecodeError::Malformed => StatementFault::Malformed,
    })?;
    if statement.observer != observer {
        return Err(StatementFault::Signature);
    }
    // An observer has one statement for each family, so one that names the other family would count twice.
    if statement.family != family {
        return Err(StatementFault::Malformed);
    }
    statement.check(record, now)?;
    Ok(statement)
}

/// Why a message could not be sent or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("the stream of the check broke")]
    Stream,
    #[error("not a message of a check")]
    Malformed,
}

/// Writes a message and finishes the stream.
pub(crate) async fn send(stream: &mut SendStream, message: &impl Serialize) -> Result<(), MessageError> {
    let bytes = postcard::to_allocvec(message).map_err(|_| MessageError::Malformed)?;
    stream.write_all(&bytes).await.map_err(|_| MessageError::Stream)?;
    stream.finish().map_err(|_| MessageError::Stream)
}

/// Reads a message to the end of the stream.
pub(crate) async fn receive<T: DeserializeOwned>(stream: &mut RecvStream) -> Result<T, MessageError> {
    decode(&stream.read_to_end(MAX_MESSAGE).await.map_err(|_| MessageError::Stream)?)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MessageError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(MessageError::Malformed),
    }
}

/// Properties that the tests and the fuzzer check for every input.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed {
    use std::fmt::Debug;

    use super::*;

    fn is_stable<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> bool {
        let Ok(message) = decode::<T>(bytes) else { return false };
        let again = postcard::to_allocvec(&message).expect("owned values encode");
        assert!(again.len() <= bytes.len());
        assert_eq!(decode(&again), Ok(message));
        true
    }

    /// A request to be tried.
    pub const CHECK_REQUEST: (&str, fn(&[u8]) -> bool) = ("request for a check", is_stable::<CheckRequest>);
    /// The reply to one.
    pub const CHECK_REPLY: (&str, fn(&[u8]) -> bool) = ("reply to a check", is_stable::<CheckReply>);
}

#[cfg(test)]
mod tests {
    use chappe_common::{federation::FederationId, keys::SecretKey, record::Abilities};

    use super::*;

    #[test]
    fn a_statement_counts_for_its_asker_and_its_observer_and_each_fault_has_a_name() {
        let now = UnixTime::from_secs(1_800_000_000);
        let [observer, asker, other] = [1, 2, 3].map(|seed| SecretKey::from_bytes(&[seed; 32]));
        let record = NodeRecord {
            federation: FederationId::of_roots(&[]),
            node: asker.node_id(),
            epoch: 3,
            seq: 7,
            issued_at: now,
            expires_at: now,
            client_urls: Vec::new(),
            quic_addrs: vec![([192, 0, 2, 1], 1).into()],
            region: String::new(),
            version: String::new(),
            abilities: Abilities::CHECKS,
        };
        let honest = Reachability {
            federation: record.federation,
            observer: observer.node_id(),
            subject: record.node,
            epoch: 3,
            seq: 7,
            at: now,
            family: Family::V4,
            clock_ahead: 0,
            round_trip: 1,
            mtu: 1200,
            certificate_until: None,
            findings: Vec::new(),
        };
        let check = |bytes: Bytes| check_statement(bytes, observer.node_id(), Family::V4, &record, now).map(|_| ());
        let sign = |statement: &Reachability| {
            let key = if statement.observer == observer.node_id() { &observer } else { &other };
            Signed::sign(statement.clone(), key).expect("a statement").as_bytes().clone()
        };
        assert_eq!(check(sign(&honest)), Ok(()));
        let mut forged = sign(&honest).to_vec();
        *forged.last_mut().expect("a signature") ^= 1;
        assert_eq!(check(forged.into()), Err(StatementFault::Signature));
        assert_eq!(check(Bytes::from_static(&[7; 100])), Err(StatementFault::Malformed));
        for (lie, fault) in [
            (Reachability { observer: other.node_id(), ..honest.clone() }, StatementFault::Signature),
            (Reachability { subject: other.node_id(), ..honest.clone() }, StatementFault::Subject),
            (
                Reachability { federation: FederationId::of_roots(&[other.public()]), ..honest.clone() },
                StatementFault::Subject,
            ),
            (Reachability { family: Family::V6, ..honest.clone() }, StatementFault::Malformed),
            (Reachability { epoch: 2, ..honest.clone() }, StatementFault::Record),
            (Reachability { at: UnixTime::from_secs(1_799_990_000), ..honest.clone() }, StatementFault::Time),
        ] {
            assert_eq!(check(sign(&lie)), Err(fault));
        }
    }

    #[test]
    fn mutated_messages_of_checks_read_as_they_are_written() {
        let request = |stun_udp| CheckRequest {
            record: Bytes::from_static(b"record"),
            clock: UnixTime::from_secs(1_800_000_000),
            stun_udp,
            stun_streams: true,
        };
        let requests =
            [None, Some(3478)].map(|port| postcard::to_allocvec(&request(port)).expect("owned values encode"));
        chappe_mutations::run(fuzzed::CHECK_REQUEST, &requests);
        let replies =
            [CheckReply::Statement(Bytes::from_static(b"signed")), CheckReply::Refused(CheckRefusal::Address)]
                .map(|reply| postcard::to_allocvec(&reply).expect("owned values encode"));
        chappe_mutations::run(fuzzed::CHECK_REPLY, &replies);
    }
}
