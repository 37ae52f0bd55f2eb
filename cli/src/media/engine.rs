//! The task that drives a WebRTC peer. str0m does no I/O and reads no clock, so this task provides a socket and the
//! time.
//!
//! str0m must be polled after each change until it returns its next deadline, which `drain` does.

use std::{
    fmt::Display,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Error, Result, anyhow};
use chappe_common::printable::Escaped;
use str0m::{
    Candidate, Event, Input, Output, Rtc, RtcConfig,
    change::{SdpAnswer, SdpOffer, SdpPendingOffer},
    media::{Direction, Frequency, MediaKind, MediaTime, Mid, Pt},
    net::{Protocol, Receive},
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, sleep_until},
};

use super::{
    Report,
    tone::{FRAME, FRAMES_PER_SECOND, Tone},
};

/// Larger than any datagram of a peer. A longer one is cut, and then fails its authentication.
const DATAGRAM: usize = 2048;

/// An error about a text of the other side. It may contain a part of that text, so it is escaped.
fn quoted(error: impl Display) -> Error {
    anyhow!(Escaped(&error.to_string()).to_string())
}

/// A command for the peer, with the channel for its result.
#[derive(Debug)]
pub(super) enum Command {
    Offer(oneshot::Sender<Result<String>>),
    RestartIce(oneshot::Sender<Result<String>>),
    AcceptOffer(String, oneshot::Sender<Result<String>>),
    AcceptAnswer(String, oneshot::Sender<Result<()>>),
    AddCandidate(String),
}

/// The peer with its socket and state.
pub(super) struct Engine {
    rtc: Rtc,
    socket: UdpSocket,
    local: SocketAddr,
    reporter: watch::Sender<Report>,
    pending: Option<SdpPendingOffer>,
    /// The m-line with sound. The others are negotiated and not used.
    sound: Option<Mid>,
    tone: Tone,
    samples: u64,
}

impl Engine {
    /// Creates a peer on `socket`. Returns it with its candidate.
    pub(super) fn new(socket: UdpSocket, reporter: watch::Sender<Report>) -> Result<(Self, String)> {
        let local = socket.local_addr()?;
        let mut rtc = RtcConfig::new().clear_codecs().enable_pcmu(true, false).enable_vp8(true).build(Instant::now());
        let candidate = Candidate::host(local, Protocol::Udp)?;
        let text = candidate.to_sdp_string();
        rtc.add_local_candidate(candidate).context("the socket's address is not a candidate")?;
        let engine = Self { rtc, socket, local, reporter, pending: None, sound: None, tone: Tone::Caller, samples: 0 };
        Ok((engine, text))
    }

