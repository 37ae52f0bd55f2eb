//! One call: its keys, its counters, and the messages that it still has to send.

use std::time::{Duration, Instant};

use chappe_common::{client::RelayKind, lease::SignedLease, redacted::Redacted, time::UnixTime};
use tokio::sync::watch;

use super::outbox::{Outbox, OutboxMessage};
use crate::{
    base64_bytes::Bytes,
    command::CallStatus,
    contact::{Contact, Pairing},
    message::{Answer, Hangup, Ice, Offer, Reject},
    negotiation::{Negotiation, Role as NegotiationRole},
    seal::{self, CallId, Direction, Envelope, MessageContext, ReplayWindow, SealError},
    sealing_key::SealingKey,
};

/// How long the client retries to send the end of a call.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// The role of this side, with the state that only this role has.
pub(crate) enum Side {
    Caller {
        offer: Redacted<String>,
        /// The lost call that this one replaces.
        rejoins: Option<CallId>,
        /// The lease from the last lookup.
        lease: Option<SignedLease>,
        /// The session key to which an offer was delivered.
        offered_to: Option<[u8; 32]>,
        /// When to look the callee up again while it rings: it may have changed its node.
        recheck_at: Option<Instant>,
    },
    Callee {
        offer: Redacted<String>,
        /// The session key that opened the offer. The caller seals to it until it has the answer.
        opened_with: SealingKey,
        answer: Option<Redacted<String>>,
    },
}

pub(crate) struct CallRecord {
    pub(crate) call: CallId,
    pub(crate) contact: Contact,
    /// The pairing that the call uses.
    pub(crate) pairing: Pairing,
    pub(crate) side: Side,
    /// An ephemeral key, made for this call.
    own_key: SealingKey,
    /// The peer's ephemeral key for this call, once known.
    pub(crate) peer_key: Option<[u8; 32]>,
    counter: u32,
    seen: ReplayWindow,
    pub(crate) outbox: Outbox,
    pub(crate) negotiation: Negotiation,
    /// The last attempt failed: look the peer up before the next one, because it may have moved.
    pub(crate) look_up: bool,
    pub(crate) status: watch::Sender<CallStatus>,
    pub(crate) placed_at: Instant,
    /// When to remove the record, once the call is over.
    pub(crate) forget_at: Option<Instant>,
}

impl CallRecord {
    pub(crate) fn new(
        call: CallId,
        contact: Contact,
        pairing: Pairing,
        side: Side,
        peer_key: Option<[u8; 32]>,
        now: Instant,
    ) -> Self {
        let role = match side {
            Side::Caller { .. } => NegotiationRole::Caller,
            Side::Callee { .. } => NegotiationRole::Callee,
        };
        Self {
            call,
            contact,
            pairing,
            side,
            own_key: SealingKey::generate(&mut rand::rng()),
            peer_key,
            counter: 0,
            seen: ReplayWindow::default(),
            outbox: Outbox::default(),
            negotiation: Negotiation::new(role),
            look_up: false,
            status: watch::Sender::new(CallStatus::Ringing),
            placed_at: now,
            forget_at: None,
        }
    }

    /// Records the counter of the offer that created this record.
    pub(crate) fn mark_seen(&mut self, counter: u32) {
        self.seen.insert(counter);
    }

    /// Whether the peer may have received a message of this call.
    pub(crate) fn may_be_known(&self) -> bool {
        !self.is_caller() || self.counter > 0
    }

    pub(crate) fn is_caller(&self) -> bool {
        matches!(self.side, Side::Caller { .. })
    }

    const fn outward(&self) -> Direction {
        match self.side {
            Side::Caller { .. } => Direction::ToCallee,
            Side::Callee { .. } => Direction::ToCaller,
        }
    }

