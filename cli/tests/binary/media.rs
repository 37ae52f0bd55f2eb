//! Calls of the binary with another app: a client in this process with a WebRTC stack of its own, whose sound is no tone.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use chappe_client::{Call, Client, Event, Events, call::EndReason, contact::ContactId, profile::Profile};
use chappe_common::keys::PublicKey;
use tokio::{
    net::UdpSocket,
    time::{interval, sleep_until, timeout},
};

use crate::process::{self, Running, arg, chappe, federation::Federation, texts};
use str0m::{
    Candidate, Event as RtcEvent, Input, Output, Rtc, RtcConfig,
    change::{SdpAnswer, SdpOffer, SdpPendingOffer},
    media::{Direction, Frequency, MediaKind, MediaTime, Mid},
    net::{Protocol, Receive},
};

/// 20 ms of silence in G.711 µ-law: sound, but no tone.
const FRAME: [u8; 160] = [0xff; 160];

/// An app with its client, and the CLI's profile `cli` as its only contact.
struct App {
    client: Client,
    events: Events,
    contact: ContactId,
    federation: Federation,
}

impl App {
    async fn paired() -> Self {
        let federation = Federation::start(1);
        federation.wait_for_a_node();
        let root: PublicKey = federation.root.parse().expect("a key");
        let profile = Profile::open_or_create(federation.dir.path().join("app"), "app").expect("a profile");
        let builder = Client::builder(profile).registry(federation.url.as_str(), [root]).private();
        let (client, mut events) = builder.connect().await.expect("a connection");
        let cli = federation.dir.path().join("cli");
        let args = ["--json", "pair", "--name", "cli", "--profile", arg(&cli)];
        let mut showing = Running::start(&mut chappe(&[&args[..], &federation.network()].concat()));
        let code = showing.event("code")["code"].as_str().expect("a code").parse().expect("a code");
        let contact = client.pair(&code).await.expect("paired").contact.id();
        assert!(showing.finish().status.success());
        let reachable = async {
            while !matches!(events.next().await, Some(Event::Reachable { contact: reachable }) if reachable == contact)
            {
            }
        };
        timeout(process::PATIENCE, reachable).await.expect("reachable in time");
        Self { client, events, contact, federation }
    }

    /// Starts the CLI with its profile.
    fn cli(&self, command: &[&str]) -> Running {
        let profile = self.federation.dir.path().join("cli");
        Running::start(&mut chappe(
            &[&["--json"], command, &["--profile", arg(&profile), "--media-ip", "127.0.0.1"]].concat(),
        ))
    }

    async fn incoming(&mut self) -> (Call, String) {
        loop {
            let event =
                timeout(process::PATIENCE, self.events.next()).await.expect("in time").expect("a running client");
            if let Event::IncomingCall { call, offer, .. } = event {
                return (call, offer.into_inner());
            }
        }
    }
}

/// The other app's WebRTC stack.
struct Media {
    rtc: Rtc,
    socket: UdpSocket,
    local: SocketAddr,
    sound: Option<Mid>,
    pending: Option<SdpPendingOffer>,
    /// Whether it sends sound.
    sends: bool,
    /// Whether it loses all packets in both directions.
    cut: bool,
    received: u64,
    sent: u64,
}

impl Media {
    async fn new(config: RtcConfig) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        let local = socket.local_addr().expect("an address");
        let mut rtc = config.build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, Protocol::Udp).expect("a candidate"));
        Self { rtc, socket, local, sound: None, pending: None, sends: false, cut: false, received: 0, sent: 0 }
    }

    fn answer(&mut self, offer: &str) -> String {
        let offer = SdpOffer::from_sdp_string(offer).expect("an offer");
        self.rtc.sdp_api().accept_offer(offer).expect("accepted").to_sdp_string()
    }

    fn accept(&mut self, answer: &str) {
        let answer = SdpAnswer::from_sdp_string(answer).expect("an answer");
        let pending = self.pending.take().expect("an offer is pending");
        self.rtc.sdp_api().accept_answer(pending, answer).expect("accepted");
    }

    fn restart(&mut self) -> String {
        let mut change = self.rtc.sdp_api();
        change.ice_restart(true);
        let (offer, pending) = change.apply().expect("an offer");
        self.pending = Some(pending);
        offer.to_sdp_string()
    }

    /// Sends and receives until `done`, or until the call is over: returns why.
    async fn run(
        &mut self,
        events: &mut Events,
        call: &Call,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<EndReason> {
        let mut packets = interval(Duration::from_millis(20));
        let mut buffer = vec![0; 2048];
        let deadline = tokio::time::Instant::now() + 2 * process::PATIENCE;
        while !done(self) {
            let next = self.drain();
            tokio::select! {
                () = sleep_until(deadline) => panic!("nothing comes of it: {} packets received", self.received),
                () = sleep_until(next.into()) => self.rtc.handle_input(Input::Timeout(Instant::now())).expect("no error"),
                received = self.socket.recv_from(&mut buffer) => {
                    let Ok((length, source)) = received else { continue };
                    let Ok(contents) = buffer[..length].try_into() else { continue };
                    let receive = Receive { proto: Protocol::Udp, source, destination: self.local, contents };
                    let input = Input::Receive(Instant::now(), receive);
                    if !self.cut && self.rtc.accepts(&input) {
                        self.rtc.handle_input(input).expect("no error");
                    }
                }
                _ = packets.tick() => self.send(),
                event = events.next() => match event.expect("a running client") {
                    Event::CallAnswered { answer, .. } | Event::RenegotiationAnswered { answer, .. } => self.accept(&answer),
                    Event::Renegotiation { round, offer, .. } => {
                        self.cut = false;
                        let answer = self.answer(&offer);
                        call.answer_renegotiation(round, answer).await.expect("it is asked");
                    }
                    Event::CallEnded { reason, .. } => return Some(reason),
                    _ => {}
                },
            }
        }
        None
    }

    fn send(&mut self) {
        let Some(writer) = self.sound.filter(|_| self.sends && !self.cut).and_then(|mid| self.rtc.writer(mid)) else {
            return;
        };
        let payload_type = writer.payload_params().next().expect("PCMU").pt();
        let time = MediaTime::new(self.sent * FRAME.len() as u64, Frequency::EIGHT_KHZ);
        writer.write(payload_type, Instant::now(), time, FRAME).expect("no error");
        self.sent += 1;
    }

    fn drain(&mut self) -> Instant {
        loop {
            match self.rtc.poll_output().expect("no error") {
                Output::Timeout(next) => return next,
                Output::Transmit(datagram) if !self.cut => {
                    // Like the network, the socket may drop packets.
                    let _ = self.socket.try_send_to(&datagram.contents, datagram.destination);
                }
                Output::Event(RtcEvent::MediaAdded(added)) if added.kind == MediaKind::Audio => {
                    self.sound = Some(added.mid);
                }
                Output::Event(RtcEvent::MediaData(_)) => self.received += 1,
                _ => {}
            }
        }
    }
}

