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
    pub(crate) id: u64,
    pub(crate) kind: PairRequestKind,
    pub(crate) target: PairingCode,
    /// The target's session, once it is found.
    pub(crate) to: Option<PeerAddr>,
    pub(crate) since: Instant,
    warned: bool,
}

/// A request to this session.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) from: PeerAddr,
    pub(crate) request: PairRequest,
    /// Accounts for the payload.
    _reservation: PayloadReservation,
    since: Instant,
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
        id: u64,
        kind: PairRequestKind,
        target: PairingCode,
    ) -> Result<Option<Outgoing>, TooManyRequests> {
        let earlier = self.outgoing.iter().position(|request| request.kind == kind && request.target == target);
        let earlier = earlier.map(|index| self.outgoing.swap_remove(index));
        if self.outgoing.len() >= MAX_OUTGOING {
            return Err(TooManyRequests);
        }
        self.outgoing.push(Outgoing { id, kind, target, to: None, since: now, warned: false });
        Ok(earlier)
    }

    /// Returns an unanswered request by this session.
    pub(crate) fn outgoing_mut(&mut self, id: u64) -> Option<&mut Outgoing> {
        self.outgoing.iter_mut().find(|request| request.id == id)
    }

    /// Returns the requests by this session whose target is at a node for which `is_gone` returns true.
    pub(crate) fn outgoing_at(&self, is_gone: impl Fn(&NodeId) -> bool) -> impl Iterator<Item = u64> {
        let gone = move |request: &&Outgoing| request.to.is_some_and(|to| is_gone(&to.node));
        self.outgoing.iter().filter(gone).map(|request| request.id)
    }

    /// Removes a request by this session.
    pub(crate) fn remove_outgoing(&mut self, id: u64) -> Option<Outgoing> {
        let index = self.outgoing.iter().position(|request| request.id == id)?;
        Some(self.outgoing.swap_remove(index))
    }

    /// Adds a request to this session, and returns it. Returns `None` if too many are unanswered.
    pub(crate) fn add_incoming(
        &mut self,
        now: Instant,
        from: PeerAddr,
        request: PairRequest,
        reservation: PayloadReservation,
    ) -> Option<&PairRequest> {
        self.incoming.retain(|incoming| incoming.from != from || incoming.request.kind != request.kind);
        let count = self.incoming.iter().filter(|incoming| incoming.request.kind == request.kind).count();
        let max = match request.kind {
            PairRequestKind::Pair => MAX_INCOMING,
            // The answer to a link request names no requester, so there can be only one.
            PairRequestKind::Link => 1,
        };
        if count >= max {
            return None;
        }
        self.incoming.push(Incoming { from, request, _reservation: reservation, since: now, warned: false });
        self.incoming.last().map(|incoming| &incoming.request)
    }

    /// Removes the first incoming request of `kind` for which `matches` returns true.
    pub(crate) fn remove_incoming(
        &mut self,
        kind: PairRequestKind,
        matches: impl Fn(&Incoming) -> bool,
    ) -> Option<Incoming> {
        let index = self.incoming.iter().position(|incoming| incoming.request.kind == kind && matches(incoming))?;
        Some(self.incoming.remove(index))
    }

    /// Removes all requests. Returns those by this session whose target was found.
    pub(crate) fn close(&mut self) -> Vec<(PeerAddr, u64)> {
        self.incoming.clear();
        self.outgoing.drain(..).filter_map(|request| Some((request.to?, request.id))).collect()
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
            .map(|request| (request.since, request.warned || request.kind == PairRequestKind::Link));
        let incoming = self
            .incoming
            .iter()
            .map(|incoming| (incoming.since, incoming.warned || incoming.request.kind == PairRequestKind::Link));
        outgoing.chain(incoming).map(|(since, warned)| if warned { since + life } else { since + life - warning }).min()
    }

    /// Returns what has expired by `now`, and what is about to.
    pub(crate) fn handle_timeout(&mut self, now: Instant, life: Duration, warning: Duration) -> Vec<Expiry> {
        let mut expiries = Vec::new();
        let is_warning_due = |since: Instant| now >= since + life - warning;
        for request in &mut self.outgoing {
            if request.kind == PairRequestKind::Pair && !request.warned && is_warning_due(request.since) {
                request.warned = true;
                expiries.push(Expiry::Expiring(request.target));
            }
        }
        for incoming in &mut self.incoming {
            if incoming.request.kind == PairRequestKind::Pair && !incoming.warned && is_warning_due(incoming.since) {
                incoming.warned = true;
                expiries.push(Expiry::Expiring(incoming.request.code));
            }
        }
        self.outgoing.retain(|request| {
            let is_expired = now >= request.since + life;
            if is_expired {
                expiries.push(Expiry::OutgoingEnded(request.kind, request.target));
            }
            !is_expired
        });
        self.incoming.retain(|incoming| {
            let is_expired = now >= incoming.since + life;
            if is_expired {
                expiries.push(Expiry::IncomingEnded(incoming.request.kind));
            }
            !is_expired
        });
        expiries
    }
}
