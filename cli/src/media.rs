//! The media of a call: a WebRTC peer that sends a tone, and counts the packets of sound that it receives.
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

/// A WebRTC peer with one track, of sound.
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

    /// Creates the session description of an ICE restart.
    pub(crate) async fn restart_ice(&self) -> Result<String> {
        self.ask(Command::RestartIce).await
    }

    /// Accepts the other side's offer, also of an ICE restart, and returns the answer.
    pub(crate) async fn accept_offer(&self, offer: &str) -> Result<String> {
        self.ask(|reply| Command::AcceptOffer(offer.to_owned(), reply)).await
    }

    /// Accepts the other side's answer.
    pub(crate) async fn accept_answer(&self, answer: &str) -> Result<()> {
        self.ask(|reply| Command::AcceptAnswer(answer.to_owned(), reply)).await
    }

    /// Adds a candidate of the other side, in the format of [`Peer::candidates`]. One that cannot be parsed is passed over.
    pub(crate) async fn add_candidate(&self, candidate: &str) -> Result<()> {
        let command = Command::AddCandidate(candidate.to_owned());
        self.commands.send(command).await.map_err(|_| anyhow!("media has ended"))
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

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn peer() -> Peer {
        Peer::bind(Ipv4Addr::LOCALHOST.into()).await.expect("a peer")
    }

    /// Two peers that hear each other: the caller and the callee.
    async fn connected() -> (Peer, Peer) {
        let (caller, callee) = (peer().await, peer().await);
        let offer = caller.offer().await.expect("an offer");
        let answer = callee.accept_offer(&offer).await.expect("an answer");
        caller.accept_answer(&answer).await.expect("accepted");
        for candidate in caller.candidates() {
            callee.add_candidate(candidate).await.expect("a candidate");
        }
        for candidate in callee.candidates() {
            caller.add_candidate(candidate).await.expect("a candidate");
        }
        for peer in [&caller, &callee] {
            hear(peer, FRAMES_PER_SECOND).await;
        }
        (caller, callee)
    }

    /// Waits for this many further packets with the other side's tone.
    async fn hear(peer: &Peer, packets: u64) {
        let heard = peer.report().heard + packets;
        let waited = timeout(PATIENCE, peer.wait_for(|report| report.heard >= heard)).await;
        waited.expect("in time").expect("a second of it");
    }

    /// The values of the lines with this name.
    fn values<'a>(description: &'a str, name: &str) -> Vec<&'a str> {
        description.lines().filter_map(|line| line.strip_prefix(name)).collect()
    }

    #[tokio::test]
    async fn two_peers_hear_each_others_tone() {
        let (caller, callee) = connected().await;
        for peer in [&caller, &callee] {
            let report = peer.report();
            assert!(report.connected && report.received >= report.heard);
        }
        assert_eq!(caller.report().received, caller.report().heard, "nothing but the tone comes in");
    }

    #[tokio::test]
    async fn an_offer_has_the_three_lines_of_the_media_profile_and_fits_the_shortest_message() {
        let offer = peer().await.offer().await.expect("an offer");
        let lines: Vec<_> = values(&offer, "m=").iter().map(|line| line.split(' ').next().expect("a kind")).collect();
        assert_eq!(lines, ["audio", "video", "video"]);
        assert!(offer.contains("PCMU/8000") && offer.contains("VP8/90000") && offer.contains("a=candidate"), "{offer}");
        assert_eq!(values(&offer, "a=sendrecv").len(), 3);
        assert!(values(&offer, "a=group:BUNDLE ")[0].split(' ').eq(values(&offer, "a=mid:")), "{offer}");
        // As JSON, with a reply key, a time, a lost call and three nodes.
        let json = serde_json::to_string(&offer).expect("JSON").len() + 1000;
        assert!(json <= 8188, "{json} bytes");
    }

    #[tokio::test]
    async fn either_side_restarts_ice_and_the_sound_goes_on_with_the_same_tones() {
        let (caller, callee) = connected().await;
        for (one, other) in [(&caller, &callee), (&callee, &caller)] {
            let offer = one.restart_ice().await.expect("an offer");
            let answer = other.accept_offer(&offer).await.expect("an answer");
            one.accept_answer(&answer).await.expect("accepted");
            let again = one.restart_ice().await.expect("an offer");
            assert_ne!(values(&offer, "a=ice-ufrag:"), values(&again, "a=ice-ufrag:"));
            assert_eq!(values(&offer, "m=").len(), 3);
            let answer = other.accept_offer(&again).await.expect("an answer");
            one.accept_answer(&answer).await.expect("accepted");
            hear(one, FRAMES_PER_SECOND).await;
            hear(other, FRAMES_PER_SECOND).await;
        }
    }

    #[tokio::test]
    async fn a_peer_that_has_taken_its_offer_back_accepts_the_other_one() {
        let (caller, callee) = connected().await;
        callee.restart_ice().await.expect("an offer that is ignored");
        let offer = caller.restart_ice().await.expect("an offer");
        let answer = callee.accept_offer(&offer).await.expect("an answer");
        caller.accept_answer(&answer).await.expect("accepted");
        assert!(callee.accept_answer(&answer).await.is_err(), "its own does not count any more");
        hear(&caller, FRAMES_PER_SECOND).await;
        hear(&callee, FRAMES_PER_SECOND).await;
    }

    #[tokio::test]
    async fn an_invalid_session_description_is_refused_and_the_peer_stays_usable() {
        let peer = peer().await;
        assert!(peer.accept_offer("nonsense").await.is_err());
        assert!(peer.accept_answer("nonsense").await.is_err());
        for candidate in ["nonsense", "candidate:1 1 udp 2113937151 0a1b2c3d.local 50000 typ host", ""] {
            assert!(peer.add_candidate(candidate).await.is_ok(), "{candidate} is passed over");
        }
        assert!(peer.offer().await.is_ok());
    }
}