fn sound() -> RtcConfig {
    RtcConfig::new().clear_codecs().enable_pcmu(true, false)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_after_its_seconds_of_any_sound_although_some_candidates_cannot_be_parsed() {
    let mut app = App::paired().await;
    let mut calling = app.cli(&["call", "app", "--seconds", "1"]);
    let (call, offer) = app.incoming().await;
    let mut media = Media::new(sound()).await;
    media.sends = true;
    call.accept(media.answer(&offer)).await.expect("it rings");
    let hidden = "candidate:1 1 udp 2113937151 0a1b2c3d-0000-4000-8000-000000000000.local 50000 typ host";
    call.send_candidates([hidden, "nonsense", ""]).await.expect("sent");
    let reason = media.run(&mut app.events, &call, |_| false).await;
    assert_eq!(reason, Some(EndReason::PeerHungUp));
    let result = calling.event("call");
    assert_eq!((&result["ok"], &result["tone_packets"]), (&true.into(), &0.into()), "{result}");
    assert!(result["audio_packets"].as_u64().is_some_and(|packets| (50..100).contains(&packets)), "{result}");
    assert!(calling.finish().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_any_sound_fails_after_ten_seconds() {
    let mut app = App::paired().await;
    let mut calling = app.cli(&["call", "app", "--seconds", "1"]);
    let (call, offer) = app.incoming().await;
    let mut media = Media::new(sound()).await;
    call.accept(media.answer(&offer)).await.expect("it rings");
    let reason = media.run(&mut app.events, &call, |_| false).await;
    assert_eq!(reason, Some(EndReason::PeerHungUp));
    assert!(media.received > 300, "{} packets", media.received);
    let result = calling.event("call");
    let error = "no sound came from the other side for 10 seconds";
    assert_eq!((&result["ok"], &result["error"]), (&false.into(), &error.into()), "{result}");
    let output = calling.finish();
    assert_eq!(output.status.code(), Some(1), "{:?}", texts(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_video_is_sent_sound_also_after_its_ice_restart_and_a_silent_one_is_a_failure() {
    let mut app = App::paired().await;
    let mut listening = app.cli(&["listen", "--once"]);
    listening.event("ready");
    // `listen` does not know VP9, so it rejects the video line.
    let mut media = Media::new(sound().enable_vp9(true)).await;
    let mut change = media.rtc.sdp_api();
    media.sound = Some(change.add_media(MediaKind::Audio, Direction::SendRecv, None, None, None));
    change.add_media(MediaKind::Video, Direction::SendRecv, None, None, None);
    let (offer, pending) = change.apply().expect("an offer");
    media.pending = Some(pending);
    let call = app.client.call(app.contact, offer.to_sdp_string()).await.expect("placed");
    assert_eq!(media.run(&mut app.events, &call, |media| media.received >= 50).await, None);
    call.renegotiate(media.restart()).await.expect("answered");
    let mut since = None;
    // A second of sound after the answer.
    let done = |media: &Media| media.pending.is_none() && media.received >= *since.get_or_insert(media.received) + 50;
    assert_eq!(media.run(&mut app.events, &call, done).await, None);
    call.hang_up().await.expect("a call to hang up");
    let result = listening.event("call");
    let error = "no sound came from the other side";
    assert_eq!((&result["ok"], &result["error"]), (&false.into(), &error.into()), "{result}");
    let output = listening.finish();
    assert_eq!(output.status.code(), Some(1), "{:?}", texts(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_restarts_ice_when_media_is_lost_and_the_call_goes_on() {
    let mut app = App::paired().await;
    let mut calling = app.cli(&["call", "app", "--seconds", "3"]);
    let (call, offer) = app.incoming().await;
    let mut media = Media::new(sound()).await;
    media.sends = true;
    call.accept(media.answer(&offer)).await.expect("it rings");
    assert_eq!(media.run(&mut app.events, &call, |media| media.received >= 50).await, None);
    media.cut = true;
    // It ends with the restart, which the app answers.
    let cut = Instant::now();
    assert_eq!(media.run(&mut app.events, &call, |media| !media.cut).await, None);
    assert!(cut.elapsed() < Duration::from_secs(8), "{:?}", cut.elapsed());
    let reason = media.run(&mut app.events, &call, |_| false).await;
    assert_eq!(reason, Some(EndReason::PeerHungUp));
    let result = calling.event("call");
    assert_eq!(result["ok"], true, "{result}");
    assert!(calling.finish().status.success());
}
