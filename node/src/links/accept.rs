//! Accepting links, and what one that is refused is told.

use std::{sync::Arc, time::Duration};

use chappe_common::link_tls;
use quinn::Incoming;

use super::{
    Links,
    admission::PeerHello,
    hello::{self, HELLO_STREAM, Hello},
    link::CloseReason,
};
use crate::{membership::admission::Refusal, placement::Network};

/// How long one that was refused may take to read why: it holds a place that others want.
const FAREWELL_WAIT: Duration = Duration::from_secs(1);
/// How long an accepted connection may take to show its record.
const HELLO_WAIT: Duration = Duration::from_secs(5);

impl Links {
    /// Accepts links until the endpoint is closed.
    pub(crate) async fn accept(self: Arc<Self>) {
        while let Some(incoming) = self.endpoint.accept().await {
            if !incoming.remote_address_validated() {
                // An unvalidated address gets a Retry, which costs no state. It fails only where one was sent already.
                let _ = incoming.retry();
                continue;
            }
            let network = Network::unless_exempt(&incoming.remote_address(), &self.context.config.federation.exempt);
            let may_come = network.is_none_or(|network| self.handshakes.check_key(&network).is_ok());
            let Some(place) = may_come.then(|| self.incoming.try_take(network)).flatten() else {
                self.context.metrics.handshakes_refused.inc();
                incoming.refuse();
                continue;
            };
            let links = self.clone();
            self.context.tasks.spawn(async move {
                if tokio::time::timeout(HELLO_WAIT, links.accept_one(incoming)).await.is_err() {
                    links.context.metrics.handshakes_refused.inc();
                }
                drop(place);
            });
        }
    }

    async fn accept_one(self: &Arc<Self>, incoming: Incoming) {
        let Ok(connection) = incoming.await else { return };
        let Some(peer) = connection.peer_identity().and_then(|identity| link_tls::peer_id_of_any(&*identity)) else {
            CloseReason::Protocol.close(&connection);
            return;
        };
        // Who only wanted to see this node's key proven closes now, and this ends.
        let Ok((mut send, mut receive)) = connection.accept_bi().await else { return };
        let mut first = [0];
        if receive.read_exact(&mut first).await.is_err() || first[0] != HELLO_STREAM {
            self.context.metrics.link_protocol_errors.inc();
            CloseReason::Protocol.close(&connection);
            return;
        }
        let refusal = match hello::receive(&mut receive).await {
            Ok(Hello::Record { record, ticket, clock }) => {
                match self.check_admission(peer, connection.remote_address(), PeerHello { record, ticket, clock }).await
                {
                    Ok(epoch) if self.gives_way(peer, epoch) => Refusal::Duplicate,
                    Ok(epoch) => {
                        // Strangers have nothing to say about the time.
                        self.health.note_clock(peer, clock);
                        if hello::send(&mut send, &self.hello()).await.is_ok() {
                            self.link_up(peer, epoch, false, connection).await;
                        }
                        return;
                    }
                    Err(refusal) => refusal,
                }
            }
            _ => Refusal::Record,
        };
        self.context.metrics.handshakes_refused.inc();
        tracing::debug!(peer = peer.short(), %refusal, "refused a link");
        let _ = hello::send(&mut send, &Hello::Refused { refusal, clock: self.context.clock.now() }).await;
        // The reason has to arrive before the connection ends; the peer closes when it has read it.
        let _ = tokio::time::timeout(FAREWELL_WAIT, connection.closed()).await;
    }
}
