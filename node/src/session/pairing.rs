//! Pairing by code: registration, pairing and linking by code, and which sessions may forward messages to each other.
//!
//! Pure: one session's side of the protocol. Its input is requests of the client, notes of other sessions, and the
//! time. Its output is [`Action`]s.

mod notes;

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chappe_common::{code::PairingCode, keys::NodeId};
use serde_json::value::RawValue;

use super::{
    pair_requests::{Expiry, PairRequests, TooManyRequests},
    payload_reservation::PayloadReservation,
};
use crate::wire::{
    frame::{Accepted, Note, PairRequest, PairRequestKind},
    ids::PeerAddr,
};
use crate::{client_protocol::reply::Reply, sessions::handle::Pairing};

/// The maximum number of pairings and outgoing requests of one session together.
const MAX_PAIRINGS: usize = 64;

/// The interval at which a session with an unanswered request checks that the target's node is still a member.
const MEMBER_CHECK: Duration = Duration::from_secs(1);

const PAIR_ERROR: &str = "Pair request could not be processed";
const NO_PENDING: &str = "No pending request from this peer";
const LINK_ERROR: &str = "Link request could not be processed";
const COLLISION: &str = "Pairing code is already in use";

/// The times of pair and link requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// After this time a request expires.
    pub(crate) life: Duration,
    /// Both sides are warned this long before a request expires.
    pub(crate) warning: Duration,
    /// A request that can't be processed is answered after this time, whatever the reason.
    pub(crate) error_after: Duration,
}

/// What the session has to do.
pub(crate) enum Action {
    /// Send this text to the client.
    Reply(String),
    /// Send this error to the client: its request, or its answer to one, can't be processed.
    Refuse(String),
    /// Send this note to another session.
    Send(PeerAddr, Note),
    /// Answer another session. It may be unknown to this one, so the node must not dial for it.
    Answer(PeerAddr, Note),
    /// Forward only messages of these pairings to the client.
    Pairings(Vec<Pairing>),
    /// Withdraw this code from its homes.
    Release(PairingCode),
}

/// The result of a client's pair or link request.
pub(crate) enum Requested {
    /// The request can't be processed. The error is sent after [`Times::error_after`].
    Refused,
    /// The caller has to look the target's session up, and then call [`PairingSession::handle_found`].
    Find {
        /// Withdraws the earlier request to the same target that this one replaces.
        withdrawn: Option<Action>,
    },
}

/// A client's registration of a code.
pub(crate) struct RegisteredCode {
    pub(crate) code: PairingCode,
    pub(crate) public_key: [u8; 32],
    /// The default payload of the client's pairing messages.
    pub(crate) payload: Option<Bytes>,
    /// Accounts for the payload.
    pub(crate) _reservation: PayloadReservation,
}

struct State {
    own: RegisteredCode,
    requests: PairRequests,
    pairings: Vec<Pairing>,
    /// Errors to send later, sorted by time.
    errors: Vec<(Instant, PairRequestKind)>,
    member_check: Instant,
}

/// One session's side of pairing by code. Its state is boxed, since most sessions never register.
#[derive(Default)]
pub(crate) struct PairingSession {
    state: Option<Box<State>>,
}

impl PairingSession {
    pub(crate) fn code(&self) -> Option<PairingCode> {
        self.state.as_ref().map(|state| state.own.code)
    }

    /// Handles the successful registration of a code. It replaces an earlier code of the session.
    pub(crate) fn handle_registered(
        &mut self,
        now: Instant,
        registration: RegisteredCode,
        node: NodeId,
    ) -> Vec<Action> {
        let reply = Action::Reply(
            Reply::Registered { pairing_code: registration.code.as_str(), server_id: &node.to_server_id() }.encode(),
        );
        let mut actions = Vec::new();
        match &mut self.state {
            Some(state) if state.own.code == registration.code => state.own = registration,
            _ => {
                actions = self.close();
                self.state = Some(Box::new(State {
                    own: registration,
                    requests: PairRequests::default(),
                    pairings: Vec::new(),
                    errors: Vec::new(),
                    member_check: now,
                }));
            }
        }
        actions.push(reply);
        actions
    }

    /// Returns the reply for a code that is taken.
    pub(crate) fn collision() -> Action {
        Action::Reply(Reply::CodeCollision { message: COLLISION }.encode())
    }

