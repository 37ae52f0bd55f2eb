//! What this node answers as a home, and what homes tell each other of leases.

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
    leases::table::{Refused, Registrant},
    publisher::command::Command,
    wire::{
        breach::Breach,
        frame::{CodeRegistration, Header, LeasePut, MAX_BATCH, Request, Response},
        ids::{ClaimResult, CodeHolder},
    },
};

impl Homes {
    /// Answers a question as a home. `from` is the node whose key the link proves, or this node itself. `None`: it shows what no
    /// node shows that keeps to the protocol.
    pub(crate) async fn answer(&self, from: Registrant, request: Request) -> Option<Response> {
        let now = Instant::now();
        Some(match request {
            Request::PutLeases(leases) if leases.len() <= MAX_BATCH => {
                let mut puts = Vec::new();
                for lease in leases {
                    puts.push(self.keep_lease(from, lease.into_inner()).await?);
                }
                Response::Leases(puts)
            }
            Request::DropLeases(leases) if leases.len() <= MAX_BATCH => {
                let mut homes = self.table();
                for (inbox, seq) in leases {
                    homes.leases.withdraw(from.node, &inbox, seq);
                }
                Response::Done
            }
            Request::FindLease(address) => {
                let homes = self.table();
                let lease = homes.leases.find(now, &address.inbox).filter(|lease| lease.admits(&address));
                Response::Lease(lease.map(|lease| shown(lease)))
            }
            Request::ClaimCodes(codes) if codes.len() <= MAX_BATCH => {
                let mut claims = Vec::new();
                for registration in codes {
                    claims.push(self.grant_code(from, registration).await?);
                }
                Response::Codes(claims)
            }
            Request::DropCodes(codes) if codes.len() <= MAX_BATCH => {
                let mut homes = self.table();
                for (code, session) in codes {
                    homes.drop_code(&code, CodeHolder { node: from.node, session });
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

    /// Keeps a lease. Its signature is looked at last: one that is known has been verified before, as a lease is put again and
    /// again while its client is there, and one that would be refused needs none. `None`: it does not verify, which its node has
    /// checked before.
    async fn keep_lease(&self, from: Registrant, bytes: Bytes) -> Option<LeasePut> {
        let (now, clock) = (Instant::now(), self.context.clock.now());
        let lease = Unverified::<Lease>::decode(bytes).ok()?;
        let Lease { inbox, access, .. } = *lease.value();
        let known = {
            let homes = self.table();
            match homes.leases.refuses(now, clock, from, lease.value()) {
                // A node that has never seen a lease of that inbox can't make up the hash in it, and is shown none.
                Some(Refused::Stale(newer)) if newer.access != access => return Some(self.not_kept(Refused::Invalid)),
                // A newer one is shown to nobody but who has a lease of that inbox: its signature is to be checked first.
                Some(Refused::Stale(_)) => {}
                Some(refused) => return Some(self.not_kept(refused)),
                None => {}
            }
            homes.leases.known(&inbox).cloned()
        };
        let known = known.or_else(|| self.sessions.lease(&inbox));
        let lease = match known.filter(|known| lease.is(known)) {
            Some(known) => known,
            None if self.new_leases.check_key(&from.node).is_err() => return Some(self.not_kept(Refused::Full)),
            None => Arc::new(self.turns.take(|| lease.verify()).await.ok()?),
        };
        let put = self.table().leases.put(now, clock, from, lease.clone());
        Some(match put {
            Ok(former) => {
                if let Some(former) = former {
                    self.tell_displaced(former, &lease);
                }
                LeasePut::Kept
            }
            Err(refused) => self.not_kept(refused),
        })
    }

    /// Gives a code to a session. A client's claim is verified only where it would take the code from another session. `None`:
    /// it does not verify, which its node has checked before.
    async fn grant_code(&self, from: Registrant, registration: CodeRegistration) -> Option<ClaimResult> {
        let CodeRegistration { code, session, claim } = registration;
        let (now, holder) = (Instant::now(), CodeHolder { node: from.node, session });
        let claim = match claim {
            Some(bytes) => Some(Unverified::<CodeClaim>::decode(bytes.into_inner()).ok()?),
            None => None,
        };
        let Some(claim) = claim else {
            return Some(self.table().claim_code(now, code, holder, from.epoch, None, false));
        };
        if !self.table().takes_back(now, code, holder, claim.value()) {
            return Some(self.table().claim_code(now, code, holder, from.epoch, Some(claim.value()), false));
        }
        if self.new_leases.check_key(&from.node).is_err() {
            return Some(ClaimResult::Full);
        }
        let claim = self.turns.take(|| claim.verify()).await.ok()?;
        Some(self.table().claim_code(now, code, holder, from.epoch, Some(&*claim), true))
    }

    fn not_kept(&self, refused: Refused) -> LeasePut {
        match refused {
            Refused::Stale(newer) => LeasePut::Stale(shown(&newer)),
            Refused::Invalid | Refused::Full => {
                self.context.metrics.leases_refused.inc();
                LeasePut::Refused
            }
        }
    }

    /// Tells the edge of an older lease that a newer one is kept.
    fn tell_displaced(&self, former: NodeId, lease: &SignedLease) {
        if former == self.context.me {
            self.displace(lease);
        } else if let Some(link) = self.links.find(&former) {
            // If it is lost, the former edge learns it when it registers its lease again.
            if link.try_control(&Header::Displaced { lease: shown(lease) }).is_err() {
                self.context.metrics.session_messages_dropped.inc();
            }
        }
    }

    /// Takes another home's word that an inbox is elsewhere now. Nobody but the inbox's key can have signed it.
    ///
    /// # Errors
    /// It does not verify, which that home has checked before.
    pub(crate) fn handle_displaced(&self, bytes: Bytes) -> Result<(), Breach> {
        let lease = Unverified::<Lease>::decode(bytes).map_err(|_| Breach::Lease)?;
        let Lease { inbox, seq, .. } = *lease.value();
        // Its session has ended meanwhile, or never was here: then nobody needs to know whether it is true.
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
        // A full queue costs that the older lease is registered once more, and refused by the homes.
        if self.publisher.try_send(Command::Forget(lease.inbox, lease.seq)).is_err() {
            self.context.metrics.responses_dropped.inc();
        }
    }
}

/// A lease as it is shown to others.
fn shown(lease: &SignedLease) -> Redacted<Bytes> {
    Redacted::new(lease.as_bytes().clone())
}