    /// The key to seal `item` to, or `None` if the peer has to be looked up first. An offer is sealed to a session
    /// key, every other message to the call's key once that is known.
    pub(crate) fn recipient(&self, item: &OutboxMessage) -> Option<[u8; 32]> {
        if self.look_up {
            return None;
        }
        let session = match &self.side {
            Side::Caller { lease, .. } => lease.as_ref().map(|lease| lease.session_key),
            Side::Callee { .. } => None,
        };
        if *item == OutboxMessage::Offer { session } else { self.peer_key.or(session) }
    }

    /// Drops the peer's lease, so that the next attempt looks it up.
    pub(crate) fn forget_location(&mut self) {
        self.look_up = true;
        if let Side::Caller { lease, .. } = &mut self.side {
            *lease = None;
        }
    }

    /// Seals `item` to `recipient` under a new counter. Leaves `nodes` out if the text would be too long with them, or
    /// padded to a greater length.
    pub(crate) fn seal(
        &mut self,
        item: &OutboxMessage,
        recipient: &[u8; 32],
        identity: &SealingKey,
        nodes: &[String],
        now: UnixTime,
    ) -> Result<String, SealError> {
        let context =
            MessageContext { call: self.call, direction: self.outward(), kind: item.kind(), counter: self.counter };
        let reply_key = self.own_key.public();
        let encode = |nodes: &[String]| match (item, &self.side) {
            (OutboxMessage::Offer, Side::Caller { offer, rejoins, .. }) => {
                let (sdp, nodes) = (String::clone(offer), nodes.to_vec());
                let rejoins = rejoins.map(|call| Bytes(*call.as_bytes()));
                serde_json::to_vec(&Offer { sdp, reply_key: Bytes(reply_key), sent_at: now.as_secs(), nodes, rejoins })
            }
            (OutboxMessage::Answer, Side::Callee { answer: Some(answer), .. }) => {
                let (sdp, nodes) = (String::clone(answer), nodes.to_vec());
                serde_json::to_vec(&Answer { sdp, reply_key: Bytes(reply_key), nodes })
            }
            (OutboxMessage::Ice { round, candidates }, _) => {
                serde_json::to_vec(&Ice { candidates: candidates.clone(), round: *round, description: None })
            }
            (OutboxMessage::Description { round, description }, _) => {
                let description = Some(description.clone());
                serde_json::to_vec(&Ice { candidates: Vec::new(), round: *round, description })
            }
            (OutboxMessage::Reject { busy }, _) => serde_json::to_vec(&Reject { busy: *busy }),
            _ => serde_json::to_vec(&Hangup {}),
        };
        let encode = |nodes| encode(nodes).expect("strings and numbers are JSON");
        let (text, short) = (encode(nodes), encode(&[]));
        let padded = |text: &[u8]| seal::padded_length(text.len(), item.padding());
        let text = if padded(&text) == padded(&short) { text } else { short };
        let secret = self.pairing.secret().sealing_secret();
        let payload = seal::seal(&secret, identity, recipient, context, &text, item.padding(), &mut rand::rng())?;
        self.counter += 1;
        Ok(payload)
    }