    /// Handles a pair or link request of the client. Returns `None` if the client is not registered.
    pub(crate) fn request(
        &mut self,
        now: Instant,
        id: u64,
        kind: PairRequestKind,
        target: PairingCode,
        times: Times,
    ) -> Option<Requested> {
        let state = self.state.as_deref_mut()?;
        let has_room = state.pairings.len() + state.requests.outgoing_len() < MAX_PAIRINGS;
        if target == state.own.code || !has_room {
            state.errors.push((now + times.error_after, kind));
            return Some(Requested::Refused);
        }
        Some(match state.requests.add_outgoing(now, id, kind, target) {
            Ok(earlier) => Requested::Find {
                withdrawn: earlier
                    .and_then(|earlier| Some(Action::Send(earlier.to?, Note::PairRequestWithdrawn { id: earlier.id }))),
            },
            Err(TooManyRequests) => {
                state.errors.push((now + times.error_after, kind));
                Requested::Refused
            }
        })
    }

    /// Handles the result of looking a request's target up. `name`, `payload` and `key` are those of the request.
    pub(crate) fn handle_found(
        &mut self,
        id: u64,
        to: Option<PeerAddr>,
        name: Option<String>,
        payload: Option<Bytes>,
        key: Option<[u8; 32]>,
        times: Times,
    ) -> Vec<Action> {
        let Some(state) = self.state.as_deref_mut() else { return Vec::new() };
        let Some(to) = to else {
            self.handle_refused(id, times);
            return Vec::new();
        };
        // The request was replaced or has expired meanwhile.
        let Some(request) = state.requests.outgoing_mut(id) else { return Vec::new() };
        request.to = Some(to);
        let request = PairRequest {
            id,
            kind: request.kind,
            target: request.target,
            code: state.own.code,
            public_key: key.unwrap_or(state.own.public_key),
            name,
            payload: payload.or_else(|| state.own.payload.clone()),
        };
        vec![Action::Send(to, Note::PairRequest(request))]
    }

    /// Handles that a request by this session can't be processed. Its error is sent after [`Times::error_after`].
    pub(crate) fn handle_refused(&mut self, id: u64, times: Times) {
        if let Some(state) = self.state.as_deref_mut()
            && let Some(request) = state.requests.remove_outgoing(id)
        {
            state.errors.push((request.since + times.error_after, request.kind));
            state.errors.sort_by_key(|(at, _)| *at);
        }
    }

    /// Returns when [`PairingSession::check_members`] is due, if a request by this session is unanswered.
    pub(crate) fn next_member_check(&self) -> Option<Instant> {
        let state = self.state.as_ref()?;
        state.requests.outgoing_at(|_| true).next().map(|_| state.member_check)
    }

    /// Refuses the requests by this session whose target's node is gone, since they will get no answer.
    pub(crate) fn check_members(&mut self, now: Instant, is_gone: impl Fn(&NodeId) -> bool, times: Times) {
        let Some(state) = self.state.as_deref_mut() else { return };
        state.member_check = now + MEMBER_CHECK;
        let gone: Vec<_> = state.requests.outgoing_at(is_gone).collect();
        for id in gone {
            self.handle_refused(id, times);
        }
    }

    /// Handles the client's answer to a pair request from `target`. Returns `None` if the client is not registered.
    pub(crate) fn respond_pair(
        &mut self,
        target: PairingCode,
        accepted: bool,
        payload: Option<Bytes>,
    ) -> Option<Vec<Action>> {
        let state = self.state.as_deref_mut()?;
        let Some(incoming) =
            state.requests.remove_incoming(PairRequestKind::Pair, |incoming| incoming.request.code == target)
        else {
            return Some(vec![Action::Refuse(Reply::PairError { error: NO_PENDING }.encode())]);
        };
        let request = incoming.request;
        if !accepted {
            return Some(vec![Action::Send(incoming.from, Note::Answer { id: request.id, accepted: None })]);
        }
        if state.pairings.len() >= MAX_PAIRINGS {
            return Some(vec![
                Action::Send(incoming.from, Note::PairRequestRefused { id: request.id }),
                Action::Refuse(Reply::PairError { error: PAIR_ERROR }.encode()),
            ]);
        }
        let accepted = Accepted {
            public_key: state.own.public_key,
            device_id: None,
            payload: payload.or_else(|| state.own.payload.clone()),
        };
        state.pair(incoming.from, request.code);
        let reply = Reply::PairMatched {
            peer_code: request.code.as_str(),
            peer_public_key: &STANDARD.encode(request.public_key),
            is_initiator: false,
            payload: raw_payload(request.payload.as_ref()),
        }
        .encode();
        Some(vec![
            Action::Send(incoming.from, Note::Answer { id: request.id, accepted: Some(accepted) }),
            Action::Reply(reply),
            Action::Pairings(state.pairings.clone()),
        ])
    }

