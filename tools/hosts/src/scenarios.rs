//! The scenarios on the hosts, and their figures.

use std::{collections::BTreeSet, time::Duration};

use chappe_harness::figures::{Figures, percentile};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    calls::{Attempt, Calls},
    firewall::Firewall,
    fleet::Fleet,
    simulated::crash_known_by_all,
    topology::HostNumber,
    views::Views,
};

/// How long the nodes may take to agree on who is there.
const SETTLING: Duration = Duration::from_secs(180);
/// How long nothing happens: a node that is declared down in this time is so by mistake.
const STEADY: Duration = Duration::from_secs(60);
/// How long a crash may take to be known, and a node to be back.
const KNOWN_WITHIN: Duration = Duration::from_secs(60);
/// How long a node is stopped.
const STALL: Duration = Duration::from_secs(30);
/// How long calls go on before a partition, how long it lasts, and how long they go on after it.
const BEFORE: Duration = Duration::from_secs(15);
const PARTED: Duration = Duration::from_secs(60);
const AFTER: Duration = Duration::from_secs(60);
/// How long after a cut unreachable members are still in views, and may be the homes of a lookup.
const NOTICING: Duration = Duration::from_secs(20);
/// How long most calls take to be answered.
const ANSWERING: Duration = Duration::from_secs(1);
/// How often conditions are checked.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The hosts, their views, and the output of figures.
#[derive(Debug)]
pub struct Scenarios {
    /// The hosts.
    pub fleet: Fleet,
    /// Their views.
    pub views: Views,
    /// The output of figures.
    pub figures: Figures,
}

impl Scenarios {
    /// Measures the time from the start of all nodes until every view is complete.
    ///
    /// # Panics
    /// It takes too long.
    pub async fn start(fleet: Fleet, since: Instant, figures: Figures) -> Self {
        let views = Views::watch(&fleet);
        let scenarios = Self { fleet, views, figures };
        scenarios.settle("after the start").await;
        scenarios.print("all start at once, every view is whole", "", since.elapsed(), Some(60.0));
        scenarios
    }

    /// Kills and restarts nodes one after the other while packets are lost. Counts nodes declared down by mistake.
    pub async fn crashes(&mut self, loss: u32, crashes: &[usize]) {
        Firewall { loss, cut: None }.apply();
        let what = format!(", {loss} % loss");
        self.figures.remark(&format!("steady{what}…"));
        self.settle("with this loss").await;
        let since = Instant::now();
        sleep(STEADY).await;
        let mut away = Vec::new();
        let (mut known, mut joined, mut knows) = (Times::default(), Times::default(), Vec::new());
        for &index in crashes {
            self.figures.remark(&format!("host {} is killed{what}…", index + 1));
            let killed = self.fleet.kill(index).await;
            known.add(self.noticed(index, killed, false).await);
            self.figures.remark(&format!("host {} starts{what}…", index + 1));
            let started = self.fleet.restart(index).await;
            joined.add(self.noticed(index, started, true).await);
            self.settle("after a join").await;
            let changes = self.views.changes_since(started);
            let last = changes.iter().filter(|change| change.observer == index && change.up).map(|change| change.at);
            away.push((index, killed, Instant::now()));
            knows.push(last.max().map_or(KNOWN_WITHIN, |at| at - started).as_secs_f64());
        }
        self.mistakes(since, &away, &what, if loss > 5 { 0.05 } else { 0.0 });
        // Targets apply to a working network. With more loss, figures are for information.
        let target = |most: f64| (loss <= 2).then_some(most);
        let measured = percentile(&mut known.by_all, 0.5);
        known.print(self.figures, "crash known", &what, target(15.0));
        let members = self.fleet.hosts.len();
        let simulated = tokio::task::spawn_blocking(move || crash_known_by_all(members, loss)).await;
        let simulated = simulated.expect("the simulator ends");
        self.figures.print(&format!("crash known by all{what}, median"), measured, "s", None);
        self.figures.print(&format!("crash known by all{what}, median, simulated"), simulated, "s", None);
        let apart = (measured / simulated - 1.0).abs() * 100.0;
        self.figures.print(&format!("simulator and hosts differ{what} by"), apart, "%", Some(25.0));
        joined.print(self.figures, "join known", &what, target(3.0));
        self.figures.print(&format!("joiner knows all{what}, mean"), mean(&knows), "s", target(5.0));
    }

