//! The pair and link requests of one session that wait for an answer: those it made, and those made to it.
//!
//! Pure: the caller gives the time.

use std::time::{Duration, Instant};

use chappe_common::{code::PairingCode, keys::NodeId};

use super::kept_payload::Kept;
use crate::wire::frame::{PairRequest, PairRequestKind};
use crate::wire::ids::PeerAddr;

/// Requests that wait for one target at the most.
const MAX_INCOMING: usize = 10;
/// Requests of one session that wait at the most: what its rate allows while the first one waits, and its burst.
pub(crate) const MAX_OUTGOING: usize = 32;

/// A request that this session made.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// The request's number.
    pub(crate) ask: u64,
    /// Pair or link.
    pub(crate) kind: PairRequestKind,
    /// Whom it asks.
    pub(crate) target: PairingCode,
    /// The target's session, once it was found.
    pub(crate) to: Option<PeerAddr>,
    /// When it was made.
    pub(crate) asked: Instant,
    warned: bool,
}

/// A request that was made to this session.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// Who asks.
    pub(crate) from: PeerAddr,
    /// What was asked.
    pub(crate) ask: PairRequest,
    /// That its payload is kept.
    _kept: Kept,
    asked: Instant,
    warned: bool,
}

/// What the time brings.
#[derive(Debug)]
pub(crate) enum Expiry {
    /// A pair request is about to end: both sides are told of the other's code.
    Expiring(PairingCode),
    /// A request that this session made has ended.
    OutgoingEnded(PairRequestKind, PairingCode),
    /// A request that was made to this session has ended.
    IncomingEnded(PairRequestKind),
}

/// The waiting requests of one session.
#[derive(Debug, Default)]
pub(crate) struct PairRequests {
    outgoing: Vec<Outgoing>,
    incoming: Vec<Incoming>,
}

impl PairRequests {
    /// Notes a request that this session makes; gives back an earlier one to the same target, which it replaces.
    /// `Err`: too many wait.
    pub(crate) fn make(
        &mut self,
        now: Instant,
        ask: u64,
        kind: PairRequestKind,
        target: PairingCode,
    ) -> Result<Option<Outgoing>, ()> {
        let earlier = self.outgoing.iter().position(|made| made.kind == kind && made.target == target);
        let earlier = earlier.map(|index| self.outgoing.swap_remove(index));
        if self.outgoing.len() >= MAX_OUTGOING {
            return Err(());
        }
        self.outgoing.push(Outgoing { ask, kind, target, to: None, asked: now, warned: false });
        Ok(earlier)
    }

    /// A request of this session that waits.
    pub(crate) fn made(&mut self, ask: u64) -> Option<&mut Outgoing> {
        self.outgoing.iter_mut().find(|made| made.ask == ask)
    }

    /// The requests of this session that have reached a node for which `is_gone` holds.
    pub(crate) fn at_nodes(&self, is_gone: impl Fn(&NodeId) -> bool) -> impl Iterator<Item = u64> {
        let gone = move |made: &&Outgoing| made.to.is_some_and(|to| is_gone(&to.node));
        self.outgoing.iter().filter(gone).map(|made| made.ask)
    }

    /// Takes a request of this session out.
    pub(crate) fn take_made(&mut self, ask: u64) -> Option<Outgoing> {
        let index = self.outgoing.iter().position(|made| made.ask == ask)?;
        Some(self.outgoing.swap_remove(index))
    }

    /// Keeps a request that was made to this session, and gives it back to be said. `None`: it can't be processed.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        from: PeerAddr,
        ask: PairRequest,
        kept: Kept,
    ) -> Option<&PairRequest> {
        self.incoming.retain(|waiting| waiting.from != from || waiting.ask.kind != ask.kind);
        let waiting = self.incoming.iter().filter(|waiting| waiting.ask.kind == ask.kind).count();
        let most = match ask.kind {
            PairRequestKind::Pair => MAX_INCOMING,
            // The answer to a link request names no requester, so only one can wait.
            PairRequestKind::Link => 1,
        };
        if waiting >= most {
            return None;
        }
        self.incoming.push(Incoming { from, ask, _kept: kept, asked: now, warned: false });
        self.incoming.last().map(|waiting| &waiting.ask)
    }

    /// Takes out the request of that kind which `matches`.
    pub(crate) fn take_received(
        &mut self,
        kind: PairRequestKind,
        matches: impl Fn(&Incoming) -> bool,
    ) -> Option<Incoming> {
        let index = self.incoming.iter().position(|waiting| waiting.ask.kind == kind && matches(waiting))?;
        Some(self.incoming.remove(index))
    }

    /// Takes all out: those of this session that have reached their target.
    pub(crate) fn close(&mut self) -> Vec<(PeerAddr, u64)> {
        self.incoming.clear();
        self.outgoing.drain(..).filter_map(|made| Some((made.to?, made.ask))).collect()
    }

    /// How many requests of this session wait.
    pub(crate) const fn outgoing(&self) -> usize {
        self.outgoing.len()
    }

    /// When [`PairRequests::handle_timeout`] has something to say next.
    pub(crate) fn next_deadline(&self, life: Duration, warning: Duration) -> Option<Instant> {
        let made = self.outgoing.iter().map(|made| (made.asked, made.warned || made.kind == PairRequestKind::Link));
        let received =
            self.incoming.iter().map(|made| (made.asked, made.warned || made.ask.kind == PairRequestKind::Link));
        made.chain(received).map(|(asked, warned)| if warned { asked + life } else { asked + life - warning }).min()
    }

    /// What the time has brought by `now`.
    pub(crate) fn handle_timeout(&mut self, now: Instant, life: Duration, warning: Duration) -> Vec<Expiry> {
        let mut passed = Vec::new();
        let warn = |asked: Instant| now >= asked + life - warning;
        for made in &mut self.outgoing {
            if made.kind == PairRequestKind::Pair && !made.warned && warn(made.asked) {
                made.warned = true;
                passed.push(Expiry::Expiring(made.target));
            }
        }
        for waiting in &mut self.incoming {
            if waiting.ask.kind == PairRequestKind::Pair && !waiting.warned && warn(waiting.asked) {
                waiting.warned = true;
                passed.push(Expiry::Expiring(waiting.ask.code));
            }
        }
        self.outgoing.retain(|made| {
            let over = now >= made.asked + life;
            if over {
                passed.push(Expiry::OutgoingEnded(made.kind, made.target));
            }
            !over
        });
        self.incoming.retain(|waiting| {
            let over = now >= waiting.asked + life;
            if over {
                passed.push(Expiry::IncomingEnded(waiting.ask.kind));
            }
            !over
        });
        passed
    }
}
