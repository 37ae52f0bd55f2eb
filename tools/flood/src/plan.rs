//! An attacker's parameters and counts, and the pace at which attackers connect, act and leave.

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

/// How long an attacker receives after it has stopped sending: longer than the slowest answer, that of a request to
/// pair.
pub const LISTEN_ON: Duration = Duration::from_millis(1_500);
/// The time over which attackers leave. Thousands leaving at once would be another attack.
const LEAVE: Duration = Duration::from_secs(1);

/// An attacker's counts of its actions and of the node's answers, by name.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<String, u64>>>);

impl Tally {
    /// Adds one to a count.
    pub fn count(&self, what: &str) {
        self.add(what, 1);
    }

    /// Adds to a count.
    pub fn add(&self, what: &str, number: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(what) {
            Some(count) => *count += number,
            None => drop(counts.insert(what.to_owned(), number)),
        }
    }

    /// All counts.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An attacker's parameters.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The node's address for clients.
    pub node: SocketAddr,
    /// The node's address for links.
    pub quic: SocketAddr,
    /// The node's id.
    pub id: String,
    /// When to stop.
    pub until: Instant,
    /// Run at a fiftieth of all rates, to check that it works.
    pub quick: bool,
    /// The attacker's counts.
    pub tally: Tally,
}

impl Plan {
    /// Scales a number of attackers or a rate: unchanged, or far lower in a quick run.
    pub const fn some(&self, number: u32) -> u32 {
        if self.quick { number.div_ceil(50) } else { number }
    }

    /// The node's id.
    ///
    /// # Panics
    /// It isn't valid.
    pub fn node_id(&self) -> NodeId {
        self.id.parse().expect("a node's id")
    }

    /// Whether it is time to stop.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// When an attacker that has stopped sending stops receiving.
    pub fn listens_until(&self) -> Instant {
        self.until + LISTEN_ON
    }

    /// Waits until turn number `turn`, at `rate` turns a second.
    pub async fn turn(&self, since: Instant, turn: u64, rate: u32) {
        #[expect(clippy::cast_precision_loss, reason = "turns of some seconds")]
        let due = since + Duration::from_secs_f64(turn as f64 / f64::from(rate));
        sleep_until(due.min(self.until)).await;
    }

    /// The next turn of attacker `number` of `count`.
    pub fn first_turn(&self, since: Instant, number: u32, count: u32, rate: u32) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "turns of some seconds")]
        let passed = (since.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        passed - passed % u64::from(count) + u64::from(number)
    }

    /// Waits until it is the turn of attacker `number` of `count` to leave.
    pub async fn leave(&self, number: u32, count: u32) {
        let leave = if self.quick { LEAVE / 50 } else { LEAVE };
        sleep_until(self.until + leave.mul_f64(f64::from(number) / f64::from(count.max(1)))).await;
    }

    /// Starts one attacker at each turn until the time is over, while fewer than `most` are running. Then waits for
    /// all.
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

    /// Starts `count` attackers, each at its turn, and waits for all.
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
