//! The code door: registration, pairing and linking by code, and who may forward to whom.
//!
//! Pure: one session's half of every conversation, driven by what its client says, what other sessions note, and the
//! time. What is to be done comes back as actions.

mod notes;

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chappe_common::{code::PairingCode, keys::NodeId};
use serde_json::value::RawValue;

use super::{
    kept_payload::Kept,
    pair_requests::{Expiry, PairRequests},
};
use crate::wire::{
    frame::{Accepted, Note, PairRequest, PairRequestKind},
    ids::PeerAddr,
};
use crate::{client_protocol::reply::Reply, sessions::handle::Pairing};

/// Sessions that one session may be paired with or have asked at once.
const MAX_PAIRINGS: usize = 64;

/// How often a session whose request waits for an answer looks whether the target's node is still a member.
const MEMBER_CHECK: Duration = Duration::from_secs(1);

const PAIR_ERROR: &str = "Pair request could not be processed";
const NO_PENDING: &str = "No pending request from this peer";
const LINK_ERROR: &str = "Link request could not be processed";
const COLLISION: &str = "Pairing code is already in use";

/// The door's times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// How long a request waits.
    pub(crate) life: Duration,
    /// How long before its end both sides are warned.
    pub(crate) warning: Duration,
    /// When a request that can't be processed is answered.
    pub(crate) error_after: Duration,
}

/// What the session is to do.
pub(crate) enum Action {
    /// Say this to the client.
    Reply(String),
    /// Say this to the client: its request, or its answer to one, can't be processed.
    Refuse(String),
    /// Note this to another session.
    Send(PeerAddr, Note),
    /// Answer another session, which need not be one that this one knows: it is worth no dial.
    Answer(PeerAddr, Note),
    /// Let these pairings' messages through to the client, and no others'.
    Pairings(Vec<Pairing>),
    /// Give this code back to its homes.
    Release(PairingCode),
}

/// What became of a client's pair or link request.
pub(crate) enum Requested {
    /// It can't be processed; the error is said at its time.
    Refused,
    /// The session of the target is to be found; then [`PairingSession::found`].
    Find {
        /// An earlier request to the same target is replaced.
        withdrawn: Option<Action>,
    },
}

/// What a client registers.
pub(crate) struct Registration {
    /// The code.
    pub(crate) code: PairingCode,
    /// The client's key.
    pub(crate) public_key: [u8; 32],
    /// What its pairing messages carry where they have no payload of their own.
    pub(crate) payload: Option<Bytes>,
    /// That the payload is kept.
    pub(crate) _kept: Kept,
}

struct State {
    own: Registration,
    asks: PairRequests,
    pairings: Vec<Pairing>,
    /// Errors that are said at their time; in order, since all wait equally long.
    errors: Vec<(Instant, PairRequestKind)>,
    member_check: Instant,
}

/// One session's half of the code door. A session that never registers costs a pointer.
#[derive(Default)]
pub(crate) struct PairingSession {
    state: Option<Box<State>>,
}

impl PairingSession {
    /// The code of the session.
    pub(crate) fn code(&self) -> Option<PairingCode> {
        self.state.as_ref().map(|state| state.own.code)
    }

    /// The session's claim to the code was granted: from now on it has this one and no other.
    pub(crate) fn registered(&mut self, now: Instant, registration: Registration, node: NodeId) -> Vec<Action> {
        let said = Action::Reply(
            Reply::Registered { pairing_code: registration.code.as_str(), server_id: &node.to_server_id() }.encode(),
        );
        let mut actions = Vec::new();
        match &mut self.state {
            Some(state) if state.own.code == registration.code => state.own = registration,
            _ => {
                actions = self.close();
                self.state = Some(Box::new(State {
                    own: registration,
                    asks: PairRequests::default(),
                    pairings: Vec::new(),
                    errors: Vec::new(),
                    member_check: now,
                }));
            }
        }
        actions.push(said);
        actions
    }

    /// The code is taken.
    pub(crate) fn collided() -> Action {
        Action::Reply(Reply::CodeCollision { message: COLLISION }.encode())
    }

    /// The client asks to pair or link. `None`: it is not registered.
    pub(crate) fn request(
        &mut self,
        now: Instant,
        ask: u64,
        kind: PairRequestKind,
        target: PairingCode,
        times: Times,
    ) -> Option<Requested> {
        let state = self.state.as_deref_mut()?;
        let room = state.pairings.len() + state.asks.outgoing() < MAX_PAIRINGS;
        if target == state.own.code || !room {
            state.errors.push((now + times.error_after, kind));
            return Some(Requested::Refused);
        }
        Some(match state.asks.make(now, ask, kind, target) {
            Ok(earlier) => Requested::Find {
                withdrawn: earlier.and_then(|earlier| {
                    Some(Action::Send(earlier.to?, Note::PairRequestWithdrawn { ask: earlier.ask }))
                }),
            },
            Err(()) => {
                state.errors.push((now + times.error_after, kind));
                Requested::Refused
            }
        })
    }

