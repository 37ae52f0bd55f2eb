//! Sending a client's messages, until each has its one outcome.

use std::time::Instant;

use bytes::Bytes;
use chappe_common::{
    client::{ErrorCode, MAX_PAYLOAD, RelayKind},
    keys::NodeId,
};

use super::{Done, Over, RATE_EXCEEDED, Session, hear::Refusal};
use crate::{
    dispatch,
    federation::{
        frame::{Header, Outcome},
        link::SendError,
        links,
    },
    locate,
    session::{
        Origin, ReplyTo,
        forward::{Destination, Flight, Need},
        reply::Reply,
        request::Request,
    },
};

impl Session {
    pub(super) fn send_to_inbox(&mut self, request: &Request<'_>, kind: RelayKind) -> Result<Vec<u64>, Refusal> {
        let (to, payload) = (request.to()?, request.text_payload(MAX_PAYLOAD)?);
        let id = request.id().map(Box::from);
        Ok(vec![self.flights.start(Instant::now(), id, kind, Destination::Inbox(to), payload)])
    }

    pub(super) fn send_to_code(&mut self, request: &Request<'_>, kind: RelayKind) -> Result<Vec<u64>, Refusal> {
        self.check_registered()?;
        let (target, payload) = (request.target()?, request.required_payload()?);
        let peer = self.code_door.peer(&target).and_then(|peer| Some((peer, self.code_door.code_of(peer)?)));
        let Some((peer, code)) = peer else { return Err(Refusal::NoPeer(target.chars().take(64).collect())) };
        let id = request.id().map(Box::from);
        Ok(vec![self.flights.start(Instant::now(), id, kind, Destination::Peer(peer, code), payload)])
    }

    pub(super) async fn send_all(&mut self, tickets: Vec<u64>) -> Result<(), Over> {
        for ticket in tickets {
            let Some(flight) = self.flights.find(ticket) else { continue };
            let to = flight.to;
            match self.try_send(flight) {
                Sent::UnderWay(via) => self.flights.sent(ticket, via),
                Sent::Ended(outcome) => match to {
                    Destination::Inbox(_) => self.finish(ticket, outcome).await?,
                    // Not the word of the peer's node: the pairing stays.
                    Destination::Peer(..) => self.end_flight(ticket, outcome).await?,
                },
                Sent::Waits => self.flights.hold(ticket),
                Sent::WaitsBehind => self.flights.hold_behind(ticket),
            }
        }
        self.reach_next();
        Ok(())
    }

    fn try_send(&self, flight: &Flight) -> Sent {
        let origin = Origin { session: self.handle.clone(), ticket: flight.ticket };
        let (kind, payload) = (flight.kind, flight.payload.clone());
        match flight.to {
            Destination::Inbox(inbox) => {
                if self.core.local.inbox(&inbox).is_some() {
                    if self.flights.has_earlier_elsewhere(flight.ticket, flight.to, self.core.me) {
                        return Sent::WaitsBehind;
                    }
                    dispatch::to_inbox(&self.core, kind, inbox, payload, ReplyTo::Session(origin));
                    return Sent::UnderWay(self.core.me);
                }
                let lease = locate::found_lease(&self.core, &inbox).filter(|lease| lease.node != self.core.me);
                match lease {
                    Some(lease) if self.flights.has_earlier_elsewhere(flight.ticket, flight.to, lease.node) => {
                        Sent::WaitsBehind
                    }
                    Some(lease) => self.forward(
                        lease.node,
                        flight.looked_up,
                        |token| Header::ToInbox { token, kind, inbox },
                        payload,
                        origin,
                    ),
                    None if flight.looked_up => Sent::Ended(Outcome::NotHere),
                    None => Sent::Waits,
                }
            }
            Destination::Peer(peer, _) if peer.node == self.core.me => {
                let reply = ReplyTo::Session(origin);
                dispatch::to_session(&self.core, kind, peer.session, self.addr(), payload, reply);
                Sent::UnderWay(peer.node)
            }
            Destination::Peer(peer, _) => self.forward(
                peer.node,
                flight.looked_up,
                |token| Header::ToSession { token, kind, to: peer.session, from: self.handle.id() },
                payload,
                origin,
            ),
        }
    }

    fn forward(
        &self,
        node: NodeId,
        tried: bool,
        header: impl FnOnce(u64) -> Header,
        payload: Bytes,
        origin: Origin,
    ) -> Sent {
        if !self.core.view.load().contains(&node) {
            return Sent::Ended(Outcome::NotHere);
        }
        let Some(link) = self.core.links.find(&node) else {
            return if tried { Sent::Ended(Outcome::Refused(ErrorCode::Unreachable)) } else { Sent::Waits };
        };
        match link.try_forward(header, payload, origin) {
            Ok(()) => Sent::UnderWay(node),
            Err(SendError::Full) => Sent::Ended(Outcome::Refused(ErrorCode::Congested)),
            Err(SendError::Closed) => Sent::Ended(Outcome::Refused(ErrorCode::Unreachable)),
        }
    }

