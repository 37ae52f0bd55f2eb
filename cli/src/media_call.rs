//! One call with real media: descriptions, candidates, sound and hangup.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use chappe_client::{Call, Event, StepKind, call::EndReason, contact::ContactId};
use chappe_common::{client::RelayKind, keys::NodeId};

use tokio::time::{Instant as TokioInstant, sleep_until, timeout_at};

use crate::{
    call_client::CallClient,
    call_outcome::CallOutcome,
    media::{FRAMES_PER_SECOND, Peer, Report},
};

/// Packets to wait for beyond the requested time: the callee's sound may start 200 ms later.
const MARGIN: u64 = FRAMES_PER_SECOND / 5;
/// How long a connected call may be without a packet of sound before the caller gives up.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after the last packet the caller restarts ICE. ICE itself notices a loss only after more than ten seconds.
const RESTART_AFTER: Duration = Duration::from_secs(2);
/// How long the delivery of the hangup may take.
const HANGUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Calls a contact, and hangs up after `seconds` of sound, whatever the sound is. Media uses the address `ip`.
pub(crate) async fn place_call(
    client: &mut CallClient,
    contact: ContactId,
    ip: IpAddr,
    seconds: u64,
) -> Result<CallOutcome> {
    let peer = Peer::bind(ip).await?;
    let offer = peer.offer().await?;
    let call = client.client().call(contact, offer).await?;
    let media_call = MediaCall::new(client, call.clone(), peer, Some(seconds * FRAMES_PER_SECOND + MARGIN));
    hang_up_on_error(media_call.run().await, &call).await
}

/// Answers a call, and returns when it has ended.
pub(crate) async fn answer_call(client: &mut CallClient, call: Call, offer: &str, ip: IpAddr) -> Result<CallOutcome> {
    let answered = accept_offer_on(offer, ip).await;
    let (peer, answer) = match answered {
        Ok(answered) => answered,
        Err(error) => {
            // Decline, because the call would keep ringing and block other callers.
            let _ = call.decline().await;
            return Err(error);
        }
    };
    call.accept(answer).await?;
    let mut media_call = MediaCall::new(client, call.clone(), peer, None);
    let result = match media_call.exchange_candidates().await {
        Ok(()) => media_call.run().await,
        Err(error) => Err(error),
    };
    hang_up_on_error(result, &call).await
}

async fn accept_offer_on(offer: &str, ip: IpAddr) -> Result<(Peer, String)> {
    let peer = Peer::bind(ip).await?;
    let answer = peer.accept_offer(offer).await?;
    Ok((peer, answer))
}

/// Hangs up after an error, so that the call ends for the other side too.
async fn hang_up_on_error(result: Result<CallOutcome>, call: &Call) -> Result<CallOutcome> {
    if result.is_err() {
        // Ignore the error: the call may have ended already.
        let _ = call.hang_up().await;
    }
    result
}

struct MediaCall<'a> {
    client: &'a mut CallClient,
    call: Call,
    peer: Peer,
    /// Number of packets after which the caller hangs up. `None` for the callee.
    hang_up_after_packets: Option<u64>,
    /// Whether both descriptions are set, and no own offer is pending. Candidates have to wait until then.
    described: bool,
    waiting: Vec<String>,
    connected: bool,
    /// When the last packet came, or media was connected. `None` for the callee, and while media is not connected.
    silent_since: Option<TokioInstant>,
    /// Whether the caller has restarted ICE since the last packet.
    restarted: bool,
    hung_up: bool,
    hangup_delivered: bool,
    offered_at: Option<Instant>,
    outcome: CallOutcome,
}

impl<'a> MediaCall<'a> {
    fn new(client: &'a mut CallClient, call: Call, peer: Peer, hang_up_after_packets: Option<u64>) -> Self {
        let own = client.client().node();
        let outcome = match hang_up_after_packets {
            Some(_) => CallOutcome { caller_node: own, ..CallOutcome::default() },
            None => CallOutcome { callee_node: own, ..CallOutcome::default() },
        };
        Self {
            client,
            call,
            peer,
            hang_up_after_packets,
            described: false,
            waiting: Vec::new(),
            connected: false,
            silent_since: None,
            restarted: false,
            hung_up: false,
            hangup_delivered: false,
            offered_at: None,
            outcome,
        }
    }

