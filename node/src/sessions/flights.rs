//! The messages of one session that are under way, until each has its one outcome.
//!
//! Pure. A message to a session of this node has its outcome at once, and none to the same destination before it, is none
//! of these. A message that finds nobody is tried once more, at a place that is looked up anew. Nothing later to the same
//! destination overtakes it:
//!
//! - while one waits, the session hears no more of its client;
//! - where the destination has moved to another node since an earlier message was sent, a later one waits for that one's
//!   outcome ([`Flights::has_earlier_elsewhere`]): it could arrive first, and the earlier one be tried again after it.
//!   This costs one round trip, once, and only right after a move;
//! - where a later one was delivered all the same, because the callee attached at the very node that both were sent to,
//!   an earlier one is not tried again ([`Flights::overtake`]).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe_common::{client::RelayKind, code::PairingCode, keys::NodeId, lease::Address};

use crate::wire::ids::PeerAddr;

/// Messages of one session under way at the most: a burst of candidates. Beyond, the client is heard later.
const MAX_FLIGHTS: usize = 64;

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To an inbox, wherever it is.
    Inbox(Address),
    /// To the other session of a pairing, named by its code.
    Peer(PeerAddr, PairingCode),
}

/// A message under way.
pub(crate) struct Flight {
    /// Tells the messages of one session apart.
    pub(crate) ticket: u64,
    /// The client's `id`.
    pub(crate) id: Option<Box<str>>,
    /// Which message.
    pub(crate) kind: RelayKind,
    /// Where to.
    pub(crate) to: Destination,
    /// JSON, as the client wrote it.
    pub(crate) payload: Bytes,
    /// Whether its place was looked up anew for it already.
    pub(crate) looked_up: bool,
    /// The node that it was sent to.
    pub(crate) via: Option<NodeId>,
    waits: bool,
    /// Whether it waits for an earlier one alone: then its place is not looked up for it by that.
    behind: bool,
    started: Instant,
}

/// What a session has to do before a waiting message can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Look an inbox up and reach its node.
    Inbox(Address),
    /// Reach a node.
    Node(NodeId),
}

/// The messages of one session under way, in the order in which the client sent them.
#[derive(Default)]
pub(crate) struct Flights {
    flights: VecDeque<Flight>,
    next_ticket: u64,
}

impl Flights {
    /// A message starts; gives it its ticket.
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

    /// The message with this ticket.
    pub(crate) fn find(&self, ticket: u64) -> Option<&Flight> {
        self.flights.iter().find(|flight| flight.ticket == ticket)
    }

    /// The message has its outcome.
    pub(crate) fn finish(&mut self, ticket: u64) -> Option<Flight> {
        let index = self.flights.iter().position(|flight| flight.ticket == ticket)?;
        self.flights.remove(index)
    }

    /// The message was delivered: takes it out where that is all there is to do, as no message waits, and none to the same
    /// destination is before it.
    pub(crate) fn finish_alone(&mut self, ticket: u64) -> Option<Flight> {
        let index = self.flights.iter().position(|flight| flight.ticket == ticket)?;
        let to = self.flights[index].to;
        let is_alone = !self.flights.range(..index).any(|flight| flight.to == to);
        if is_alone && !self.flights.iter().any(|flight| flight.waits) { self.flights.remove(index) } else { None }
    }

    /// When the oldest message has been under way for `wait`.
    pub(crate) fn next_deadline(&self, wait: Duration) -> Option<Instant> {
        self.flights.front().map(|flight| flight.started + wait)
    }

    /// The oldest message, if it has been under way for `wait` at `now`: its outcome will not come in time.
    pub(crate) fn overdue(&self, now: Instant, wait: Duration) -> Option<u64> {
        self.flights.front().filter(|flight| flight.started + wait <= now).map(|flight| flight.ticket)
    }

    /// The message has to wait until its place is reached.
    pub(crate) fn hold(&mut self, ticket: u64) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.ticket == ticket) {
            flight.waits = true;
        }
    }

    /// The message has to wait until those before it to the same destination have their outcomes.
    pub(crate) fn hold_behind(&mut self, ticket: u64) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.ticket == ticket) {
            (flight.waits, flight.behind) = (true, true);
        }
    }

    /// The message was sent to this node.
    pub(crate) fn sent(&mut self, ticket: u64, via: NodeId) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.ticket == ticket) {
            flight.via = Some(via);
        }
    }

    /// How many messages are under way.
    pub(crate) fn len(&self) -> usize {
        self.flights.len()
    }

    /// Whether any message to that destination is under way.
    pub(crate) fn is_under_way(&self, to: Destination) -> bool {
        self.flights.iter().any(|flight| flight.to == to)
    }

    /// Whether an earlier message to the same destination is under way at another node than `via`.
    pub(crate) fn has_earlier_elsewhere(&self, ticket: u64, to: Destination, via: NodeId) -> bool {
        self.flights
            .iter()
            .take_while(|flight| flight.ticket < ticket)
            .any(|flight| !flight.waits && flight.to == to && flight.via.is_some_and(|other| other != via))
    }

    /// The message was delivered: earlier ones to the same destination are not tried again. Gives back the tickets of
    /// those that wait to be.
    pub(crate) fn overtake(&mut self, ticket: u64) -> Vec<u64> {
        let Some(to) = self.find(ticket).map(|flight| flight.to) else { return Vec::new() };
        let mut over = Vec::new();
        for flight in self.flights.iter_mut().filter(|flight| flight.ticket < ticket && flight.to == to) {
            flight.looked_up = true;
            if flight.waits {
                over.push(flight.ticket);
            }
        }
        over
    }

    /// Whether the client may be heard.
    pub(crate) fn has_room(&self) -> bool {
        self.flights.len() < MAX_FLIGHTS && !self.flights.iter().any(|flight| flight.waits)
    }

    /// What the first waiting message needs, once no earlier one to the same place is under way.
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

    /// The need is met, or can't be: the messages that waited for it go on, in order. Gives back their tickets.
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
        flights.hold(a);
        assert!(!flights.has_room());
        assert_eq!(flights.need(), None, "b is under way to the same place");
        flights.hold(b);
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
        flights.sent(a, old);
        let b = start(&mut flights, inbox(1));
        assert!(!flights.has_earlier_elsewhere(b, inbox(1), old), "the same way keeps the order by itself");
        assert!(!flights.has_earlier_elsewhere(b, inbox(2), new), "another destination");
        assert!(flights.has_earlier_elsewhere(b, inbox(1), new));
        flights.hold_behind(b);
        assert!(!flights.has_room(), "nothing overtakes b either");
        assert_eq!(flights.need(), None, "a has no outcome yet");
        // a found nobody there: both go the new way, in order, and b keeps its second try.
        flights.hold(a);
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
        flights.hold(a);
        assert_eq!(flights.overtake(c), vec![a]);
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
    fn a_client_with_too_much_under_way_is_heard_later() {
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
