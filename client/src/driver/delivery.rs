//! Messages to nodes and their answers: each request has an id, a deadline and one outcome.

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

use super::{Driver, outbox::Item, record::Side, requests::Wanted, session::Session, unix_now};
use crate::{
    call::Input,
    command::IceServersError,
    event::{Event, StepKind},
    protocol::{IceServer, Relayed, Reply, ToNode, error_code},
    seal::CallId,
};

/// How long a contact that is nowhere is looked for before the call is given up: a client whose node has died is back
/// on another within a few seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// When a ringing callee is first looked up again, and how long the pauses grow. An offer that was sealed to a session
/// which has just ended can be delivered to the next one, which can't open it; later, the callee may have lost it.
const FIRST_RECHECK: Duration = Duration::from_millis(500);
const RECHECK: Duration = Duration::from_secs(3);

impl Driver {
    /// Sends what is due, as far as there is a session.
    pub(super) async fn pump(&mut self) {
        loop {
            let now = Instant::now();
            let Some(serial) = self.sessions.ready().map(|session| session.serial) else { return };
            let Some((call, item)) = self.calls.next_due(now) else { return };
            self.attempt(serial, call, &item, now).await;
        }
    }

    async fn attempt(&mut self, serial: u64, call: CallId, item: &Item, now: Instant) {
        let Some(record) = self.calls.get_mut(call) else { return };
        let unix = unix_now();
        let address = record.pairing.peer_address(unix);
        let node = self.sessions.get(serial).map(Session::node);
        let Some(recipient) = record.recipient(item) else {
            let id = self.requests.next_id();
            self.begin(call, id);
            let wanted = Wanted::Resolved { call, address, recheck: false };
            if let Some(node) = node {
                self.step(Some(call), node, StepKind::Resolving);
            }
            let resolve = ToNode::Resolve { id: text_of(id), address: address.to_base64url() };
            self.send_request(serial, id, wanted, &resolve).await;
            return;
        };
        let nodes = if matches!(item, Item::Offer | Item::Answer) { self.passed_on() } else { Vec::new() };
        let Some(record) = self.calls.get_mut(call) else { return };
        let sealed = record.seal(item, &recipient, self.profile.identity(), &nodes, unix);
        let id = self.requests.next_id();
        self.begin(call, id);
        let Ok(payload) = sealed else {
            tracing::debug!(%call, kind = item.kind().as_str(), "dropped a message: it cannot be sealed");
            self.give_up(call, id, now);
            return;
        };
        let kind = item.kind();
        let (id_text, to) = (text_of(id), address.to_base64url());
        let relayed = Relayed { kind, id: &id_text, to: &to, payload: &payload };
        if let Some(node) = node {
            self.step(Some(call), node, StepKind::Sent(kind));
        }
        self.send_request(serial, id, Wanted::Delivered { call, kind, recipient }, &relayed).await;
    }

    fn begin(&mut self, call: CallId, id: u64) {
        if let Some(record) = self.calls.get_mut(call) {
            record.outbox.begin(id);
        }
    }