    async fn run(mut self) -> Result<CallOutcome> {
        let mut seen = Report::default();
        loop {
            let silence = self.silence_deadline();
            tokio::select! {
                biased;
                event = self.client.next_event() => {
                    let event = event.ok_or_else(|| anyhow!("the client has stopped"))?;
                    if let Some(reason) = self.handle_event(event).await? {
                        self.wait_for_hangup_delivery().await?;
                        return self.finish(reason);
                    }
                }
                () = sleep_until(silence), if self.silent_since.is_some() => self.handle_silence().await?,
                report = self.peer.wait_for(|report| *report != seen) => {
                    let report = report?;
                    let is_silent = report.received == seen.received && report.connected == seen.connected;
                    seen = report;
                    self.handle_report(seen).await?;
                    if self.hang_up_after_packets.is_some() && !is_silent {
                        self.restarted = false;
                        self.silent_since = (seen.connected && !self.hung_up).then(TokioInstant::now);
                    }
                }
            }
        }
    }

    fn may_restart(&self) -> bool {
        !self.restarted && self.peer.report().received > 0
    }

    fn silence_deadline(&self) -> TokioInstant {
        let limit = if self.may_restart() { RESTART_AFTER } else { SILENCE_TIMEOUT };
        self.silent_since.unwrap_or_else(TokioInstant::now) + limit
    }

    async fn handle_silence(&mut self) -> Result<()> {
        if !self.may_restart() {
            bail!("no sound came from the other side for {} seconds", SILENCE_TIMEOUT.as_secs());
        }
        self.restarted = true;
        self.restart_ice().await
    }

    /// After hanging up, waits until the hangup is delivered, so that the other side does not wait for sound.
    async fn wait_for_hangup_delivery(&mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + HANGUP_TIMEOUT;
        while self.hung_up && !self.hangup_delivered {
            let Ok(Some(event)) = timeout_at(deadline, self.client.next_event()).await else { break };
            self.handle_event(event).await?;
        }
        Ok(())
    }

    fn finish(mut self, reason: EndReason) -> Result<CallOutcome> {
        let Report { received, heard, .. } = self.peer.report();
        (self.outcome.received, self.outcome.heard) = (received, heard);
        // A call that another one has replaced goes on in that one.
        let as_planned = match self.hang_up_after_packets {
            Some(_) => self.hung_up,
            None => matches!(reason, EndReason::PeerHungUp | EndReason::Rejoined),
        };
        if !as_planned {
            bail!("the call has ended: {}", reason_text(reason));
        }
        let name = self.client.name();
        let text =
            format!("the call is over; received {received} packets of sound, {heard} with the other side's tone");
        self.client.timeline().add_step_now(&[name], &text);
        if received == 0 {
            bail!("no sound came from the other side");
        }
        Ok(self.outcome)
    }

    async fn handle_event(&mut self, event: Event) -> Result<Option<EndReason>> {
        let id = self.call.id();
        match event {
            Event::CallAnswered { call, answer } if call == id => {
                self.peer.accept_answer(&answer).await?;
                self.exchange_candidates().await?;
            }
            Event::Candidates { call, candidates, .. } if call == id => {
                self.waiting.extend(candidates.into_inner());
                self.take_candidates().await?;
            }
            Event::Renegotiation { call, round, offer, .. } if call == id => self.answer(round, &offer).await?,
            Event::RenegotiationAnswered { call, answer, .. } if call == id => {
                if let Err(error) = self.peer.accept_answer(&answer).await {
                    tracing::warn!(error = format!("{error:#}"), "cannot use the answer to an ICE restart");
                }
                self.described = true;
                self.take_candidates().await?;
            }
            // The answer to the next offer counts.
            Event::RenegotiationUnanswered { call, .. } if call == id => self.described = true,
            Event::CallEnded { call, reason } if call == id => return Ok(Some(reason)),
            Event::Step(step) if step.call == Some(id) => self.handle_step(step.kind, step.at, step.node),
            _ => {}
        }
        Ok(None)
    }

