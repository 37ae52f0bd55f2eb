//! One client under load: sends messages to its partner, and checks those that it receives.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::ready,
    time::Instant,
};

use hdrhistogram::Histogram;

use super::{
    connection::{Connection, Incoming, pong},
    framing::{BINARY, Framing, PING, TEXT},
    message::{Fault, Faults, Filler, Stamp},
    outgoing::Outgoing,
};

/// The longest latency that the histogram records, in nanoseconds: longer than any run.
const LONGEST: u64 = 600_000_000_000;

/// The JSON before and after a payload.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    pub(super) before: Vec<u8>,
    pub(super) after: &'static [u8],
}

/// One client.
#[derive(Debug)]
pub(super) struct Session {
    number: u32,
    framing: Framing,
    outgoing: RefCell<Outgoing>,
    /// The envelopes of sent and of received messages.
    out: Envelope,
    heard: Envelope,
    sent: Cell<u32>,
    /// The number of the partner's next message.
    next: Cell<u32>,
}

/// What all clients of a generator share.
#[derive(Debug)]
pub(super) struct Shared {
    epoch: Instant,
    filler: Filler,
    frame: RefCell<Vec<u8>>,
    mask: Cell<u32>,
    pub(super) sent: Cell<u64>,
    pub(super) received: Cell<u64>,
    pub(super) faults: Cell<Faults>,
    /// The measured window.
    pub(super) window: Cell<(u64, u64)>,
    pub(super) latency: RefCell<Histogram<u64>>,
    pub(super) late: RefCell<Histogram<u64>>,
    /// Whether every message is answered by one of this size.
    pub(super) answering: Cell<Option<usize>>,
}

impl Shared {
    pub(super) fn new() -> Self {
        let histogram = || RefCell::new(Histogram::new_with_max(LONGEST, 3).expect("bounds"));
        Self {
            epoch: Instant::now(),
            filler: Filler::new(),
            frame: RefCell::default(),
            mask: Cell::new(0x9E37_79B9),
            sent: Cell::new(0),
            received: Cell::new(0),
            faults: Cell::default(),
            window: Cell::new((u64::MAX, u64::MAX)),
            latency: histogram(),
            late: histogram(),
            answering: Cell::new(None),
        }
    }

    /// Nanoseconds since the generator began.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).expect("less than centuries")
    }

    /// Masks of frames needn't be secret here: xorshift.
    fn next_mask(&self) -> u32 {
        let mut mask = self.mask.get();
        mask ^= mask << 13;
        mask ^= mask >> 17;
        mask ^= mask << 5;
        self.mask.set(mask);
        mask
    }

    fn fault(&self, count: impl FnOnce(&mut Faults)) {
        let mut faults = self.faults.get();
        count(&mut faults);
        self.faults.set(faults);
    }

    fn is_measured(&self, due: u64) -> bool {
        let (start, end) = self.window.get();
        (start..end).contains(&due)
    }
}

impl Session {
    /// Makes a client under load of a connection, and returns the half to [`listen`] to.
    pub(super) fn new(number: u32, connection: Connection, out: Envelope, heard: Envelope) -> (Rc<Self>, Incoming) {
        let Connection { incoming, outgoing } = connection;
        let session = Self {
            number,
            framing: incoming.framing(),
            outgoing: RefCell::new(outgoing),
            out,
            heard,
            sent: Cell::new(0),
            next: Cell::new(0),
        };
        (Rc::new(session), incoming)
    }

    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    /// Sends a message that was due at that time. `hold`: more messages follow before a flush.
    pub(super) fn send(&self, shared: &Shared, due: u64, size: usize, hold: bool) {
        let stamp = Stamp { sender: self.number, sequence: self.sent.get(), due };
        self.sent.set(stamp.sequence.wrapping_add(1));
        let mut frame = shared.frame.borrow_mut();
        frame.clear();
        let len = self.out.before.len() + size + self.out.after.len();
        self.framing.encode(&mut frame, len, shared.next_mask(), |to| {
            to.extend_from_slice(&self.out.before);
            shared.filler.put(to, stamp, size);
            to.extend_from_slice(self.out.after);
        });
        // A closed connection shows as lost messages.
        let _ = self.outgoing.borrow_mut().say(&frame, hold);
        shared.sent.set(shared.sent.get() + 1);
        if shared.is_measured(due) {
            shared.late.borrow_mut().saturating_record(shared.now().saturating_sub(due));
        }
    }

    /// Compares with the number of messages that the partner has sent. Returns how many were lost.
    pub(super) fn settle(&self, partner: &Self) -> u32 {
        let missing = partner.sent.get().wrapping_sub(self.next.get());
        self.next.set(partner.sent.get());
        missing
    }

    fn hear(&self, shared: &Shared, now: u64, opcode: u8, body: &[u8]) {
        match opcode {
            TEXT | BINARY => {}
            PING => {
                let _ = self.outgoing.borrow_mut().say(&pong(body), false);
                return;
            }
            _ => return shared.fault(|faults| faults.unexpected += 1),
        }
        let payload = body.strip_prefix(&self.heard.before[..]).and_then(|rest| rest.strip_suffix(self.heard.after));
        let Some(payload) = payload else { return shared.fault(|faults| faults.unexpected += 1) };
        match shared.filler.read(payload, self.number ^ 1) {
            Ok(stamp) => self.count(shared, now, stamp),
            Err(Fault::Misrouted) => shared.fault(|faults| faults.misrouted += 1),
            Err(Fault::Altered) => shared.fault(|faults| faults.altered += 1),
        }
        if let Some(size) = shared.answering.get() {
            self.send(shared, now, size, true);
        }
    }

    fn count(&self, shared: &Shared, now: u64, stamp: Stamp) {
        let skipped = stamp.sequence.wrapping_sub(self.next.get());
        if skipped > u32::MAX / 2 {
            return shared.fault(|faults| faults.reordered += 1);
        }
        if skipped > 0 {
            shared.fault(|faults| faults.lost += u64::from(skipped));
        }
        self.next.set(stamp.sequence.wrapping_add(1));
        shared.received.set(shared.received.get() + 1);
        if shared.is_measured(stamp.due) {
            shared.latency.borrow_mut().saturating_record(now.saturating_sub(stamp.due));
        }
    }
}

/// Reads a client's messages until its connection ends. Returns the client's number.
pub(super) async fn listen(session: Rc<Session>, mut incoming: Incoming, shared: Rc<Shared>) -> u32 {
    poll_fn(|cx| {
        loop {
            if session.outgoing.borrow_mut().poll_flush(cx).is_err() {
                return std::task::Poll::Ready(());
            }
            let mut now = None;
            let polled = incoming.poll_frames(cx, &session.outgoing, |opcode, body| {
                let now = *now.get_or_insert_with(|| shared.now());
                session.hear(&shared, now, opcode, body);
            });
            // Answers to one read go in one write.
            let flushed = session.outgoing.borrow_mut().flush();
            if ready!(polled).and(flushed).is_err() {
                return std::task::Poll::Ready(());
            }
        }
    })
    .await;
    session.number
}
