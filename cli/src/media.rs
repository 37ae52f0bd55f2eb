//! The media of a call: a WebRTC peer that sends a tone, and counts the packets with the other side's tone.
//!
//! It owns a handle to a task with the peer, which ends with the handle. The caller transports descriptions and
//! candidates.

mod engine;
mod tone;

use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use self::engine::{Command, Engine};

pub(crate) use self::tone::FRAMES_PER_SECOND;

/// Capacity of the command queue: an offer, an answer, and a few candidates.
const COMMANDS: usize = 16;

/// The state of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Whether ICE, DTLS and SRTP are up.
    pub(crate) connected: bool,
    /// Number of audio packets sent.
    pub(crate) sent: u64,
    /// Number of audio packets received.
    pub(crate) received: u64,
    /// Number of received packets that contain the other side's tone.
    pub(crate) heard: u64,
}

/// A WebRTC peer with one audio track.
#[derive(Debug)]
pub(crate) struct Peer {
    commands: mpsc::Sender<Command>,
    report: watch::Receiver<Report>,
    candidates: Vec<String>,
    _task: JoinSet<()>,
}

impl Peer {
    /// Creates a peer with one UDP socket on `ip`, which the other side must be able to reach.
    pub(crate) async fn bind(ip: IpAddr) -> Result<Self> {
        let socket =
            UdpSocket::bind((ip, 0)).await.with_context(|| format!("no UDP socket for media on {ip} (--media-ip)"))?;
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (reporter, report) = watch::channel(Report::default());
        let (engine, candidate) = Engine::new(socket, reporter)?;
        let mut task = JoinSet::new();
        task.spawn(async move {
            if let Err(error) = engine.run(inbox).await {
                tracing::warn!(error = format!("{error:#}"), "media has ended");
            }
        });
        Ok(Self { commands, report, candidates: vec![candidate], _task: task })
    }

    /// Creates the session description of an outgoing call.
    pub(crate) async fn offer(&self) -> Result<String> {
        self.ask(Command::Offer).await
    }

    /// Accepts the other side's offer, and returns the answer.
    pub(crate) async fn accept_offer(&self, offer: &str) -> Result<String> {
        self.ask(|reply| Command::AcceptOffer(offer.to_owned(), reply)).await
    }

    /// Accepts the other side's answer.
    pub(crate) async fn accept_answer(&self, answer: &str) -> Result<()> {
        self.ask(|reply| Command::AcceptAnswer(answer.to_owned(), reply)).await
    }

    /// Adds a candidate of the other side, in the format of [`Peer::candidates`].
    pub(crate) async fn add_candidate(&self, candidate: &str) -> Result<()> {
        self.ask(|reply| Command::AddCandidate(candidate.to_owned(), reply)).await
    }

    /// This side's candidates. The session description contains them too, so that it works with and without trickle
    /// ICE.
    pub(crate) fn candidates(&self) -> &[String] {
        &self.candidates
    }

    /// The current state of the peer.
    pub(crate) fn report(&self) -> Report {
        *self.report.borrow()
    }

    /// Waits until `reached` returns true for the peer's state. Fails if the peer ends before.
    pub(crate) async fn wait_for(&self, reached: impl FnMut(&Report) -> bool) -> Result<Report> {
        let mut report = self.report.clone();
        report.wait_for(reached).await.map(|report| *report).map_err(|_| anyhow!("media has ended"))
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| anyhow!("media has ended"))?;
        answer.await.map_err(|_| anyhow!("media has ended"))?
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn two_peers_hear_each_others_tone() {
        let talk = async {
            let caller = Peer::bind(Ipv4Addr::LOCALHOST.into()).await.expect("a peer");
            let callee = Peer::bind(Ipv4Addr::LOCALHOST.into()).await.expect("a peer");
            let offer = caller.offer().await.expect("an offer");
            assert!(offer.contains("PCMU/8000") && offer.contains("a=candidate"), "{offer}");
            let answer = callee.accept_offer(&offer).await.expect("an answer");
            caller.accept_answer(&answer).await.expect("accepted");
            for candidate in caller.candidates() {
                callee.add_candidate(candidate).await.expect("a candidate");
            }
            for candidate in callee.candidates() {
                caller.add_candidate(candidate).await.expect("a candidate");
            }
            for peer in [&caller, &callee] {
                let report = peer.wait_for(|report| report.heard >= FRAMES_PER_SECOND).await.expect("a second of it");
                assert!(report.connected && report.received >= report.heard);
            }
            assert_eq!(caller.report().received, caller.report().heard, "nothing but the tone comes in");
        };
        timeout(Duration::from_secs(20), talk).await.expect("in time");
    }

    #[tokio::test]
    async fn an_invalid_session_description_is_refused_and_the_peer_stays_usable() {
        let peer = Peer::bind(Ipv4Addr::LOCALHOST.into()).await.expect("a peer");
        assert!(peer.accept_offer("nonsense").await.is_err());
        assert!(peer.accept_answer("nonsense").await.is_err());
        assert!(peer.add_candidate("nonsense").await.is_err());
        assert!(peer.offer().await.is_ok());
    }
}
