//! What a member found when it tried a node's addresses from outside, as a signed statement.
//!
//! The statement names no address: a finding refers to a place in the node's record. It is one member's word. A member can
//! lie, so nothing may be decided against a node by a single statement.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    federation::FederationId,
    keys::{NodeId, PublicKey},
    record::{MAX_ADDRESSES, MAX_CLOCK_SKEW, NodeRecord},
    signed::{Signable, Signed, Unverified},
    time::UnixTime,
};

/// The most findings of a statement: four QUIC addresses, five steps for each of four client URLs, and STUN over UDP.
pub const MAX_FINDINGS: usize = MAX_ADDRESSES + 5 * MAX_ADDRESSES + 1;

/// The header field in which a node sends statements about itself to a registry, with its record.
pub const HEADER: &str = "chappe-reachability";
/// The most statements in it: those of two rounds, and more. They take 3.4 KB as text, which common proxies pass on.
pub const MAX_SENT: usize = 8;
/// How old a statement may be for a registry. Members are asked every 10 to 20 minutes, and a node registers every 10.
pub const MAX_AGE: Duration = Duration::from_secs(30 * 60);

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "ipv4")]
    V4,
    /// IPv6.
    #[serde(rename = "ipv6")]
    V6,
}

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// A QUIC handshake in which the node proves its key, at an address for other nodes.
    Quic,
    /// A TCP connection to the host and port of a client URL.
    Tcp,
    /// A TLS handshake there, with a certificate that is valid for the host.
    Tls,
    /// A WebSocket over which the node proves its key.
    Client,
    /// A STUN Binding over UDP.
    StunUdp,
    /// A STUN Binding over TCP, at a `ws://` URL.
    StunTcp,
    /// A STUN Binding over TLS, at a `wss://` URL.
    StunTls,
}

impl Transport {
    /// All of them, in the order of their variants.
    pub const ALL: [Self; 7] =
        [Self::Quic, Self::Tcp, Self::Tls, Self::Client, Self::StunUdp, Self::StunTcp, Self::StunTls];

    /// The name in JSON and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Client => "client",
            Self::StunUdp => "stun_udp",
            Self::StunTcp => "stun_tcp",
            Self::StunTls => "stun_tls",
        }
    }
}

/// The result of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It works.
    Works,
    /// No answer in time: packets are dropped on the way, or the host is down.
    NoAnswer,
    /// The host is up, and nothing listens at the port.
    Refused,
    /// The connection was ended before it was complete.
    Reset,
    /// There is no route to the host.
    Unreachable,
    /// The name has no address.
    NoName,
    /// The name leads to an address from which the node did not ask, so nothing was sent there.
    Elsewhere,
    /// The certificate has expired.
    CertificateExpired,
    /// The certificate is valid only later.
    CertificateEarly,
    /// The certificate is for another name.
    CertificateName,
    /// The issuer of the certificate is not trusted.
    CertificateUntrusted,
    /// The TLS handshake failed for another reason.
    Tls,
    /// What answers is not a node, or not a STUN server.
    WrongService,
    /// Another node answers, or one that does not use this URL.
    WrongNode,
    /// The node accepts no clients now.
    Unavailable,
    /// The observer could not try it.
    NotTried,
}

impl Outcome {
    /// The name in JSON and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::NoAnswer => "no_answer",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::NoName => "no_name",
            Self::Elsewhere => "elsewhere",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateEarly => "certificate_early",
            Self::CertificateName => "certificate_name",
            Self::CertificateUntrusted => "certificate_untrusted",
            Self::Tls => "tls",
            Self::WrongService => "wrong_service",
            Self::WrongNode => "wrong_node",
            Self::Unavailable => "unavailable",
            Self::NotTried => "not_tried",
        }
    }

    /// Whether the observer reached the node.
    pub const fn works(self) -> bool {
        matches!(self, Self::Works)
    }

    /// Whether the observer tried, so that the outcome says something about the node.
    pub const fn was_tried(self) -> bool {
        !matches!(self, Self::Elsewhere | Self::NotTried)
    }
}

