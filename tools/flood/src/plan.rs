//! What an attacker knows, what it counts, and the pace at which attackers come, act and go.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chappe_common::keys::NodeId;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// How long an attacker that has stopped listens on: longer than the slowest answer, that of a request to pair.
pub const LISTEN_ON: Duration = Duration::from_millis(1_500);
/// Over how long they leave. That thousands leave in one moment is an attack of its own.
const LEAVE: Duration = Duration::from_secs(1);

/// What an attacker counted: what it tried, and what the node answered.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<String, u64>>>);

impl Tally {
    /// Counts one.
    pub fn count(&self, what: &str) {
        self.add(what, 1);
    }

    /// Counts some.
    pub fn add(&self, what: &str, number: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(what) {
            Some(count) => *count += number,
            None => drop(counts.insert(what.to_owned(), number)),
        }
    }

    /// All that was counted.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What an attacker knows: whom to attack, and until when.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The node's address for clients.
    pub node: SocketAddr,
    /// The node's address for other nodes.
    pub quic: SocketAddr,
    /// The node's id.
    pub id: String,
    /// When to stop.
    pub until: Instant,
    /// A fiftieth of everything: to see that it works.
    pub quick: bool,
    /// What is counted.
    pub tally: Tally,
}

impl Plan {
    /// A number of attackers, or of messages a second; far fewer where that is to be quick.
    pub const fn some(&self, number: u32) -> u32 {
        if self.quick { number.div_ceil(50) } else { number }
    }

    /// The node's id.
    ///
    /// # Panics
    /// It is none.
    pub fn node_id(&self) -> NodeId {
        self.id.parse().expect("a node's id")
    }

    /// Whether it is time to stop.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// When whoever has stopped no longer listens for answers.
    pub fn listens_until(&self) -> Instant {
        self.until + LISTEN_ON
    }

    /// Waits until the turn of number `turn`, where `rate` have one in a second.
    pub async fn turn(&self, since: Instant, turn: u64, rate: u32) {
        #[expect(clippy::cast_precision_loss, reason = "turns of some seconds")]
        let due = since + Duration::from_secs_f64(turn as f64 / f64::from(rate));
        sleep_until(due.min(self.until)).await;
    }

    /// The first turn of attacker `number` of `count` that is still to come.
    pub fn first_turn(&self, since: Instant, number: u32, count: u32, rate: u32) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "turns of some seconds")]
        let passed = (since.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        passed - passed % u64::from(count) + u64::from(number)
    }

    /// Waits until it is the turn of number `number` of `count` to leave, when nothing is left to listen to.
    pub async fn leave(&self, number: u32, count: u32) {
        let leave = if self.quick { LEAVE / 50 } else { LEAVE };
        sleep_until(self.until + leave.mul_f64(f64::from(number) / f64::from(count.max(1)))).await;
    }

    /// Lets one begin at each turn, where fewer than `most` are under way, until the time is over; then waits for all.
    pub async fn at_each_turn<F>(&self, rate: u32, most: u32, begin: impl Fn(u32) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (mut under_way, since, most) = (JoinSet::new(), Instant::now(), self.some(most) as usize);
        for turn in 0..u32::MAX {
            self.turn(since, turn.into(), self.some(rate)).await;
            while under_way.try_join_next().is_some() {}
            if self.is_over() {
                break;
            }
            if under_way.len() < most {
                under_way.spawn(begin(turn));
            } else {
                self.tally.count("put off: too many under way");
            }
        }
        under_way.join_all().await;
    }

    /// Lets `count` begin, each at its turn, and waits for all.
    pub async fn all<F>(&self, count: u32, rate: u32, begin: impl Fn(u32) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (mut under_way, since) = (JoinSet::new(), Instant::now());
        for number in 0..count {
            self.turn(since, number.into(), rate).await;
            under_way.spawn(begin(number));
        }
        under_way.join_all().await;
    }
}
