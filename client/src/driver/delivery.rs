//! Sends requests and relayed messages to nodes, and handles their responses.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{
    client::{ErrorCode, RelayKind},
    lease::{Address, Lease, SignedLease},
    signed::Signed,
};
use chappe_discovery::connection::ConnectionError;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{Driver, call_record::Side, outbox::OutboxMessage, requests::Expected, session::Session, unix_now};
use crate::{
    call::Input,
    command::IceServersError,
    event::{Event, StepKind},
    protocol::{IceServer, Relayed, Reply, ToNode, error_code},
    seal::CallId,
};

/// How long an unreachable contact is retried. A client whose node has failed is back on another within a few seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// When a ringing callee is first looked up again, and the longest pause between lookups. An offer may have been
/// sealed to a session that has just ended. The next session cannot open it, so it must be sealed again.
const FIRST_RECHECK: Duration = Duration::from_millis(500);
const RECHECK: Duration = Duration::from_secs(3);

impl Driver {
    /// Sends all messages that are due, if a session is ready.
    pub(super) async fn pump(&mut self) {
        loop {
            let now = Instant::now();
            let Some(serial) = self.sessions.ready().map(|session| session.serial) else { return };
            let Some((call, item)) = self.calls.next_due(now) else { return };
            self.send_item(serial, call, &item, now).await;
        }
    }

    async fn send_item(&mut self, serial: u64, call: CallId, item: &OutboxMessage, now: Instant) {
        let Some(record) = self.calls.get_mut(call) else { return };
        let unix = unix_now();
        let address = record.pairing.peer_address(unix);
        let node = self.sessions.get(serial).map(Session::node);
        let Some(recipient) = record.recipient(item) else {
            let id = self.requests.next_id();
            self.mark_in_flight(call, id);
            let expected = Expected::Resolved { call, address, recheck: false };
            if let Some(node) = node {
                self.report_step(Some(call), node, StepKind::Resolving);
            }
            let resolve = ToNode::Resolve { id: text_of(id), address: address.to_base64url() };
            self.send_request(serial, id, expected, &resolve).await;
            return;
        };
        let nodes = if matches!(item, OutboxMessage::Offer | OutboxMessage::Answer) {
            self.nodes_to_share()
        } else {
            Vec::new()
        };
        let Some(record) = self.calls.get_mut(call) else { return };
        let sealed = record.seal(item, &recipient, self.profile.identity(), &nodes, unix);
        let id = self.requests.next_id();
        self.mark_in_flight(call, id);
        let Ok(payload) = sealed else {
            tracing::debug!(%call, kind = item.kind().as_str(), "dropped a message: it cannot be sealed");
            self.drop_message(call, id, now);
            return;
        };
        let kind = item.kind();
        let (id_text, to) = (text_of(id), address.to_base64url());
        let relayed = Relayed { kind, id: &id_text, to: &to, payload: &payload };
        if let Some(node) = node {
            self.report_step(Some(call), node, StepKind::Sent(kind));
        }
        self.send_request(serial, id, Expected::Delivered { call, kind, recipient }, &relayed).await;
    }

    fn mark_in_flight(&mut self, call: CallId, id: u64) {
        if let Some(record) = self.calls.get_mut(call) {
            record.outbox.mark_in_flight(id);
        }
    }

