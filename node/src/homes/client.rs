//! Requests to homes: look up an inbox or a code, and register leases and codes.
//!
//! All homes are queried concurrently. [`Lookup`] decides which answer counts, and when.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use chappe_common::{
    code::PairingCode,
    keys::NodeId,
    lease::{Address, Inbox, Lease, SignedLease},
    redacted::Redacted,
    signed::Unverified,
};
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use tokio::time::sleep_until;

use super::Homes;
use crate::{
    leases::{
        code_lookup::CodeLookup,
        lookup::{self, Decision, Lookup, LookupTimes},
        table::Registrant,
        timing,
    },
    placement::Tag,
    wire::{
        frame::{CodeRegistration, LeaseResult, Request, Response},
        ids::{ClaimResult, CodeHolder},
    },
};

/// Why a code was not claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimError {
    Taken,
    /// No home answered, or all their tables are full.
    Unavailable,
}

/// The result of registering a lease with its homes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LeaseStatus {
    /// At least one home stores it.
    Kept,
    /// It renews a lease that is registered already. The publisher sends it to the homes at the next refresh of that lease.
    Before,
    /// A home has a newer lease of the same inbox.
    Stale { newer: Arc<SignedLease> },
    /// No home answered, or all their tables are full.
    Nowhere,
}

impl Homes {
    /// Sends a request to a home, which may be this node. Returns `None` if it does not answer in time.
    pub(crate) async fn send_request(&self, node: NodeId, request: Request) -> Option<Response> {
        if node == self.context.me {
            let from = Registrant { node: self.context.me, epoch: self.members.own_record.load().epoch };
            return self.serve_request(from, request).await;
        }
        let wait = self.context.config.times.lookup;
        let send = async { self.links.connect(node).await.ok()?.request(request, wait).await };
        let answer = tokio::time::timeout(wait, send).await.ok().flatten();
        if answer.is_none() {
            self.context.metrics.home_timeouts.inc();
        }
        answer
    }

    /// Looks up the newest valid lease of an inbox at its homes.
    #[tracing::instrument(level = "debug", name = "lookup", skip_all)]
    pub(crate) async fn find_lease(&self, address: Address) -> Option<SignedLease> {
        let inbox = address.inbox;
        let times =
            LookupTimes { longest: self.context.config.times.lookup, hedge: self.context.config.times.lookup_hedge };
        let homes = self.members.view.load().lookup_homes(Tag::of_inbox(&inbox));
        let is_usable = |lease: &Arc<SignedLease>| {
            lease.admits(&address) && lookup::is_usable(lease, self.context.clock.now(), &self.members.view.load())
        };
        let own = self.sessions.lease(&inbox).filter(is_usable).map(Arc::unwrap_or_clone);
        let mut lookup = Lookup::new(Instant::now(), address, homes, own, times);
        let query = |home| async move { (home, self.send_request(home, Request::FindLease(address)).await) };
        let mut answers: FuturesUnordered<_> = homes.iter().map(query).collect();
        let newest = loop {
            let until = match lookup.decide(Instant::now()) {
                Decision::Wait(until) => until,
                Decision::Done(newest) => break newest?,
            };
            tokio::select! {
                biased;
                () = sleep_until(until.into()) => {}
                Some((home, answer)) = answers.next() => match answer {
                    Some(Response::Lease(bytes)) => {
                        lookup.answer(Instant::now(), self.context.clock.now(), &self.members.view.load(), home, bytes.map(Redacted::into_inner));
                    }
                    _ => lookup.silent(Instant::now(), home),
                },
            }
        };
        self.cache.insert(inbox, newest.clone());
        Some(newest)
    }

    /// Returns the cached lease of an inbox, if it is still valid.
    pub(crate) fn found_lease(&self, address: &Address) -> Option<SignedLease> {
        let lease = self.cache.get(&address.inbox).filter(|lease| lease.admits(address))?;
        let is_usable = lookup::is_usable(&lease, self.context.clock.now(), &self.members.view.load());
        if !is_usable {
            self.cache.remove(&address.inbox);
        }
        is_usable.then_some(lease)
    }

    /// Looks up the holder of a code. Two homes have to agree.
    #[tracing::instrument(level = "debug", name = "code_lookup", skip_all)]
    pub(crate) async fn find_code(&self, code: PairingCode) -> Option<CodeHolder> {
        let homes = self.members.view.load().lookup_homes(Tag::of_code(&code));
        let query = |home| async move { (home, self.send_request(home, Request::FindCode(code)).await) };
        let mut answers: FuturesUnordered<_> = homes.home_nodes().map(query).collect();
        let mut lookup = CodeLookup::new(homes);
        let agreed = async {
            while let Some((home, answer)) = answers.next().await {
                let holder = match answer {
                    Some(Response::Code(holder)) => {
                        holder.filter(|holder| self.members.view.load().contains(&holder.node))
                    }
                    _ => None,
                };
                if let Some(holder) = lookup.answer(home, holder) {
                    return Some(holder);
                }
            }
            None
        };
        tokio::time::timeout(self.context.config.times.lookup, agreed).await.ok().flatten()
    }

