//! What a client asks at the inbox door.

use std::sync::Arc;

use chappe_common::{client::ErrorCode, lease::SignedLease};

use super::{
    OpResult, Session,
    receive::{Refusal, RequestReply},
};
use crate::{
    client_protocol::{
        reply::{Rejected, Reply},
        request::Request,
    },
    homes::Registered,
    limits::rates::Counts,
    publisher::command::Command,
    session::{
        attach::{self, UnverifiedAttach},
        attached_inboxes::ttl,
    },
};

/// A lease that a session has attached, which its homes may not know of yet.
struct Attached {
    lease: Arc<SignedLease>,
    /// The session did not have the inbox before.
    is_new: bool,
}

/// Why a lease is not attached.
struct NotAttached {
    code: ErrorCode,
    /// The newer lease that is known.
    newer: Option<Arc<SignedLease>>,
}

impl From<ErrorCode> for NotAttached {
    fn from(code: ErrorCode) -> Self {
        Self { code, newer: None }
    }
}

impl Session {
    /// Each lease counts as a candidate does, besides the message: it takes two signatures to verify.
    pub(super) fn attach(&mut self, request: &Request<'_>) -> Result<RequestReply, Refusal> {
        let id = request.required_id()?.to_owned();
        let now = self.core.context.clock.now();
        let items = request.attach_list()?;
        let max = self.core.context.config.limits.max_inboxes;
        let count = u32::try_from(items.len().min(max)).unwrap_or(u32::MAX);
        let room = self.core.clients.attaching.clone().try_acquire_many_owned(count).map_err(|_| Refusal::Busy)?;
        let (mut claims, mut rejected) = (Vec::new(), Vec::new());
        for (index, item) in items.iter().enumerate() {
            let code = if index >= max {
                ErrorCode::TooMany
            } else if self.rates.check_message(&self.core.clients.sources, Counts::Tenth).is_err() {
                ErrorCode::RateLimited
            } else if let Some(claim) = UnverifiedAttach::read(item, self.core.context.me, now) {
                claims.push((index, claim));
                continue;
            } else {
                ErrorCode::BadLease
            };
            self.core.context.metrics.refused(code);
            rejected.push(Rejected { index, code, lease: None });
        }
        let (core, nonce) = (self.core.clone(), self.nonce);
        self.start_blocking(async move {
            let leases = attach::verify(&core.clients.attach_turns, claims, nonce).await;
            drop(room);
            OpResult::Verified { id, leases, rejected }
        });
        Ok(RequestReply::Nothing)
    }

    /// Attaches the leases that have verified. The homes hear at once of inboxes that this session did not have, and of
    /// renewals when it is time to register the inbox again.
    pub(super) fn register_leases(
        &mut self,
        id: String,
        verified: Vec<(usize, Option<SignedLease>)>,
        mut rejected: Vec<Rejected>,
    ) {
        let (mut new, mut renewed) = (Vec::new(), Vec::new());
        for (index, lease) in verified {
            match lease.ok_or(NotAttached::from(ErrorCode::BadLease)).and_then(|lease| self.take_in(lease)) {
                Ok(Attached { lease, is_new: true }) => new.push((index, lease)),
                Ok(Attached { lease, is_new: false }) => renewed.push((index, lease)),
                Err(NotAttached { code, newer }) => {
                    self.core.context.metrics.refused(code);
                    rejected.push(Rejected { index, code, lease: newer });
                }
            }
        }
        let core = self.core.clone();
        self.start_blocking(async move {
            let signed: Vec<_> = new.iter().map(|(_, lease)| SignedLease::clone(lease)).collect();
            let registered = core.homes.put_leases(&signed).await;
            let mut leases: Vec<_> = new.into_iter().zip(registered).collect();
            leases.extend(renewed.into_iter().map(|lease| (lease, Registered::Before)));
            OpResult::Registered { id, leases, rejected }
        });
    }

    fn take_in(&mut self, lease: SignedLease) -> Result<Attached, NotAttached> {
        let lease = Arc::new(lease);
        let is_new = !self.attached.contains(&lease.inbox);
        if !self.attached.insert(lease.inbox, &self.core.context.config.limits) {
            return Err(ErrorCode::TooMany.into());
        }
        if self.core.sessions.attach(&self.handle, lease.clone()) {
            return Ok(Attached { lease, is_new });
        }
        if is_new {
            self.attached.remove(&lease.inbox);
        }
        // Whoever is here has proved to be the inbox's owner, and may know its own newer lease.
        Err(NotAttached { code: ErrorCode::BadLease, newer: self.core.sessions.lease(&lease.inbox) })
    }

    pub(super) fn attached(
        &mut self,
        id: &str,
        leases: Vec<((usize, Arc<SignedLease>), Registered)>,
        mut rejected: Vec<Rejected>,
    ) {
        let mut kept = Vec::new();
        for ((index, lease), registered) in leases {
            let is_renewal = registered == Registered::Before;
            let (code, newer) = match registered {
                Registered::Kept | Registered::Before if self.attached.contains(&lease.inbox) => {
                    self.publish(Command::KeepLease { lease: lease.clone(), is_renewal });
                    kept.push(lease);
                    continue;
                }
                // The client has attached elsewhere since.
                Registered::Kept | Registered::Before => (ErrorCode::BadLease, None),
                Registered::Stale { newer } => (ErrorCode::BadLease, Some(newer)),
                // Nobody at another node could find the inbox: the client does better elsewhere.
                Registered::Nowhere => (ErrorCode::Internal, None),
            };
            self.attached.remove(&lease.inbox);
            self.core.sessions.detach(self.handle.id(), &lease.inbox);
            // An earlier lease of the same inbox may still be kept.
            self.publish(Command::Forget(lease.inbox, lease.seq));
            self.core.context.metrics.refused(code);
            rejected.push(Rejected { index, code, lease: newer });
        }
        rejected.sort_unstable_by_key(|rejected| rejected.index);
        let ttl = ttl(kept.iter().map(|lease| &**lease), self.core.context.clock.now());
        self.say(&Reply::Attached { id, ttl, rejected: &rejected }.encode());
    }

    pub(super) fn detach(&mut self, request: &Request<'_>) -> Result<RequestReply, Refusal> {
        let id = request.required_id()?;
        for inbox in request.inbox_list()? {
            if self.attached.contains(&inbox) {
                self.attached.remove(&inbox);
                if let Some(lease) = self.core.sessions.detach(self.handle.id(), &inbox) {
                    self.publish(Command::WithdrawLease(inbox, lease.seq));
                }
            }
        }
        Ok(RequestReply::Text(Reply::Detached { id }.encode()))
    }

    pub(super) fn resolve(&mut self, request: &Request<'_>) -> Result<RequestReply, Refusal> {
        let (id, address) = (request.required_id()?.to_owned(), request.address()?);
        let core = self.core.clone();
        self.ops.push(async move {
            let lease = core.homes.find_lease(address).await;
            OpResult::Resolved { id, lease }
        });
        Ok(RequestReply::Nothing)
    }
}