    /// Makes a request of its own id.
    pub(super) async fn request<'a>(
        &mut self,
        serial: u64,
        wanted: Wanted,
        request: impl FnOnce(String) -> ToNode<'a>,
    ) {
        let id = self.requests.next_id();
        self.send_request(serial, id, wanted, &request(text_of(id))).await;
    }

    async fn send_request(&mut self, serial: u64, id: u64, wanted: Wanted, message: &impl serde::Serialize) {
        self.requests.insert(id, serial, wanted, Instant::now());
        self.say(serial, message).await;
    }

    /// Sends a message; a session that doesn't take it is lost, and its requests with it.
    pub(super) async fn say(&mut self, serial: u64, message: &impl serde::Serialize) {
        let text = serde_json::to_string(message).expect("strings and numbers are JSON");
        let sent = match self.sessions.get_mut(serial) {
            Some(session) => session.connection.send(text).await,
            None => Err(ConnectionError::Broken),
        };
        if let Err(error) = sent {
            self.lose(serial, error.into());
            self.fail_requests_of(serial);
        }
    }

    pub(super) async fn handle_text(&mut self, serial: u64, text: Result<Utf8Bytes, ConnectionError>) {
        let text = match text {
            Ok(text) => text,
            Err(error) => return self.lose(serial, error.into()),
        };
        let now = Instant::now();
        if let Some(session) = self.sessions.get_mut(serial) {
            session.heard(now);
        }
        let Ok(reply) = serde_json::from_str::<Reply>(&text) else {
            tracing::debug!("dropped a message of the node: unknown form");
            return;
        };
        match reply {
            Reply::Attached { id, ttl, rejected } => {
                if let Some(Wanted::Attached(requested)) = self.answered(serial, &id) {
                    self.handle_attached(serial, &requested, Duration::from_secs(ttl), &rejected).await;
                }
            }
            Reply::Detached { id } => drop(self.answered(serial, &id)),
            Reply::Resolved { id, lease } => self.handle_resolved(serial, &id, &lease, now).await,
            Reply::Delivered { id } => self.handle_delivered(serial, &id, now),
            Reply::IceServers { id, ice_servers } => {
                if let Some(Wanted::IceServers(reply)) = self.answered(serial, &id) {
                    // An app that has stopped waiting loses nothing.
                    let _ = reply.send(Ok(ice_servers));
                }
            }
            Reply::Error { id: Some(id), code } => {
                let code = error_code(code.as_deref());
                if let (Some(wanted), Ok(id)) = (self.answered(serial, &id), id.parse()) {
                    self.handle_failed(serial, id, wanted, code, now).await;
                }
            }
            Reply::GoingAway { .. } => self.handle_going_away(serial),
            Reply::CallOffer(message) => self.handle_incoming(serial, RelayKind::CallOffer, &message, now),
            Reply::CallAnswer(message) => self.handle_incoming(serial, RelayKind::CallAnswer, &message, now),
            Reply::CallIce(message) => self.handle_incoming(serial, RelayKind::CallIce, &message, now),
            Reply::CallReject(message) => self.handle_incoming(serial, RelayKind::CallReject, &message, now),
            Reply::CallHangup(message) => self.handle_incoming(serial, RelayKind::CallHangup, &message, now),
            // The code door is another connection's, and what is not known is passed over.
            _ => {}
        }
    }

    /// What the request of this id was for, if it is one of this session's.
    fn answered(&mut self, serial: u64, id: &str) -> Option<Wanted> {
        self.requests.take(serial, id.parse().ok()?)
    }

    async fn handle_resolved(&mut self, serial: u64, id: &str, lease: &str, now: Instant) {
        let (Some(wanted), Ok(id)) = (self.answered(serial, id), id.parse()) else { return };
        let Wanted::Resolved { call, address, recheck } = wanted else { return };
        let Some(found) = read_lease(lease, &address) else {
            // As if the node had found nothing: it has shown nothing that counts.
            let wanted = Wanted::Resolved { call, address, recheck };
            return self.handle_failed(serial, id, wanted, Some(ErrorCode::PeerOffline), now).await;
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
                let _ = record.outbox.push(Item::Offer);
            }
        }
        if !recheck {
            record.outbox.proceed(id);
        }
        if let Some(session) = self.sessions.get(serial) {
            self.step(Some(call), session.node(), StepKind::Resolved { peer_node });
        }
    }

    fn handle_delivered(&mut self, serial: u64, id: &str, now: Instant) {
        let (Some(wanted), Ok(id)) = (self.answered(serial, id), id.parse()) else { return };
        let Wanted::Delivered { call, kind, recipient } = wanted else { return };
        if let Some(session) = self.sessions.get(serial) {
            self.step(Some(call), session.node(), StepKind::Delivered(kind));
        }
        let Some(record) = self.calls.get_mut(call) else { return };
        let delivered = record.outbox.delivered(id);
        if let (Some(Item::Offer), Side::Caller { offered_to, recheck_at, .. }) = (delivered, &mut record.side) {
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
        wanted: Wanted,
        code: Option<ErrorCode>,
        now: Instant,
    ) {
        match wanted {
            Wanted::Attached(requested) => self.handle_not_attached(serial, &requested, code).await,
            Wanted::Detached | Wanted::Resolved { recheck: true, .. } => {}
            Wanted::IceServers(reply) => {
                // An app that has stopped waiting loses nothing.
                let _ = reply.send(Err(IceServersError::Refused));
            }
            Wanted::Resolved { call, .. } => self.handle_undelivered(serial, call, id, None, code, now),
            Wanted::Delivered { call, kind, .. } => {
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
            return self.give_up(call, id, now);
        }
        let Some(record) = self.calls.get_mut(call) else { return };
        record.forget_place();
        let Some(item) = record.outbox.failed(id, now) else { return };
        let kind = sent.unwrap_or_else(|| item.kind());
        let offer = *item == Item::Offer;
        let never_reached = matches!(record.side, Side::Caller { offered_to: None, .. });
        if let Some(contact) = self.profile.contact(record.contact.id()).filter(|_| offer && never_reached) {
            // Which of several pairings the other side has may not be known.
            record.pairing = contact.pairing_after(record.pairing.id()).clone();
        }
        let out_of_patience = now.saturating_duration_since(record.placed_at) >= PATIENCE;
        if let Some(session) = self.sessions.get(serial) {
            self.step(Some(call), session.node(), StepKind::Failed(kind, code));
        }
        if offer && never_reached {
            self.events.send(Event::NotReached { call, code });
            if out_of_patience {
                self.input(call, Input::Undeliverable, now);
            }
        }
    }

    /// The message of this request will never arrive.
    fn give_up(&mut self, call: CallId, id: u64, now: Instant) {
        let dropped = self.calls.get_mut(call).and_then(|record| record.outbox.drop_first(id));
        match dropped {
            Some(Item::Offer) => self.input(call, Input::Undeliverable, now),
            // Without an answer there is no call.
            Some(Item::Answer) => self.input(call, Input::Hangup, now),
            _ => {}
        }
        self.calls.finish_if_done(call, now);
    }

    pub(super) async fn expire_requests(&mut self, now: Instant) {
        while let Some((id, pending)) = self.requests.take_expired(now) {
            self.handle_failed(pending.session, id, pending.wanted, None, now).await;
        }
    }

    /// A session is over, and no response will come on it. Its messages are sent again on the next session.
    pub(super) fn fail_requests_of(&mut self, serial: u64) {
        for (id, wanted) in self.requests.take_session(serial) {
            match wanted {
                Wanted::Resolved { call, .. } | Wanted::Delivered { call, .. } => {
                    if let Some(record) = self.calls.get_mut(call)
                        && record.outbox.proceed(id).is_some()
                    {
                        record.forget_place();
                    }
                }
                Wanted::IceServers(reply) => {
                    // An app that has stopped waiting loses nothing.
                    let _ = reply.send(Err(IceServersError::NotConnected));
                }
                Wanted::Attached(_) | Wanted::Detached => {}
            }
        }
    }

    pub(super) async fn ask_ice_servers(&mut self, reply: oneshot::Sender<Result<Vec<IceServer>, IceServersError>>) {
        let ready = self.sessions.ready().map(|session| session.serial);
        match ready {
            Some(serial) => {
                self.request(serial, Wanted::IceServers(reply), |id| ToNode::GetIceServers { id }).await;
            }
            // An app that has stopped waiting loses nothing.
            None => drop(reply.send(Err(IceServersError::NotConnected))),
        }
    }

    /// Looks up whether the callee of a ringing call has moved.
    pub(super) async fn recheck(&mut self, call: CallId, now: Instant) {
        let Some(record) = self.calls.get_mut(call) else { return };
        let address = record.pairing.peer_address(unix_now());
        let pause = now.saturating_duration_since(record.placed_at).clamp(FIRST_RECHECK, RECHECK);
        if let Side::Caller { recheck_at, .. } = &mut record.side {
            *recheck_at = Some(now + pause);
        }
        if let Some(serial) = self.sessions.ready().map(|session| session.serial) {
            let wanted = Wanted::Resolved { call, address, recheck: true };
            self.request(serial, wanted, |id| ToNode::Resolve { id, address: address.to_base64url() }).await;
        }
    }
}

/// A lease that the inbox's own key has signed and that counts now.
fn read_lease(text: &str, address: &Address) -> Option<SignedLease> {
    let lease = Signed::<Lease>::decode(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    (lease.admits(address) && lease.expires_at > unix_now()).then_some(lease)
}

fn text_of(id: u64) -> String {
    id.to_string()
}