    /// Starts the question that lets the first waiting message go on.
    pub(super) fn reach_next(&mut self) {
        if self.reaching {
            return;
        }
        let Some(need) = self.flights.need() else { return };
        self.reaching = true;
        let core = self.core.clone();
        self.ops.push(Box::pin(async move {
            let (lease, node) = match need {
                Need::Inbox(inbox) => {
                    let lease = match locate::found_lease(&core, &inbox) {
                        Some(lease) => Some(lease),
                        None => locate::find_lease(&core, inbox).await,
                    };
                    let node = lease.as_ref().map(|lease| lease.node);
                    (lease, node)
                }
                Need::Node(node) => (None, Some(node)),
            };
            if let Some(node) = node.filter(|node| *node != core.me) {
                // Whether it worked shows when the message is sent.
                let _ = links::connect(&core, node).await;
            }
            Done::Reached { need, lease }
        }));
    }

    /// A message has its one outcome, unless it is to be tried once more.
    pub(super) async fn finish(&mut self, ticket: u64, outcome: Outcome) -> Result<(), Over> {
        if outcome == Outcome::Delivered {
            for earlier in self.flights.overtake(ticket) {
                self.end_flight(earlier, Outcome::NotHere).await?;
            }
        }
        if outcome == Outcome::NotHere
            && let Some(flight) = self.flights.find(ticket)
        {
            match flight.to {
                Destination::Inbox(inbox) if !flight.looked_up => {
                    // The lease that was cached is old: look it up anew, once. If it names another node than the
                    // message was forwarded to, it is newer.
                    let forwarded = flight.via.filter(|via| *via != self.core.me);
                    let cached = self.core.found.get(&inbox);
                    if cached.is_some_and(|lease| forwarded.is_none_or(|via| via == lease.node)) {
                        self.core.found.remove(&inbox);
                    }
                    self.flights.hold(ticket);
                    self.reach_next();
                    return Ok(());
                }
                Destination::Inbox(_) => {}
                // The peer's node says that the session is over. That a node is down or can't be reached does not end
                // a pairing: it may be back in a moment, and the other side would still think that it is paired.
                Destination::Peer(peer, _) => self.code_door.unbond(peer),
            }
        }
        self.end_flight(ticket, outcome).await
    }

    pub(super) async fn end_flight(&mut self, ticket: u64, outcome: Outcome) -> Result<(), Over> {
        let Some(flight) = self.flights.finish(ticket) else { return Ok(()) };
        self.reach_next();
        let id = flight.id.as_deref();
        let (code, message) = match (outcome, flight.to) {
            (Outcome::Delivered, _) => {
                self.core.metrics.delivered.inc();
                return match id {
                    Some(id) => self.say(Reply::Delivered { id }.encode()).await,
                    None => Ok(()),
                };
            }
            (Outcome::NotHere, Destination::Inbox(_)) => {
                (ErrorCode::PeerOffline, "Nobody is connected at this inbox".into())
            }
            (Outcome::NotHere, Destination::Peer(_, code)) => {
                (ErrorCode::PeerOffline, format!("Peer not found: {}", code.as_str()))
            }
            (Outcome::Refused(code), to) => {
                if let (ErrorCode::Unreachable, Destination::Inbox(inbox)) = (code, to) {
                    // Where it was is no good any more: the next message looks it up anew.
                    self.core.found.remove(&inbox);
                }
                (code, refusal_text(code).to_owned())
            }
        };
        match (id, flight.to) {
            // Without an id the inbox door says nothing; the code door always did.
            (None, Destination::Inbox(_)) => {
                self.core.metrics.refused(code);
                Ok(())
            }
            _ => self.refuse(id, code, &message).await,
        }
    }
}

/// What became of trying to send a message.
enum Sent {
    /// To this node.
    UnderWay(NodeId),
    Ended(Outcome),
    /// For its place to be looked up and reached.
    Waits,
    /// For earlier messages to the same destination.
    WaitsBehind,
}

const fn refusal_text(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Congested => "Too many messages are waiting. Try again.",
        ErrorCode::RateLimited => RATE_EXCEEDED,
        ErrorCode::Unreachable => "The peer's node does not answer",
        ErrorCode::TooLarge => "Message too large",
        _ => "The peer's node refused the message",
    }
}
