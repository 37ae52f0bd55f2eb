//! Sends a client's messages, and reports the outcome of each.

use std::time::Instant;

use bytes::Bytes;
use chappe_common::{
    client::{ErrorCode, MAX_PAYLOAD, RelayKind},
    keys::NodeId,
    lease::Address,
};

use super::{RATE_EXCEEDED, Session, ops::OpResult, requests::RequestRefusal};
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
    /// Sends a message to an inbox. `here` is the inbox's session at this node, if the caller has looked it up already.
    pub(super) fn send_to_inbox(
        &mut self,
        request: &Request<'_>,
        kind: RelayKind,
        address: Address,
        here: Option<SessionHandle>,
    ) -> Result<(), RequestRefusal> {
        let payload = request.text_payload(MAX_PAYLOAD)?;
        let to = Destination::Inbox(address);
        if !self.handle.has_flights() || !self.handle.with_flights(|flights| flights.is_under_way(to)) {
            let outcome = match here {
                Some(session) => sessions::deliver(&session, &mut self.output.batch, kind, &address.inbox, payload),
                None => self.core.sessions.deliver_to_inbox(&mut self.output.batch, kind, &address, payload),
            };
            if outcome != Outcome::NotHere {
                self.report_outcome(request.id(), to, outcome);
                return Ok(());
            }
        }
        self.start_flight(request, kind, to, payload);
        Ok(())
    }

    pub(super) fn send_to_code(&mut self, request: &Request<'_>, kind: RelayKind) -> Result<(), RequestRefusal> {
        self.check_registered()?;
        let (target, payload) = (request.target()?, request.required_payload()?);
        let peer = self.pairing.peer(&target).and_then(|peer| Some((peer, self.pairing.code_of(peer)?)));
        let Some((peer, code)) = peer else { return Err(RequestRefusal::NoPeer(target.chars().take(64).collect())) };
        let to = Destination::Peer(peer, code);
        let from = self.addr();
        // If earlier messages have no outcome yet, the queue of the peer's session keeps the order.
        if peer.node == self.core.context.me
            && let Some(outcome) =
                self.core.sessions.deliver_to_session(&mut self.output.batch, kind, peer.session, from, payload)
        {
            self.handle_peer_outcome(peer, outcome);
            self.report_outcome(request.id(), to, outcome);
            return Ok(());
        }
        self.start_flight(request, kind, to, payload);
        Ok(())
    }

    /// Starts a message whose outcome is not known immediately.
    fn start_flight(&mut self, request: &Request<'_>, kind: RelayKind, to: Destination, payload: &[u8]) {
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
            // The outcome may have arrived already, so the flight may be gone.
            SendAttempt::UnderWay(via) => self.handle.with_flights(|flights| flights.set_sent(ticket, via)),
            SendAttempt::Here(outcome) => {
                self.handle.with_flights(|flights| flights.set_sent(ticket, self.core.context.me));
                self.finish_flight(ticket, outcome);
            }
            SendAttempt::Ended(outcome) => match to {
                Destination::Inbox(_) => self.finish_flight(ticket, outcome),
                // This outcome is not from the peer's node, so the pairing stays.
                Destination::Peer(..) => self.end_flight(ticket, outcome),
            },
            SendAttempt::Waits => self.handle.with_flights(|flights| flights.set_waiting(ticket)),
            SendAttempt::WaitsBehind => self.handle.with_flights(|flights| flights.set_waiting_behind(ticket)),
        }
    }

    fn try_send(
        &mut self,
        ticket: u64,
        kind: RelayKind,
        to: Destination,
        payload: Bytes,
        looked_up: bool,
    ) -> SendAttempt {
        let origin = Ticket { session: self.handle.id(), number: ticket };
        let has_earlier_elsewhere =
            |via| self.handle.with_flights(|flights| flights.has_earlier_elsewhere(ticket, to, via));
        match to {
            Destination::Inbox(to) => {
                if self.core.sessions.find(&to).is_some() {
                    if has_earlier_elsewhere(self.core.context.me) {
                        return SendAttempt::WaitsBehind;
                    }
                    return SendAttempt::Here(self.core.sessions.deliver_to_inbox(
                        &mut self.output.batch,
                        kind,
                        &to,
                        &payload,
                    ));
                }
                let lease = self.core.homes.found_lease(&to).filter(|lease| lease.node != self.core.context.me);
                match lease {
                    Some(lease) if has_earlier_elsewhere(lease.node) => SendAttempt::WaitsBehind,
                    Some(lease) => self.forward(
                        lease.node,
                        looked_up,
                        |token| Header::ToInbox { token, kind, to },
                        payload,
                        origin,
                    ),
                    None if looked_up => SendAttempt::Ended(Outcome::NotHere),
                    None => SendAttempt::Waits,
                }
            }
            Destination::Peer(peer, _) if peer.node == self.core.context.me => {
                let from = self.addr();
                match self.core.sessions.deliver_to_session(&mut self.output.batch, kind, peer.session, from, &payload)
                {
                    Some(outcome) => SendAttempt::Here(outcome),
                    None => {
                        let message = Message { kind, from, payload, reply: ReplyTo::Session(origin) };
                        self.core.sessions.submit(peer.session, message);
                        SendAttempt::UnderWay(peer.node)
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
    ) -> SendAttempt {
        if !self.core.members.view.load().contains(&node) {
            return SendAttempt::Ended(Outcome::NotHere);
        }
        let Some(link) = self.core.links.find(&node) else {
            return if tried {
                SendAttempt::Ended(Outcome::Refused(ErrorCode::Unreachable))
            } else {
                SendAttempt::Waits
            };
        };
        match link.try_forward(header, payload, origin) {
            Ok(token) => {
                tracing::debug!(peer = node.short(), token, "forwarded a message");
                SendAttempt::UnderWay(node)
            }
            Err(SendError::Full) => SendAttempt::Ended(Outcome::Refused(ErrorCode::Congested)),
            Err(SendError::Closed) => SendAttempt::Ended(Outcome::Refused(ErrorCode::Unreachable)),
        }
    }

    /// Starts the lookup or dial that the first waiting message needs.
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
                // `try_send` finds out whether the dial succeeded.
                let _ = core.links.connect(node).await;
            }
            OpResult::Reached { need, lease }
        });
    }

    /// Handles the outcome of a message. A message to an inbox that is not here may be sent again, once.
    pub(super) fn finish_flight(&mut self, ticket: u64, outcome: Outcome) {
        if outcome == Outcome::Delivered {
            let overtaken = self.handle.with_flights(|flights| flights.supersede_earlier(ticket));
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
                    // The cached lease is outdated: look the inbox up again, once. If the cached lease now names
                    // another node than the message was forwarded to, it is newer, and stays cached.
                    let forwarded = via.filter(|via| *via != self.core.context.me);
                    let found = self.core.homes.found_node(&inbox);
                    if found.is_some_and(|node| forwarded.is_none_or(|via| via == node)) {
                        self.core.homes.forget_found(&inbox);
                    }
                    self.handle.with_flights(|flights| flights.set_waiting(ticket));
                    self.reach_next();
                    return;
                }
                Destination::Inbox(_) => {}
                Destination::Peer(peer, _) => self.handle_peer_outcome(peer, outcome),
            }
        }
        self.end_flight(ticket, outcome);
    }

    /// Ends the pairing if the peer's session is over. An unreachable node does not end a pairing: it may be back in a
    /// moment, and the other side would still have the pairing.
    fn handle_peer_outcome(&mut self, peer: PeerAddr, outcome: Outcome) {
        if outcome == Outcome::NotHere {
            let actions = self.pairing.unpair(peer);
            self.apply(actions);
        }
    }

    pub(super) fn end_flight(&mut self, ticket: u64, outcome: Outcome) {
        let Some(flight) = self.handle.with_flights(|flights| flights.finish(ticket)) else { return };
        self.reach_next();
        self.report_outcome(flight.id.as_deref(), flight.to, outcome);
    }

    /// Reports the outcome of a message to the client.
    fn report_outcome(&mut self, id: Option<&str>, to: Destination, outcome: Outcome) {
        tracing::debug!(?outcome, "reported a message's outcome");
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
                    // The cached lease is useless now, so the next message looks the inbox up again.
                    self.core.homes.forget_found(&inbox);
                }
                (code, refusal_text(code).to_owned())
            }
        };
        match (id, to) {
            // A message to an inbox gets an error only if it has an id. A message to a code always gets one.
            (None, Destination::Inbox(_)) => self.core.context.metrics.refused(code),
            _ => self.refuse(id, code, &message),
        }
    }
}

/// The result of an attempt to send a message.
enum SendAttempt {
    /// The message is under way to this node.
    UnderWay(NodeId),
    /// The message has an outcome from this node.
    Here(Outcome),
    /// The message can't be sent.
    Ended(Outcome),
    /// The message waits for a lookup or a dial.
    Waits,
    /// The message waits for earlier messages to the same destination.
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