    /// Claims a code for a session at the code's homes. One home that knows another holder is enough to refuse. If two
    /// clients claim a code at once, both may be refused, and both choose another code.
    pub(crate) async fn claim_code(&self, registration: &CodeRegistration) -> Result<(), ClaimError> {
        let &CodeRegistration { code, session, .. } = registration;
        let homes = self.members.view.load().homes(Tag::of_code(&code));
        let claims = homes.iter().map(|home| self.send_request(home, Request::ClaimCodes(vec![registration.clone()])));
        let mut granted = false;
        let mut taken = false;
        for answer in join_all(claims).await {
            match answer {
                Some(Response::Codes(claims)) if claims.first() == Some(&ClaimResult::Granted) => granted = true,
                Some(Response::Codes(claims)) if claims.first() == Some(&ClaimResult::Taken) => taken = true,
                _ => {}
            }
        }
        if granted && !taken {
            return Ok(());
        }
        for home in homes.iter() {
            self.send_request(home, Request::DropCodes(vec![(code, session)])).await;
        }
        Err(if taken { ClaimError::Taken } else { ClaimError::Unavailable })
    }

    /// Registers leases with their homes, each after a random delay of its own. Returns one result for each lease.
    pub(crate) async fn register_leases(&self, leases: &[SignedLease]) -> Vec<LeaseStatus> {
        let puts = leases.iter().map(|lease| async {
            let delay = timing::registration_delay(&mut rand::rng(), leases.len());
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            self.register_with_homes(lease).await
        });
        join_all(puts).await
    }

    async fn register_with_homes(&self, lease: &SignedLease) -> LeaseStatus {
        let homes = self.members.view.load().homes(Tag::of_inbox(&lease.inbox));
        let puts = homes.iter().map(|home| self.register_batch(home, std::slice::from_ref(lease), vec![0]));
        let answers = join_all(puts).await.concat().into_iter().map(|(_, status)| status);
        answers.fold(LeaseStatus::Nowhere, |one, other| match (one, other) {
            (LeaseStatus::Stale { newer: one }, LeaseStatus::Stale { newer: other }) => {
                LeaseStatus::Stale { newer: if one.seq < other.seq { other } else { one } }
            }
            (stale @ LeaseStatus::Stale { .. }, _) | (_, stale @ LeaseStatus::Stale { .. }) => stale,
            (LeaseStatus::Nowhere, other) => other,
            (one, _) => one,
        })
    }

    /// Registers the leases at the indices `batch` with one home. Returns the results that the home sent, each with its
    /// index.
    pub(crate) async fn register_batch(
        &self,
        home: NodeId,
        leases: &[SignedLease],
        batch: Vec<usize>,
    ) -> Vec<(usize, LeaseStatus)> {
        let bytes = batch.iter().map(|index| leases[*index].as_bytes().clone()).map(Redacted::new).collect();
        let Some(Response::Leases(puts)) = self.send_request(home, Request::PutLeases(bytes)).await else {
            return Vec::new();
        };
        // Each false claim costs a signature check, so only the first one is checked.
        let mut has_lied = false;
        let check = |(index, put): (usize, LeaseResult)| {
            let status = match put {
                LeaseResult::Kept => LeaseStatus::Kept,
                LeaseResult::Stale(_) if has_lied => LeaseStatus::Nowhere,
                LeaseResult::Stale(newer) => match newer_lease(&newer, &leases[index]) {
                    Some(newer) => LeaseStatus::Stale { newer: Arc::new(newer) },
                    None => {
                        has_lied = true;
                        LeaseStatus::Nowhere
                    }
                },
                LeaseResult::Refused => LeaseStatus::Nowhere,
            };
            (index, status)
        };
        batch.into_iter().zip(puts).map(check).collect()
    }

    /// Returns the node of the cached lease of an inbox. The lease may have expired.
    pub(crate) fn found_node(&self, inbox: &Inbox) -> Option<NodeId> {
        self.cache.get(inbox).map(|lease| lease.node)
    }

    /// Removes the cached lease of an inbox that is not where the lease says.
    pub(crate) fn forget_found(&self, inbox: &Inbox) {
        self.cache.remove(inbox);
    }
}

/// Decodes and verifies a lease, if it is a newer one of the same inbox. Only the inbox's owner can have signed it, so
/// a home cannot invent one.
fn newer_lease(bytes: &Bytes, ours: &Lease) -> Option<SignedLease> {
    let lease = Unverified::<Lease>::decode(bytes.clone()).ok()?;
    let is_newer = lease.value().inbox == ours.inbox && lease.value().seq > ours.seq;
    Some(lease).filter(|_| is_newer)?.verify().ok()
}
