//! What a node answers as a home, and what homes tell each other of leases.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use chappe_common::{
    code_claim::CodeClaim,
    keys::NodeId,
    lease::{Lease, SignedLease},
    redacted::Redacted,
    signed::Unverified,
};

use crate::{
    core::Core,
    federation::link::Link,
    leases::table::{Refused, Registrant},
    publish::command::Command,
    wire::{
        breach::Breach,
        frame::{CodeRegistration, Header, LeasePut, MAX_BATCH, Request, Response},
        ids::{Claim, CodeHolder},
    },
};

/// Answers a question of another node.
///
/// # Errors
/// The link has to be closed.
pub(crate) async fn answer_node(core: &Arc<Core>, link: &Link, id: u64, request: Request) -> Result<(), Breach> {
    // The link's first words may be older than what the peer has signed since.
    let signed = core.records.find(&link.peer(), core.clock.now()).map_or(0, |record| record.epoch);
    let from = Registrant { node: link.peer(), epoch: link.epoch().max(signed) };
    let response = answer(core, from, request).await.ok_or(Breach::Lease)?;
    respond(core, link, id, response);
    Ok(())
}

/// Refuses a question for which there is no time.
pub(crate) fn refuse(core: &Core, link: &Link, id: u64) {
    core.metrics.requests_refused.inc();
    respond(core, link, id, Response::Refused);
}

fn respond(core: &Core, link: &Link, id: u64, response: Response) {
    // A full lane costs the asker its answer; it asks other homes too.
    if link.try_control(&Header::Response { id, response }).is_err() {
        core.metrics.replies_dropped.inc();
    }
}

/// Answers a question as a home. `from` is the node whose key the link proves, or this node itself. `None`: it shows what no
/// node shows that keeps to the protocol.
pub(crate) async fn answer(core: &Arc<Core>, from: Registrant, request: Request) -> Option<Response> {
    let now = Instant::now();
    Some(match request {
        Request::PutLeases(leases) if leases.len() <= MAX_BATCH => {
            let mut puts = Vec::new();
            for lease in leases {
                puts.push(put_lease(core, from, lease.into_inner()).await?);
            }
            Response::Leases(puts)
        }
        Request::DropLeases(leases) if leases.len() <= MAX_BATCH => {
            let mut homes = core.homes();
            for (inbox, seq) in leases {
                homes.leases.withdraw(from.node, &inbox, seq);
            }
            Response::Done
        }
        Request::FindLease(address) => {
            let homes = core.homes();
            let lease = homes.leases.find(now, &address.inbox).filter(|lease| lease.admits(&address));
            Response::Lease(lease.map(|lease| shown(lease)))
        }
        Request::ClaimCodes(codes) if codes.len() <= MAX_BATCH => {
            let mut claims = Vec::new();
            for registration in codes {
                claims.push(claim_code(core, from, registration).await?);
            }
            Response::Codes(claims)
        }
        Request::DropCodes(codes) if codes.len() <= MAX_BATCH => {
            let mut homes = core.homes();
            for (code, session) in codes {
                homes.drop_code(&code, CodeHolder { node: from.node, session });
            }
            Response::Done
        }
        Request::FindCode(code) => Response::Code(core.homes().code(now, &code)),
        _ => {
            core.metrics.link_protocol_errors.inc();
            Response::Refused
        }
    })
}

