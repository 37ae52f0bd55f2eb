//! The engine: one node's membership, on time that its driver gives.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chappe_common::{
    keys::{NodeId, SecretKey},
    record::{NodeLeave, SignedRecord},
    signed::{SignError, Signed},
    time::UnixTime,
};

use super::{
    admission::{Admission, Refusal},
    exchange::ExchangeMessage,
    records::Records,
    view::View,
};

/// The time, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The monotonic clock: for waiting.
    pub at: Instant,
    /// The wall clock: for signed notes.
    pub clock: UnixTime,
}

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One member is probed in every period.
    pub probe_period: Duration,
    /// How long a direct probe may take before others are asked to probe; less than half the period.
    pub probe_timeout: Duration,
    /// How often views are compared with one random member.
    pub exchange_every: Duration,
    /// Who may become a member.
    pub admission: Admission,
    /// How long a new member is on probation.
    pub probation: Duration,
}

/// What a node shows when a link is made.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// Its record, verified to be of the link's key.
    pub record: SignedRecord,
    /// Its ticket, where it has one.
    pub ticket: Option<Bytes>,
}

/// What a greeting comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The link is taken, and the node a member.
    Welcome,
    /// The node is to be dialled at its record's addresses first: [`Engine::reached`] or [`Engine::unreachable`], then
    /// the greeting once more.
    DialBack,
    /// The link is refused.
    Refused(Refusal),
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this packet; over the link that is there, or else over a new one.
    Send {
        /// To whom.
        to: NodeId,
        /// The packet.
        packet: Bytes,
    },
    /// Make a new link by the node's record, even where there is one: greet both sides, and say where it fails.
    Dial {
        /// Whom.
        node: NodeId,
    },
    /// Begin an exchange, over the link that is there or else over a new one.
    Exchange {
        /// With whom.
        with: NodeId,
    },
    /// Forget what this node registered before the epoch, and close links to its selves before it.
    Gone {
        /// Who.
        node: NodeId,
        /// Its first epoch that still counts.
        epoch: u64,
    },
    /// The view has changed: ask for it.
    View,
}

/// One node's membership.
#[derive(Debug)]
pub struct Engine {}

#[expect(unused_variables, clippy::unimplemented, clippy::unused_self, reason = "signatures first")]
impl Engine {
    /// The membership of a node that has signed its record. `seed` makes every choice of the engine.
    pub fn new(
        now: Now,
        settings: Settings,
        key: SecretKey,
        own: SignedRecord,
        records: Arc<Records>,
        seed: u64,
    ) -> Self {
        unimplemented!()
    }

    /// When [`Engine::wake`] is to be called next.
    pub fn wake_at(&self) -> Option<Instant> {
        unimplemented!()
    }

    /// Does what is due.
    pub fn wake(&mut self, now: Now) {
        unimplemented!()
    }

    /// Takes a packet that came over the link to `from`.
    pub fn packet(&mut self, now: Now, from: NodeId, packet: &Bytes) {
        unimplemented!()
    }

    /// Judges what the other side of a new link has shown. `dialled`: this node has dialled it, at an address of its record.
    pub fn greet(&mut self, now: Now, greeting: &Greeting, dialled: bool) -> Verdict {
        unimplemented!()
    }

    /// A dial-back has reached the node at an address of its record, and it proved its key.
    pub fn reached(&mut self, now: Now, record: &SignedRecord) {
        unimplemented!()
    }

    /// A dial or a dial-back has failed.
    pub fn unreachable(&mut self, now: Now, node: NodeId) {
        unimplemented!()
    }

    /// Takes in a node that was heard of outside of gossip, from a registry or the last run: it is dialled, and asked
    /// for all that it knows.
    pub fn seek(&mut self, now: Now, record: SignedRecord) {
        unimplemented!()
    }

    /// The first word of an exchange.
    pub fn open_exchange(&mut self) -> ExchangeMessage {
        unimplemented!()
    }

    /// The answer to a word of an exchange; none: it is over.
    pub fn exchange(&mut self, now: Now, from: NodeId, message: ExchangeMessage) -> Option<ExchangeMessage> {
        unimplemented!()
    }

    /// Shows a record that was signed anew from now on.
    pub fn renew(&mut self, own: SignedRecord) {
        unimplemented!()
    }

    /// Tells the members that this node leaves, and does nothing more.
    ///
    /// # Errors
    /// The leave can't be signed.
    pub fn leave(&mut self, now: Now) -> Result<Signed<NodeLeave>, SignError> {
        unimplemented!()
    }

    /// The next thing to do; to be asked until there is none.
    pub fn poll(&mut self) -> Option<Output> {
        unimplemented!()
    }

    /// The live members.
    pub fn view(&self) -> View {
        unimplemented!()
    }
}
