//! Sending a client's messages, until each has its one outcome.

use std::time::Instant;

use bytes::Bytes;
use chappe_common::{
    client::{ErrorCode, MAX_PAYLOAD, RelayKind},
    keys::NodeId,
    lease::Address,
};

use super::{RATE_EXCEEDED, Session, ops::OpResult, requests::Refusal};
use crate::{
    client_protocol::{reply::Reply, request::Request},
    links::link::SendError,
    sessions::{
        self,
        event::{Message, ReplyTo},
        flights::{Destination, Need},
        handle::SessionHandle,
    },
    wire::{
        frame::{Header, Outcome},
        ids::{PeerAddr, Ticket},
    },
};

impl Session {
    /// Sends a message to an inbox. `here`: the session of this node that has it, where that was looked up already.
    pub(super) fn send_to_inbox(
        &mut self,
        request: &Request<'_>,
        kind: RelayKind,
        address: Address,
        here: Option<SessionHandle>,
    ) -> Result<(), Refusal> {
        let payload = request.text_payload(MAX_PAYLOAD)?;
        let to = Destination::Inbox(address);
        if !self.handle.has_flights() || !self.handle.with_flights(|flights| flights.is_under_way(to)) {
            let outcome = match here {
                Some(session) => sessions::deliver(&session, &mut self.output.batch, kind, &address.inbox, payload),
                None => self.core.sessions.deliver_to_inbox(&mut self.output.batch, kind, &address, payload),
            };
            if outcome != Outcome::NotHere {
                self.tell_outcome(request.id(), to, outcome);
                return Ok(());
            }
        }
        self.start(request, kind, to, payload);
        Ok(())
    }

    pub(super) fn send_to_code(&mut self, request: &Request<'_>, kind: RelayKind) -> Result<(), Refusal> {
        self.check_registered()?;
        let (target, payload) = (request.target()?, request.required_payload()?);
        let peer = self.pairing.peer(&target).and_then(|peer| Some((peer, self.pairing.code_of(peer)?)));
        let Some((peer, code)) = peer else { return Err(Refusal::NoPeer(target.chars().take(64).collect())) };
        let to = Destination::Peer(peer, code);
        let from = self.addr();
        // Where messages before it have no outcome yet, the peer's own queue keeps the order.
        if peer.node == self.core.context.me
            && let Some(outcome) =
                self.core.sessions.deliver_to_session(&mut self.output.batch, kind, peer.session, from, payload)
        {
            self.outcome_of_peer(peer, outcome);
            self.tell_outcome(request.id(), to, outcome);
            return Ok(());
        }
        self.start(request, kind, to, payload);
        Ok(())
    }

    /// Sends a message whose outcome is not known at once.
    fn start(&mut self, request: &Request<'_>, kind: RelayKind, to: Destination, payload: &[u8]) {
        self.timer.invalidate();
        let id = request.id().map(Box::from);
        let payload = Bytes::copy_from_slice(payload);
        let ticket = self.handle.with_flights(|flights| flights.start(Instant::now(), id, kind, to, payload));
        self.send(ticket);
        self.reach_next();
    }

    pub(super) fn send_all(&mut self, tickets: Vec<u64>) {
        for ticket in tickets {
            self.send(ticket);
        }
        self.reach_next();
    }

    fn send(&mut self, ticket: u64) {
        let flight = self.handle.with_flights(|flights| {
            let flight = flights.find(ticket)?;
            Some((flight.kind, flight.to, flight.payload.clone(), flight.looked_up))
        });
        let Some((kind, to, payload, looked_up)) = flight else { return };
        match self.try_send(ticket, kind, to, payload, looked_up) {
            // Its outcome may be there already.
            Sent::UnderWay(via) => self.handle.with_flights(|flights| flights.sent(ticket, via)),
            Sent::Here(outcome) => {
                self.handle.with_flights(|flights| flights.sent(ticket, self.core.context.me));
                self.finish_flight(ticket, outcome);
            }
            Sent::Ended(outcome) => match to {
                Destination::Inbox(_) => self.finish_flight(ticket, outcome),
                // Not the word of the peer's node: the pairing stays.
                Destination::Peer(..) => self.end_flight(ticket, outcome),
            },
            Sent::Waits => self.handle.with_flights(|flights| flights.hold(ticket)),
            Sent::WaitsBehind => self.handle.with_flights(|flights| flights.hold_behind(ticket)),
        }
    }