/// Keeps a lease. Its signature is looked at last: one that is known has been verified before, as a lease is put again and
/// again while its client is there, and one that would be refused needs none. `None`: it does not verify, which its node has
/// checked before.
async fn put_lease(core: &Arc<Core>, from: Registrant, bytes: Bytes) -> Option<LeasePut> {
    let (now, clock) = (Instant::now(), core.clock.now());
    let lease = Unverified::<Lease>::decode(bytes).ok()?;
    let Lease { inbox, access, .. } = *lease.value();
    let known = {
        let homes = core.homes();
        match homes.leases.refuses(now, clock, from, lease.value()) {
            // A node that has never seen a lease of that inbox can't make up the hash in it, and is shown none.
            Some(Refused::Stale(newer)) if newer.access != access => return Some(not_kept(core, Refused::Invalid)),
            // A newer one is shown to nobody but who has a lease of that inbox: its signature is to be checked first.
            Some(Refused::Stale(_)) => {}
            Some(refused) => return Some(not_kept(core, refused)),
            None => {}
        }
        homes.leases.known(&inbox).cloned()
    };
    let known = known.or_else(|| core.local.lease(&inbox));
    let lease = match known.filter(|known| lease.is(known)) {
        Some(known) => known,
        None if core.new_leases.check_key(&from.node).is_err() => return Some(not_kept(core, Refused::Full)),
        None => Arc::new(core.home_turns.take(|| lease.verify()).await.ok()?),
    };
    let put = core.homes().leases.put(now, clock, from, lease.clone());
    Some(match put {
        Ok(former) => {
            if let Some(former) = former {
                tell_displaced(core, former, &lease);
            }
            LeasePut::Kept
        }
        Err(refused) => not_kept(core, refused),
    })
}

/// Gives a code to a session. A client's claim is verified only where it would take the code from another session. `None`:
/// it does not verify, which its node has checked before.
async fn claim_code(core: &Arc<Core>, from: Registrant, registration: CodeRegistration) -> Option<Claim> {
    let CodeRegistration { code, session, claim } = registration;
    let (now, holder) = (Instant::now(), CodeHolder { node: from.node, session });
    let claim = match claim {
        Some(bytes) => Some(Unverified::<CodeClaim>::decode(bytes.into_inner()).ok()?),
        None => None,
    };
    let Some(claim) = claim else {
        return Some(core.homes().claim_code(now, code, holder, from.epoch, None, false));
    };
    if !core.homes().takes_back(now, code, holder, claim.value()) {
        return Some(core.homes().claim_code(now, code, holder, from.epoch, Some(claim.value()), false));
    }
    if core.new_leases.check_key(&from.node).is_err() {
        return Some(Claim::Full);
    }
    let claim = core.home_turns.take(|| claim.verify()).await.ok()?;
    Some(core.homes().claim_code(now, code, holder, from.epoch, Some(&*claim), true))
}

fn not_kept(core: &Core, refused: Refused) -> LeasePut {
    match refused {
        Refused::Stale(newer) => LeasePut::Stale(shown(&newer)),
        Refused::Invalid | Refused::Full => {
            core.metrics.leases_refused.inc();
            LeasePut::Refused
        }
    }
}

/// A lease as it is shown to others.
fn shown(lease: &SignedLease) -> Redacted<Bytes> {
    Redacted::new(lease.as_bytes().clone())
}

/// Tells the edge of an older lease that a newer one is kept.
fn tell_displaced(core: &Core, former: NodeId, lease: &SignedLease) {
    if former == core.me {
        displace(core, lease);
    } else if let Some(link) = core.links.find(&former) {
        // If it is lost, the former edge learns it when it registers its lease again.
        if link.try_control(&Header::Displaced { lease: shown(lease) }).is_err() {
            core.metrics.notes_dropped.inc();
        }
    }
}

/// Takes another home's word that an inbox is elsewhere now. Nobody but the inbox's key can have signed it.
///
/// # Errors
/// It does not verify, which that home has checked before.
pub(crate) fn displaced(core: &Core, bytes: Bytes) -> Result<(), Breach> {
    let lease = Unverified::<Lease>::decode(bytes).map_err(|_| Breach::Lease)?;
    let Lease { inbox, seq, .. } = *lease.value();
    // Its session has ended meanwhile, or never was here: then nobody needs to know whether it is true.
    if core.local.lease(&inbox).is_none_or(|own| own.seq >= seq) {
        core.metrics.answers_late.inc();
        return Ok(());
    }
    displace(core, &lease.verify().map_err(|_| Breach::Lease)?);
    Ok(())
}

fn displace(core: &Core, lease: &SignedLease) {
    if lease.node != core.me {
        core.found.insert(lease.inbox, lease.clone());
    }
    core.local.displace(lease);
    // A full queue costs that the older lease is registered once more, and refused by the homes.
    if core.publisher.try_send(Command::Forget(lease.inbox, lease.seq)).is_err() {
        core.metrics.replies_dropped.inc();
    }
}
