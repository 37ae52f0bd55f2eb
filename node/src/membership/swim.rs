//! The SWIM library and its driver: timers and packets.
//!
//! The library selects the member to probe, requests indirect probes after a direct one has failed, and carries news.
//! It gets no statements of members about third parties, and its own conclusions are ignored. This module decides
//! whether a probe has failed, and the engine decides the consequences.

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

/// The federation size for which the spreading of news is configured. With more members, the last ones get news later.
const SIZED_FOR: NonZeroU32 = NonZeroU32::new(1000).expect("not zero");
/// When a ping is sent again, as multiples of the direct timeout. On the longest path, an answer over a new link
/// arrives before the first.
const RESEND_AT: [f64; 2] = [0.75, 1.5];
/// When a probe has failed, as a multiple of the direct timeout. Indirect probes then had the same time as the direct
/// one.
const FAILED_AT: f64 = 2.0;

type Library = Foca<MemberId, PostcardCodec, StdRng, NewsHandler>;

/// A timer of the library. Sorted by time, then in the library's own order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Instant,
    timer: Timer<MemberId>,
    /// Distinguishes equal timers, in the order in which they were set.
    number: u64,
}

/// The probe in progress.
#[derive(Debug)]
struct Probing {
    id: MemberId,
    number: ProbeNumber,
    started: Instant,
    resent: usize,
}

/// The library and its timers.
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
    // One byte before the packet is for its kind.
    config.max_packet_size = (MAX_PACKET - 1).try_into().expect("not zero");
    // The engine removes down members from the library itself.
    config.remove_down_after = None;
    config.notify_down_members = false;
    config
}

impl Swim {
    /// Creates the library for a node without other members.
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

    /// Returns when [`Swim::handle_timeout`] is due next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse(due)| due.at);
        let probing = self.probing.as_ref().map(|probing| self.next_step(probing));
        [timer, probing].into_iter().flatten().min()
    }

    fn next_step(&self, probing: &Probing) -> Instant {
        let part = RESEND_AT.get(probing.resent).copied().unwrap_or(FAILED_AT);
        probing.started + self.timeout.mul_f64(part)
    }

    /// Does all work that is due. Returns the member whose probe has failed, if any.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<MemberId> {
        let failed = self.advance_probe(now);
        while self.timers.peek().is_some_and(|Reverse(due)| due.at <= now) {
            let Some(Reverse(due)) = self.timers.pop() else { break };
            // The library reports an error for an unfinished probe cycle, but begins the next one.
            if let Err(error) = self.library.handle_timer(due.timer, &mut self.runtime) {
                tracing::trace!(%error, "the SWIM library could not handle a timer");
            }
            self.take_outputs(now);
        }
        failed
    }

    fn advance_probe(&mut self, now: Instant) -> Option<MemberId> {
        let probing = self.probing.as_ref()?;
        if self.next_step(probing) > now {
            return None;
        }
        let (id, number) = (probing.id, probing.number);
        if probing.resent == RESEND_AT.len() {
            self.probing = None;
            // The library gets a fake ack. Otherwise it would spread a suspicion, which the others would refuse.
            self.pass_header(
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

    /// Drops the probe in progress, since this node was stalled and may have missed the answer.
    pub(super) fn forget_probe(&mut self) {
        self.probing = None;
    }

    /// Passes the header of a probe's packet from a member that is up to the library.
    pub(super) fn handle_header(&mut self, now: Instant, header: &Header<MemberId>) {
        let answers = |probing: &Probing| match &header.message {
            Message::Ack(number) => header.src == probing.id && *number == probing.number,
            Message::ForwardedAck { origin, probe_number } => *origin == probing.id && *probe_number == probing.number,
            _ => false,
        };
        if self.probing.as_ref().is_some_and(answers) {
            self.probing = None;
        }
        self.pass_header(now, header);
    }

    fn pass_header(&mut self, now: Instant, header: &Header<MemberId>) {
        let Ok(packet) = postcard::to_allocvec(header) else { return };
        if let Err(error) = self.library.handle_data(&packet, &mut self.runtime) {
            tracing::trace!(%error, "the SWIM library refused a packet");
        }
        self.take_outputs(now);
    }

    /// Adds a member that is up. With `is_news`, the library spreads an update about it.
    pub(super) fn add(&mut self, now: Instant, id: MemberId, is_news: bool) {
        self.apply(now, Member::alive(id), is_news);
    }

    /// Removes a member that is not up any more. No update is spread.
    pub(super) fn remove(&mut self, now: Instant, id: MemberId) {
        if self.probing.as_ref().is_some_and(|probing| probing.id == id) {
            self.probing = None;
        }
        self.apply(now, Member::down(id), false);
        // For the library, down is final. Here the member may come back, so the library has to forget it.
        let _ = self.library.handle_timer(Timer::RemoveDown(id), &mut self.runtime);
        self.take_outputs(now);
    }

    fn apply(&mut self, now: Instant, member: Member<MemberId>, is_news: bool) {
        if let Err(error) = self.library.apply_many(std::iter::once(member), is_news, &mut self.runtime) {
            tracing::debug!(%error, "could not update the SWIM library");
        }
        self.take_outputs(now);
    }

    /// Spreads an item of news.
    pub(super) fn spread(&mut self, item: &[u8]) {
        if let Err(error) = self.library.add_broadcast(item) {
            tracing::debug!(%error, "could not add news");
        }
    }

    /// Sends the waiting news to a few random members immediately.
    pub(super) fn broadcast(&mut self, now: Instant) {
        if let Err(error) = self.library.broadcast(&mut self.runtime) {
            tracing::debug!(%error, "could not broadcast news");
        }
        self.take_outputs(now);
    }

    /// Removes and returns the packets to send.
    pub(super) fn take_packets(&mut self) -> std::vec::Drain<'_, (MemberId, Bytes)> {
        self.packets.drain(..)
    }

    /// Takes the packets and timers that the library has produced.
    fn take_outputs(&mut self, now: Instant) {
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
            // The library's suspicions are not used.
            if matches!(timer, Timer::ChangeSuspectToDown { .. }) {
                continue;
            }
            self.timers_set += 1;
            self.timers.push(Reverse(Due { at: now + after, timer, number: self.timers_set }));
        }
    }
}
