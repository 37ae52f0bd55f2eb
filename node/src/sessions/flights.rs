//! The messages of one session in flight. Each has exactly one outcome. Pure.
//!
//! A message to a session of this node has its outcome immediately. It is not tracked here, unless an earlier message
//! to the same destination is in flight. A message whose destination is not found is sent again, once, after a new
//! lookup. Later messages to the same destination don't overtake it:
//!
//! - While a message waits, the session doesn't read its client.
//! - If the destination has moved to another node since an earlier message was sent, a later message waits for the
//!   earlier one's outcome ([`Flights::has_earlier_elsewhere`]). Otherwise the later message could arrive first, and
//!   the earlier one would be sent again after it. This costs one round trip, and only right after a move.
//! - Both messages may have been sent to a node where the callee attaches between them. Then the later one is delivered
//!   first, and the earlier message is not sent again ([`Flights::supersede_earlier`]).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe_common::{client::RelayKind, code::PairingCode, keys::NodeId, lease::Address};

use crate::wire::ids::PeerAddr;

/// The maximum number of messages of one session in flight: a burst of candidates. At the limit the client is not read.
const MAX_FLIGHTS: usize = 64;

/// The destination of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// An inbox, at any node.
    Inbox(Address),
    /// The other session of a pairing, and its code.
    Peer(PeerAddr, PairingCode),
}

/// A message in flight.
pub(crate) struct Flight {
    /// Unique among the messages of one session.
    pub(crate) ticket: u64,
    /// The `id` of the client's message.
    pub(crate) id: Option<Box<str>>,
    pub(crate) kind: RelayKind,
    pub(crate) to: Destination,
    /// JSON as the client wrote it.
    pub(crate) payload: Bytes,
    /// Whether the destination was looked up for this message, so that it is not sent again.
    pub(crate) looked_up: bool,
    /// The node to which it was sent.
    pub(crate) via: Option<NodeId>,
    waits: bool,
    /// Whether it only waits for an earlier message. Then resuming doesn't count as its lookup.
    behind: bool,
    started: Instant,
}

/// What a session has to do before a waiting message can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Look up an inbox and dial its node.
    Inbox(Address),
    /// Dial a node.
    Node(NodeId),
}

/// The messages of one session in flight, in the order in which the client sent them.
#[derive(Default)]
pub(crate) struct Flights {
    flights: VecDeque<Flight>,
    next_ticket: u64,
}

