//! Judging the other side's first words: its clock, its record, and whether it is where it says.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use chappe_common::{
    keys::NodeId,
    record::{MAX_CLOCK_SKEW, NodeRecord, SignedRecord},
    signed::Signed,
    time::UnixTime,
};
use tokio::sync::oneshot;

use super::{Links, link::CloseReason};
use crate::{
    membership::{Greeting, Verdict, admission::Refusal, event::Event},
    placement::Network,
};

/// How long a dial-back may take; less than the other side waits for its outcome.
const DIAL_BACK_WAIT: Duration = Duration::from_secs(2);

/// What the other side's hello holds.
pub(super) struct PeerHello {
    /// The signed record.
    pub(super) record: Bytes,
    /// The ticket.
    pub(super) ticket: Option<Bytes>,
    /// The time by its clock.
    pub(super) clock: UnixTime,
}

impl Links {
    /// Has membership judge what a peer has shown, and gives its epoch back.
    pub(super) async fn check_admission(
        &self,
        peer: NodeId,
        from: SocketAddr,
        PeerHello { record, ticket, clock }: PeerHello,
    ) -> Result<u64, Refusal> {
        // One of the two would take the other's records for expired or from the future: both see it now, and alike.
        let ours = self.context.clock.now();
        if ours.saturating_since(clock).max(clock.saturating_since(ours)) > MAX_CLOCK_SKEW {
            return Err(Refusal::Clock);
        }
        let record: SignedRecord = Signed::<NodeRecord>::decode(record).map_err(|_| Refusal::Record)?;
        // Whoever is dialled by an old record may have moved on to new addresses, but not be another node.
        if record.node != peer {
            return Err(Refusal::Record);
        }
        let epoch = record.epoch;
        // Whoever has left before is in no record.
        let is_new_run = self.members.records.find(&peer, ours).is_none_or(|known| known.epoch < epoch);
        if is_new_run && self.new_runs.check_key(&peer).is_err() {
            return Err(Refusal::Full);
        }
        // Whoever dialled: its address was validated by a Retry, or by this node's own dial. A dial-back would go from this
        // node's one socket to that same address, and show nothing else.
        let reached = record.quic_addrs.first().is_some_and(|first| is_same(*first, from));
        let greeting = Greeting { record, ticket };
        match self.ask_membership(greeting.clone(), reached).await? {
            Verdict::Welcome => return Ok(epoch),
            Verdict::Refused(refusal) => return Err(refusal),
            Verdict::DialBack => {}
        }
        self.dial_back(&greeting.record, from).await?;
        match self.ask_membership(greeting, true).await? {
            Verdict::Welcome => Ok(epoch),
            Verdict::Refused(refusal) => Err(refusal),
            // It was reached just now.
            Verdict::DialBack => Err(Refusal::Unreachable),
        }
    }

    /// Sees the node's key proven at the first address of its record.
    async fn dial_back(&self, record: &NodeRecord, from: SocketAddr) -> Result<(), Refusal> {
        let first = *record.quic_addrs.first().ok_or(Refusal::Record)?;
        let network = Network::unless_exempt(&first, &self.context.config.federation.exempt);
        let may_dial =
            network.is_none_or(|network| network == Network::of(&from) || self.dial_backs.check_key(&network).is_ok());
        let Ok(_place) = self.dialling_back.try_acquire() else { return Err(Refusal::Full) };
        if !may_dial {
            return Err(Refusal::Full);
        }
        match tokio::time::timeout(DIAL_BACK_WAIT, self.handshake(record.node, &[first])).await {
            Ok(Ok(connection)) => {
                CloseReason::Seen.close(&connection);
                Ok(())
            }
            _ => Err(Refusal::Unreachable),
        }
    }

    async fn ask_membership(&self, greeting: Greeting, reached: bool) -> Result<Verdict, Refusal> {
        let (reply, verdict) = oneshot::channel();
        self.membership.send(Event::Greet { greeting, reached, reply }).await.map_err(|_| Refusal::Full)?;
        verdict.await.map_err(|_| Refusal::Full)
    }
}

fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
}
