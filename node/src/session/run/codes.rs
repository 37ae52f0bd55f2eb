//! Pairing by code: registers codes, starts pair requests, and applies actions.

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
    requests::{RequestRefusal, RequestReply},
};
use crate::{
    client_protocol::request::{BadRequest, Request},
    homes::ClaimError,
    limits::rates::Exceeded,
    publisher::command::Command,
    session::{
        pairing::{Action, RegisteredCode, Requested},
        payload_reservation::reserve_payload,
    },
    wire::{
        frame::{CodeRegistration, Note, PairRequestKind},
        ids::PeerAddr,
    },
};

/// How long before a pair request's error the lookup of its target ends: the target's own refusal needs this long to
/// arrive.
const PAIR_REQUEST_MARGIN: Duration = Duration::from_millis(50);

impl Session {
    pub(super) fn register(&mut self, request: &Request<'_>) -> Result<RequestReply, RequestRefusal> {
        let code = request.pairing_code()?;
        let (public_key, payload) = (request.public_key()?, request.payload());
        let reservation =
            reserve_payload(payload.as_ref(), &self.core.clients.memory_budget).map_err(|_| RequestRefusal::Busy)?;
        // A registration shows whether a code is taken, so it counts against the rate of pair requests. A claim also
        // costs signature checks here and at the homes. To register the own code again, without a claim, is free.
        let claim = request.claim()?;
        let is_free = claim.is_none() && self.pairing.code() == Some(code);
        if !is_free && self.rates.check_pair_request(&self.core.clients.sources.load()) == Err(Exceeded::PairRequests) {
            return Ok(RequestReply::Exceeded);
        }
        let claim = claim.map(|bytes| self.check_claim(bytes, code, &public_key)).transpose()?;
        let registration = RegisteredCode { code, public_key, payload, _reservation: reservation };
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

    /// Verifies a client's claim: it has to be for this code, this key and this node, and its `seq` plausible.
    fn check_claim(
        &self,
        bytes: Vec<u8>,
        code: PairingCode,
        public_key: &[u8; 32],
    ) -> Result<Redacted<Bytes>, BadRequest> {
        let claim = Unverified::<CodeClaim>::decode(bytes).map_err(|_| BadRequest::Invalid("claim"))?;
        let CodeClaim { code: claimed, key, node, seq } = claim.value();
        // With a `seq` far in the future, the client could never take the code back.
        let is_seq_plausible = seq / 1000 <= (self.core.context.clock.now() + MAX_CLOCK_SKEW).as_secs();
        if *claimed != code || key.as_bytes() != public_key || *node != self.core.context.me || !is_seq_plausible {
            return Err(BadRequest::Invalid("claim"));
        }
        let claim = claim.verify().map_err(|_| BadRequest::Invalid("claim"))?;
        Ok(Redacted::new(claim.as_bytes().clone()))
    }

    pub(super) fn request_pairing(
        &mut self,
        request: &Request<'_>,
        kind: PairRequestKind,
    ) -> Result<RequestReply, RequestRefusal> {
        self.check_registered()?;
        let (target, key, name) = match kind {
            PairRequestKind::Pair => (request.target_code()?, None, request.proposed_name()?),
            PairRequestKind::Link => (request.link_code()?, Some(request.public_key()?), request.device_name()?),
        };
        if self.rates.check_pair_request(&self.core.clients.sources.load()) == Err(Exceeded::PairRequests) {
            return Ok(RequestReply::Exceeded);
        }
        let id = rand::rng().random();
        let now = Instant::now();
        let requested = self.pairing.request(now, id, kind, target, self.times());
        let Requested::Find { withdrawn } = requested.ok_or(BadRequest::NotRegistered)? else {
            return Ok(RequestReply::Nothing);
        };
        let (core, payload) = (self.core.clone(), request.payload());
        // A failed or slow lookup ends in the same error at the same time. Otherwise a client could tell a registered
        // code at a slow or dead node from a code that nobody has registered.
        let deadline = now + self.core.context.config.times.pair_error.saturating_sub(PAIR_REQUEST_MARGIN);
        self.ops.start(async move {
            let find = async {
                let holder = core.homes.find_code(target).await?;
                if holder.node != core.context.me {
                    core.links.connect(holder.node).await.ok()?;
                }
                Some(PeerAddr { node: holder.node, session: holder.session })
            };
            let to = timeout_at(deadline.into(), find).await.ok().flatten();
            OpResult::Found { id, to, name, payload, key }
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

    /// Answers another session over the existing link to its node. If there is no link, the answer is dropped: the
    /// other client gets a timeout, or an error with its next message. Dialling would pause reading, so any member
    /// could stall the client.
    pub(super) fn answer_note(&mut self, to: PeerAddr, note: Note) {
        // If the requester is at this node, its own session counts the refusal.
        if matches!(note, Note::PairRequestRefused { .. }) && to.node != self.core.context.me {
            self.core.context.metrics.pair_requests_refused.inc();
        }
        let is_sent = if to.node == self.core.context.me {
            self.core.sessions.send_note(to.session, self.addr(), note)
        } else {
            let link = self.core.links.find(&to.node);
            link.is_some_and(|link| link.try_note(to.session, self.handle.id(), note).is_ok())
        };
        if !is_sent {
            self.core.context.metrics.session_messages_dropped.inc();
        }
    }

    /// Sends a note to another session. If there is no link, its node is dialled. Later notes to the same node and the
    /// client's messages then wait, so that they don't overtake it.
    pub(super) fn send_note(&mut self, to: PeerAddr, note: Note) {
        if !self.outbox.has_room() {
            return self.handle_note_lost(to, &note);
        }
        self.outbox.push_note(to, note);
        self.send_notes(None);
    }

    /// Sends the notes that have a link, and dials for the first that has none. `tried` is a node that was just
    /// dialled.
    pub(super) fn send_notes(&mut self, tried: Option<NodeId>) {
        for (to, note) in self.outbox.send_notes(&self.core, self.handle.id(), tried) {
            self.handle_note_lost(to, &note);
        }
        let Some(node) = self.outbox.start_dial() else { return };
        let core = self.core.clone();
        self.ops.start_blocking(async move {
            // `send_notes` finds out whether the dial succeeded.
            let _ = core.links.connect(node).await;
            OpResult::Connected(node)
        });
    }

    /// Handles the loss of a note as if the other session had gone.
    fn handle_note_lost(&mut self, to: PeerAddr, note: &Note) {
        self.core.context.metrics.session_messages_dropped.inc();
        match note {
            Note::PairRequest(request) => self.pairing.handle_refused(request.id, self.times()),
            Note::Answer { accepted: Some(_), .. } => {
                let actions = self.pairing.unpair(to);
                self.apply(actions);
            }
            _ => {}
        }
    }

    pub(super) fn addr(&self) -> PeerAddr {
        PeerAddr { node: self.core.context.me, session: self.handle.id() }
    }
}