impl Flights {
    /// Adds a message, and returns its ticket.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        id: Option<Box<str>>,
        kind: RelayKind,
        to: Destination,
        payload: Bytes,
    ) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.flights.push_back(Flight {
            ticket,
            id,
            kind,
            to,
            payload,
            looked_up: false,
            via: None,
            waits: false,
            behind: false,
            started: now,
        });
        ticket
    }

    pub(crate) fn find(&self, ticket: u64) -> Option<&Flight> {
        self.flights.iter().find(|flight| flight.ticket == ticket)
    }

    /// Removes a message that has its outcome.
    pub(crate) fn finish(&mut self, ticket: u64) -> Option<Flight> {
        let index = self.flights.iter().position(|flight| flight.ticket == ticket)?;
        self.flights.remove(index)
    }

    /// Removes a delivered message. Returns `None` if its outcome affects others: a message waits, or an earlier
    /// message to the same destination is in flight.
    pub(crate) fn finish_if_alone(&mut self, ticket: u64) -> Option<Flight> {
        let index = self.flights.iter().position(|flight| flight.ticket == ticket)?;
        let to = self.flights[index].to;
        let is_alone = !self.flights.range(..index).any(|flight| flight.to == to);
        if is_alone && !self.flights.iter().any(|flight| flight.waits) { self.flights.remove(index) } else { None }
    }

    /// Returns when the oldest message has been in flight for `wait`.
    pub(crate) fn next_deadline(&self, wait: Duration) -> Option<Instant> {
        self.flights.front().map(|flight| flight.started + wait)
    }

    /// Returns the oldest message if it has been in flight for `wait` at `now`.
    pub(crate) fn overdue(&self, now: Instant, wait: Duration) -> Option<u64> {
        self.flights.front().filter(|flight| flight.started + wait <= now).map(|flight| flight.ticket)
    }

    /// Makes the message wait for a lookup or a dial.
    pub(crate) fn set_waiting(&mut self, ticket: u64) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.ticket == ticket) {
            flight.waits = true;
        }
    }

    /// Makes the message wait until all earlier messages to the same destination have their outcomes.
    pub(crate) fn set_waiting_behind(&mut self, ticket: u64) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.ticket == ticket) {
            (flight.waits, flight.behind) = (true, true);
        }
    }

    /// Notes that the message was sent to `via`.
    pub(crate) fn set_sent(&mut self, ticket: u64, via: NodeId) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.ticket == ticket) {
            flight.via = Some(via);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.flights.len()
    }

    /// Returns whether any message to `to` is in flight.
    pub(crate) fn is_under_way(&self, to: Destination) -> bool {
        self.flights.iter().any(|flight| flight.to == to)
    }

    /// Returns whether an earlier message to the same destination is in flight to another node than `via`.
    pub(crate) fn has_earlier_elsewhere(&self, ticket: u64, to: Destination, via: NodeId) -> bool {
        self.flights
            .iter()
            .take_while(|flight| flight.ticket < ticket)
            .any(|flight| !flight.waits && flight.to == to && flight.via.is_some_and(|other| other != via))
    }

    /// Ensures that messages before a delivered one, to the same destination, are not sent again. Returns the tickets
    /// of those that wait to be sent again.
    pub(crate) fn supersede_earlier(&mut self, ticket: u64) -> Vec<u64> {
        let Some(to) = self.find(ticket).map(|flight| flight.to) else { return Vec::new() };
        let mut superseded = Vec::new();
        for flight in self.flights.iter_mut().filter(|flight| flight.ticket < ticket && flight.to == to) {
            flight.looked_up = true;
            if flight.waits {
                superseded.push(flight.ticket);
            }
        }
        superseded
    }

    /// Returns whether the client may be read: no message waits, and fewer than [`MAX_FLIGHTS`] are in flight.
    pub(crate) fn has_room(&self) -> bool {
        self.flights.len() < MAX_FLIGHTS && !self.flights.iter().any(|flight| flight.waits)
    }

    /// Returns what the first waiting message needs, or `None` while other messages to its destination are in flight.
    pub(crate) fn need(&self) -> Option<Need> {
        let waiting = self.flights.iter().find(|flight| flight.waits)?;
        let under_way = self.flights.iter().any(|flight| !flight.waits && flight.to == waiting.to);
        if under_way {
            return None;
        }
        Some(match waiting.to {
            Destination::Inbox(inbox) => Need::Inbox(inbox),
            Destination::Peer(peer, _) => Need::Node(peer.node),
        })
    }

    /// Resumes the messages that waited for `need`, whether it was met or not. Returns their tickets in order.
    pub(crate) fn resume(&mut self, need: Need) -> Vec<u64> {
        let mut tickets = Vec::new();
        for flight in &mut self.flights {
            let meets = match (flight.to, need) {
                (Destination::Inbox(inbox), Need::Inbox(met)) => inbox == met,
                (Destination::Peer(peer, _), Need::Node(met)) => peer.node == met,
                _ => false,
            };
            if flight.waits && meets {
                flight.waits = false;
                flight.via = None;
                if !std::mem::take(&mut flight.behind) {
                    flight.looked_up = true;
                }
                tickets.push(flight.ticket);
            }
        }
        tickets
    }
}

#[cfg(test)]
mod tests {
    use chappe_common::{
        keys::PublicKey,
        lease::{AccessToken, Inbox},
    };

    use super::*;

    fn inbox(n: u8) -> Destination {
        let inbox = Inbox::new(PublicKey::from_bytes([n; 32]));
        Destination::Inbox(Address { inbox, token: AccessToken::from_bytes([n; 16]) })
    }