/// Why clients cannot connect to a node, for a registry that has tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorFault {
    /// Index of the client URL in the node's record.
    pub place: u8,
    /// What the registry found there.
    pub outcome: Outcome,
}

/// The result of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was tried.
    pub transport: Transport,
    /// Index in the record: of a QUIC address, or of a client URL. 0 for STUN over UDP.
    pub place: u8,
    /// The result.
    pub outcome: Outcome,
}

/// A member's statement of how it reached a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reachability {
    /// The federation of both.
    pub federation: FederationId,
    /// The member that tried, and signs.
    pub observer: NodeId,
    /// The node that was tried.
    pub subject: NodeId,
    /// The epoch of the record by which it was tried.
    pub epoch: u64,
    /// The `seq` of that record.
    pub seq: u64,
    /// When it was tried, by the observer's clock.
    pub at: UnixTime,
    /// The family of the address from which the subject asked, and at which all was tried.
    pub family: Family,
    /// Seconds by which the subject's clock is ahead of the observer's.
    pub clock_ahead: i32,
    /// The round trip between the two, in milliseconds.
    pub round_trip: u32,
    /// The largest UDP payload that passes from the observer to the subject, in bytes.
    pub mtu: u16,
    /// When the first of the subject's valid certificates expires.
    pub certificate_until: Option<UnixTime>,
    /// The results, at most [`MAX_FINDINGS`], in the order of transport and place, each pair once.
    pub findings: Vec<Finding>,
}

/// A statement with its signature.
pub type SignedReachability = Signed<Reachability>;

impl Signable for Reachability {
    const KIND: &'static str = "reachability";
    const MAX_LEN: usize = 320;

    fn signer(&self) -> &PublicKey {
        self.observer.key()
    }

    fn is_well_formed(&self) -> bool {
        self.observer != self.subject
            && self.findings.len() <= MAX_FINDINGS
            && self.findings.iter().all(|finding| usize::from(finding.place) < MAX_ADDRESSES)
            // One result for each try: an observer must not count more than once.
            && self.findings.is_sorted_by(|one, next| (one.transport, one.place) < (next.transport, next.place))
    }
}

/// A verified statement does not count. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReachabilityError {
    /// It is about another node, or of another federation.
    #[error("it is about another node")]
    Subject,
    /// It is about a record that is not the node's current one.
    #[error("it is about another record")]
    Record,
    /// It was not made now.
    #[error("it is old, or one of the two clocks is wrong")]
    Time,
}

impl Reachability {
    /// Checks a statement that has just been made about the node of `record`.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn check(&self, record: &NodeRecord, now: UnixTime) -> Result<(), ReachabilityError> {
        if (self.federation, self.subject) != (record.federation, record.node) {
            Err(ReachabilityError::Subject)
        } else if (self.epoch, self.seq) != (record.epoch, record.seq) {
            Err(ReachabilityError::Record)
        } else if self.at > now + MAX_CLOCK_SKEW || now > self.at + MAX_CLOCK_SKEW {
            Err(ReachabilityError::Time)
        } else {
            Ok(())
        }
    }

    /// Checks a statement that the node of `record` sends to a registry. It may be about an earlier record of the same run:
    /// records are renewed more often than members are asked.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn check_sent(&self, record: &NodeRecord, now: UnixTime) -> Result<(), ReachabilityError> {
        if (self.federation, self.subject) != (record.federation, record.node) {
            Err(ReachabilityError::Subject)
        } else if self.epoch != record.epoch || self.seq > record.seq {
            Err(ReachabilityError::Record)
        } else if self.at > now + MAX_CLOCK_SKEW || now > self.at + MAX_AGE {
            Err(ReachabilityError::Time)
        } else {
            Ok(())
        }
    }

    /// Whether the observer could connect as a client does, at one of the URLs. `None` if it has not tried.
    pub fn reaches_door(&self) -> Option<bool> {
        let steps = [Transport::Tcp, Transport::Tls, Transport::Client];
        let mut found = self.findings.iter().filter(|found| steps.contains(&found.transport));
        if found.clone().any(|found| found.transport == Transport::Client && found.outcome.works()) {
            return Some(true);
        }
        found.any(|found| found.outcome.was_tried() && !found.outcome.works()).then_some(false)
    }
}

