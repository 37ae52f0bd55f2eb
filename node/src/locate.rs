//! Asking the homes: where is this inbox, where is this code, and keep these for me.
//!
//! All homes are asked at once. One that is silent delays an answer by at most its hedge, and one that lies can deny
//! a lease but not point it elsewhere: leases are signed by the inbox.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use bytes::Bytes;
use chappe_common::{
    code::PairingCode,
    keys::NodeId,
    lease::{Inbox, Lease, SignedLease},
    signed::Signed,
    time::UnixTime,
};
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until};

use crate::{
    core::Core,
    dispatch,
    federation::{
        frame::{LeasePut, MAX_BATCH, Request, Response},
        links,
    },
    homes::{Claim, CodeHolder},
    placement::Tag,
    session::SessionId,
};

/// Asks one node, which may be this one; `None` where it did not answer in time.
pub(crate) async fn ask(core: &Arc<Core>, node: NodeId, request: Request) -> Option<Response> {
    if node == core.me {
        return Some(dispatch::answer(core, core.me, request));
    }
    let wait = core.config.times.lookup;
    let asked = async { links::connect(core, node).await.ok()?.request(request, wait).await };
    tokio::time::timeout(wait, asked).await.ok().flatten()
}

/// The newest valid lease of an inbox that its homes know of.
pub(crate) async fn find_lease(core: &Arc<Core>, inbox: Inbox) -> Option<SignedLease> {
    let homes = core.view.load().homes(Tag::of_inbox(&inbox));
    let answers = homes.iter().map(|home| ask(core, home, Request::FindLease(inbox)));
    let newest = first_and_hedge(core, answers, core.local.lease(&inbox), |newest, response| {
        if let Response::Lease(Some(bytes)) = response
            && let Some(lease) = check_lease(core, inbox, bytes)
            && newest.as_ref().is_none_or(|newest: &SignedLease| newest.seq < lease.seq)
        {
            *newest = Some(lease);
        }
    })
    .await?;
    core.found.insert(inbox, newest.clone());
    Some(newest)
}

/// A lease that was found before, if it still counts.
pub(crate) fn found_lease(core: &Core, inbox: &Inbox) -> Option<SignedLease> {
    let lease = core.found.get(inbox)?;
    let counts = lease.expires_at > UnixTime::from(SystemTime::now()) && core.view.load().contains(&lease.node);
    if !counts {
        core.found.remove(inbox);
    }
    counts.then_some(lease)
}

fn check_lease(core: &Core, inbox: Inbox, bytes: Bytes) -> Option<SignedLease> {
    let lease = Signed::<Lease>::decode(bytes).ok()?;
    let counts = lease.inbox == inbox
        && lease.expires_at > UnixTime::from(SystemTime::now())
        && core.view.load().contains(&lease.node);
    counts.then_some(lease)
}

/// Where a code is registered.
pub(crate) async fn find_code(core: &Arc<Core>, code: PairingCode) -> Option<CodeHolder> {
    let homes = core.view.load().homes(Tag::of_code(&code));
    let answers = homes.iter().map(|home| ask(core, home, Request::FindCode(code)));
    first_and_hedge(core, answers, None, |found, response| {
        if let Response::Code(Some(holder)) = response
            && core.view.load().contains(&holder.node)
        {
            found.get_or_insert(holder);
        }
    })
    .await
}

/// Takes answers until all are there, or until the first find is older than the hedge.
async fn first_and_hedge<T>(
    core: &Core,
    answers: impl Iterator<Item = impl Future<Output = Option<Response>>>,
    mut found: Option<T>,
    mut take: impl FnMut(&mut Option<T>, Response),
) -> Option<T> {
    let mut answers: FuturesUnordered<_> = answers.collect();
    let mut deadline = Instant::now() + core.config.times.lookup;
    let mut hedged = false;
    loop {
        if found.is_some() && !hedged {
            hedged = true;
            deadline = deadline.min(Instant::now() + core.config.times.lookup_hedge);
        }
        tokio::select! {
            biased;
            answer = answers.next() => match answer {
                Some(Some(response)) => take(&mut found, response),
                Some(None) => {}
                None => return found,
            },
            () = sleep_until(deadline) => return found,
        }
    }
}

/// Why a code is not the session's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimError {
    /// Another session has it.
    Taken,
    /// No home answered, or none has room.
    Unavailable,
}

/// Claims a code for a session at the code's homes. One home that knows another holder is enough to refuse: two
/// clients that claim at once may both be refused, and both take another code.
pub(crate) async fn claim_code(core: &Arc<Core>, code: PairingCode, session: SessionId) -> Result<(), ClaimError> {
    let homes = core.view.load().homes(Tag::of_code(&code));
    let claims = homes.iter().map(|home| ask(core, home, Request::ClaimCodes(vec![(code, session)])));
    let mut granted = false;
    let mut taken = false;
    for answer in join_all(claims).await {
        match answer {
            Some(Response::Codes(claims)) if claims.first() == Some(&Claim::Granted) => granted = true,
            Some(Response::Codes(claims)) if claims.first() == Some(&Claim::Taken) => taken = true,
            _ => {}
        }
    }
    if granted && !taken {
        return Ok(());
    }
    for home in homes.iter() {
        ask(core, home, Request::DropCodes(vec![(code, session)])).await;
    }
    Err(if taken { ClaimError::Taken } else { ClaimError::Unavailable })
}

/// Registers leases with their homes. Gives back the indices of those of which a home knows a newer one.
pub(crate) async fn put_leases(core: &Arc<Core>, leases: &[SignedLease]) -> Vec<usize> {
    let mut by_home: HashMap<NodeId, Vec<usize>> = HashMap::new();
    let view = core.view.load_full();
    for (index, lease) in leases.iter().enumerate() {
        for home in view.homes(Tag::of_inbox(&lease.inbox)).iter() {
            by_home.entry(home).or_default().push(index);
        }
    }
    let puts = by_home.into_iter().flat_map(|(home, indices)| {
        let batches: Vec<_> = indices.chunks(MAX_BATCH).map(<[usize]>::to_vec).collect();
        batches.into_iter().map(move |batch| put_batch(core, home, leases, batch))
    });
    let mut stale = join_all(puts).await.concat();
    stale.sort_unstable();
    stale.dedup();
    stale
}

/// Registers some of `leases` with one home. Gives back the indices of those of which it knows a newer one.
pub(crate) async fn put_batch(core: &Arc<Core>, home: NodeId, leases: &[SignedLease], batch: Vec<usize>) -> Vec<usize> {
    let bytes = batch.iter().map(|index| leases[*index].as_bytes().clone()).collect();
    let Some(Response::Leases(puts)) = ask(core, home, Request::PutLeases(bytes)).await else {
        core.metrics.homes_silent.inc();
        return Vec::new();
    };
    let mut stale = Vec::new();
    for (index, put) in batch.into_iter().zip(puts) {
        // A home can't invent the newer lease: its inbox has signed it.
        if let LeasePut::Stale(newer) = put
            && Signed::<Lease>::decode(newer)
                .is_ok_and(|newer| newer.inbox == leases[index].inbox && newer.seq > leases[index].seq)
        {
            stale.push(index);
        }
    }
    stale
}