    /// Drives the peer until all handles are dropped.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Result<()> {
        let mut packets = interval(Duration::from_millis(1000 / FRAMES_PER_SECOND));
        // After a stall, continue at the normal rate: a burst would overflow the other side's buffer.
        packets.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let deadline = self.drain()?;
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => return Ok(()),
                },
                () = sleep_until(deadline.into()) => self.rtc.handle_input(Input::Timeout(Instant::now()))?,
                received = self.socket.recv_from(&mut buffer) => {
                    // Ignore errors, which report that an earlier packet was not received.
                    if let Ok((length, source)) = received {
                        self.handle_datagram(&buffer[..length], source)?;
                    }
                },
                _ = packets.tick(), if self.rtc.is_connected() => self.send_packet()?,
            }
        }
    }

    fn drain(&mut self) -> Result<Instant> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(deadline) => return Ok(deadline),
                Output::Transmit(datagram) => {
                    // Like the network, the socket may drop packets.
                    let _ = self.socket.try_send_to(&datagram.contents, datagram.destination);
                }
                Output::Event(event) => self.handle_event(event),
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Connected => self.reporter.send_modify(|report| report.connected = true),
            Event::IceConnectionStateChange(state) => {
                // `Connected` is sent only once. Later losses and recoveries of the path are only visible here.
                let connected = self.rtc.is_connected() && !state.is_disconnected();
                self.reporter.send_modify(|report| report.connected = connected);
            }
            // Also sent for lines that this side has rejected, and for video.
            Event::MediaAdded(added) if added.kind == MediaKind::Audio => {
                self.sound.get_or_insert(added.mid);
            }
            Event::MediaData(data) if Some(data.mid) == self.sound => {
                let heard = self.tone.other().is_in(&data.data);
                self.reporter.send_modify(|report| {
                    report.received += 1;
                    report.heard += u64::from(heard);
                });
            }
            _ => {}
        }
    }

    fn handle_datagram(&mut self, contents: &[u8], source: SocketAddr) -> Result<()> {
        // Ignore other packets, because anybody can send to a UDP socket.
        let Ok(contents) = contents.try_into() else { return Ok(()) };
        let receive = Receive { proto: Protocol::Udp, source, destination: self.local, contents };
        let input = Input::Receive(Instant::now(), receive);
        if self.rtc.accepts(&input) {
            self.rtc.handle_input(input)?;
        }
        Ok(())
    }

    fn send_packet(&mut self) -> Result<()> {
        let Some(writer) = self.sound.and_then(|sound| self.rtc.writer(sound)) else { return Ok(()) };
        let Some(payload_type): Option<Pt> = writer.payload_params().next().map(|params| params.pt()) else {
            return Ok(());
        };
        let time = MediaTime::new(self.samples, Frequency::EIGHT_KHZ);
        writer.write(payload_type, Instant::now(), time, self.tone.frame())?;
        self.samples += FRAME as u64;
        self.reporter.send_modify(|report| report.sent += 1);
        Ok(())
    }

    /// The requester of a result may be gone.
    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Offer(reply) => drop(reply.send(self.offer())),
            Command::RestartIce(reply) => drop(reply.send(self.restart_ice())),
            Command::AcceptOffer(offer, reply) => drop(reply.send(self.accept_offer(&offer))),
            Command::AcceptAnswer(answer, reply) => drop(reply.send(self.accept_answer(&answer))),
            Command::AddCandidate(candidate) => self.add_candidate(&candidate),
        }
    }

    /// An offer with the three m-lines of the media profile: sound, camera and screen.
    fn offer(&mut self) -> Result<String> {
        let mut change = self.rtc.sdp_api();
        let [sound, _, _] = [MediaKind::Audio, MediaKind::Video, MediaKind::Video]
            .map(|kind| change.add_media(kind, Direction::SendRecv, None, None, None));
        let (offer, pending) = change.apply().ok_or_else(|| anyhow!("nothing to offer"))?;
        self.sound = Some(sound);
        self.pending = Some(pending);
        self.tone = Tone::Caller;
        Ok(offer.to_sdp_string())
    }

    /// An offer with new ICE credentials, from the same socket.
    fn restart_ice(&mut self) -> Result<String> {
        let mut change = self.rtc.sdp_api();
        change.ice_restart(true);
        let (offer, pending) = change.apply().ok_or_else(|| anyhow!("nothing to offer"))?;
        self.pending = Some(pending);
        Ok(offer.to_sdp_string())
    }

    fn accept_offer(&mut self, offer: &str) -> Result<String> {
        let offer =
            SdpOffer::from_sdp_string(offer).map_err(quoted).context("the offer is not a session description")?;
        if self.sound.is_none() {
            self.tone = Tone::Callee;
        }
        // A pending offer does not count any more.
        self.pending = None;
        let answer = self.rtc.sdp_api().accept_offer(offer).map_err(quoted).context("cannot accept the offer")?;
        Ok(answer.to_sdp_string())
    }

    fn accept_answer(&mut self, answer: &str) -> Result<()> {
        let answer =
            SdpAnswer::from_sdp_string(answer).map_err(quoted).context("the answer is not a session description")?;
        let pending = self.pending.take().ok_or_else(|| anyhow!("no offer was sent"))?;
        self.rtc.sdp_api().accept_answer(pending, answer).map_err(quoted).context("cannot accept the answer")
    }

    /// Passes over a text that is not usable, such as an mDNS name: others may be.
    fn add_candidate(&mut self, candidate: &str) {
        match Candidate::from_sdp_string(candidate) {
            Ok(candidate) => self.rtc.add_remote_candidate(candidate),
            // The end of the candidates.
            Err(_) if candidate.is_empty() => {}
            // Neither the text nor the error, which may contain an address.
            Err(_) => tracing::debug!("passed over a candidate that cannot be parsed"),
        }
    }
}
