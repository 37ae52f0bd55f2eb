//! What a client asks at the code door, and what the door makes the session do.

use std::time::{Duration, Instant};

use bytes::Bytes;
use chappe_common::{
    code::PairingCode, code_claim::CodeClaim, keys::NodeId, record::MAX_CLOCK_SKEW, redacted::Redacted,
    signed::Unverified,
};
use rand::RngExt as _;
use tokio::time::{sleep_until, timeout_at};

use super::{
    Session,
    ops::OpResult,
    requests::{Refusal, RequestReply},
};
use crate::{
    client_protocol::request::{BadRequest, Request},
    homes::ClaimError,
    limits::rates::Exceeded,
    publisher::command::Command,
    session::{
        kept_payload::kept,
        pairing::{Action, Registration, Requested},
    },
    wire::{
        frame::{CodeRegistration, Note, PairRequestKind},
        ids::PeerAddr,
    },
};

/// How long before an ask's error its target has to be reached: its own refusal is to come back in time as well.
const ASK_MARGIN: Duration = Duration::from_millis(50);

impl Session {
    pub(super) fn register(&mut self, request: &Request<'_>) -> Result<RequestReply, Refusal> {
        let code = request.pairing_code()?;
        let (public_key, payload) = (request.public_key()?, request.payload());
        let kept = kept(payload.as_ref(), &self.core.clients.held).map_err(|_| Refusal::Busy)?;
        // Registering must not tell more often than a request to pair whether a code is taken, and a claim takes signatures
        // here and at the homes. The same code again without one costs nothing and tells nothing.
        let claim = request.claim()?;
        let is_free = claim.is_none() && self.pairing.code() == Some(code);
        if !is_free && self.rates.check_ask(&self.core.clients.sources) == Err(Exceeded::Asks) {
            return Ok(RequestReply::Exceeded);
        }
        let claim = claim.map(|bytes| self.check_claim(bytes, code, &public_key)).transpose()?;
        let registration = Registration { code, public_key, payload, _kept: kept };
        let code = CodeRegistration { code, session: self.handle.id(), claim };
        let (core, error_at) = (self.core.clone(), Instant::now() + self.times().error_after);
        self.ops.claiming = Some(registration.code);
        self.ops.start_blocking(async move {
            let result = core.homes.claim_code(&code).await;
            if result == Err(ClaimError::Taken) {
                sleep_until(error_at.into()).await;
            }
            OpResult::Claimed { code, registration, result }
        });
        Ok(RequestReply::Nothing)
    }

    /// A client's claim to the code that it registers, once it is seen to be its own, for this node, and of this time.
    fn check_claim(
        &self,
        bytes: Vec<u8>,
        code: PairingCode,
        public_key: &[u8; 32],
    ) -> Result<Redacted<Bytes>, BadRequest> {
        let claim = Unverified::<CodeClaim>::decode(bytes).map_err(|_| BadRequest::Invalid("claim"))?;
        let CodeClaim { code: claimed, key, node, seq } = claim.value();
        // A `seq` from far ahead would keep its own client from ever taking the code back.
        let not_ahead = seq / 1000 <= (self.core.context.clock.now() + MAX_CLOCK_SKEW).as_secs();
        if *claimed != code || key.as_bytes() != public_key || *node != self.core.context.me || !not_ahead {
            return Err(BadRequest::Invalid("claim"));
        }
        let claim = claim.verify().map_err(|_| BadRequest::Invalid("claim"))?;
        Ok(Redacted::new(claim.as_bytes().clone()))
    }