    /// Sends a request under a new id.
    pub(super) async fn request<'a>(
        &mut self,
        serial: u64,
        expected: Expected,
        request: impl FnOnce(String) -> ToNode<'a>,
    ) {
        let id = self.requests.next_id();
        self.send_request(serial, id, expected, &request(text_of(id))).await;
    }

    async fn send_request(&mut self, serial: u64, id: u64, expected: Expected, message: &impl serde::Serialize) {
        self.requests.insert(id, serial, expected, Instant::now());
        self.send(serial, message).await;
    }

    /// Sends a message. If that fails, the session ends and its requests fail.
    pub(super) async fn send(&mut self, serial: u64, message: &impl serde::Serialize) {
        let text = serde_json::to_string(message).expect("strings and numbers are JSON");
        let sent = match self.sessions.get_mut(serial) {
            Some(session) => session.connection.send(text).await,
            None => Err(ConnectionError::Broken),
        };
        if let Err(error) = sent {
            self.end_session(serial, error.into());
            self.fail_requests_of(serial);
        }
    }

    pub(super) async fn handle_text(&mut self, serial: u64, text: Result<Utf8Bytes, ConnectionError>) {
        let text = match text {
            Ok(text) => text,
            Err(error) => return self.end_session(serial, error.into()),
        };
        let now = Instant::now();
        if let Some(session) = self.sessions.get_mut(serial) {
            session.handle_received(now);
        }
        let Ok(reply) = serde_json::from_str::<Reply>(&text) else {
            tracing::debug!("dropped a message of the node: unknown form");
            return;
        };
        match reply {
            Reply::Attached { id, ttl, rejected } => {
                if let Some(Expected::Attached(requested)) = self.answered(serial, &id) {
                    self.handle_attached(serial, &requested, Duration::from_secs(ttl), &rejected).await;
                }
            }
            Reply::Detached { id } => {
                if let Some(Expected::Detached(done)) = self.answered(serial, &id) {
                    // Send errors are ignored: only a change of the contacts waits.
                    let _ = done.send(());
                }
            }
            Reply::Resolved { id, lease } => self.handle_resolved(serial, &id, &lease, now).await,
            Reply::Delivered { id } => self.handle_delivered(serial, &id, now),
            Reply::IceServers { id, ice_servers } => {
                if let Some(Expected::IceServers(reply)) = self.answered(serial, &id) {
                    // Send errors are ignored: the app no longer waits.
                    let _ = reply.send(Ok(ice_servers));
                }
            }
            Reply::Error { id: Some(id), code } => {
                let code = error_code(code.as_deref());
                if let (Some(expected), Ok(id)) = (self.answered(serial, &id), id.parse()) {
                    self.handle_failed(serial, id, expected, code, now).await;
                }
            }
            Reply::GoingAway { nodes, grace_seconds } => {
                self.handle_going_away(serial, &nodes, Duration::from_secs(grace_seconds), now);
            }
            Reply::CallOffer(message) => self.handle_incoming(serial, RelayKind::CallOffer, &message, now),
            Reply::CallAnswer(message) => self.handle_incoming(serial, RelayKind::CallAnswer, &message, now),
            Reply::CallIce(message) => self.handle_incoming(serial, RelayKind::CallIce, &message, now),
            Reply::CallReject(message) => self.handle_incoming(serial, RelayKind::CallReject, &message, now),
            Reply::CallHangup(message) => self.handle_incoming(serial, RelayKind::CallHangup, &message, now),
            // Pairing uses a connection of its own. Unknown messages are ignored.
            _ => {}
        }
    }

    /// Takes the request with this id, if it belongs to this session.
    fn answered(&mut self, serial: u64, id: &str) -> Option<Expected> {
        self.requests.take(serial, id.parse().ok()?)
    }

    async fn handle_resolved(&mut self, serial: u64, id: &str, lease: &str, now: Instant) {
        let (Some(expected), Ok(id)) = (self.answered(serial, id), id.parse()) else { return };
        let Expected::Resolved { call, address, recheck } = expected else { return };
        let Some(found) = read_lease(lease, &address) else {
            // A lease that does not verify counts as if the node had found none.
            let expected = Expected::Resolved { call, address, recheck };
            return self.handle_failed(serial, id, expected, Some(ErrorCode::PeerOffline), now).await;
        };
        let Some(record) = self.calls.get_mut(call) else { return };
        let peer_node = found.node;
        record.look_up = false;
        if let Side::Caller { lease, offered_to, .. } = &mut record.side {
            let moved = *offered_to != Some(found.session_key);
            if recheck && !moved {
                return;
            }
            *lease = Some(found);
            if recheck {
                // A full queue holds an offer already.
                let _ = record.outbox.push(OutboxMessage::Offer);
            }
        }
        if !recheck {
            record.outbox.clear_in_flight(id);
        }
        if let Some(session) = self.sessions.get(serial) {
            self.report_step(Some(call), session.node(), StepKind::Resolved { peer_node });
        }
    }

    fn handle_delivered(&mut self, serial: u64, id: &str, now: Instant) {
        let (Some(expected), Ok(id)) = (self.answered(serial, id), id.parse()) else { return };
        let Expected::Delivered { call, kind, recipient } = expected else { return };
        if let Some(session) = self.sessions.get(serial) {
            self.report_step(Some(call), session.node(), StepKind::Delivered(kind));
        }
        let Some(record) = self.calls.get_mut(call) else { return };
        let delivered = record.outbox.delivered(id);
        if let (Some(OutboxMessage::Offer), Side::Caller { offered_to, recheck_at, .. }) = (delivered, &mut record.side)
        {
            let first = offered_to.replace(recipient).is_none();
            *recheck_at = Some(now + FIRST_RECHECK);
            if first {
                self.events.send(Event::Ringing { call });
            }
        }
        self.calls.finish_if_done(call, now);
    }

    pub(super) async fn handle_failed(
        &mut self,
        serial: u64,
        id: u64,
        expected: Expected,
        code: Option<ErrorCode>,
        now: Instant,
    ) {
        match expected {
            Expected::Attached(requested) => self.handle_not_attached(serial, &requested, code).await,
            Expected::Detached(_) | Expected::Resolved { recheck: true, .. } => {}
            Expected::IceServers(reply) => {
                // Send errors are ignored: the app no longer waits.
                let _ = reply.send(Err(IceServersError::Refused));
            }
            Expected::Resolved { call, .. } => self.handle_undelivered(serial, call, id, None, code, now),
            Expected::Delivered { call, kind, .. } => {
                self.handle_undelivered(serial, call, id, Some(kind), code, now);
            }
        }
    }

    fn handle_undelivered(
        &mut self,
        serial: u64,
        call: CallId,
        id: u64,
        sent: Option<RelayKind>,
        code: Option<ErrorCode>,
        now: Instant,
    ) {
        if matches!(code, Some(ErrorCode::TooLarge | ErrorCode::BadMessage | ErrorCode::UnknownType)) {
            return self.drop_message(call, id, now);
        }
        let Some(record) = self.calls.get_mut(call) else { return };
        record.forget_location();
        let Some(item) = record.outbox.failed(id, now) else { return };
        let kind = sent.unwrap_or_else(|| item.kind());
        let offer = *item == OutboxMessage::Offer;
        let never_reached = matches!(record.side, Side::Caller { offered_to: None, .. });
        if let Some(contact) = self.profile.contact(record.contact.id()).filter(|_| offer && never_reached) {
            // The contact may not have stored every pairing, so the next attempt uses another one.
            record.pairing = contact.pairing_after(record.pairing.id()).clone();
        }
        let out_of_patience = now.saturating_duration_since(record.placed_at) >= PATIENCE;
        if let Some(session) = self.sessions.get(serial) {
            self.report_step(Some(call), session.node(), StepKind::Failed(kind, code));
        }
        if offer && never_reached {
            self.events.send(Event::NotReached { call, code });
            if out_of_patience {
                self.try_input(call, Input::Undeliverable, now);
            }
        }
    }

    /// Drops the message of a request that cannot succeed.
    fn drop_message(&mut self, call: CallId, id: u64, now: Instant) {
        let dropped = self.calls.get_mut(call).and_then(|record| record.outbox.drop_first(id));
        match dropped {
            Some(OutboxMessage::Offer) => self.try_input(call, Input::Undeliverable, now),
            // A call cannot continue without its answer.
            Some(OutboxMessage::Answer) => self.try_input(call, Input::Hangup, now),
            _ => {}
        }
        self.calls.finish_if_done(call, now);
    }

    pub(super) async fn expire_requests(&mut self, now: Instant) {
        while let Some((id, pending)) = self.requests.take_expired(now) {
            self.handle_failed(pending.session, id, pending.expected, None, now).await;
        }
    }

    /// A session is over, and no response will come on it. Its messages are sent again on the next session.
    pub(super) fn fail_requests_of(&mut self, serial: u64) {
        for (id, expected) in self.requests.take_session(serial) {
            match expected {
                Expected::Resolved { call, .. } | Expected::Delivered { call, .. } => {
                    if let Some(record) = self.calls.get_mut(call)
                        && record.outbox.clear_in_flight(id).is_some()
                    {
                        record.forget_location();
                    }
                }
                Expected::IceServers(reply) => {
                    // Send errors are ignored: the app no longer waits.
                    let _ = reply.send(Err(IceServersError::NotConnected));
                }
                Expected::Attached(_) | Expected::Detached(_) => {}
            }
        }
    }

    pub(super) async fn request_ice_servers(
        &mut self,
        reply: oneshot::Sender<Result<Vec<IceServer>, IceServersError>>,
    ) {
        let ready = self.sessions.ready().map(|session| session.serial);
        match ready {
            Some(serial) => {
                self.request(serial, Expected::IceServers(reply), |id| ToNode::GetIceServers { id }).await;
            }
            // Send errors are ignored: the app no longer waits.
            None => drop(reply.send(Err(IceServersError::NotConnected))),
        }
    }

    /// Looks up whether the callee of a ringing call has moved to another node or session.
    pub(super) async fn recheck(&mut self, call: CallId, now: Instant) {
        let Some(record) = self.calls.get_mut(call) else { return };
        let address = record.pairing.peer_address(unix_now());
        let pause = now.saturating_duration_since(record.placed_at).clamp(FIRST_RECHECK, RECHECK);
        if let Side::Caller { recheck_at, .. } = &mut record.side {
            *recheck_at = Some(now + pause);
        }
        if let Some(serial) = self.sessions.ready().map(|session| session.serial) {
            let expected = Expected::Resolved { call, address, recheck: true };
            self.request(serial, expected, |id| ToNode::Resolve { id, address: address.to_base64url() }).await;
        }
    }
}

/// Decodes a lease. Returns `None` unless it verifies, belongs to `address` and has not expired.
fn read_lease(text: &str, address: &Address) -> Option<SignedLease> {
    let lease = Signed::<Lease>::decode(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    (lease.admits(address) && lease.expires_at > unix_now()).then_some(lease)
}

fn text_of(id: u64) -> String {
    id.to_string()
}