    /// The target of a request was found, or not; `name`, `payload` and `key` are the request's.
    pub(crate) fn found(
        &mut self,
        ask: u64,
        to: Option<PeerAddr>,
        name: Option<String>,
        payload: Option<Bytes>,
        key: Option<[u8; 32]>,
        times: Times,
    ) -> Vec<Action> {
        let Some(state) = self.state.as_deref_mut() else { return Vec::new() };
        let Some(to) = to else {
            self.refused(ask, times);
            return Vec::new();
        };
        // Replaced or ended meanwhile.
        let Some(made) = state.asks.made(ask) else { return Vec::new() };
        made.to = Some(to);
        let ask = PairRequest {
            ask,
            kind: made.kind,
            target: made.target,
            code: state.own.code,
            public_key: key.unwrap_or(state.own.public_key),
            name,
            payload: payload.or_else(|| state.own.payload.clone()),
        };
        vec![Action::Send(to, Note::PairRequest(ask))]
    }

    /// A request of this session can't be processed: its error is said at its time, whatever the reason.
    pub(crate) fn refused(&mut self, ask: u64, times: Times) {
        if let Some(state) = self.state.as_deref_mut()
            && let Some(made) = state.asks.take_made(ask)
        {
            state.errors.push((made.asked + times.error_after, made.kind));
            state.errors.sort_by_key(|(at, _)| *at);
        }
    }

    /// When [`PairingSession::check_members`] is due, where a request of this session waits for its target's answer.
    pub(crate) fn next_member_check(&self) -> Option<Instant> {
        let state = self.state.as_ref()?;
        state.asks.at_nodes(|_| true).next().map(|_| state.member_check)
    }

    /// Refuses the requests of this session whose target's node is gone: nobody will answer them.
    pub(crate) fn check_members(&mut self, now: Instant, is_gone: impl Fn(&NodeId) -> bool, times: Times) {
        let Some(state) = self.state.as_deref_mut() else { return };
        state.member_check = now + MEMBER_CHECK;
        let gone: Vec<_> = state.asks.at_nodes(is_gone).collect();
        for ask in gone {
            self.refused(ask, times);
        }
    }

    /// The client answers a pair request of `target`. `None`: it is not registered.
    pub(crate) fn respond_pair(
        &mut self,
        target: PairingCode,
        accepted: bool,
        payload: Option<Bytes>,
    ) -> Option<Vec<Action>> {
        let state = self.state.as_deref_mut()?;
        let Some(waiting) = state.asks.take_received(PairRequestKind::Pair, |waiting| waiting.ask.code == target)
        else {
            return Some(vec![Action::Refuse(Reply::PairError { error: NO_PENDING }.encode())]);
        };
        let ask = waiting.ask;
        if !accepted {
            return Some(vec![Action::Send(waiting.from, Note::Answer { ask: ask.ask, accepted: None })]);
        }
        if state.pairings.len() >= MAX_PAIRINGS {
            return Some(vec![
                Action::Send(waiting.from, Note::PairRequestRefused { ask: ask.ask }),
                Action::Refuse(Reply::PairError { error: PAIR_ERROR }.encode()),
            ]);
        }
        let accepted = Accepted {
            public_key: state.own.public_key,
            device_id: None,
            payload: payload.or_else(|| state.own.payload.clone()),
        };
        state.pair(waiting.from, ask.code);
        let said = Reply::PairMatched {
            peer_code: ask.code.as_str(),
            peer_public_key: &STANDARD.encode(ask.public_key),
            is_initiator: false,
            payload: raw(ask.payload.as_ref()),
        }
        .encode();
        Some(vec![
            Action::Send(waiting.from, Note::Answer { ask: ask.ask, accepted: Some(accepted) }),
            Action::Reply(said),
            Action::Pairings(state.pairings.clone()),
        ])
    }

    /// The client answers the link request that waits for its code. `None`: it is not registered.
    pub(crate) fn respond_link(
        &mut self,
        code: PairingCode,
        accepted: bool,
        device_id: Option<String>,
    ) -> Option<Vec<Action>> {
        let state = self.state.as_deref_mut()?;
        let waiting =
            if code == state.own.code { state.asks.take_received(PairRequestKind::Link, |_| true) } else { None };
        let error = || Action::Refuse(Reply::LinkError { error: LINK_ERROR }.encode());
        let Some(waiting) = waiting else { return Some(vec![error()]) };
        let ask = waiting.ask;
        if !accepted {
            return Some(vec![Action::Send(waiting.from, Note::Answer { ask: ask.ask, accepted: None })]);
        }
        if state.pairings.len() >= MAX_PAIRINGS {
            return Some(vec![Action::Send(waiting.from, Note::PairRequestRefused { ask: ask.ask }), error()]);
        }
        state.pair(waiting.from, ask.code);
        let said = Reply::LinkMatched {
            link_code: code.as_str(),
            peer_public_key: &STANDARD.encode(ask.public_key),
            is_initiator: false,
            device_id: None,
            web_client_code: Some(ask.code.as_str()),
            device_name: ask.name.as_deref(),
        }
        .encode();
        let accepted = Accepted { public_key: state.own.public_key, device_id, payload: None };
        Some(vec![
            Action::Send(waiting.from, Note::Answer { ask: ask.ask, accepted: Some(accepted) }),
            Action::Reply(said),
            Action::Pairings(state.pairings.clone()),
        ])
    }

