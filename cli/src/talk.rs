//! One call, with real media: the offer or the answer, candidates, sound, and the end.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use chappe_client::{Call, Event, StepKind, call::EndReason, contact::ContactId};
use chappe_common::{client::RelayKind, keys::NodeId};

use serde::Serialize;
use tokio::time::timeout_at;

use crate::{
    media::{FRAMES_PER_SECOND, Peer, Report},
    output::Output,
    party::Party,
};

/// Heard beyond what was asked for, before the caller hangs up: the callee's sound started up to 200 ms later.
const MARGIN: u64 = FRAMES_PER_SECOND / 5;
/// How long the end of a call may take to reach the other side.
const GOODBYE: Duration = Duration::from_secs(2);

/// What a call came to, seen from one side or both.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    /// Where the caller was connected; the callee is not told.
    pub(crate) caller_node: Option<NodeId>,
    /// Where the callee was connected.
    pub(crate) callee_node: Option<NodeId>,
    /// Messages that were handed over.
    pub(crate) delivered: u64,
    /// From the offer that was sent to the answer that came.
    pub(crate) setup: Option<Duration>,
    /// Audio packets in which the other side's tone was heard.
    pub(crate) heard: u64,
}

impl Outcome {
    /// What both know together. The sound is that of the direction in which less came through.
    pub(crate) fn of_both(caller: &Self, callee: &Self) -> Self {
        Self {
            caller_node: caller.caller_node,
            callee_node: callee.callee_node,
            delivered: caller.delivered + callee.delivered,
            setup: caller.setup,
            heard: caller.heard.min(callee.heard),
        }
    }
}

/// The last line of a call.
#[derive(Debug, Serialize)]
pub(crate) struct CallLine {
    event: &'static str,
    ok: bool,
    caller_node: Option<String>,
    callee_node: Option<String>,
    delivered: u64,
    setup_ms: Option<f64>,
    audio_packets: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl CallLine {
    /// What came of a call, or why nothing did.
    pub(crate) fn of(result: &Result<Outcome>) -> Self {
        let outcome = result.as_ref().copied().unwrap_or_default();
        Self {
            event: "call",
            ok: result.is_ok(),
            caller_node: outcome.caller_node.map(|node| node.to_string()),
            callee_node: outcome.callee_node.map(|node| node.to_string()),
            delivered: outcome.delivered,
            setup_ms: outcome.setup.map(|setup| (setup.as_secs_f64() * 1e4).round() / 10.0),
            audio_packets: outcome.heard,
            error: result.as_ref().err().map(|error| format!("{error:#}")),
        }
    }

    /// Prints it.
    pub(crate) fn print(&self, output: Output) {
        let setup = self.setup_ms.map_or_else(String::new, |ms| format!(", answered {ms} ms after the offer"));
        let text = if self.ok {
            format!(
                "the call worked{setup}; {} sealed messages were handed over; {} audio packets ({:.1} s) were heard",
                self.delivered,
                self.audio_packets,
                self.audio_packets as f64 / FRAMES_PER_SECOND as f64
            )
        } else {
            "the call came to nothing".to_owned()
        };
        output.say(&text, self);
    }
}

/// Calls a contact, and hangs up once `seconds` of sound have come. Media goes over `ip`.
pub(crate) async fn place(party: &mut Party, contact: ContactId, ip: IpAddr, seconds: u64) -> Result<Outcome> {
    let peer = Peer::bind(ip).await?;
    let offer = peer.offer().await?;
    let call = party.client().call(contact, offer).await?;
    let talk = Talk::new(party, call.clone(), peer, Some(seconds * FRAMES_PER_SECOND + MARGIN));
    hang_up_after(talk.run().await, &call).await
}

/// Takes a call, and stays until it is over.
pub(crate) async fn answer(party: &mut Party, call: Call, offer: &str, ip: IpAddr) -> Result<Outcome> {
    let answered = describe(offer, ip).await;
    let (peer, answer) = match answered {
        Ok(answered) => answered,
        Err(error) => {
            // Without a word it would ring on, and every other caller would be told that this side is busy.
            let _ = call.decline().await;
            return Err(error);
        }
    };
    call.accept(answer).await?;
    let mut talk = Talk::new(party, call.clone(), peer, None);
    let result = match talk.exchange_candidates().await {
        Ok(()) => talk.run().await,
        Err(error) => Err(error),
    };
    hang_up_after(result, &call).await
}

async fn describe(offer: &str, ip: IpAddr) -> Result<(Peer, String)> {
    let peer = Peer::bind(ip).await?;
    let answer = peer.accept_offer(offer).await?;
    Ok((peer, answer))
}

/// A call that this side can't go on with ends for the other side too.
async fn hang_up_after(result: Result<Outcome>, call: &Call) -> Result<Outcome> {
    if result.is_err() {
        // It may have ended already.
        let _ = call.hang_up().await;
    }
    result
}

struct Talk<'a> {
    party: &'a mut Party,
    call: Call,
    peer: Peer,
    /// After how many packets this side hangs up; the callee leaves that to the caller.
    enough: Option<u64>,
    /// Whether both descriptions are known; before that, candidates have to wait.
    described: bool,
    waiting: Vec<String>,
    connected: bool,
    hung_up: bool,
    seen_off: bool,
    offered_at: Option<Instant>,
    outcome: Outcome,
}