    fn try_send(&mut self, ticket: u64, kind: RelayKind, to: Destination, payload: Bytes, looked_up: bool) -> Sent {
        let origin = Ticket { session: self.handle.id(), number: ticket };
        let has_earlier_elsewhere =
            |via| self.handle.with_flights(|flights| flights.has_earlier_elsewhere(ticket, to, via));
        match to {
            Destination::Inbox(to) => {
                if self.core.sessions.find(&to).is_some() {
                    if has_earlier_elsewhere(self.core.context.me) {
                        return Sent::WaitsBehind;
                    }
                    return Sent::Here(self.core.sessions.deliver_to_inbox(
                        &mut self.output.batch,
                        kind,
                        &to,
                        &payload,
                    ));
                }
                let lease = self.core.homes.found_lease(&to).filter(|lease| lease.node != self.core.context.me);
                match lease {
                    Some(lease) if has_earlier_elsewhere(lease.node) => Sent::WaitsBehind,
                    Some(lease) => self.forward(
                        lease.node,
                        looked_up,
                        |token| Header::ToInbox { token, kind, to },
                        payload,
                        origin,
                    ),
                    None if looked_up => Sent::Ended(Outcome::NotHere),
                    None => Sent::Waits,
                }
            }
            Destination::Peer(peer, _) if peer.node == self.core.context.me => {
                let from = self.addr();
                match self.core.sessions.deliver_to_session(&mut self.output.batch, kind, peer.session, from, &payload)
                {
                    Some(outcome) => Sent::Here(outcome),
                    None => {
                        let message = Message { kind, from, payload, reply: ReplyTo::Session(origin) };
                        self.core.sessions.submit(peer.session, message);
                        Sent::UnderWay(peer.node)
                    }
                }
            }
            Destination::Peer(peer, _) => self.forward(
                peer.node,
                looked_up,
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
        origin: Ticket,
    ) -> Sent {
        if !self.core.members.view.load().contains(&node) {
            return Sent::Ended(Outcome::NotHere);
        }
        let Some(link) = self.core.links.find(&node) else {
            return if tried { Sent::Ended(Outcome::Refused(ErrorCode::Unreachable)) } else { Sent::Waits };
        };
        match link.try_forward(header, payload, origin) {
            Ok(token) => {
                tracing::debug!(peer = node.short(), token, "forwarded a message");
                Sent::UnderWay(node)
            }
            Err(SendError::Full) => Sent::Ended(Outcome::Refused(ErrorCode::Congested)),
            Err(SendError::Closed) => Sent::Ended(Outcome::Refused(ErrorCode::Unreachable)),
        }
    }

    /// Starts the question that lets the first waiting message go on.
    pub(super) fn reach_next(&mut self) {
        if self.ops.is_reaching {
            return;
        }
        let Some(need) = self.handle.with_flights(|flights| flights.need()) else { return };
        self.ops.is_reaching = true;
        let core = self.core.clone();
        self.ops.start(async move {
            let (lease, node) = match need {
                Need::Inbox(address) => {
                    let lease = match core.homes.found_lease(&address) {
                        Some(lease) => Some(lease),
                        None => core.homes.find_lease(address).await,
                    };
                    let node = lease.as_ref().map(|lease| lease.node);
                    (lease, node)
                }
                Need::Node(node) => (None, Some(node)),
            };
            if let Some(node) = node.filter(|node| *node != core.context.me) {
                // Whether it worked shows when the message is sent.
                let _ = core.links.connect(node).await;
            }
            OpResult::Reached { need, lease }
        });
    }

    /// A message has its one outcome, unless it is to be tried once more.
    pub(super) fn finish_flight(&mut self, ticket: u64, outcome: Outcome) {
        if outcome == Outcome::Delivered {
            let overtaken = self.handle.with_flights(|flights| flights.overtake(ticket));
            for earlier in overtaken {
                self.end_flight(earlier, Outcome::NotHere);
            }
        }
        let flight = self.handle.with_flights(|flights| {
            let flight = flights.find(ticket)?;
            Some((flight.to, flight.looked_up, flight.via))
        });
        if let Some((to, looked_up, via)) = flight {
            match to {
                Destination::Inbox(Address { inbox, .. }) if outcome == Outcome::NotHere && !looked_up => {
                    // The lease that was cached is old: look it up anew, once. If it names another node than the
                    // message was forwarded to, it is newer.
                    let forwarded = via.filter(|via| *via != self.core.context.me);
                    let found = self.core.homes.found_node(&inbox);
                    if found.is_some_and(|node| forwarded.is_none_or(|via| via == node)) {
                        self.core.homes.forget_found(&inbox);
                    }
                    self.handle.with_flights(|flights| flights.hold(ticket));
                    self.reach_next();
                    return;
                }
                Destination::Inbox(_) => {}
                Destination::Peer(peer, _) => self.outcome_of_peer(peer, outcome),
            }
        }
        self.end_flight(ticket, outcome);
    }

    /// The peer's node says that the session is over. That a node is down or can't be reached does not end a pairing: it
    /// may be back in a moment, and the other side would still think that it is paired.
    fn outcome_of_peer(&mut self, peer: PeerAddr, outcome: Outcome) {
        if outcome == Outcome::NotHere {
            let unbound = self.pairing.unpair(peer);
            self.apply(unbound);
        }
    }

    pub(super) fn end_flight(&mut self, ticket: u64, outcome: Outcome) {
        let Some(flight) = self.handle.with_flights(|flights| flights.finish(ticket)) else { return };
        self.reach_next();
        self.tell_outcome(flight.id.as_deref(), flight.to, outcome);
    }

    /// Tells the client what became of its message to `to`.
    fn tell_outcome(&mut self, id: Option<&str>, to: Destination, outcome: Outcome) {
        tracing::debug!(?outcome, "a message of the client has its outcome");
        let (code, message) = match (outcome, to) {
            (Outcome::Delivered, _) => {
                self.core.context.metrics.delivered.inc();
                if let Some(id) = id {
                    self.reply(&Reply::Delivered { id }.encode());
                }
                return;
            }
            (Outcome::NotHere, Destination::Inbox(_)) => {
                (ErrorCode::PeerOffline, "Nobody is connected at this inbox".into())
            }
            (Outcome::NotHere, Destination::Peer(_, code)) => {
                (ErrorCode::PeerOffline, format!("Peer not found: {}", code.as_str()))
            }
            (Outcome::Refused(code), to) => {
                if let (ErrorCode::Unreachable, Destination::Inbox(Address { inbox, .. })) = (code, to) {
                    // Where it was is no good any more: the next message looks it up anew.
                    self.core.homes.forget_found(&inbox);
                }
                (code, refusal_text(code).to_owned())
            }
        };
        match (id, to) {
            // Without an id the inbox door says nothing; the code door always did.
            (None, Destination::Inbox(_)) => self.core.context.metrics.refused(code),
            _ => self.refuse(id, code, &message),
        }
    }
}

/// What became of trying to send a message.
enum Sent {
    /// To this node.
    UnderWay(NodeId),
    /// At this node, with the word of the session or of who has the inbox.
    Here(Outcome),
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