    fn handle_step(&mut self, kind: StepKind, at: Instant, node: NodeId) {
        match kind {
            StepKind::Resolved { peer_node } if self.hang_up_after_packets.is_some() => {
                self.outcome.callee_node = Some(peer_node)
            }
            StepKind::Delivered(kind) => {
                self.outcome.delivered += 1;
                self.hangup_delivered |= kind == RelayKind::CallHangup;
            }
            StepKind::Failed(RelayKind::CallHangup, _) => self.hangup_delivered = true,
            StepKind::Sent(RelayKind::CallOffer) => {
                self.outcome.caller_node = Some(node);
                self.offered_at.get_or_insert(at);
            }
            StepKind::Received(RelayKind::CallAnswer) => {
                let setup = self.offered_at.map(|offered_at| at.saturating_duration_since(offered_at));
                self.outcome.setup = self.outcome.setup.or(setup);
            }
            _ => {}
        }
    }

    async fn exchange_candidates(&mut self) -> Result<()> {
        self.described = true;
        self.call.send_candidates(self.peer.candidates()).await?;
        self.take_candidates().await
    }

    /// Answers an offer of the other side, as of an ICE restart.
    async fn answer(&mut self, round: u32, offer: &str) -> Result<()> {
        let answer = match self.peer.accept_offer(offer).await {
            Ok(answer) => answer,
            Err(error) => {
                // The call goes on as it was.
                tracing::warn!(error = format!("{error:#}"), "cannot answer the other side's offer");
                return Ok(());
            }
        };
        self.client.timeline().add_step_now(&["peer", self.client.name()], "renegotiates, as for an ICE restart");
        // An error means that the other side has sent a newer offer, or has hung up.
        let _ = self.call.answer_renegotiation(round, answer).await;
        self.described = true;
        self.take_candidates().await
    }

    /// Offers an ICE restart, unless an offer is pending. It contains this side's candidate.
    async fn restart_ice(&mut self) -> Result<()> {
        if !self.described {
            return Ok(());
        }
        let offer = self.peer.restart_ice().await?;
        match self.call.renegotiate(offer).await {
            Ok(_) => {
                // Candidates wait for the answer again.
                self.described = false;
                self.client.timeline().add_step_now(&[self.client.name()], "restarts ICE");
            }
            Err(error) => tracing::debug!(%error, "ICE was not restarted"),
        }
        Ok(())
    }

    async fn take_candidates(&mut self) -> Result<()> {
        if self.described {
            for candidate in std::mem::take(&mut self.waiting) {
                self.peer.add_candidate(&candidate).await?;
            }
        }
        Ok(())
    }

    async fn handle_report(&mut self, report: Report) -> Result<()> {
        if report.connected != self.connected {
            self.connected = report.connected;
            if self.hung_up {
                return Ok(());
            }
            let name = self.client.name();
            if report.connected {
                self.client
                    .timeline()
                    .add_step_now(&[name, "peer"], "media is connected directly, not through nodes (DTLS, SRTP)");
                self.call.media_up().await?;
            } else {
                self.client.timeline().add_step_now(&[name], "media is lost");
                self.call.media_down().await?;
                // One side is enough.
                if self.hang_up_after_packets.is_some() && !self.restarted {
                    self.restart_ice().await?;
                }
            }
        }
        if !self.hung_up
            && self.hang_up_after_packets.is_some_and(|hang_up_after_packets| report.received >= hang_up_after_packets)
        {
            self.hung_up = true;
            self.call.hang_up().await?;
        }
        Ok(())
    }
}

/// The reason as text for people.
const fn reason_text(reason: EndReason) -> &'static str {
    match reason {
        EndReason::HungUp => "this side hung up",
        EndReason::PeerHungUp => "the other side hung up",
        EndReason::Declined => "the other side declined",
        EndReason::Busy => "the other side is in another call",
        EndReason::NoAnswer => "nobody answered",
        EndReason::Offline => "the contact is not connected anywhere",
        EndReason::NotConnected => "media did not connect",
        EndReason::Lost => "media was lost and did not come back",
        EndReason::Glare => "both called at once",
        EndReason::Rejoined => "the other side continues in a new call",
        EndReason::Shutdown => "the client was stopped",
    }
}
