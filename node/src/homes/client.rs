//! Asking the homes: where is this inbox, where is this code, and keep these for me.
//!
//! All homes are asked at once. Which of their answers counts, and when, is [`Lookup`]'s rule.

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
        frame::{CodeRegistration, LeasePut, Request, Response},
        ids::{ClaimResult, CodeHolder},
    },
};

/// Why a code is not the session's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimError {
    /// Another session has it.
    Taken,
    /// No home answered, or none has room.
    Unavailable,
}

/// What became of a lease at its homes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Registered {
    /// At least one home keeps it.
    Kept,
    /// It renews one that is registered, and its homes are told when that is registered again.
    Before,
    /// A home knows a newer one of the same inbox.
    Stale {
        /// The newer one.
        newer: Arc<SignedLease>,
    },
    /// No home has answered, or none has room.
    Nowhere,
}

impl Homes {
    /// Asks one node, which may be this one; `None` where it did not answer in time.
    pub(crate) async fn ask(&self, node: NodeId, request: Request) -> Option<Response> {
        if node == self.context.me {
            let from = Registrant { node: self.context.me, epoch: self.members.own_record.load().epoch };
            return self.answer(from, request).await;
        }
        let wait = self.context.config.times.lookup;
        let asked = async { self.links.connect(node).await.ok()?.request(request, wait).await };
        let answer = tokio::time::timeout(wait, asked).await.ok().flatten();
        if answer.is_none() {
            self.context.metrics.home_timeouts.inc();
        }
        answer
    }

    /// The newest valid lease of the inbox of `address` that its homes know of.
    #[tracing::instrument(level = "debug", name = "lookup", skip_all)]
    pub(crate) async fn find_lease(&self, address: Address) -> Option<SignedLease> {
        let inbox = address.inbox;
        let times =
            LookupTimes { longest: self.context.config.times.lookup, hedge: self.context.config.times.lookup_hedge };
        let homes = self.members.view.load().lookup_homes(Tag::of_inbox(&inbox));
        let counts = |lease: &Arc<SignedLease>| {
            lease.admits(&address) && lookup::counts(lease, self.context.clock.now(), &self.members.view.load())
        };
        let own = self.sessions.lease(&inbox).filter(counts).map(Arc::unwrap_or_clone);
        let mut lookup = Lookup::new(Instant::now(), address, homes, own, times);
        let ask = |home| async move { (home, self.ask(home, Request::FindLease(address)).await) };
        let mut answers: FuturesUnordered<_> = homes.iter().map(ask).collect();
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

    /// A lease that was found before, if it still counts.
    pub(crate) fn found_lease(&self, address: &Address) -> Option<SignedLease> {
        let lease = self.cache.get(&address.inbox).filter(|lease| lease.admits(address))?;
        let counts = lookup::counts(&lease, self.context.clock.now(), &self.members.view.load());
        if !counts {
            self.cache.remove(&address.inbox);
        }
        counts.then_some(lease)
    }

    /// Where a code is registered, as two of its homes agree.
    #[tracing::instrument(level = "debug", name = "code_lookup", skip_all)]
    pub(crate) async fn find_code(&self, code: PairingCode) -> Option<CodeHolder> {
        let homes = self.members.view.load().lookup_homes(Tag::of_code(&code));
        let ask = |home| async move { (home, self.ask(home, Request::FindCode(code)).await) };
        let mut answers: FuturesUnordered<_> = homes.home_nodes().map(ask).collect();
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

    /// Claims a code for a session at the code's homes. One home that knows another holder is enough to refuse: two
    /// clients that claim at once may both be refused, and both take another code.
    pub(crate) async fn claim_code(&self, registration: &CodeRegistration) -> Result<(), ClaimError> {
        let &CodeRegistration { code, session, .. } = registration;
        let homes = self.members.view.load().homes(Tag::of_code(&code));
        let claims = homes.iter().map(|home| self.ask(home, Request::ClaimCodes(vec![registration.clone()])));
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
            self.ask(home, Request::DropCodes(vec![(code, session)])).await;
        }
        Err(if taken { ClaimError::Taken } else { ClaimError::Unavailable })
    }

    /// Registers leases with their homes, each at a time of its own, and says for each what became of it.
    pub(crate) async fn put_leases(&self, leases: &[SignedLease]) -> Vec<Registered> {
        let puts = leases.iter().map(|lease| async {
            let delay = timing::registration_delay(&mut rand::rng(), leases.len());
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            self.register(lease).await
        });
        join_all(puts).await
    }

    async fn register(&self, lease: &SignedLease) -> Registered {
        let homes = self.members.view.load().homes(Tag::of_inbox(&lease.inbox));
        let puts = homes.iter().map(|home| self.put_batch(home, std::slice::from_ref(lease), vec![0]));
        let answers = join_all(puts).await.concat().into_iter().map(|(_, registered)| registered);
        answers.fold(Registered::Nowhere, |one, other| match (one, other) {
            (Registered::Stale { newer: one }, Registered::Stale { newer: other }) => {
                Registered::Stale { newer: if one.seq < other.seq { other } else { one } }
            }
            (stale @ Registered::Stale { .. }, _) | (_, stale @ Registered::Stale { .. }) => stale,
            (Registered::Nowhere, other) => other,
            (one, _) => one,
        })
    }

    /// Registers some of `leases` with one home, and says for each that it has answered for what became of it.
    pub(crate) async fn put_batch(
        &self,
        home: NodeId,
        leases: &[SignedLease],
        batch: Vec<usize>,
    ) -> Vec<(usize, Registered)> {
        let bytes = batch.iter().map(|index| leases[*index].as_bytes().clone()).map(Redacted::new).collect();
        let Some(Response::Leases(puts)) = self.ask(home, Request::PutLeases(bytes)).await else {
            return Vec::new();
        };
        // Each of its lies would cost a signature: behind the first, it is believed no more.
        let mut lies = false;
        let judge = |(index, put): (usize, LeasePut)| {
            let registered = match put {
                LeasePut::Kept => Registered::Kept,
                LeasePut::Stale(_) if lies => Registered::Nowhere,
                LeasePut::Stale(newer) => match newer_lease(&newer, &leases[index]) {
                    Some(newer) => Registered::Stale { newer: Arc::new(newer) },
                    None => {
                        lies = true;
                        Registered::Nowhere
                    }
                },
                LeasePut::Refused => Registered::Nowhere,
            };
            (index, registered)
        };
        batch.into_iter().zip(puts).map(judge).collect()
    }

    /// The node at which a lease that was looked up says that its inbox is. The lease may count no more.
    pub(crate) fn found_node(&self, inbox: &Inbox) -> Option<NodeId> {
        self.cache.get(inbox).map(|lease| lease.node)
    }

    /// Forgets a lease that was looked up: the inbox is not where it says.
    pub(crate) fn forget_found(&self, inbox: &Inbox) {
        self.cache.remove(inbox);
    }
}

/// The lease of these bytes, where it is a newer one of the same inbox. A home can't invent one: its inbox has signed it.
fn newer_lease(bytes: &Bytes, ours: &Lease) -> Option<SignedLease> {
    let lease = Unverified::<Lease>::decode(bytes.clone()).ok()?;
    let is_newer = lease.value().inbox == ours.inbox && lease.value().seq > ours.seq;
    Some(lease).filter(|_| is_newer)?.verify().ok()
}
