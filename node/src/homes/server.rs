//! Requests that this node serves as a home, and notices from other homes about displaced leases.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use chappe_common::{
    code_claim::CodeClaim,
    keys::NodeId,
    lease::{Lease, SignedLease},
    redacted::Redacted,
    signed::Unverified,
};

use super::Homes;
use crate::{
    leases::table::{LeaseRefusal, Registrant},
    publisher::command::Command,
    wire::{
        breach::Breach,
        frame::{CodeRegistration, Header, LeaseResult, MAX_BATCH, Request, Response},
        ids::{ClaimResult, CodeHolder},
    },
};

impl Homes {
    /// Serves a request to this home. `from` is the node that the link authenticates, or this node. Returns `None` if
    /// the request breaks the protocol.
    pub(crate) async fn serve_request(&self, from: Registrant, request: Request) -> Option<Response> {
        let now = Instant::now();
        Some(match request {
            Request::PutLeases(leases) if leases.len() <= MAX_BATCH => {
                let mut puts = Vec::new();
                for lease in leases {
                    puts.push(self.register_lease(from, lease.into_inner()).await?);
                }
                Response::Leases(puts)
            }
            Request::DropLeases(leases) if leases.len() <= MAX_BATCH => {
                let mut table = self.table();
                for (inbox, seq) in leases {
                    table.leases.withdraw(from.node, &inbox, seq);
                }
                Response::Done
            }
            Request::FindLease(address) => {
                let table = self.table();
                let lease = table.leases.find(now, &address.inbox).filter(|lease| lease.admits(&address));
                Response::Lease(lease.map(|lease| wire_bytes(lease)))
            }
            Request::ClaimCodes(codes) if codes.len() <= MAX_BATCH => {
                let mut claims = Vec::new();
                for registration in codes {
                    claims.push(self.register_code(from, registration).await?);
                }
                Response::Codes(claims)
            }
            Request::DropCodes(codes) if codes.len() <= MAX_BATCH => {
                let mut table = self.table();
                for (code, session) in codes {
                    table.drop_code(&code, CodeHolder { node: from.node, session });
                }
                Response::Done
            }
            Request::FindCode(code) => Response::Code(self.table().code(now, &code)),
            _ => {
                self.context.metrics.link_protocol_errors.inc();
                Response::Refused
            }
        })
    }

    /// Registers a lease. Its signature is checked last, and only if needed. A lease that is already known was verified
    /// before, and a client's lease is registered again and again. Returns `None` if it does not verify: its node must
    /// have checked that.
    async fn register_lease(&self, from: Registrant, bytes: Bytes) -> Option<LeaseResult> {
        let (now, clock) = (Instant::now(), self.context.clock.now());
        let lease = Unverified::<Lease>::decode(bytes).ok()?;
        let Lease { inbox, access, .. } = *lease.value();
        let known = {
            let table = self.table();
            match table.leases.refuses(now, clock, from, lease.value()) {
                // A node that has never seen a lease of that inbox cannot know the access hash. It is not shown the
                // newer lease.
                Some(LeaseRefusal::Stale(newer)) if newer.access != access => {
                    return Some(self.refuse_lease(LeaseRefusal::Invalid));
                }
                // The newer lease is shown only to a node that has a lease of that inbox, so verify the signature
                // first.
                Some(LeaseRefusal::Stale(_)) => {}
                Some(refused) => return Some(self.refuse_lease(refused)),
                None => {}
            }
            table.leases.known(&inbox).cloned()
        };
        let known = known.or_else(|| self.sessions.lease(&inbox));
        let lease = match known.filter(|known| lease.is(known)) {
            Some(known) => known,
            None if self.new_leases.check_key(&from.node).is_err() => {
                return Some(self.refuse_lease(LeaseRefusal::Full));
            }
            None => Arc::new(self.turns.take(|| lease.verify()).await.ok()?),
        };
        let put = self.table().leases.register(now, clock, from, lease.clone());
        Some(match put {
            Ok(former) => {
                if let Some(former) = former {
                    self.notify_displaced(former, &lease);
                }
                LeaseResult::Kept
            }
            Err(refused) => self.refuse_lease(refused),
        })
    }

    /// Registers a code for a session. The client's claim is verified only if it would take the code from another
    /// session. Returns `None` if it does not verify: its node must have checked that.
    async fn register_code(&self, from: Registrant, registration: CodeRegistration) -> Option<ClaimResult> {
        let CodeRegistration { code, session, claim } = registration;
        let (now, holder) = (Instant::now(), CodeHolder { node: from.node, session });
        let claim = match claim {
            Some(bytes) => Some(Unverified::<CodeClaim>::decode(bytes.into_inner()).ok()?),
            None => None,
        };
        let Some(claim) = claim else {
            return Some(self.table().claim_code(now, code, holder, from.epoch, None, false));
        };
        if !self.table().can_reclaim(now, code, holder, claim.value()) {
            return Some(self.table().claim_code(now, code, holder, from.epoch, Some(claim.value()), false));
        }
        if self.new_leases.check_key(&from.node).is_err() {
            return Some(ClaimResult::Full);
        }
        let claim = self.turns.take(|| claim.verify()).await.ok()?;
        Some(self.table().claim_code(now, code, holder, from.epoch, Some(&*claim), true))
    }

    fn refuse_lease(&self, refused: LeaseRefusal) -> LeaseResult {
        match refused {
            LeaseRefusal::Stale(newer) => LeaseResult::Stale(wire_bytes(&newer)),
            LeaseRefusal::Invalid | LeaseRefusal::Full => {
                self.context.metrics.leases_refused.inc();
                LeaseResult::Refused
            }
        }
    }

    /// Notifies the edge of the older lease that a newer one is registered.
    fn notify_displaced(&self, former: NodeId, lease: &SignedLease) {
        if former == self.context.me {
            self.displace(lease);
        } else if let Some(link) = self.links.find(&former) {
            // If the notice is lost, the former edge is told when it registers its lease again.
            if link.try_control(&Header::Displaced { lease: wire_bytes(lease) }).is_err() {
                self.context.metrics.displacements_dropped.inc();
            }
        }
    }

    /// Handles another home's notice that an inbox is attached elsewhere. The newer lease is signed by the inbox, so
    /// the home cannot invent it.
    ///
    /// # Errors
    /// Returns an error if the lease does not verify: the home must have checked that.
    pub(crate) fn handle_displaced(&self, bytes: Bytes) -> Result<(), Breach> {
        let lease = Unverified::<Lease>::decode(bytes).map_err(|_| Breach::Lease)?;
        let Lease { inbox, seq, .. } = *lease.value();
        // If no session here has an older lease, skip the signature check.
        if self.sessions.lease(&inbox).is_none_or(|own| own.seq >= seq) {
            self.context.metrics.responses_unexpected.inc();
            return Ok(());
        }
        self.displace(&lease.verify().map_err(|_| Breach::Lease)?);
        Ok(())
    }

    fn displace(&self, lease: &SignedLease) {
        if lease.node != self.context.me {
            self.cache.insert(lease.inbox, lease.clone());
        }
        self.sessions.displace(lease);
        // If the queue is full, the older lease is registered once more, and the homes refuse it.
        if self.publisher.try_send(Command::Forget(lease.inbox, lease.seq)).is_err() {
            self.context.metrics.publisher_commands_dropped.inc();
        }
    }
}

/// The signed bytes of a lease, for the wire.
fn wire_bytes(lease: &SignedLease) -> Redacted<Bytes> {
    Redacted::new(lease.as_bytes().clone())
}