    fn node(n: u8) -> NodeId {
        NodeId::new(PublicKey::from_bytes([n; 32]))
    }

    fn start(flights: &mut Flights, to: Destination) -> u64 {
        flights.start(Instant::now(), None, RelayKind::CallIce, to, Bytes::new())
    }

    #[test]
    fn a_message_that_waits_goes_on_after_those_before_it_and_in_order() {
        let mut flights = Flights::default();
        let (a, b, c) = (start(&mut flights, inbox(1)), start(&mut flights, inbox(1)), start(&mut flights, inbox(2)));
        flights.set_waiting(a);
        assert!(!flights.has_room());
        assert_eq!(flights.need(), None, "b is under way to the same place");
        flights.set_waiting(b);
        let need = flights.need().expect("c goes elsewhere");
        assert_eq!(flights.resume(need), vec![a, b]);
        assert!(flights.has_room() && flights.need().is_none());
        assert!(flights.find(a).expect("still under way").looked_up);
        assert!(!flights.find(c).expect("still under way").looked_up);
    }

    #[test]
    fn a_message_to_a_destination_that_moved_waits_for_those_sent_to_its_former_place() {
        let (old, new) = (node(1), node(2));
        let mut flights = Flights::default();
        let a = start(&mut flights, inbox(1));
        flights.set_sent(a, old);
        let b = start(&mut flights, inbox(1));
        assert!(!flights.has_earlier_elsewhere(b, inbox(1), old), "the same way keeps the order by itself");
        assert!(!flights.has_earlier_elsewhere(b, inbox(2), new), "another destination");
        assert!(flights.has_earlier_elsewhere(b, inbox(1), new));
        flights.set_waiting_behind(b);
        assert!(!flights.has_room(), "nothing overtakes b either");
        assert_eq!(flights.need(), None, "a has no outcome yet");
        // The destination of a was not found. Both are sent again in order, and b can still be sent again.
        flights.set_waiting(a);
        let need = flights.need().expect("a place to look up");
        assert_eq!(flights.resume(need), vec![a, b]);
        let looked_up = |ticket| flights.find(ticket).expect("under way").looked_up;
        assert_eq!((looked_up(a), looked_up(b)), (true, false));
        assert!(!flights.has_earlier_elsewhere(b, inbox(1), new));
    }

    #[test]
    fn a_message_is_not_tried_again_once_a_later_one_was_delivered() {
        let mut flights = Flights::default();
        let (a, b) = (start(&mut flights, inbox(1)), start(&mut flights, inbox(1)));
        let (other, c) = (start(&mut flights, inbox(2)), start(&mut flights, inbox(1)));
        flights.set_waiting(a);
        assert_eq!(flights.supersede_earlier(c), vec![a]);
        assert!(flights.find(b).expect("under way").looked_up, "b has no second try any more");
        assert!(!flights.find(other).expect("under way").looked_up);
    }

    #[test]
    fn every_message_finishes_once() {
        let mut flights = Flights::default();
        let a = start(&mut flights, inbox(1));
        assert!(flights.finish(a).is_some());
        assert!(flights.finish(a).is_none());
    }

    #[test]
    fn a_message_without_an_outcome_is_overdue_after_its_time() {
        let mut flights = Flights::default();
        let wait = Duration::from_secs(3);
        let a = start(&mut flights, inbox(1));
        let deadline = flights.next_deadline(wait).expect("one under way");
        assert_eq!(flights.overdue(deadline - Duration::from_millis(1), wait), None);
        assert_eq!(flights.overdue(deadline, wait), Some(a));
        flights.finish(a);
        assert_eq!((flights.overdue(deadline, wait), flights.next_deadline(wait)), (None, None));
    }

    #[test]
    fn a_client_with_too_many_messages_in_flight_is_read_later() {
        let mut flights = Flights::default();
        let first = start(&mut flights, inbox(1));
        for _ in 1..MAX_FLIGHTS {
            start(&mut flights, inbox(1));
        }
        assert!(!flights.has_room());
        flights.finish(first);
        assert!(flights.has_room());
    }
}
