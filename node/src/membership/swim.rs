//! The SWIM library and its driver: timers, packets, and what is kept from it.
//!
//! The library proposes: it chooses whom to probe, asks others to probe where a direct probe fails, and carries news. It
//! never hears what members say of third parties, and its own conclusions count for nothing: whether a probe has failed
//! is decided here, and what follows from it by the engine.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use bytes::Bytes;
use foca::{AccumulatingRuntime, Foca, Header, Member, Message, PostcardCodec, ProbeNumber, Timer};
use rand::rngs::StdRng;

use super::{
    member::MemberId,
    news::NewsHandler,
    packet::{MAX_PACKET, Packet},
};

/// For how many members the spreading of news is sized. More members only make the last ones hear later.
const SIZED_FOR: NonZeroU32 = NonZeroU32::new(1000).expect("not zero");
/// When a ping is sent again, in parts of the direct timeout: the longest path answers over a new link within the first.
const RESEND_AT: [f64; 2] = [0.75, 1.5];
/// When a probe has failed, in parts of the direct timeout: the indirect probes have had as long as the direct one.
const FAILED_AT: f64 = 2.0;

type Library = Foca<MemberId, PostcardCodec, StdRng, NewsHandler>;

/// A timer of the library. The order is by time, then by the library's own.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Instant,
    timer: Timer<MemberId>,
    /// Tells equal timers apart, in the order in which they were set.
    number: u64,
}

/// The probe that is under way.
#[derive(Debug)]
struct Probing {
    id: MemberId,
    number: ProbeNumber,
    started: Instant,
    resent: usize,
}

/// The library with its timers.
pub(super) struct Swim {
    library: Library,
    runtime: AccumulatingRuntime<MemberId>,
    timers: BinaryHeap<Reverse<Due>>,
    timers_set: u64,
    timeout: Duration,
    probing: Option<Probing>,
    /// Packets that wait to be sent.
    packets: Vec<(MemberId, Bytes)>,
}

impl std::fmt::Debug for Swim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Swim").field("id", self.library.identity()).finish_non_exhaustive()
    }
}

fn settings(probe_period: Duration, probe_timeout: Duration) -> foca::Config {
    let mut config = foca::Config::simple();
    config.probe_period = probe_period;
    config.probe_rtt = probe_timeout;
    config.max_transmissions = foca::Config::new_lan(SIZED_FOR).max_transmissions;
    config.periodic_gossip = foca::Config::new_lan(SIZED_FOR).periodic_gossip;
    // One byte in front says that it is a packet of this kind.
    config.max_packet_size = (MAX_PACKET - 1).try_into().expect("not zero");
    // Who is down is told to the library, and forgotten by it at once.
    config.remove_down_after = None;
    config.notify_down_members = false;
    config
}

impl Swim {
    /// The library for a node of this identity that knows nobody.
    pub(super) fn new(me: MemberId, probe_period: Duration, probe_timeout: Duration, rng: StdRng) -> Self {
        let config = settings(probe_period, probe_timeout);
        Self {
            library: Foca::with_custom_broadcast(me, config, rng, PostcardCodec, NewsHandler),
            runtime: AccumulatingRuntime::new(),
            timers: BinaryHeap::new(),
            timers_set: 0,
            timeout: probe_timeout,
            probing: None,
            packets: Vec::new(),
        }
    }

