//! Attaches, detaches and resolves inboxes.

use std::{sync::Arc, time::Duration};

use chappe_common::{client::ErrorCode, lease::SignedLease, time::UnixTime};

use super::{
    Session,
    ops::{AttachedLease, OpResult},
    requests::{RequestRefusal, RequestReply},
};
use crate::{
    client_protocol::{
        reply::{Rejected, Reply},
        request::Request,
    },
    core::Core,
    homes::LeaseStatus,
    limits::rates::Counts,
    publisher::command::Command,
    session::attach::{self, UnverifiedAttach},
    sessions::{NotAttached, handle::SessionHandle},
};

impl Session {
    /// Attaches leases. After cheap checks, an operation verifies, attaches and registers them. The client is not read
    /// meanwhile. [`Session::finish_attach`] answers the client.
    ///
    /// In addition to the message, each lease counts as much as an ICE candidate, since it takes two signature checks.
    pub(super) fn attach(&mut self, request: &Request<'_>) -> Result<RequestReply, RequestRefusal> {
        let id = request.required_id()?.to_owned();
        let now = self.core.context.clock.now();
        let items = request.attach_list()?;
        let max = self.core.context.live().limits.max_inboxes;
        let count = u32::try_from(items.len().min(max)).unwrap_or(u32::MAX);
        let permits =
            self.core.clients.attaching.clone().try_acquire_many_owned(count).map_err(|_| RequestRefusal::Busy)?;
        let (mut unverified, mut rejected) = (Vec::new(), Vec::new());
        for (index, item) in items.iter().enumerate() {
            let code = if index >= max {
                ErrorCode::TooMany
            } else if self.rates.check_message(&self.core.clients.sources.load(), Counts::Tenth).is_err() {
                ErrorCode::RateLimited
            } else if let Some(attach) = UnverifiedAttach::read(item, self.core.context.me, now) {
                unverified.push((index, attach));
                continue;
            } else {
                ErrorCode::BadLease
            };
            self.core.context.metrics.refused(code);
            rejected.push(Rejected { index, code, lease: None });
        }
        let (core, handle, nonce) = (self.core.clone(), self.handle.clone(), self.nonce);
        self.ops.start_blocking(async move {
            let verified = attach::verify(&core.clients.attach_turns, unverified, nonce).await;
            drop(permits);
            let (new, renewed) = attach_verified(&core, &handle, verified, &mut rejected);
            let leases = register(&core, new, renewed).await;
            OpResult::Attached { id, leases, rejected }
        });
        Ok(RequestReply::Nothing)
    }

    /// Keeps the leases that their homes accepted, detaches the others, and answers the client.
    pub(super) fn finish_attach(&mut self, id: &str, leases: Vec<AttachedLease>, mut rejected: Vec<Rejected>) {
        let mut kept = Vec::new();
        for AttachedLease { index, lease, status } in leases {
            let is_renewal = status == LeaseStatus::Before;
            let (code, newer) = match status {
                LeaseStatus::Kept | LeaseStatus::Before
                    if self.core.sessions.is_attached(&lease.inbox, self.handle.id()) =>
                {
                    self.publish(Command::KeepLease { lease: lease.clone(), is_renewal });
                    kept.push(lease);
                    continue;
                }
                // The client has attached the inbox elsewhere meanwhile.
                LeaseStatus::Kept | LeaseStatus::Before => (ErrorCode::BadLease, None),
                LeaseStatus::Stale { newer } => (ErrorCode::BadLease, Some(newer)),
                // Other nodes couldn't find the inbox, so the client should use another node.
                LeaseStatus::Nowhere => (ErrorCode::Internal, None),
            };
            self.core.sessions.detach(self.handle.id(), &lease.inbox);
            // The publisher may still keep an earlier lease of the same inbox.
            self.publish(Command::Forget(lease.inbox, lease.seq));
            self.core.context.metrics.refused(code);
            rejected.push(Rejected { index, code, lease: newer });
        }
        rejected.sort_unstable_by_key(|rejected| rejected.index);
        let renew_after = renew_after(kept.iter().map(|lease| &**lease), self.core.context.clock.now());
        self.reply(&Reply::Attached { id, ttl: renew_after.as_secs(), rejected: &rejected }.encode());
    }

    pub(super) fn detach(&mut self, request: &Request<'_>) -> Result<RequestReply, RequestRefusal> {
        let id = request.required_id()?;
        for inbox in request.inbox_list()? {
            if let Some(lease) = self.core.sessions.detach(self.handle.id(), &inbox) {
                self.publish(Command::WithdrawLease(inbox, lease.seq));
            }
        }
        Ok(RequestReply::Text(Reply::Detached { id }.encode()))
    }

    pub(super) fn resolve(&mut self, request: &Request<'_>) -> Result<RequestReply, RequestRefusal> {
        let (id, address) = (request.required_id()?.to_owned(), request.address()?);
        let core = self.core.clone();
        self.ops.start(async move {
            let lease = core.homes.find_lease(address).await;
            OpResult::Resolved { id, lease }
        });
        Ok(RequestReply::Nothing)
    }
}

/// A lease with its index in the request.
type Indexed = (usize, Arc<SignedLease>);

/// Attaches the verified leases. Returns those of new inboxes, and the renewals.
fn attach_verified(
    core: &Core,
    handle: &SessionHandle,
    verified: Vec<(usize, Option<SignedLease>)>,
    rejected: &mut Vec<Rejected>,
) -> (Vec<Indexed>, Vec<Indexed>) {
    let (mut new, mut renewed) = (Vec::new(), Vec::new());
    let mut reject = |index, code, lease| {
        core.context.metrics.refused(code);
        rejected.push(Rejected { index, code, lease });
    };
    for (index, lease) in verified {
        let Some(lease) = lease.map(Arc::new) else {
            reject(index, ErrorCode::BadLease, None);
            continue;
        };
        match core.sessions.attach(handle, lease.clone()) {
            Ok(true) => new.push((index, lease)),
            Ok(false) => renewed.push((index, lease)),
            Err(NotAttached::TooMany) => reject(index, ErrorCode::TooMany, None),
            Err(NotAttached::Stale { newer }) => reject(index, ErrorCode::BadLease, Some(newer)),
        }
    }
    (new, renewed)
}

/// Registers new leases with their homes. A renewal is registered later, when its inbox is due.
async fn register(core: &Core, new: Vec<Indexed>, renewed: Vec<Indexed>) -> Vec<AttachedLease> {
    let signed: Vec<_> = new.iter().map(|(_, lease)| SignedLease::clone(lease)).collect();
    let statuses = core.homes.register_leases(&signed).await;
    let new = new.into_iter().zip(statuses);
    let renewed = renewed.into_iter().map(|renewed| (renewed, LeaseStatus::Before));
    new.chain(renewed).map(|((index, lease), status)| AttachedLease { index, lease, status }).collect()
}

/// Returns the time until the client should renew these leases: half of the shortest remaining lifetime.
fn renew_after<'a>(leases: impl Iterator<Item = &'a SignedLease>, now: UnixTime) -> Duration {
    leases.map(|lease| lease.expires_at.saturating_since(now) / 2).min().unwrap_or_default()
}