    /// Whether this session is paired or linked with another.
    pub(crate) fn is_paired(&self) -> bool {
        self.state.as_ref().is_some_and(|state| !state.pairings.is_empty())
    }

    /// The session that is paired with this one under `code`.
    pub(crate) fn peer(&self, code: &str) -> Option<PeerAddr> {
        let pairings = &self.state.as_ref()?.pairings;
        pairings.iter().find(|pairing| pairing.code.as_str() == code).map(|pairing| pairing.peer)
    }

    /// The code under which `peer` is paired with this session.
    pub(crate) fn code_of(&self, peer: PeerAddr) -> Option<PairingCode> {
        let pairings = &self.state.as_ref()?.pairings;
        pairings.iter().find(|pairing| pairing.peer == peer).map(|pairing| pairing.code)
    }

    /// The other session is gone.
    pub(crate) fn unpair(&mut self, peer: PeerAddr) -> Option<Action> {
        let state = self.state.as_deref_mut()?;
        state.pairings.retain(|pairing| pairing.peer != peer);
        Some(Action::Pairings(state.pairings.clone()))
    }

    /// When [`PairingSession::handle_timeout`] has something to do next.
    pub(crate) fn next_deadline(&self, times: Times) -> Option<Instant> {
        let state = self.state.as_ref()?;
        let error = state.errors.first().map(|(at, _)| *at);
        error.into_iter().chain(state.asks.next_deadline(times.life, times.warning)).min()
    }

    /// Does what the time has brought by `now`.
    pub(crate) fn handle_timeout(&mut self, now: Instant, times: Times) -> Vec<Action> {
        let Some(state) = self.state.as_deref_mut() else { return Vec::new() };
        let mut actions = Vec::new();
        let due = state.errors.iter().take_while(|(at, _)| *at <= now).count();
        for (_, kind) in state.errors.drain(..due) {
            let error = match kind {
                PairRequestKind::Pair => Reply::PairError { error: PAIR_ERROR },
                PairRequestKind::Link => Reply::LinkError { error: LINK_ERROR },
            };
            actions.push(Action::Refuse(error.encode()));
        }
        for passed in state.asks.handle_timeout(now, times.life, times.warning) {
            let said = match &passed {
                Expiry::Expiring(code) => {
                    Reply::PairExpiring { peer_code: code.as_str(), remaining_seconds: times.warning.as_secs() }
                }
                Expiry::OutgoingEnded(PairRequestKind::Pair, code) => Reply::PairTimeout { peer_code: code.as_str() },
                Expiry::OutgoingEnded(PairRequestKind::Link, code) => Reply::LinkTimeout { link_code: code.as_str() },
                Expiry::IncomingEnded(PairRequestKind::Link) => {
                    Reply::LinkTimeout { link_code: state.own.code.as_str() }
                }
                Expiry::IncomingEnded(PairRequestKind::Pair) => continue,
            };
            actions.push(Action::Reply(said.encode()));
        }
        actions
    }

    /// The session ends, or gets another code: tells all that it was paired with or has asked.
    pub(crate) fn close(&mut self) -> Vec<Action> {
        let Some(mut state) = self.state.take() else { return Vec::new() };
        let closed = state.pairings.iter().map(|pairing| Action::Send(pairing.peer, Note::Closed));
        let withdrawn = state.asks.close();
        let withdrawn = withdrawn.into_iter().map(|(to, ask)| Action::Send(to, Note::PairRequestWithdrawn { ask }));
        std::iter::once(Action::Pairings(Vec::new()))
            .chain(closed)
            .chain(withdrawn)
            .chain([Action::Release(state.own.code)])
            .collect()
    }
}

impl State {
    fn pair(&mut self, peer: PeerAddr, code: PairingCode) {
        self.pairings.retain(|pairing| pairing.peer != peer && pairing.code != code);
        self.pairings.push(Pairing { peer, code });
    }
}

/// A payload of another session; one that is no JSON is left out.
fn raw(payload: Option<&Bytes>) -> Option<&RawValue> {
    payload.and_then(|payload| serde_json::from_slice(payload).ok())
}