    /// Stops a node's process, and continues it.
    pub async fn stall(&self, loss: u32, index: usize) {
        Firewall { loss, cut: None }.apply();
        self.settle("before a stall").await;
        self.figures.remark(&format!("host {} stands still…", index + 1));
        let host = &self.fleet.hosts[index];
        let stopped = Instant::now();
        host.signal("STOP");
        let mut known = Times::default();
        known.add(self.noticed(index, stopped, false).await);
        known.print(self.figures, "stopped process known", "", Some(15.0));
        sleep_until(stopped + STALL).await;
        let continued = Instant::now();
        host.signal("CONT");
        let mut back = Times::default();
        back.add(self.noticed(index, continued, true).await);
        self.settle("after a stall").await;
        back.print(self.figures, "continued process is back", "", Some(15.0));
        let changes = self.views.changes_since(stopped);
        let others = changes.iter().filter(|change| !change.up && change.subject != index).count();
        self.count("others taken for down because of a stopped process", others, Some(0.0));
    }

    /// Partitions the hosts in two halves for a minute, while calls go on.
    pub async fn partition(&self, loss: u32) {
        Firewall { loss, cut: None }.apply();
        self.settle("before a partition").await;
        let half = self.fleet.hosts.len() / 2;
        let (one, other): (Vec<_>, Vec<_>) = (0..self.fleet.hosts.len()).partition(|index| *index < half);
        let within = [(one[0], one[5]), (one[8], one[2]), (other[1], other[6]), (other[9], other[3])];
        let across = [(one[1], other[4]), (other[2], one[3]), (one[7], other[8]), (other[0], one[9])];
        let url = |index: usize| self.fleet.hosts[index].client_url();
        let pairs: Vec<_> = within.iter().chain(&across).map(|(from, to)| (url(*from), url(*to))).collect();
        let calls = Calls::start(&pairs).await;
        let is_across = |attempt: &Attempt| attempt.pair >= within.len();
        let begun = Instant::now();
        sleep(BEFORE).await;

        self.figures.remark("the network is cut in two…");
        let cut = Instant::now();
        let number = |index: &usize| self.fleet.hosts[*index].number;
        let groups: [Vec<HostNumber>; 2] = [one.iter().map(number).collect(), other.iter().map(number).collect()];
        let [first, second] = groups;
        Firewall { loss, cut: Some((first, second)) }.apply();
        let halves = || self.views.are(&one, &one) && self.views.are(&other, &other);
        let parted = self.within(PARTED, halves).await;
        self.print("partition, each side knows its own alone", "", parted.unwrap_or(PARTED), None);
        sleep_until(cut + PARTED).await;

        self.figures.remark("the network is whole again…");
        let healed = Instant::now();
        Firewall { loss, cut: None }.apply();
        let whole = self.within(AFTER.max(Duration::from_secs(150)), || self.views.are_whole()).await;
        self.print("partition heals, every view is whole", "", whole.unwrap_or(SETTLING), Some(150.0));
        sleep_until(healed + AFTER).await;
        let end = Instant::now();

        // A call in progress at the cut is in neither period.
        self.answered("calls answered before the partition", &calls.between(begun, cut - ANSWERING), Some(99.0));
        let parted: Vec<_> = calls.between(cut, healed).into_iter().filter(|attempt| !is_across(attempt)).collect();
        let (first, then): (Vec<_>, Vec<_>) = parted.into_iter().partition(|attempt| attempt.at < cut + NOTICING);
        self.answered("calls answered within a side, first 20 s", &first, None);
        self.answered("calls answered within a side, after that", &then, Some(99.0));
        let after = calls.between(healed, end);
        let mut first_across = Vec::new();
        for pair in within.len()..pairs.len() {
            let first = after.iter().find(|attempt| attempt.pair == pair && attempt.took.is_some());
            let took = first.map_or(AFTER, |attempt| attempt.at + attempt.took.unwrap_or_default() - healed);
            first_across.push(took.as_secs_f64());
        }
        let slowest = percentile(&mut first_across, 1.0);
        self.figures.print("first call across after the heal, slowest pair", slowest, "s", Some(10.0));
        let later: Vec<_> =
            after.into_iter().filter(|attempt| attempt.at >= healed + Duration::from_secs(10)).collect();
        self.answered("calls answered from 10 s after the heal on", &later, Some(99.0));
        calls.stop().await;
    }

