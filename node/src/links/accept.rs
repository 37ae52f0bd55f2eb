//! Accepting links.

use std::{sync::Arc, time::Duration};

use chappe_common::link_tls;
use quinn::Incoming;
use tokio::sync::mpsc::error::TrySendError;

use super::{
    Links,
    admission::PeerHello,
    hello::{self, HELLO_STREAM, Hello},
    link::CloseReason,
    probe::{CHECK_STREAM, CheckAsked},
};
use crate::{
    limits::connection_limiter::Permit, membership::admission::AdmissionRefusal, placement::Network,
    reachability::message::CheckRefusal,
};

/// How long a refused peer may take to read the reason. It occupies a handshake slot meanwhile.
const FAREWELL_WAIT: Duration = Duration::from_secs(1);
/// Time limit for an incoming handshake and hello.
const HELLO_WAIT: Duration = Duration::from_secs(5);

impl Links {
    /// Accepts links until the endpoint is closed.
    pub(crate) async fn accept(self: Arc<Self>) {
        while let Some(incoming) = self.endpoint.accept().await {
            if !incoming.remote_address_validated() {
                // A Retry validates the address and keeps no state here. It fails only if one was already sent.
                let _ = incoming.retry();
                continue;
            }
            let network = Network::unless_exempt(&incoming.remote_address(), &self.context.config.federation.exempt);
            let is_within_rate = network.is_none_or(|network| self.handshakes.check_key(&network).is_ok());
            let Some(permit) = is_within_rate.then(|| self.incoming.try_take(network)).flatten() else {
                self.context.metrics.handshakes_refused.inc();
                incoming.refuse();
                continue;
            };
            let links = self.clone();
            self.context.tasks.spawn(async move {
                if tokio::time::timeout(HELLO_WAIT, links.accept_one(incoming, permit)).await.is_err() {
                    links.context.metrics.handshakes_refused.inc();
                }
            });
        }
    }

    /// Holds the permit until the connection is a link, or has ended.
    async fn accept_one(self: &Arc<Self>, incoming: Incoming, permit: Permit<Network>) {
        let Ok(connection) = incoming.await else { return };
        let Some(peer) = connection.peer_identity().and_then(|identity| link_tls::peer_id_of_any(&*identity)) else {
            CloseReason::Protocol.close(&connection);
            return;
        };
        // A peer that only verifies this node's key closes the connection now.
        let Ok((mut send, mut receive)) = connection.accept_bi().await else { return };
        let mut first = [0];
        let is_read = receive.read_exact(&mut first).await.is_ok();
        if is_read && first[0] == CHECK_STREAM {
            let asked = CheckAsked { asker: peer, connection, send, receive, _permit: permit };
            if let Err(TrySendError::Full(asked) | TrySendError::Closed(asked)) = self.checks.try_send(asked) {
                self.context.metrics.check_refused(CheckRefusal::Busy);
                CloseReason::Refused.close(&asked.connection);
            }
            return;
        }
        if !is_read || first[0] != HELLO_STREAM {
            self.context.metrics.link_protocol_errors.inc();
            CloseReason::Protocol.close(&connection);
            return;
        }
        let refusal = match hello::receive(&mut receive).await {
            Ok(Hello::Record { record, ticket, clock }) => {
                match self.check_admission(peer, connection.remote_address(), PeerHello { record, ticket, clock }).await
                {
                    Ok(epoch) if self.must_give_way(peer, epoch) => AdmissionRefusal::Duplicate,
                    Ok(epoch) => {
                        // Only admitted nodes count as witnesses of the time.
                        self.health.note_clock(peer, clock);
                        if hello::send(&mut send, &self.hello()).await.is_ok() {
                            self.link_up(peer, epoch, false, connection).await;
                        }
                        return;
                    }
                    Err(refusal) => refusal,
                }
            }
            _ => AdmissionRefusal::Record,
        };
        self.context.metrics.handshakes_refused.inc();
        tracing::debug!(peer = peer.short(), %refusal, "refused a link");
        let _ = hello::send(&mut send, &Hello::Refused { refusal, clock: self.context.clock.now() }).await;
        // Wait for the peer to read the reason and close.
        let _ = tokio::time::timeout(FAREWELL_WAIT, connection.closed()).await;
    }
}