    pub(super) fn ask(&mut self, request: &Request<'_>, kind: PairRequestKind) -> Result<RequestReply, Refusal> {
        self.check_registered()?;
        let (target, key, name) = match kind {
            PairRequestKind::Pair => (request.target_code()?, None, request.proposed_name()?),
            PairRequestKind::Link => (request.link_code()?, Some(request.public_key()?), request.device_name()?),
        };
        if self.rates.check_ask(&self.core.clients.sources) == Err(Exceeded::Asks) {
            return Ok(RequestReply::Exceeded);
        }
        let ask = rand::rng().random();
        let now = Instant::now();
        let requested = self.pairing.request(now, ask, kind, target, self.times());
        let Requested::Find { withdrawn } = requested.ok_or(BadRequest::NotRegistered)? else {
            return Ok(RequestReply::Nothing);
        };
        let (core, payload) = (self.core.clone(), request.payload());
        // What isn't found, or can't be reached, by the time of the error is answered by it: a code that somebody has,
        // at a node that is slow or dead, must not look different from one that nobody has.
        let deadline = now + self.core.context.config.times.pair_error.saturating_sub(ASK_MARGIN);
        self.ops.start(async move {
            let find = async {
                let holder = core.homes.find_code(target).await?;
                if holder.node != core.context.me {
                    core.links.connect(holder.node).await.ok()?;
                }
                Some(PeerAddr { node: holder.node, session: holder.session })
            };
            let to = timeout_at(deadline.into(), find).await.ok().flatten();
            OpResult::Found { ask, to, name, payload, key }
        });
        Ok(RequestReply::Actions(withdrawn.into_iter().collect()))
    }

    pub(super) fn apply(&mut self, actions: impl IntoIterator<Item = Action>) {
        for action in actions {
            match action {
                Action::Reply(text) => self.reply(&text),
                Action::Refuse(text) => {
                    self.core.context.metrics.pair_requests_refused.inc();
                    self.reply(&text);
                }
                Action::Send(to, note) => self.send_note(to, note),
                Action::Answer(to, note) => self.answer_note(to, note),
                Action::Pairings(pairings) => self.handle.publish_pairings(pairings),
                Action::Release(code) => self.publish(Command::WithdrawCode(code, self.handle.id())),
            }
        }
    }

    /// Answers another session over the link that it came by. Where that is gone the answer is lost: its client learns by
    /// its time, or with its next message. A dial would let any member keep the client from being heard meanwhile.
    pub(super) fn answer_note(&mut self, to: PeerAddr, note: Note) {
        // An asker of this node is counted as it is told.
        if matches!(note, Note::PairRequestRefused { .. }) && to.node != self.core.context.me {
            self.core.context.metrics.pair_requests_refused.inc();
        }
        let told = if to.node == self.core.context.me {
            self.core.sessions.send_note(to.session, self.addr(), note)
        } else {
            let link = self.core.links.find(&to.node);
            link.is_some_and(|link| link.try_note(to.session, self.handle.id(), note).is_ok())
        };
        if !told {
            self.core.context.metrics.session_messages_dropped.inc();
        }
    }

    /// Sends a note to another session, over a new link where there is none. Later notes to the same node wait with it then,
    /// and the client's messages, which must not overtake them.
    pub(super) fn send_note(&mut self, to: PeerAddr, note: Note) {
        if !self.outbox.has_room() {
            return self.handle_note_lost(to, &note);
        }
        self.outbox.push_note(to, note);
        self.send_notes(None);
    }

    /// Sends the notes that can be sent, and dials for the first that can't. `tried` is a node that was just dialled.
    pub(super) fn send_notes(&mut self, tried: Option<NodeId>) {
        for (to, note) in self.outbox.send_notes(&self.core, self.handle.id(), tried) {
            self.handle_note_lost(to, &note);
        }
        let Some(node) = self.outbox.start_dial() else { return };
        let core = self.core.clone();
        self.ops.start_blocking(async move {
            // Whether it worked shows when the notes are sent.
            let _ = core.links.connect(node).await;
            OpResult::Connected(node)
        });
    }

    /// Nobody got the note: as if the other session had said that it is not there.
    fn handle_note_lost(&mut self, to: PeerAddr, note: &Note) {
        self.core.context.metrics.session_messages_dropped.inc();
        match note {
            Note::PairRequest(ask) => self.pairing.refused(ask.ask, self.times()),
            Note::Answer { accepted: Some(_), .. } => {
                let unbound = self.pairing.unpair(to);
                self.apply(unbound);
            }
            _ => {}
        }
    }

    pub(super) fn addr(&self) -> PeerAddr {
        PeerAddr { node: self.core.context.me, session: self.handle.id() }
    }
}
