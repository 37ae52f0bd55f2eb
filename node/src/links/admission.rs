//! Checking a peer's hello: its clock, its record, and whether it is reachable where the record says.

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
    membership::{Greeting, Verdict, admission::AdmissionRefusal, event::Event},
    placement::Network,
};

/// Time limit for a dial-back. Less than the peer waits for its result.
const DIAL_BACK_WAIT: Duration = Duration::from_secs(2);

/// The content of a peer's hello.
pub(super) struct PeerHello {
    pub(super) record: Bytes,
    pub(super) ticket: Option<Bytes>,
    /// The peer's clock.
    pub(super) clock: UnixTime,
}

impl Links {
    /// Decides whether to admit a peer. Returns its epoch.
    pub(super) async fn check_admission(
        &self,
        peer: NodeId,
        from: SocketAddr,
        PeerHello { record, ticket, clock }: PeerHello,
    ) -> Result<u64, AdmissionRefusal> {
        // With a larger difference, one side would treat the other's records as expired or from the future. Both sides
        // detect that here.
        let ours = self.context.clock.now();
        if ours.saturating_since(clock).max(clock.saturating_since(ours)) > MAX_CLOCK_SKEW {
            return Err(AdmissionRefusal::Clock);
        }
        let record: SignedRecord = Signed::<NodeRecord>::decode(record).map_err(|_| AdmissionRefusal::Record)?;
        // A node may have moved since the record by which it was dialled, but it must be the same node.
        if record.node != peer {
            return Err(AdmissionRefusal::Record);
        }
        let epoch = record.epoch;
        // A node that has left has no record.
        let is_new_run = self.members.records.find(&peer, ours).is_none_or(|known| known.epoch < epoch);
        if is_new_run && self.new_runs.check_key(&peer).is_err() {
            return Err(AdmissionRefusal::Full);
        }
        // The peer's address is already validated, by a Retry or by this node's own dial. If it equals the record's
        // first address, a dial-back would prove nothing more.
        let reached = record.quic_addrs.first().is_some_and(|first| is_same(*first, from));
        let greeting = Greeting { record, ticket };
        match self.request_verdict(greeting.clone(), reached).await? {
            Verdict::Welcome => return Ok(epoch),
            Verdict::Refused(refusal) => return Err(refusal),
            Verdict::DialBack => {}
        }
        self.dial_back(&greeting.record, from).await?;
        match self.request_verdict(greeting, true).await? {
            Verdict::Welcome => Ok(epoch),
            Verdict::Refused(refusal) => Err(refusal),
            // The dial-back has just succeeded.
            Verdict::DialBack => Err(AdmissionRefusal::Unreachable),
        }
    }

    /// Verifies the node's key at the first address of its record.
    async fn dial_back(&self, record: &NodeRecord, from: SocketAddr) -> Result<(), AdmissionRefusal> {
        let first = *record.quic_addrs.first().ok_or(AdmissionRefusal::Record)?;
        let network = Network::unless_exempt(&first, &self.context.config.federation.exempt);
        let may_dial =
            network.is_none_or(|network| network == Network::of(&from) || self.dial_backs.check_key(&network).is_ok());
        let Ok(_permit) = self.dialling_back.try_acquire() else { return Err(AdmissionRefusal::Full) };
        if !may_dial {
            return Err(AdmissionRefusal::Full);
        }
        match tokio::time::timeout(DIAL_BACK_WAIT, self.handshake(record.node, &[first])).await {
            Ok(Ok(connection)) => {
                CloseReason::Seen.close(&connection);
                Ok(())
            }
            _ => Err(AdmissionRefusal::Unreachable),
        }
    }

    async fn request_verdict(&self, greeting: Greeting, reached: bool) -> Result<Verdict, AdmissionRefusal> {
        let (reply, verdict) = oneshot::channel();
        self.membership.send(Event::Greet { greeting, reached, reply }).await.map_err(|_| AdmissionRefusal::Full)?;
        verdict.await.map_err(|_| AdmissionRefusal::Full)
    }
}

fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
}
