//! The unanswered pair and link requests of one session, outgoing and incoming.
//!
//! Pure: the caller passes the time.

use std::time::{Duration, Instant};

use chappe_common::{code::PairingCode, keys::NodeId};

use super::payload_reservation::PayloadReservation;
use crate::wire::frame::{PairRequest, PairRequestKind};
use crate::wire::ids::PeerAddr;

/// The maximum number of unanswered pair requests to one session.
const MAX_INCOMING: usize = 10;
/// The maximum number of unanswered requests by one session: its burst, and what its rate allows before the first
/// expires.
pub(crate) const MAX_OUTGOING: usize = 32;

/// A request by this session.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) ask: u64,
    pub(crate) kind: PairRequestKind,
    pub(crate) target: PairingCode,
    /// The target's session, once it is found.
    pub(crate) to: Option<PeerAddr>,
    pub(crate) asked: Instant,
    warned: bool,
}

/// A request to this session.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) from: PeerAddr,
    pub(crate) ask: PairRequest,
    /// Accounts for the payload.
    _reservation: PayloadReservation,
    asked: Instant,
    warned: bool,
}

/// What expires, or is about to expire.
#[derive(Debug)]
pub(crate) enum Expiry {
    /// A pair request is about to expire. Both sides are warned, each with the other's code.
    Expiring(PairingCode),
    /// A request by this session has expired.
    OutgoingEnded(PairRequestKind, PairingCode),
    /// A request to this session has expired.
    IncomingEnded(PairRequestKind),
}

/// [`MAX_OUTGOING`] requests of the session are unanswered.
#[derive(Debug)]
pub(crate) struct TooManyRequests;

/// The unanswered requests of one session.
#[derive(Debug, Default)]
pub(crate) struct PairRequests {
    outgoing: Vec<Outgoing>,
    incoming: Vec<Incoming>,
}

impl PairRequests {
    /// Adds a request by this session. Returns the earlier request to the same target that it replaces.
    ///
    /// # Errors
    /// [`MAX_OUTGOING`] requests are unanswered. The request is not added, and the earlier one is removed.
    pub(crate) fn add_outgoing(
        &mut self,
        now: Instant,
        ask: u64,
        kind: PairRequestKind,
        target: PairingCode,
    ) -> Result<Option<Outgoing>, TooManyRequests> {
        let earlier = self.outgoing.iter().position(|request| request.kind == kind && request.target == target);
        let earlier = earlier.map(|index| self.outgoing.swap_remove(index));
        if self.outgoing.len() >= MAX_OUTGOING {
            return Err(TooManyRequests);
        }
        self.outgoing.push(Outgoing { ask, kind, target, to: None, asked: now, warned: false });
        Ok(earlier)
    }

    /// Returns an unanswered request by this session.
    pub(crate) fn outgoing_mut(&mut self, ask: u64) -> Option<&mut Outgoing> {
        self.outgoing.iter_mut().find(|request| request.ask == ask)
    }

    /// Returns the requests by this session whose target is at a node for which `is_gone` returns true.
    pub(crate) fn outgoing_at(&self, is_gone: impl Fn(&NodeId) -> bool) -> impl Iterator<Item = u64> {
        let gone = move |request: &&Outgoing| request.to.is_some_and(|to| is_gone(&to.node));
        self.outgoing.iter().filter(gone).map(|request| request.ask)
    }

    /// Removes a request by this session.
    pub(crate) fn remove_outgoing(&mut self, ask: u64) -> Option<Outgoing> {
        let index = self.outgoing.iter().position(|request| request.ask == ask)?;
        Some(self.outgoing.swap_remove(index))
    }

    /// Adds a request to this session, and returns it. Returns `None` if too many are unanswered.
    pub(crate) fn add_incoming(
        &mut self,
        now: Instant,
        from: PeerAddr,
        ask: PairRequest,
        reservation: PayloadReservation,
    ) -> Option<&PairRequest> {
        self.incoming.retain(|request| request.from != from || request.ask.kind != ask.kind);
        let count = self.incoming.iter().filter(|request| request.ask.kind == ask.kind).count();
        let max = match ask.kind {
            PairRequestKind::Pair => MAX_INCOMING,
            // The answer to a link request names no requester, so there can be only one.
            PairRequestKind::Link => 1,
        };
        if count >= max {
            return None;
        }
        self.incoming.push(Incoming { from, ask, _reservation: reservation, asked: now, warned: false });
        self.incoming.last().map(|request| &request.ask)
    }

    /// Removes the first incoming request of `kind` for which `matches` returns true.
    pub(crate) fn remove_incoming(
        &mut self,
        kind: PairRequestKind,
        matches: impl Fn(&Incoming) -> bool,
    ) -> Option<Incoming> {
        let index = self.incoming.iter().position(|request| request.ask.kind == kind && matches(request))?;
        Some(self.incoming.remove(index))
    }

    /// Removes all requests. Returns those by this session whose target was found.
    pub(crate) fn close(&mut self) -> Vec<(PeerAddr, u64)> {
        self.incoming.clear();
        self.outgoing.drain(..).filter_map(|request| Some((request.to?, request.ask))).collect()
    }

    /// Returns the number of unanswered requests by this session.
    pub(crate) const fn outgoing_len(&self) -> usize {
        self.outgoing.len()
    }

    /// Returns when [`PairRequests::handle_timeout`] is due next.
    pub(crate) fn next_deadline(&self, life: Duration, warning: Duration) -> Option<Instant> {
        let outgoing = self
            .outgoing
            .iter()
            .map(|request| (request.asked, request.warned || request.kind == PairRequestKind::Link));
        let incoming = self
            .incoming
            .iter()
            .map(|request| (request.asked, request.warned || request.ask.kind == PairRequestKind::Link));
        outgoing.chain(incoming).map(|(asked, warned)| if warned { asked + life } else { asked + life - warning }).min()
    }

    /// Returns what has expired by `now`, and what is about to.
    pub(crate) fn handle_timeout(&mut self, now: Instant, life: Duration, warning: Duration) -> Vec<Expiry> {
        let mut expiries = Vec::new();
        let is_warning_due = |asked: Instant| now >= asked + life - warning;
        for request in &mut self.outgoing {
            if request.kind == PairRequestKind::Pair && !request.warned && is_warning_due(request.asked) {
                request.warned = true;
                expiries.push(Expiry::Expiring(request.target));
            }
        }
        for request in &mut self.incoming {
            if request.ask.kind == PairRequestKind::Pair && !request.warned && is_warning_due(request.asked) {
                request.warned = true;
                expiries.push(Expiry::Expiring(request.ask.code));
            }
        }
        self.outgoing.retain(|request| {
            let is_expired = now >= request.asked + life;
            if is_expired {
                expiries.push(Expiry::OutgoingEnded(request.kind, request.target));
            }
            !is_expired
        });
        self.incoming.retain(|request| {
            let is_expired = now >= request.asked + life;
            if is_expired {
                expiries.push(Expiry::IncomingEnded(request.ask.kind));
            }
            !is_expired
        });
        expiries
    }
}