    /// Handles the client's answer to the link request to its code. Returns `None` if the client is not registered.
    pub(crate) fn respond_link(
        &mut self,
        code: PairingCode,
        accepted: bool,
        device_id: Option<String>,
    ) -> Option<Vec<Action>> {
        let state = self.state.as_deref_mut()?;
        let incoming =
            if code == state.own.code { state.requests.remove_incoming(PairRequestKind::Link, |_| true) } else { None };
        let error = || Action::Refuse(Reply::LinkError { error: LINK_ERROR }.encode());
        let Some(incoming) = incoming else { return Some(vec![error()]) };
        let request = incoming.request;
        if !accepted {
            return Some(vec![Action::Send(incoming.from, Note::Answer { id: request.id, accepted: None })]);
        }
        if state.pairings.len() >= MAX_PAIRINGS {
            return Some(vec![Action::Send(incoming.from, Note::PairRequestRefused { id: request.id }), error()]);
        }
        state.pair(incoming.from, request.code);
        let reply = Reply::LinkMatched {
            link_code: code.as_str(),
            peer_public_key: &STANDARD.encode(request.public_key),
            is_initiator: false,
            device_id: None,
            web_client_code: Some(request.code.as_str()),
            device_name: request.name.as_deref(),
        }
        .encode();
        let accepted = Accepted { public_key: state.own.public_key, device_id, payload: None };
        Some(vec![
            Action::Send(incoming.from, Note::Answer { id: request.id, accepted: Some(accepted) }),
            Action::Reply(reply),
            Action::Pairings(state.pairings.clone()),
        ])
    }

    /// Returns whether this session is paired or linked with another.
    pub(crate) fn is_paired(&self) -> bool {
        self.state.as_ref().is_some_and(|state| !state.pairings.is_empty())
    }

    /// Returns the session that is paired with this one under `code`.
    pub(crate) fn peer(&self, code: &str) -> Option<PeerAddr> {
        let pairings = &self.state.as_ref()?.pairings;
        pairings.iter().find(|pairing| pairing.code.as_str() == code).map(|pairing| pairing.peer)
    }

    /// Returns the code under which `peer` is paired with this session.
    pub(crate) fn code_of(&self, peer: PeerAddr) -> Option<PairingCode> {
        let pairings = &self.state.as_ref()?.pairings;
        pairings.iter().find(|pairing| pairing.peer == peer).map(|pairing| pairing.code)
    }

    /// Ends the pairing with `peer`.
    pub(crate) fn unpair(&mut self, peer: PeerAddr) -> Option<Action> {
        let state = self.state.as_deref_mut()?;
        state.pairings.retain(|pairing| pairing.peer != peer);
        Some(Action::Pairings(state.pairings.clone()))
    }

    /// Returns when [`PairingSession::handle_timeout`] is due next.
    pub(crate) fn next_deadline(&self, times: Times) -> Option<Instant> {
        let state = self.state.as_ref()?;
        let error = state.errors.first().map(|(at, _)| *at);
        error.into_iter().chain(state.requests.next_deadline(times.life, times.warning)).min()
    }

    /// Sends the errors that are due by `now`, and expires requests.
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
        for expiry in state.requests.handle_timeout(now, times.life, times.warning) {
            let reply = match &expiry {
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
            actions.push(Action::Reply(reply.encode()));
        }
        actions
    }

    /// Ends all pairings and requests, when the session ends or registers another code.
    pub(crate) fn close(&mut self) -> Vec<Action> {
        let Some(mut state) = self.state.take() else { return Vec::new() };
        let closed = state.pairings.iter().map(|pairing| Action::Send(pairing.peer, Note::Closed));
        let withdrawn = state.requests.close();
        let withdrawn = withdrawn.into_iter().map(|(to, id)| Action::Send(to, Note::PairRequestWithdrawn { id }));
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

/// Returns a payload of another session, or `None` if it is not JSON.
fn raw_payload(payload: Option<&Bytes>) -> Option<&RawValue> {
    payload.and_then(|payload| serde_json::from_slice(payload).ok())
}
