//! Accepting links, and what one that is refused is told.

use std::{sync::Arc, time::Duration};

use chappe_common::link_tls;
use quinn::Incoming;

use super::{
    judge::{Shown, judge},
    up,
};
use crate::{
    core::Core,
    federation::{
        hello::{self, HELLO_STREAM, Hello},
        link::CloseReason,
    },
    membership::admission::Refusal,
    placement::Network,
};

/// How long one that was refused may take to read why: it holds a place that others want.
const FAREWELL_WAIT: Duration = Duration::from_secs(1);
/// How long an accepted connection may take to show its record.
const HELLO_WAIT: Duration = Duration::from_secs(5);

/// Accepts links until the endpoint is closed.
pub(crate) async fn accept(core: Arc<Core>) {
    while let Some(incoming) = core.links.endpoint.accept().await {
        if !incoming.remote_address_validated() {
            // An unvalidated address gets a Retry, which costs no state. It fails only where one was sent already.
            let _ = incoming.retry();
            continue;
        }
        let network = Network::unless_exempt(&incoming.remote_address(), &core.config.federation.exempt);
        let may_come = network.is_none_or(|network| core.links.handshakes.check_key(&network).is_ok());
        let Some(place) = may_come.then(|| core.links.incoming.try_take(network)).flatten() else {
            core.metrics.handshakes_refused.inc();
            incoming.refuse();
            continue;
        };
        let core = core.clone();
        core.tasks.clone().spawn(async move {
            if tokio::time::timeout(HELLO_WAIT, accept_one(&core, incoming)).await.is_err() {
                core.metrics.handshakes_refused.inc();
            }
            drop(place);
        });
    }
}

async fn accept_one(core: &Arc<Core>, incoming: Incoming) {
    let Ok(connection) = incoming.await else { return };
    let Some(peer) = connection.peer_identity().and_then(|identity| link_tls::peer_id_of_any(&*identity)) else {
        CloseReason::Protocol.close(&connection);
        return;
    };
    // Who only wanted to see this node's key proven closes now, and this ends.
    let Ok((mut send, mut receive)) = connection.accept_bi().await else { return };
    let mut first = [0];
    if receive.read_exact(&mut first).await.is_err() || first[0] != HELLO_STREAM {
        core.metrics.link_protocol_errors.inc();
        CloseReason::Protocol.close(&connection);
        return;
    }
    let refusal = match hello::receive(&mut receive).await {
        Ok(Hello::Record { record, ticket, clock }) => {
            match judge(core, peer, connection.remote_address(), Shown { record, ticket, clock }).await {
                Ok(epoch) if core.links.gives_way(core.me, peer, epoch) => Refusal::Duplicate,
                Ok(epoch) => {
                    // Strangers have nothing to say about the time.
                    core.note_clock(peer, clock);
                    if hello::send(&mut send, &core.hello()).await.is_ok() {
                        up(core, peer, epoch, false, connection);
                    }
                    return;
                }
                Err(refusal) => refusal,
            }
        }
        _ => Refusal::Record,
    };
    core.metrics.handshakes_refused.inc();
    tracing::debug!(peer = peer.short(), %refusal, "refused a link");
    let _ = hello::send(&mut send, &Hello::Refused { refusal, clock: core.clock.now() }).await;
    // The reason has to arrive before the connection ends; the peer closes when it has read it.
    let _ = tokio::time::timeout(FAREWELL_WAIT, connection.closed()).await;
}
