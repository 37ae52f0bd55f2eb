//! Handles the client's frames and requests.

use std::{
    ops::ControlFlow,
    time::{Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::{
    client::{ErrorCode, RelayKind},
    proof::prove_node,
};
use rand::RngExt as _;

use super::{CLOSE_POLICY, InputState, RATE_EXCEEDED, Session, output::log_write_error};
use crate::{
    client_protocol::{
        reply::Reply,
        request::{BadRequest, Request},
    },
    ice::{self, SessionCredential},
    limits::rates::Counts,
    session::pairing::Action,
    websocket::codec::{Incoming, Opcode, Violation},
    wire::frame::PairRequestKind,
};

const BUSY: &str = "The node has too much to do. Try again.";
const PAIR_REQUESTS_EXCEEDED: &str = "Too many pair requests. Please slow down.";

impl Session {
    pub(super) fn handle_violation(&mut self, violation: Violation) {
        self.input.state = InputState::Broken;
        self.core.context.metrics.violated(violation);
        if violation == Violation::TooLarge {
            self.refuse(None, ErrorCode::TooLarge, &BadRequest::TooLarge.to_string());
        }
        // The caller ends the session.
        let _ = self.close(violation.close_code(), violation.as_str());
    }

    pub(super) fn handle_message(&mut self, now: Instant, received: Incoming<'_>) -> ControlFlow<()> {
        let was_pinged = self.liveness.handle_received(now);
        // The timer is set for the pong's deadline.
        if was_pinged {
            self.timer.invalidate();
        }
        if matches!(received, Incoming::Text(_) | Incoming::Binary) {
            self.liveness.set_incomplete(now, false);
        }
        match received {
            Incoming::Text(text) => self.handle_text(text)?,
            Incoming::Binary => self.refuse_invalid(&BadRequest::Json)?,
            Incoming::Pong if was_pinged => {}
            Incoming::Pong => self.count_ping()?,
            Incoming::Ping(content) => {
                self.count_ping()?;
                log_write_error(self.handle.write_control(Opcode::Pong, content));
            }
            Incoming::Close(code) => {
                self.output.batch.flush();
                self.handle.write_close(code, "");
                self.input.state = InputState::Closed;
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn count_ping(&mut self) -> ControlFlow<()> {
        if !self.rates.allows_ping() {
            self.core.context.metrics.refused(ErrorCode::RateLimited);
            return self.close(CLOSE_POLICY, "too many pings or proofs");
        }
        ControlFlow::Continue(())
    }

    /// Refuses an invalid message. It counts as a message too.
    fn refuse_invalid(&mut self, error: &BadRequest) -> ControlFlow<()> {
        if self.rates.check_message(&self.core.clients.sources.load(), Counts::Whole).is_err() {
            return self.refuse_for_rate(None);
        }
        self.refuse(None, error.code(), &error.to_string());
        ControlFlow::Continue(())
    }

    /// Refuses a message that exceeds the rate. Closes the session if the client keeps sending, since a refusal costs
    /// as much as a message.
    fn refuse_for_rate(&mut self, id: Option<&str>) -> ControlFlow<()> {
        self.refuse(id, ErrorCode::RateLimited, RATE_EXCEEDED);
        if self.rates.tolerates_violation() {
            ControlFlow::Continue(())
        } else {
            self.close(CLOSE_POLICY, "too many messages")
        }
    }

    fn handle_text(&mut self, text: &str) -> ControlFlow<()> {
        let request = match Request::parse(text) {
            Ok(request) => request,
            Err(error) => return self.refuse_invalid(&error),
        };
        let kind = RelayKind::from_name(request.kind());
        let to_inbox = kind.filter(|kind| kind.is_call() && request.is_to_inbox()).map(|kind| (kind, request.to()));
        // An offer counts against the inbox's rate when it is delivered, not when its session is looked up.
        let here = match &to_inbox {
            Some((kind, Ok(to))) if kind.is_ice() => self.core.sessions.find(to),
            _ => None,
        };
        let is_known = || match &to_inbox {
            Some((_, to)) => to.as_ref().is_ok_and(|to| self.core.homes.found_lease(to).is_some()),
            None => request.target().is_ok_and(|target| self.pairing.peer(&target).is_some()),
        };
        // A candidate is cheap if no lookup is needed. Then the recipient is paired with the sender, or its inbox is
        // attached here, or its lease is cached.
        let is_cheap = kind.is_some_and(RelayKind::is_ice) && (here.is_some() || is_known());
        let counts = if is_cheap { Counts::Tenth } else { Counts::Whole };
        if self.rates.check_message(&self.core.clients.sources.load(), counts).is_err() {
            return self.refuse_for_rate(request.id());
        }
        self.core.context.metrics.messages.inc();
        let handled = match (to_inbox, kind) {
            (Some((kind, to)), _) => {
                to.map_err(RequestRefusal::from).and_then(|to| self.send_to_inbox(&request, kind, to, here))
            }
            (None, Some(kind)) => self.send_to_code(&request, kind),
            (None, None) => {
                self.timer.invalidate();
                // Each proof costs a signature.
                if request.kind() == "prove" {
                    self.count_ping()?;
                }
                self.handle_request(&request).map(|reply| match reply {
                    RequestReply::Nothing => {}
                    RequestReply::Text(text) => self.reply(&text),
                    RequestReply::Actions(actions) => self.apply(actions),
                    RequestReply::TooOften => self.refuse(request.id(), ErrorCode::RateLimited, RATE_EXCEEDED),
                    RequestReply::Exceeded => self.refuse(request.id(), ErrorCode::RateLimited, PAIR_REQUESTS_EXCEEDED),
                })
            }
        };
        match handled {
            Ok(()) => {}
            Err(RequestRefusal::Bad(error)) => self.refuse(request.id(), error.code(), &error.to_string()),
            Err(RequestRefusal::NoPeer(target)) => {
                let message = format!("Peer not found: {target}");
                self.refuse(request.id(), ErrorCode::PeerOffline, &message);
            }
            Err(RequestRefusal::Busy) => self.refuse(request.id(), ErrorCode::Congested, BUSY),
        }
        ControlFlow::Continue(())
    }

    pub(super) fn handle_request(&mut self, request: &Request<'_>) -> Result<RequestReply, RequestRefusal> {
        Ok(match request.kind() {
            "ping" => RequestReply::Text(Reply::Pong {}.encode()),
            "heartbeat" => {
                request.check_peer_id()?;
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let timestamp = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
                RequestReply::Text(Reply::HeartbeatAck { timestamp }.encode())
            }
            "prove" => self.prove(request)?,
            "register" => self.register(request)?,
            "pair_request" => self.request_pairing(request, PairRequestKind::Pair)?,
            "link_request" => self.request_pairing(request, PairRequestKind::Link)?,
            "pair_response" => {
                self.check_registered()?;
                let (target, accepted) = (request.target_code()?, request.accepted()?);
                let actions = self.pairing.respond_pair(target, accepted, request.payload());
                RequestReply::Actions(actions.ok_or(BadRequest::NotRegistered)?)
            }
            "link_response" => {
                self.check_registered()?;
                let (code, accepted) = (request.link_code()?, request.accepted()?);
                let actions = self.pairing.respond_link(code, accepted, request.device_id()?);
                RequestReply::Actions(actions.ok_or(BadRequest::NotRegistered)?)
            }
            "attach" => self.attach(request)?,
            "detach" => self.detach(request)?,
            "resolve" => self.resolve(request)?,
            "get_ice_servers" => {
                let id = request.required_id()?;
                // Passwords are only for clients that can be called, or that have a pairing.
                let relay = self.core.media_relay.as_deref();
                let configured = &self.core.context.config.ice;
                let has_passwords = relay.is_some() || configured.servers.iter().any(|server| server.secret.is_some());
                if has_passwords && !self.handle.has_inboxes() && !self.pairing.is_paired() {
                    return Err(BadRequest::NotAttached.into());
                }
                if !self.rates.allows_ice(&self.core.clients.sources.load()) {
                    return Ok(RequestReply::TooOften);
                }
                let now = self.core.context.clock.now();
                if self.ice_credential.as_ref().is_none_or(|credential| !credential.is_kept(configured, now)) {
                    let mut rng = rand::rng();
                    let credential = SessionCredential::new(now, rng.random(), rng.random());
                    self.ice_credential = Some(Box::new(credential));
                }
                let credential = **self.ice_credential.as_ref().expect("just set");
                let (servers, ttl) = ice::servers(configured, relay, now, credential);
                RequestReply::Text(Reply::IceServers { id, ice_servers: &servers, ttl: ttl.as_secs() }.encode())
            }
            _ => return Err(request.unknown_type().into()),
        })
    }

    pub(super) fn check_registered(&self) -> Result<(), BadRequest> {
        self.pairing.code().map(drop).ok_or(BadRequest::NotRegistered)
    }

    pub(super) fn prove(&self, request: &Request<'_>) -> Result<RequestReply, RequestRefusal> {
        let (id, challenge, url) = (request.required_id()?, request.challenge()?, request.url()?);
        if !self.core.context.client_urls.iter().any(|own| *own == url) {
            return Err(BadRequest::Invalid("url").into());
        }
        let signature = prove_node(&self.core.context.key, &challenge, &self.nonce, &url);
        Ok(RequestReply::Text(Reply::Proof { id, signature: &URL_SAFE_NO_PAD.encode(signature) }.encode()))
    }
}

/// The session's immediate reply to a request.
pub(super) enum RequestReply {
    Nothing,
    Text(String),
    Actions(Vec<Action>),
    Exceeded,
    TooOften,
}

/// Why a request is refused.
pub(super) enum RequestRefusal {
    Bad(BadRequest),
    /// The client has no pairing under the code that it named.
    NoPeer(String),
    /// The queue of inboxes to verify, which all clients share, is full.
    Busy,
}

impl From<BadRequest> for RequestRefusal {
    fn from(error: BadRequest) -> Self {
        Self::Bad(error)
    }
}
