//! The sound of a call: a WebRTC peer that sends a tone, and counts what it hears of the other side's tone.
//!
//! Owns the way to one peer; the peer itself is a task that ends with it. What a session description or a candidate
//! travels over is the caller's business.

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

/// Wishes that wait for the peer: an offer, an answer, and a few candidates.
const COMMANDS: usize = 16;

/// What a peer has seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// ICE, DTLS and SRTP are up.
    pub(crate) connected: bool,
    /// Audio packets that were sent.
    pub(crate) sent: u64,
    /// Audio packets that came in.
    pub(crate) received: u64,
    /// Those of them that decode to the other side's tone.
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
    /// A peer with one UDP socket on `ip`, an address that the other side can reach.
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

    /// The session description of a call that this side makes.
    pub(crate) async fn offer(&self) -> Result<String> {
        self.ask(Command::Offer).await
    }

    /// Takes the other side's offer, and gives the answer to it.
    pub(crate) async fn accept_offer(&self, offer: &str) -> Result<String> {
        self.ask(|reply| Command::AcceptOffer(offer.to_owned(), reply)).await
    }

    /// Takes the other side's answer.
    pub(crate) async fn accept_answer(&self, answer: &str) -> Result<()> {
        self.ask(|reply| Command::AcceptAnswer(answer.to_owned(), reply)).await
    }

    /// Takes a candidate of the other side, as [`Peer::candidates`] gives them.
    pub(crate) async fn add_candidate(&self, candidate: &str) -> Result<()> {
        self.ask(|reply| Command::AddCandidate(candidate.to_owned(), reply)).await
    }

    /// This side's candidates, to be sent besides the session description that names them too: who trickles and who
    /// doesn't are both served.
    pub(crate) fn candidates(&self) -> &[String] {
        &self.candidates
    }

    /// What the peer has seen so far.
    pub(crate) fn report(&self) -> Report {
        *self.report.borrow()
    }

    /// Waits until the peer has seen what `reached` says; fails if media ends before.
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
    async fn what_is_no_session_description_is_refused_and_ends_nothing() {
        let peer = Peer::bind(Ipv4Addr::LOCALHOST.into()).await.expect("a peer");
        assert!(peer.accept_offer("nonsense").await.is_err());
        assert!(peer.accept_answer("nonsense").await.is_err());
        assert!(peer.add_candidate("nonsense").await.is_err());
        assert!(peer.offer().await.is_ok());
    }
}