    /// Opens a message of the peer and records its counter. Returns `None` if it does not open or is a duplicate.
    /// `session_keys` are those of the inbox that received it.
    pub(crate) fn open<'a>(
        &'a mut self,
        envelope: &Envelope,
        kind: RelayKind,
        session_keys: impl Iterator<Item = &'a SealingKey>,
    ) -> Option<Vec<u8>> {
        let inward = match self.outward() {
            Direction::ToCallee => Direction::ToCaller,
            Direction::ToCaller => Direction::ToCallee,
        };
        let secret = self.pairing.secret().sealing_secret();
        let opened_with = match &self.side {
            Side::Caller { .. } => None,
            Side::Callee { opened_with, .. } => Some(opened_with),
        };
        // The caller seals to a session key until it knows the call's key. The callee never does.
        let sessions = opened_with.into_iter().chain(session_keys.filter(|_| opened_with.is_some()));
        let text = std::iter::once(&self.own_key)
            .chain(sessions)
            .find_map(|key| envelope.open(&secret, self.contact.identity(), key, inward, kind).ok())?;
        self.seen.insert(envelope.counter()).then_some(text)
    }

    /// Sets the final status. The end is sent for at most [`END_TIMEOUT`].
    pub(crate) fn end(&mut self, status: CallStatus, now: Instant) {
        self.status.send_replace(status);
        self.forget_at = Some(now + END_TIMEOUT);
        if let Side::Caller { recheck_at, .. } = &mut self.side {
            *recheck_at = None;
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.forget_at.is_some()
    }

    /// `ready`: there is a session on which messages can be retried.
    pub(crate) fn next_deadline(&self, ready: bool) -> Option<Instant> {
        let recheck = match &self.side {
            Side::Caller { recheck_at, .. } => *recheck_at,
            Side::Callee { .. } => None,
        };
        let negotiation = self.negotiation.poll_timeout().filter(|_| !self.is_over());
        [self.outbox.next_deadline().filter(|_| ready), recheck, negotiation, self.forget_at]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Opens an offer of a call without a record. Returns `None` if it does not open.
pub(crate) fn open_offer(
    envelope: &Envelope,
    contact: &Contact,
    pairing: &Pairing,
    session_key: &SealingKey,
) -> Option<Offer> {
    let secret = pairing.secret().sealing_secret();
    let (kind, direction) = (RelayKind::CallOffer, Direction::ToCallee);
    let text = envelope.open(&secret, contact.identity(), session_key, direction, kind).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chappe_common::keys::SecretKey;

    use crate::contact::{PairingSecret, Role};

    const CALL: CallId = CallId::from_bytes([1; 16]);
    const UNIX: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn key(n: u8) -> SealingKey {
        SealingKey::from_bytes(&[n; 32])
    }

    fn contact(peer: u8, role: Role) -> Contact {
        let (own, other) = (SecretKey::from_bytes(&[7; 32]), SecretKey::from_bytes(&[8; 32]).public());
        let pairing = Pairing::new(role, PairingSecret::from_bytes([9; 32]), own, other).expect("a usable key");
        Contact::new("", key(peer).public(), pairing)
    }

    fn record(contact: Contact, side: Side, peer_key: Option<[u8; 32]>, now: Instant) -> CallRecord {
        let pairing = contact.pairing().clone();
        CallRecord::new(CALL, contact, pairing, side, peer_key, now)
    }

    /// Ada (key 1) calls Bob (key 2), whose session has the key 3; the offer has arrived.
    fn call() -> (CallRecord, CallRecord) {
        let now = Instant::now();
        let offer = Redacted::new("offer".to_owned());
        let side = Side::Caller { offer, rejoins: None, lease: None, offered_to: None, recheck_at: None };
        let mut ada = record(contact(2, Role::A), side, None, now);
        let payload = ada.seal(&OutboxMessage::Offer, &key(3).public(), &key(1), &[], UNIX).expect("a payload");
        let envelope = Envelope::parse(&payload).expect("an envelope");
        let from_ada = contact(1, Role::B);
        let open = |key: u8| open_offer(&envelope, &from_ada, from_ada.pairing(), &self::key(key));
        assert!(open(4).is_none(), "not for another session");
        let offer = open(3).expect("an offer");
        assert!(offer.is_fresh(UNIX) && !offer.is_fresh(UNIX + Duration::from_secs(3600)));
        let answer = Some(Redacted::new("answer".to_owned()));
        let side = Side::Callee { offer: Redacted::new(offer.sdp), opened_with: key(3), answer };
        let mut bob = record(from_ada, side, Some(offer.reply_key.0), now);
        bob.mark_seen(envelope.counter());
        (ada, bob)
    }

    fn sent(from: &mut CallRecord, item: &OutboxMessage, recipient: &[u8; 32], identity: u8) -> Envelope {
        let payload = from.seal(item, recipient, &key(identity), &[], UNIX).expect("a payload");
        Envelope::parse(&payload).expect("an envelope")
    }

    #[test]
    fn each_message_of_a_call_opens_once_and_for_its_recipient_alone() {
        let (mut ada, mut bob) = call();
        let sessions = [key(3), key(5)];
        let none: [SealingKey; 0] = [];
        let ice = OutboxMessage::Ice { round: 0, candidates: vec!["candidate".to_owned()] };

        let early = sent(&mut ada, &ice, &key(3).public(), 1);
        assert!(bob.open(&early, RelayKind::CallIce, none.iter()).is_some(), "the session's key is kept for the call");
        assert!(bob.open(&early, RelayKind::CallIce, none.iter()).is_none(), "a replay");
        let moved = sent(&mut ada, &ice, &key(5).public(), 1);
        assert!(bob.open(&moved, RelayKind::CallHangup, sessions.iter()).is_none(), "another kind");
        assert!(bob.open(&moved, RelayKind::CallIce, none.iter()).is_none(), "a session that is gone");
        assert!(bob.open(&moved, RelayKind::CallIce, sessions.iter()).is_some(), "a session that came later");

        let recipient = bob.recipient(&OutboxMessage::Answer).expect("the key in the offer");
        let answer = sent(&mut bob, &OutboxMessage::Answer, &recipient, 2);
        assert!(bob.open(&answer, RelayKind::CallAnswer, sessions.iter()).is_none(), "played back to its sender");
        let text = ada.open(&answer, RelayKind::CallAnswer, sessions.iter()).expect("an answer");
        let answer: Answer = serde_json::from_slice(&text).expect("an answer");
        assert_eq!(answer.sdp, "answer");

        ada.peer_key = Some(answer.reply_key.0);
        let recipient = ada.recipient(&ice).expect("the key in the answer");
        let late = sent(&mut ada, &ice, &recipient, 1);
        assert!(bob.open(&late, RelayKind::CallIce, none.iter()).is_some(), "no session's key is needed any more");
    }

    #[test]
    fn nodes_are_left_out_of_an_offer_that_would_be_padded_to_a_greater_length() {
        let nodes = ["wss://node.example:443#J4V25z0c2sOboo5F2RafATVxETHc2onYdzIvnE7zNeE".to_owned()];
        for (sdp, with_nodes) in [(7000, true), (8090, false), (9000, true), (24 * 1024, true)] {
            let offer = Redacted::new("x".repeat(sdp));
            let side = Side::Caller { offer, rejoins: None, lease: None, offered_to: None, recheck_at: None };
            let mut ada = record(contact(2, Role::A), side, None, Instant::now());
            let payload = ada.seal(&OutboxMessage::Offer, &key(3).public(), &key(1), &nodes, UNIX).expect("a payload");
            let from_ada = contact(1, Role::B);
            let envelope = Envelope::parse(&payload).expect("an envelope");
            let offer = open_offer(&envelope, &from_ada, from_ada.pairing(), &key(3)).expect("an offer");
            assert_eq!(!offer.nodes.is_empty(), with_nodes, "{sdp} bytes");
        }
    }

    #[test]
    fn a_message_of_the_callee_is_never_taken_with_a_session_s_key() {
        let (mut ada, mut bob) = call();
        let hangup = sent(&mut bob, &OutboxMessage::Hangup, &key(3).public(), 2);
        assert!(ada.open(&hangup, RelayKind::CallHangup, [key(3)].iter()).is_none());
    }

    #[test]
    fn after_a_failure_the_other_side_is_looked_up_despite_a_known_key() {
        let (_, mut bob) = call();
        assert!(bob.recipient(&OutboxMessage::Answer).is_some());
        bob.forget_location();
        assert_eq!(bob.recipient(&OutboxMessage::Answer), None);
    }
}
