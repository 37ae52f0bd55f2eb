//! Load on a server: messages that are due at random times (open loop), or each as soon as the one before it was
//! received (closed loop).

use std::time::Duration;

use chappe_harness::cpu::Use;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};

use super::{Loaded, open::Clients};

/// The warm-up before the measured window: buffers and queues reach their full size.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long messages may take to arrive after the last was sent. Later ones count as lost.
const DRAIN: Duration = Duration::from_secs(5);
/// The most messages to send before reading from receivers again.
const BURST: usize = 32;

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// When messages are sent.
    pub pace: Pace,
    /// Characters of a payload.
    pub size: usize,
    /// How long to measure, in seconds.
    pub seconds: f64,
}

/// When messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// From random clients at a fixed mean rate, with exponential gaps.
    Open {
        /// Messages a second.
        rate: f64,
    },
    /// From some pairs, each with a fixed number of messages in flight.
    Closed {
        /// Pairs.
        pairs: usize,
        /// Messages of a pair.
        window: usize,
    },
}

impl Clients {
    /// Loads the server, and measures.
    pub(super) async fn load(&mut self, load: Load) -> Loaded {
        let shared = &self.shared;
        shared.faults.take();
        shared.sent.set(0);
        shared.received.set(0);
        shared.latency.borrow_mut().reset();
        shared.late.borrow_mut().reset();
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).expect("less than centuries");
        let start = shared.now() + nanos(WARM_UP);
        shared.window.set((start, start + nanos(Duration::from_secs_f64(load.seconds))));
        let usage = match load.pace {
            Pace::Open { rate } => self.send_when_due(rate, load.size).await,
            Pace::Closed { pairs, window } => self.send_in_turn(pairs, window, load).await,
        };
        self.drain().await;
        let mut faults = shared.faults.take();
        for session in &self.sessions {
            let partner = &self.sessions[session.number() as usize ^ 1];
            faults.lost += u64::from(session.settle(partner));
        }
        let latency = shared.latency.borrow();
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a run fit")]
        let us = |nanos: u64| nanos as f64 / 1000.0;
        Loaded {
            usage,
            messages: latency.len(),
            sent: shared.sent.get(),
            received: shared.received.get(),
            latency_us: [0.5, 0.99, 0.999].map(|share| us(latency.value_at_quantile(share))),
            late_us: us(shared.late.borrow().value_at_quantile(0.99)),
            faults,
        }
    }

    async fn send_when_due(&self, rate: f64, size: usize) -> Use {
        let shared = &self.shared;
        let (start, end) = shared.window.get();
        // The same schedule for every server.
        let mut rng = StdRng::seed_from_u64(1);
        let mut meter = None;
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run fit")]
        let mut due = shared.now() as f64;
        loop {
            // Timers have a resolution of a millisecond, which is too coarse. Read from receivers instead of sleeping.
            for _ in 0..BURST {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time after the start")]
                let moment = due as u64;
                if moment > shared.now() {
                    break;
                }
                let session = &self.sessions[rng.random_range(0..self.sessions.len())];
                session.send(shared, moment, size, false);
                due -= (1.0 - rng.random::<f64>()).ln() / rate * 1e9;
            }
            yield_now().await;
            let now = shared.now();
            if meter.is_none() && now >= start {
                meter = Some(self.meter());
            }
            if now >= end
                && let Some(meter) = meter.take()
            {
                return meter.stop();
            }
        }
    }

    async fn send_in_turn(&self, pairs: usize, window: usize, load: Load) -> Use {
        let shared = &self.shared;
        shared.answering.set(Some(load.size));
        for pair in self.sessions.chunks(2).take(pairs) {
            for at in 0..window {
                pair[at % 2].send(shared, shared.now(), load.size, false);
            }
        }
        sleep(WARM_UP).await;
        let meter = self.meter();
        sleep(Duration::from_secs_f64(load.seconds)).await;
        let usage = meter.stop();
        shared.answering.set(None);
        usage
    }

    async fn drain(&self) {
        let deadline = Instant::now() + DRAIN;
        while self.shared.received.get() < self.shared.sent.get() && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
    }
}
