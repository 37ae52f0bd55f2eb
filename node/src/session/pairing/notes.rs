//! Handles the notes that other sessions send about pairing.

use std::{sync::Arc, time::Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Action, PairingSession, Times, raw_payload};
use crate::{
    client_protocol::reply::Reply,
    limits::memory_budget::MemoryBudget,
    session::payload_reservation::reserve_payload,
    wire::{
        frame::{Accepted, Note, PairRequest, PairRequestKind},
        ids::PeerAddr,
    },
};

impl PairingSession {
    pub(crate) fn handle_note(
        &mut self,
        now: Instant,
        from: PeerAddr,
        note: Note,
        times: Times,
        budget: &Arc<MemoryBudget>,
    ) -> Vec<Action> {
        match note {
            Note::PairRequest(request) => self.handle_pair_request(now, from, request, times, budget),
            Note::PairRequestRefused { id } => {
                if self.has_request_to(id, from) {
                    self.handle_refused(id, times);
                }
                Vec::new()
            }
            Note::PairRequestWithdrawn { id } => {
                if let Some(state) = self.state.as_deref_mut() {
                    for kind in [PairRequestKind::Pair, PairRequestKind::Link] {
                        state
                            .requests
                            .remove_incoming(kind, |incoming| incoming.from == from && incoming.request.id == id);
                    }
                }
                Vec::new()
            }
            Note::Answer { id, accepted } => self.handle_answer(from, id, accepted),
            Note::Closed => self.unpair(from).into_iter().collect(),
        }
    }

    fn handle_pair_request(
        &mut self,
        now: Instant,
        from: PeerAddr,
        request: PairRequest,
        times: Times,
        budget: &Arc<MemoryBudget>,
    ) -> Vec<Action> {
        let refused = vec![Action::Answer(from, Note::PairRequestRefused { id: request.id })];
        let Some(state) = self.state.as_deref_mut().filter(|state| state.own.code == request.target) else {
            return refused;
        };
        // The bounds are checked before the reply is encoded, so that refusing a request is cheap.
        let Ok(reservation) = reserve_payload(request.payload.as_ref(), budget) else { return refused };
        let Some(request) = state.requests.add_incoming(now, from, request, reservation) else { return refused };
        let expires_in = u64::try_from(times.life.as_millis()).unwrap_or(u64::MAX);
        let key = STANDARD.encode(request.public_key);
        let reply = match request.kind {
            PairRequestKind::Pair => Reply::PairIncoming {
                from_code: request.code.as_str(),
                from_public_key: &key,
                expires_in,
                proposed_name: request.name.as_deref(),
                payload: raw_payload(request.payload.as_ref()),
            },
            PairRequestKind::Link => Reply::LinkRequest {
                link_code: request.target.as_str(),
                public_key: &key,
                device_name: request.name.as_deref(),
                expires_in,
            },
        };
        vec![Action::Reply(reply.encode())]
    }

    fn handle_answer(&mut self, from: PeerAddr, id: u64, accepted: Option<Accepted>) -> Vec<Action> {
        if !self.has_request_to(id, from) {
            // The request has ended here. The other side must not believe that it is paired.
            return if accepted.is_some() { vec![Action::Answer(from, Note::Closed)] } else { Vec::new() };
        }
        let Some(state) = self.state.as_deref_mut() else { return Vec::new() };
        let Some(request) = state.requests.remove_outgoing(id) else { return Vec::new() };
        let code = request.target.as_str();
        let Some(accepted) = accepted else {
            let reply = match request.kind {
                PairRequestKind::Pair => Reply::PairRejected { peer_code: code },
                PairRequestKind::Link => Reply::LinkRejected { link_code: code },
            };
            return vec![Action::Reply(reply.encode())];
        };
        state.pair(from, request.target);
        let key = STANDARD.encode(accepted.public_key);
        let reply = match request.kind {
            PairRequestKind::Pair => Reply::PairMatched {
                peer_code: code,
                peer_public_key: &key,
                is_initiator: true,
                payload: raw_payload(accepted.payload.as_ref()),
            },
            PairRequestKind::Link => Reply::LinkMatched {
                link_code: code,
                peer_public_key: &key,
                is_initiator: true,
                device_id: accepted.device_id.as_deref(),
                web_client_code: None,
                device_name: None,
            },
        };
        vec![Action::Reply(reply.encode()), Action::Pairings(state.pairings.clone())]
    }

    /// Returns whether this session has an unanswered request to `from`.
    fn has_request_to(&mut self, id: u64, from: PeerAddr) -> bool {
        let request = self.state.as_deref_mut().and_then(|state| state.requests.outgoing_mut(id));
        request.is_some_and(|request| request.to == Some(from))
    }
}