    /// How long after `since` each other node has seen that this one is gone, or there.
    async fn noticed(&self, subject: usize, since: Instant, up: bool) -> Vec<f64> {
        let count = self.fleet.hosts.len();
        let seen = || {
            let changes = self.views.changes_since(since).into_iter();
            let of_it = changes.filter(|change| change.subject == subject && change.observer != subject);
            let mut first = vec![None; count];
            for change in of_it.filter(|change| change.up == up) {
                first[change.observer].get_or_insert((change.at - since).as_secs_f64());
            }
            first
        };
        self.within(KNOWN_WITHIN, || seen().iter().flatten().count() == count - 1).await;
        let late = KNOWN_WITHIN.as_secs_f64();
        let others = seen().into_iter().enumerate().filter(|(observer, _)| *observer != subject);
        others.map(|(_, first)| first.unwrap_or(late)).collect()
    }

    /// Waits until every node knows all.
    async fn settle(&self, when: &str) {
        if self.within(SETTLING, || self.views.are_whole()).await.is_none() {
            let sizes: Vec<_> = (0..self.fleet.hosts.len()).map(|index| self.views.known_to(index)).collect();
            panic!("{when}, the views are not whole: {sizes:?}");
        }
    }

    /// Waits until that holds; how long it took.
    async fn within(&self, longest: Duration, holds: impl Fn() -> bool) -> Option<Duration> {
        let since = Instant::now();
        while since.elapsed() < longest {
            if holds() {
                return Some(since.elapsed());
            }
            sleep(LOOK_EVERY).await;
        }
        None
    }

    /// Counts nodes declared down since then, except for nodes that were away, and declarations by these.
    fn mistakes(&self, since: Instant, away: &[(usize, Instant, Instant)], what: &str, most: f64) {
        let is_away =
            |index: usize, at| away.iter().any(|(who, from, until)| *who == index && (*from..=*until).contains(&at));
        let mut changes = self.views.changes_since(since);
        changes
            .retain(|change| !change.up && !is_away(change.subject, change.at) && !is_away(change.observer, change.at));
        #[expect(clippy::cast_precision_loss, reason = "a few hosts")]
        let hours = since.elapsed().as_secs_f64() * self.fleet.hosts.len() as f64 / 3600.0;
        #[expect(clippy::cast_precision_loss, reason = "a few changes")]
        let rate = changes.len() as f64 / hours;
        let subjects: BTreeSet<_> = changes.iter().map(|change| change.subject).collect();
        self.count(&format!("taken for down by mistake{what}, by anybody"), subjects.len(), None);
        self.figures.print(&format!("mistakes{what}, in {hours:.1} node-hours"), rate, "per node-hour", Some(most));
    }

    fn print(&self, what: &str, when: &str, took: Duration, target: Option<f64>) {
        self.figures.print(&format!("{what}{when}"), took.as_secs_f64(), "s", target);
    }

    fn count(&self, what: &str, count: usize, target: Option<f64>) {
        #[expect(clippy::cast_precision_loss, reason = "a few hosts")]
        self.figures.print(what, count as f64, "nodes", target);
    }

    /// How many of the calls were answered, and how fast.
    fn answered(&self, what: &str, attempts: &[Attempt], least: Option<f64>) {
        let mut took: Vec<f64> =
            attempts.iter().filter_map(|attempt| attempt.took).map(|took| took.as_secs_f64() * 1000.0).collect();
        #[expect(clippy::cast_precision_loss, reason = "some hundred calls")]
        let share = took.len() as f64 * 100.0 / attempts.len().max(1) as f64;
        self.figures.print_least(what, share, "%", least);
        if !took.is_empty() {
            self.figures.print(
                &format!("  from offer to answer, median of {}", took.len()),
                percentile(&mut took, 0.5),
                "ms",
                None,
            );
        }
    }
}

/// How long events took to be seen by half of the other nodes, and by all of them.
#[derive(Debug, Default)]
struct Times {
    by_half: Vec<f64>,
    by_all: Vec<f64>,
}

impl Times {
    /// Adds an event, by the times at which each node saw it.
    fn add(&mut self, mut times: Vec<f64>) {
        self.by_half.push(percentile(&mut times, 0.5));
        self.by_all.push(percentile(&mut times, 1.0));
    }

    /// `target` applies to the mean time by all nodes.
    fn print(mut self, figures: Figures, what: &str, when: &str, target: Option<f64>) {
        figures.print(&format!("{what} by half{when}, mean"), mean(&self.by_half), "s", None);
        figures.print(&format!("{what} by all{when}, mean"), mean(&self.by_all), "s", target);
        if self.by_all.len() > 1 {
            figures.print(&format!("{what} by all{when}, slowest"), percentile(&mut self.by_all, 1.0), "s", None);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few values")]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
