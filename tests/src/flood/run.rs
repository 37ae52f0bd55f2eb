//! All attacks in turn, each between two quiet stretches, and what is wanted of the node meanwhile.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    attack::{ATTACKS, Attack, start},
    codes,
    honest::{Honest, Notice},
    node::Victim,
};
use crate::{
    ca::Ca,
    figures::{Figures, percentile},
};

/// What is run, and how long.
#[derive(Clone, Debug)]
pub struct Course {
    /// Only the attack of this name.
    pub only: Option<String>,
    /// Everything small and short: to see that it works. Speed says nothing then.
    pub quick: bool,
}

impl Course {
    const fn pairs(&self) -> u32 {
        if self.quick { 10 } else { 200 }
    }

    const fn attack(&self) -> Duration {
        if self.quick { Duration::from_millis(600) } else { Duration::from_secs(12) }
    }

    /// Longer than what is left over from an attack may live: a request's time, a handshake's, a lingering close.
    const fn quiet(&self) -> Duration {
        if self.quick { Duration::from_millis(200) } else { Duration::from_secs(8) }
    }

    fn takes(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == name)
    }
}

/// Runs the course; whether all is as it has to be, apart from speed.
///
/// # Panics
/// A process doesn't start, or ends.
pub async fn run(figures: Figures, course: &Course) -> bool {
    let mut is_right = true;
    for tls in [false, true] {
        let attacks: Vec<_> = ATTACKS.iter().filter(|one| one.tls == tls && course.takes(one.name)).collect();
        if !attacks.is_empty() {
            is_right &= run_at_one_node(figures, course, &attacks, tls).await;
        }
    }
    if course.takes("guess-codes") && !course.quick {
        codes::measure(figures, &Victim::start(None).await).await;
    }
    is_right
}

async fn run_at_one_node(figures: Figures, course: &Course, attacks: &[&Attack], tls: bool) -> bool {
    let ca = tls.then(|| Ca::new("theirs"));
    let node = Victim::start(ca.as_ref()).await;
    figures.remark(&format!("{} pairs connect…", course.pairs()));
    let honest = Honest::start(course.pairs(), &node.url, node.addr, ca.as_ref().map(Ca::trusted)).await;
    sleep(course.quiet()).await;
    let mut is_right = true;
    for attack in attacks {
        figures.remark(&format!("{}…", attack.name));
        let before = State::of(&node).await;
        let (stretch, since) = (honest.next_stretch(), Instant::now());
        let told = start(attack.name, &node, course.attack() * attack.times, course.quick).await;
        let (lasted, after) = (since.elapsed().as_secs_f64(), State::of(&node).await);
        honest.next_stretch();
        sleep(course.quiet()).await;
        let quiet = [honest.stretch(stretch - 1), honest.stretch(stretch + 1)];
        let (noticed, rested) = (honest.stretch(stretch), State::of(&node).await);
        let print = |what: &str, value: f64, unit, target| {
            figures.print(&format!("{}: {what}", attack.name), value, unit, target)
        };
        figures.remark(&format!("  the attacker counted {told}"));
        is_right &= print("messages of the honest that were lost", lost(&noticed), "", Some(0.0));
        is_right &= print("newcomers that weren't let in", count(noticed.not_let_in), "", Some(0.0));
        let quiet = quiet.map(p99).into_iter().fold(0.0, f64::max);
        print("p99 of the honest in quiet times", quiet, "ms", None);
        print("p99 of the honest", p99(noticed), "ms", Some(quiet * 2.0));
        print("processor of the node", (after.cpu - before.cpu) / lasted * 100.0, "%", None);
        print("memory of the node at the end", after.memory, "MiB", None);
        print("memory of the node afterwards", rested.memory, "MiB", Some(before.memory * 1.1));
        let grown = rested.grown_since(&before);
        figures.remark(&format!("  the node counted {}", serde_json::to_string(&grown).expect("names are JSON")));
        // A few messages of each of many stay within their rates.
        let is_counted = attack.counted.is_empty()
            || (course.quick && attack.name.ends_with("-many"))
            || attack.counted.iter().any(|name| grown.keys().any(|counter| counter.contains(name)));
        is_right &= print("refusals that the node didn't count", f64::from(u8::from(!is_counted)), "", Some(0.0));
        is_right &= print("panics", f64::from(u8::from(node.has_panicked())), "", Some(0.0));
    }
    is_right
}

/// What the node says of itself.
struct State {
    counters: BTreeMap<String, f64>,
    memory: f64,
    cpu: f64,
}

impl State {
    async fn of(node: &Victim) -> Self {
        Self { counters: node.counters().await, memory: node.resident_mib(), cpu: node.cpu_seconds() }
    }

    fn grown_since(&self, before: &Self) -> BTreeMap<String, f64> {
        let of = |name: &String| before.counters.get(name).copied().unwrap_or(0.0);
        let counters = self.counters.iter().filter(|(name, _)| name.contains("_total"));
        counters.map(|(name, value)| (name.clone(), value - of(name))).filter(|(_, grown)| *grown > 0.0).collect()
    }
}

fn lost(noticed: &Notice) -> f64 {
    count(noticed.sent.saturating_sub(noticed.arrived) + noticed.wrong + noticed.refused)
}

#[expect(clippy::cast_precision_loss, reason = "messages of some seconds")]
const fn count(number: u64) -> f64 {
    number as f64
}

fn p99(mut noticed: Notice) -> f64 {
    if noticed.latencies.is_empty() { 0.0 } else { percentile(&mut noticed.latencies, 0.99) }
}