impl<'a> Talk<'a> {
    fn new(party: &'a mut Party, call: Call, peer: Peer, enough: Option<u64>) -> Self {
        let own = party.client().node();
        let outcome = match enough {
            Some(_) => Outcome { caller_node: own, ..Outcome::default() },
            None => Outcome { callee_node: own, ..Outcome::default() },
        };
        Self {
            party,
            call,
            peer,
            enough,
            described: false,
            waiting: Vec::new(),
            connected: false,
            hung_up: false,
            seen_off: false,
            offered_at: None,
            outcome,
        }
    }

    async fn run(mut self) -> Result<Outcome> {
        let mut seen = Report::default();
        loop {
            tokio::select! {
                biased;
                event = self.party.next_event() => {
                    let event = event.ok_or_else(|| anyhow!("the client has stopped"))?;
                    if let Some(reason) = self.handle_event(event).await? {
                        self.see_off().await?;
                        return self.end(reason);
                    }
                }
                report = self.peer.wait_for(|report| *report != seen) => {
                    seen = report?;
                    self.handle_report(seen).await?;
                }
            }
        }
    }

    /// The one who hangs up waits until that was handed over, so that the other side doesn't wait for sound.
    async fn see_off(&mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + GOODBYE;
        while self.hung_up && !self.seen_off {
            let Ok(Some(event)) = timeout_at(deadline, self.party.next_event()).await else { break };
            self.handle_event(event).await?;
        }
        Ok(())
    }

    fn end(mut self, reason: EndReason) -> Result<Outcome> {
        self.outcome.heard = self.peer.report().heard;
        let as_planned = if self.enough.is_some() { self.hung_up } else { reason == EndReason::PeerHungUp };
        if !as_planned {
            bail!("the call has ended: {}", ended(reason));
        }
        let (name, heard) = (self.party.name(), self.outcome.heard);
        self.party
            .timeline()
            .now(&[name], &format!("the call is over; {heard} packets of the other's tone were heard"));
        Ok(self.outcome)
    }

    async fn handle_event(&mut self, event: Event) -> Result<Option<EndReason>> {
        let id = self.call.id();
        match event {
            Event::CallAnswered { call, answer } if call == id && !self.described => {
                self.peer.accept_answer(&answer).await?;
                self.exchange_candidates().await?;
            }
            Event::Candidates { call, candidates } if call == id => {
                self.waiting.extend(candidates.into_inner());
                self.take_candidates().await?;
            }
            Event::CallEnded { call, reason } if call == id => return Ok(Some(reason)),
            Event::Step(step) if step.call == Some(id) => self.handle_step(step.kind, step.at, step.node),
            _ => {}
        }
        Ok(None)
    }

    fn handle_step(&mut self, kind: StepKind, at: Instant, node: NodeId) {
        match kind {
            StepKind::Resolved { peer_node } if self.enough.is_some() => self.outcome.callee_node = Some(peer_node),
            StepKind::Delivered(kind) => {
                self.outcome.delivered += 1;
                self.seen_off |= kind == RelayKind::CallHangup;
            }
            StepKind::Failed(RelayKind::CallHangup, _) => self.seen_off = true,
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
            let name = self.party.name();
            if report.connected {
                self.party.timeline().now(&[name, "peer"], "media is connected directly, past all nodes (DTLS, SRTP)");
                self.call.media_up().await?;
            } else {
                self.party.timeline().now(&[name], "media is lost");
                self.call.media_down().await?;
            }
        }
        if !self.hung_up && self.enough.is_some_and(|enough| report.heard >= enough) {
            self.hung_up = true;
            self.call.hang_up().await?;
        }
        Ok(())
    }
}

/// Why a call is over, for people.
const fn ended(reason: EndReason) -> &'static str {
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
        EndReason::Shutdown => "the client was stopped",
    }
}
