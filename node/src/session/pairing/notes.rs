//! What other sessions note to the code door.

use std::{sync::Arc, time::Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Action, PairingSession, Times, raw};
use crate::{
    client_protocol::reply::Reply,
    limits::memory_budget::MemoryBudget,
    session::kept_payload::kept,
    wire::{
        frame::{Accepted, Note, PairRequest, PairRequestKind},
        ids::PeerAddr,
    },
};

impl PairingSession {
    /// Takes another session's note in.
    pub(crate) fn handle_note(
        &mut self,
        now: Instant,
        from: PeerAddr,
        note: Note,
        times: Times,
        held: &Arc<MemoryBudget>,
    ) -> Vec<Action> {
        match note {
            Note::PairRequest(ask) => self.handle_ask(now, from, ask, times, held),
            Note::PairRequestRefused { ask } => {
                if self.asked(ask, from) {
                    self.refused(ask, times);
                }
                Vec::new()
            }
            Note::PairRequestWithdrawn { ask } => {
                if let Some(state) = self.state.as_deref_mut() {
                    for kind in [PairRequestKind::Pair, PairRequestKind::Link] {
                        state.asks.take_received(kind, |waiting| waiting.from == from && waiting.ask.ask == ask);
                    }
                }
                Vec::new()
            }
            Note::Answer { ask, accepted } => self.handle_answer(from, ask, accepted),
            Note::Closed => self.unpair(from).into_iter().collect(),
        }
    }

    fn handle_ask(
        &mut self,
        now: Instant,
        from: PeerAddr,
        ask: PairRequest,
        times: Times,
        held: &Arc<MemoryBudget>,
    ) -> Vec<Action> {
        let refused = vec![Action::Answer(from, Note::PairRequestRefused { ask: ask.ask })];
        let Some(state) = self.state.as_deref_mut().filter(|state| state.own.code == ask.target) else {
            return refused;
        };
        // Judged before a word of it is written: whoever asks too often costs little.
        let Ok(kept) = kept(ask.payload.as_ref(), held) else { return refused };
        let Some(ask) = state.asks.receive(now, from, ask, kept) else { return refused };
        let expires_in = u64::try_from(times.life.as_millis()).unwrap_or(u64::MAX);
        let key = STANDARD.encode(ask.public_key);
        let said = match ask.kind {
            PairRequestKind::Pair => Reply::PairIncoming {
                from_code: ask.code.as_str(),
                from_public_key: &key,
                expires_in,
                proposed_name: ask.name.as_deref(),
                payload: raw(ask.payload.as_ref()),
            },
            PairRequestKind::Link => Reply::LinkRequest {
                link_code: ask.target.as_str(),
                public_key: &key,
                device_name: ask.name.as_deref(),
                expires_in,
            },
        };
        vec![Action::Reply(said.encode())]
    }

    fn handle_answer(&mut self, from: PeerAddr, ask: u64, accepted: Option<Accepted>) -> Vec<Action> {
        if !self.asked(ask, from) {
            // The request has ended here: the other side must not think that it is paired.
            return if accepted.is_some() { vec![Action::Answer(from, Note::Closed)] } else { Vec::new() };
        }
        let Some(state) = self.state.as_deref_mut() else { return Vec::new() };
        let Some(made) = state.asks.take_made(ask) else { return Vec::new() };
        let code = made.target.as_str();
        let Some(accepted) = accepted else {
            let said = match made.kind {
                PairRequestKind::Pair => Reply::PairRejected { peer_code: code },
                PairRequestKind::Link => Reply::LinkRejected { link_code: code },
            };
            return vec![Action::Reply(said.encode())];
        };
        state.pair(from, made.target);
        let key = STANDARD.encode(accepted.public_key);
        let said = match made.kind {
            PairRequestKind::Pair => Reply::PairMatched {
                peer_code: code,
                peer_public_key: &key,
                is_initiator: true,
                payload: raw(accepted.payload.as_ref()),
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
        vec![Action::Reply(said.encode()), Action::Pairings(state.pairings.clone())]
    }

    /// Whether this session has asked `from`, and waits for its answer.
    fn asked(&mut self, ask: u64, from: PeerAddr) -> bool {
        let made = self.state.as_deref_mut().and_then(|state| state.asks.made(ask));
        made.is_some_and(|made| made.to == Some(from))
    }
}