/// The value of [`HEADER`] with these statements, of which at most [`MAX_SENT`] are taken.
pub fn to_header<'a>(statements: impl IntoIterator<Item = &'a SignedReachability>) -> String {
    let texts: Vec<_> =
        statements.into_iter().take(MAX_SENT).map(|one| URL_SAFE_NO_PAD.encode(one.as_bytes())).collect();
    texts.join(",")
}

/// The statements in a value of [`HEADER`], of which at most [`MAX_SENT`] are read. `None` for each that is not one.
pub fn from_header(value: &str) -> impl Iterator<Item = Option<Unverified<Reachability>>> + '_ {
    value
        .split(',')
        .take(MAX_SENT)
        .map(|text| URL_SAFE_NO_PAD.decode(text.trim()).ok().and_then(|bytes| Unverified::decode(bytes).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{keys::SecretKey, record::Abilities, signed::SignError};

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_bytes(&[seed; 32])
    }

    /// A finding for each transport and place, in order.
    fn all_tries() -> impl Iterator<Item = Finding> {
        let finding = |transport, place| Finding { transport, place, outcome: Outcome::NotTried };
        Transport::ALL.into_iter().flat_map(move |transport| (0..4).map(move |place| finding(transport, place)))
    }

    fn statement() -> Reachability {
        Reachability {
            federation: FederationId::of_roots(&[]),
            observer: key(1).node_id(),
            subject: key(2).node_id(),
            epoch: u64::MAX,
            seq: u64::MAX,
            at: UnixTime::from_secs(u64::from(u32::MAX)),
            family: Family::V6,
            clock_ahead: i32::MIN,
            round_trip: u32::MAX,
            mtu: u16::MAX,
            certificate_until: Some(UnixTime::from_secs(u64::MAX)),
            findings: all_tries().take(MAX_FINDINGS).collect(),
        }
    }

    #[test]
    fn the_longest_statement_fits_and_one_with_a_finding_more_is_refused() {
        let signed = Signed::sign(statement(), &key(1)).expect("a statement");
        assert!(signed.as_bytes().len() <= Reachability::MAX_LEN, "{}", signed.as_bytes().len());
        let mut more = statement();
        more.findings = all_tries().take(MAX_FINDINGS + 1).collect();
        assert_eq!(Signed::sign(more, &key(1)).err(), Some(SignError::Malformed));
        let mut twice = statement();
        twice.findings[1] = twice.findings[0];
        assert_eq!(Signed::sign(twice, &key(1)).err(), Some(SignError::Malformed));
        let about_itself = Reachability { subject: key(1).node_id(), ..statement() };
        assert_eq!(Signed::sign(about_itself, &key(1)).err(), Some(SignError::Malformed));
    }

    /// The record of run 3 of the statement's subject.
    fn subject_record(now: UnixTime) -> NodeRecord {
        NodeRecord {
            federation: FederationId::of_roots(&[]),
            node: key(2).node_id(),
            epoch: 3,
            seq: 7,
            issued_at: now,
            expires_at: now,
            client_urls: Vec::new(),
            quic_addrs: vec![([192, 0, 2, 1], 1).into()],
            region: String::new(),
            version: String::new(),
            abilities: Abilities::default(),
        }
    }

    #[test]
    fn a_statement_counts_for_its_node_its_record_and_now() {
        let now = UnixTime::from_secs(1_800_000_000);
        let record = subject_record(now);
        let made = Reachability { epoch: 3, seq: 7, at: now, ..statement() };
        let check = |made: &Reachability, secs| made.check(&record, UnixTime::from_secs(secs));
        assert_eq!(check(&made, 1_800_000_000), Ok(()));
        assert_eq!(check(&made, 1_800_000_121), Err(ReachabilityError::Time));
        assert_eq!(check(&made, 1_799_999_879), Err(ReachabilityError::Time));
        let other = Reachability { subject: key(3).node_id(), ..made.clone() };
        assert_eq!(check(&other, 1_800_000_000), Err(ReachabilityError::Subject));
        let older = Reachability { seq: 6, ..made };
        assert_eq!(check(&older, 1_800_000_000), Err(ReachabilityError::Record));
    }

    #[test]
    fn a_registry_takes_statements_of_half_an_hour_about_the_same_run() {
        let now = UnixTime::from_secs(1_800_000_000);
        let record = subject_record(now);
        let made = Reachability { epoch: 3, seq: 6, at: now, ..statement() };
        let check = |made: &Reachability, secs| made.check_sent(&record, UnixTime::from_secs(secs));
        assert_eq!(check(&made, 1_800_000_000 + 1800), Ok(()));
        assert_eq!(check(&made, 1_800_000_000 + 1801), Err(ReachabilityError::Time));
        assert_eq!(check(&made, 1_799_999_879), Err(ReachabilityError::Time));
        for (epoch, seq) in [(2, 6), (4, 6), (3, 8)] {
            let other = Reachability { epoch, seq, ..made.clone() };
            assert_eq!(check(&other, 1_800_000_000), Err(ReachabilityError::Record));
        }
        let other = Reachability { subject: key(3).node_id(), ..made };
        assert_eq!(check(&other, 1_800_000_000), Err(ReachabilityError::Subject));
    }

    #[test]
    fn a_door_is_reached_if_one_url_works_to_the_last_step() {
        use Outcome::{Elsewhere, NoAnswer, NotTried, Works};
        use Transport::{Client, Quic, Tcp, Tls};
        let reaches = |found: &[(Transport, u8, Outcome)]| {
            let finding = |&(transport, place, outcome)| Finding { transport, place, outcome };
            Reachability { findings: found.iter().map(finding).collect(), ..statement() }.reaches_door()
        };
        assert_eq!(reaches(&[(Tcp, 0, Works), (Tls, 0, Works), (Client, 0, Works)]), Some(true));
        assert_eq!(reaches(&[(Tcp, 0, Works), (Tls, 0, NoAnswer)]), Some(false));
        assert_eq!(reaches(&[(Tcp, 0, NoAnswer), (Tcp, 1, Works), (Client, 1, Works)]), Some(true));
        for nothing in [&[(Quic, 0, NoAnswer)][..], &[(Tcp, 0, Elsewhere)], &[(Tcp, 0, Works), (Client, 0, NotTried)]] {
            assert_eq!(reaches(nothing), None);
        }
    }

    #[test]
    fn statements_in_a_header_are_read_as_they_were_written_and_bounded() {
        let signed = Signed::sign(statement(), &key(1)).expect("a statement");
        let all = vec![signed.clone(); MAX_SENT + 1];
        let text = to_header(&all);
        assert!(text.len() < 4096, "{}", text.len());
        let read: Vec<_> = from_header(&text).map(|one| one.is_some_and(|one| one.is(&signed))).collect();
        assert_eq!(read, [true; MAX_SENT]);
        assert_eq!(from_header(&format!("{text},{text}")).count(), MAX_SENT);
        assert!(from_header("!,AA,").all(|one| one.is_none()));
        let reads =
            |text: &[u8]| std::str::from_utf8(text).is_ok_and(|text| from_header(text).all(|one| one.is_some()));
        chappe_mutations::run(("statements in a header", reads), &[to_header(&all[..2])]);
    }

    #[test]
    fn outcomes_are_named_alike_in_json_and_in_metrics() {
        for outcome in [Outcome::Works, Outcome::NoName, Outcome::CertificateUntrusted, Outcome::NotTried] {
            assert_eq!(serde_json::json!(outcome), outcome.as_str());
        }
    }
}