    /// When [`Swim::wake`] has something to do.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse(due)| due.at);
        let probing = self.probing.as_ref().map(|probing| self.next_step(probing));
        [timer, probing].into_iter().flatten().min()
    }

    fn next_step(&self, probing: &Probing) -> Instant {
        let part = RESEND_AT.get(probing.resent).copied().unwrap_or(FAILED_AT);
        probing.started + self.timeout.mul_f64(part)
    }

    /// Does what is due. The member whose probe has failed, if one has.
    pub(super) fn wake(&mut self, now: Instant) -> Option<MemberId> {
        let failed = self.step_probe(now);
        while self.timers.peek().is_some_and(|Reverse(due)| due.at <= now) {
            let Some(Reverse(due)) = self.timers.pop() else { break };
            // The library reports probe cycles that it could not end; it begins the next all the same.
            if let Err(error) = self.library.handle_timer(due.timer, &mut self.runtime) {
                tracing::trace!(%error, "a membership timer failed");
            }
            self.drain(now);
        }
        failed
    }

    fn step_probe(&mut self, now: Instant) -> Option<MemberId> {
        let probing = self.probing.as_ref()?;
        if self.next_step(probing) > now {
            return None;
        }
        let (id, number) = (probing.id, probing.number);
        if probing.resent == RESEND_AT.len() {
            self.probing = None;
            // Told that all is well, the library goes on, and spreads no suspicion that nobody would believe.
            self.show(
                now,
                &Header { src: id, src_incarnation: 0, dst: *self.library.identity(), message: Message::Ack(number) },
            );
            return Some(id);
        }
        let header =
            Header { src: *self.library.identity(), src_incarnation: 0, dst: id, message: Message::Ping(number) };
        if let (Ok(packet), Some(probing)) = (postcard::to_allocvec(&header), self.probing.as_mut()) {
            probing.resent += 1;
            self.packets.push((id, Packet::Swim(packet.into()).encode()));
        }
        None
    }

    /// Forgets the probe that is under way: this node was not there to hear the answer.
    pub(super) fn forget_probe(&mut self) {
        self.probing = None;
    }

    /// Shows the library a probe's packet of a member that is up: its header alone.
    pub(super) fn handle(&mut self, now: Instant, header: &Header<MemberId>) {
        let answers = |probing: &Probing| match &header.message {
            Message::Ack(number) => header.src == probing.id && *number == probing.number,
            Message::ForwardedAck { origin, probe_number } => *origin == probing.id && *probe_number == probing.number,
            _ => false,
        };
        if self.probing.as_ref().is_some_and(answers) {
            self.probing = None;
        }
        self.show(now, header);
    }

    fn show(&mut self, now: Instant, header: &Header<MemberId>) {
        let Ok(packet) = postcard::to_allocvec(header) else { return };
        if let Err(error) = self.library.handle_data(&packet, &mut self.runtime) {
            tracing::trace!(%error, "a membership packet changed nothing");
        }
        self.drain(now);
    }

    /// The member is up; where that is news, the others are told that it is said to be.
    pub(super) fn add(&mut self, now: Instant, id: MemberId, is_news: bool) {
        self.apply(now, Member::alive(id), is_news);
    }

    /// The member isn't up any more, and nobody is told.
    pub(super) fn remove(&mut self, now: Instant, id: MemberId) {
        if self.probing.as_ref().is_some_and(|probing| probing.id == id) {
            self.probing = None;
        }
        self.apply(now, Member::down(id), false);
        // Down is for ever with the library. Here it lasts until the member is heard again.
        let _ = self.library.handle_timer(Timer::RemoveDown(id), &mut self.runtime);
        self.drain(now);
    }

    fn apply(&mut self, now: Instant, member: Member<MemberId>, tell: bool) {
        if let Err(error) = self.library.apply_many(std::iter::once(member), tell, &mut self.runtime) {
            tracing::debug!(%error, "membership could not be updated");
        }
        self.drain(now);
    }

    /// Spreads an item of news.
    pub(super) fn spread(&mut self, item: &[u8]) {
        if let Err(error) = self.library.add_broadcast(item) {
            tracing::debug!(%error, "news could not be added");
        }
    }

    /// Sends what is to be spread to a few members at once.
    pub(super) fn broadcast(&mut self, now: Instant) {
        if let Err(error) = self.library.broadcast(&mut self.runtime) {
            tracing::debug!(%error, "news could not be spread");
        }
        self.drain(now);
    }

    /// The packets that are to be sent.
    pub(super) fn take_packets(&mut self) -> std::vec::Drain<'_, (MemberId, Bytes)> {
        self.packets.drain(..)
    }

    /// Does what the library wants after a call.
    fn drain(&mut self, now: Instant) {
        while self.runtime.to_notify().is_some() {}
        while let Some((to, packet)) = self.runtime.to_send() {
            if let Ok((Header { message: Message::Ping(number), .. }, _)) =
                postcard::take_from_bytes::<Header<MemberId>>(&packet)
            {
                self.probing = Some(Probing { id: to, number, started: now, resent: 0 });
            }
            self.packets.push((to, Packet::Swim(packet).encode()));
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            // Whom the library suspects doesn't matter: what it would do about it isn't wanted.
            if matches!(timer, Timer::ChangeSuspectToDown { .. }) {
                continue;
            }
            self.timers_set += 1;
            self.timers.push(Reverse(Due { at: now + after, timer, number: self.timers_set }));
        }
    }
}
