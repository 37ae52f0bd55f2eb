//! Runs the attacks in turn, each between two quiet stretches, and judges the node.

use std::{collections::BTreeMap, time::Duration};

use chappe_harness::{
    cores,
    cpu::{MAX_OTHERS, Meter, Use},
    figures::Figures,
};
use tokio::time::{sleep, timeout};

use super::{
    attack::{ATTACKS, Attack, start},
    baseline::{Baseline, Observed},
    codes, leases,
    ledger::Ledger,
    node::Victim,
};

/// The fewest messages for a 99th percentile: ten are above it.
const ENOUGH: u64 = 1_000;
/// How late the baseline may send, in milliseconds. Timers have a resolution of one.
const MAX_LATE: f64 = 3.0;
/// The ratio by which a node's memory may grow from before an attack to after it: an allocator returns only part of it.
const MEMORY: f64 = 1.1;
/// The memory of a lease at a home, in MiB; half of it is spare capacity of the table. The table may be full, since
/// leases stay until they expire, which is after the course.
const LEASE: f64 = 1.0 / 1024.0;
/// The share of its peak that an allocator may keep at the end of a course, in partly used pages. An attack that leaves
/// some is repeated, and must then leave no more.
const PARTLY_USED: f64 = 0.02;
/// How long the node may take to close the sessions of attackers that have left: lingering closes, of which only some
/// run at once.
const TO_BE_RID: Duration = Duration::from_secs(5);

/// The name of the measurement after all attacks. It isn't part of a quick course.
pub const GUESS_CODES: &str = "guess-codes";

/// Which attacks run, and how long.
#[derive(Clone, Debug)]
pub struct Course {
    /// Only the attack of this name.
    pub only: Option<String>,
    /// Run everything small and short, to check that it works. Latency and memory aren't judged.
    pub quick: bool,
}

impl Course {
    const fn pairs(&self) -> u32 {
        if self.quick { 10 } else { 200 }
    }

    const fn attack(&self) -> Duration {
        if self.quick { Duration::from_millis(600) } else { Duration::from_secs(12) }
    }

    /// Longer than anything left over from an attack may last: a request, a handshake, a lingering close.
    const fn quiet(&self) -> Duration {
        if self.quick { Duration::from_millis(200) } else { Duration::from_secs(8) }
    }

    fn takes(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == name)
    }
}

/// Runs the course. Returns whether the node passed, without regard to latency.
///
/// # Panics
/// A process doesn't start, or ends.
pub async fn run(figures: Figures, course: &Course) -> bool {
    if !cores::are_two() {
        figures.warn("no two cores (or no taskset, of util-linux): the node shares one with attackers, and no latency is to be trusted");
    }
    let mut is_right = true;
    for tls in [false, true] {
        let attacks: Vec<_> = ATTACKS.iter().filter(|one| one.tls == tls && course.takes(one.name)).collect();
        if !attacks.is_empty() {
            is_right &= run_at_one_node(figures, course, &attacks, tls).await;
        }
    }
    if course.takes(GUESS_CODES) && !course.quick {
        is_right &= codes::measure(figures, &Victim::start(false).await).await;
    }
    is_right
}

async fn run_at_one_node(figures: Figures, course: &Course, attacks: &[&Attack], tls: bool) -> bool {
    let node = Victim::start(tls).await;
    figures.remark(&format!("{} pairs connect…", course.pairs()));
    let baseline = Baseline::start(figures, course.pairs(), &node).await;
    sleep(course.quiet()).await;
    let mut scenario = Scenario { figures, course, node, baseline, quiet: 0 };
    let (mut is_right, own, mut peak) = (true, scenario.own_memory(), 0.0_f64);
    for attack in attacks {
        let seen = scenario.play(attack).await;
        is_right &= scenario.judge(attack, &seen);
        let bound = seen.before.memory * MEMORY;
        peak = peak.max(seen.peak);
        let print = |what: &str, value: f64, bound: Option<f64>| {
            figures.print(&format!("{}: memory of the node {what}", attack.name), value, "MiB", bound)
        };
        print("before", seen.before.memory, None);
        // Memory buffered for clients is bounded, and isn't a leak.
        let held = f64::from(attack.held);
        is_right &= print("at its peak", seen.peak, (held > 0.0 && !course.quick).then_some(bound + held));
        // A leak grows with each attack; the allocator's spare memory doesn't.
        if !print("afterwards", seen.rested.memory, (!course.quick).then_some(bound)) {
            let again = scenario.play(attack).await;
            is_right &= scenario.judge(attack, &again);
            is_right &= print("after the same once more", again.rested.memory, Some(seen.rested.memory * MEMORY));
        }
    }
    // Each attack is compared with the state just before it. Compare the whole course too, since small steps may add
    // up.
    figures.print("all attacks: the node's own memory before", own, "MiB", None);
    let bound = own + count(leases::KEPT) * LEASE + peak * PARTLY_USED;
    let stays = "all attacks: the node's own memory afterwards";
    is_right &= figures.print(stays, scenario.own_memory(), "MiB", (!course.quick).then_some(bound));
    let all = scenario.baseline.finish().await;
    figures.print("all stretches: messages of the honest", count(all.sent), "", None);
    is_right &= figures.print("all stretches: messages of the honest that were lost", count(all.lost), "", Some(0.0));
    is_right & figures.print("all stretches: those whose outcome wasn't told", count(all.untold), "", Some(0.0))
}

struct Scenario<'a> {
    figures: Figures,
    course: &'a Course,
    node: Victim,
    baseline: Baseline,
    /// The number of the quiet stretch before the next attack.
    quiet: usize,
}

/// The measurements of one attack.
struct Seen {
    told: BTreeMap<String, u64>,
    before: State,
    rested: State,
    /// The node's peak memory, in MiB.
    peak: f64,
    usage: Use,
    dropped: u64,
    /// The baseline in the quiet stretches before and after the attack.
    beside: Observed,
    /// The baseline in the quiet stretch before the attack. Losses after it show in the next attack's, or in the sum.
    quiet_before: Observed,
    /// The baseline during the attack.
    noticed: Observed,
    /// The baseline during the attack and the quiet stretch after it, the same period as the node's counters.
    counted: Observed,
}

impl Scenario<'_> {
    /// The node's anonymous memory, in MiB.
    fn own_memory(&self) -> f64 {
        mib(self.node.process().anonymous_kib())
    }

    async fn play(&mut self, attack: &Attack) -> Seen {
        self.figures.remark(&format!("{}…", attack.name));
        let (before, dropped) = (State::of(&self.node).await, self.node.connections_dropped());
        self.node.process().forget_peak();
        let stretch = self.baseline.next_stretch().await;
        let meter = Meter::start(&[self.node.process().id()]);
        let told = start(attack.name, &self.node, self.course.attack() * attack.times, self.course.quick).await;
        // Closing the attackers' sessions is part of the attack.
        let _ = timeout(TO_BE_RID, async {
            while State::of(&self.node).await.sessions > before.sessions + 1.0 {
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        let usage = meter.stop();
        let quiet = self.baseline.next_stretch().await;
        let peak = mib(self.node.process().peak_kib());
        sleep(self.course.quiet()).await;
        Seen {
            told,
            before,
            rested: State::of(&self.node).await,
            peak,
            usage,
            dropped: self.node.connections_dropped() - dropped,
            quiet_before: self.baseline.report(&[self.quiet]).await,
            beside: self.baseline.report(&[std::mem::replace(&mut self.quiet, quiet), quiet]).await,
            noticed: self.baseline.report(&[stretch]).await,
            counted: self.baseline.report(&[stretch, quiet]).await,
        }
    }

    fn judge(&self, attack: &Attack, seen: &Seen) -> bool {
        let Seen { told, noticed, beside, .. } = seen;
        let print = |what: &str, value: f64, unit, target| {
            self.figures.print(&format!("{}: {what}", attack.name), value, unit, target)
        };
        self.figures.remark(&format!("  the attacker counted {}", serde_json::json!(told)));
        let grown = seen.rested.grown_since(&seen.before);
        self.figures.remark(&format!("  the node counted {}", serde_json::json!(grown)));
        let mut is_right = print("messages of the honest that were lost", count(noticed.lost), "", Some(0.0));
        is_right &= print("those whose outcome wasn't told", count(noticed.untold), "", Some(0.0));
        let before = &seen.quiet_before;
        is_right &= print("the same of both before it", count(before.lost + before.untold), "", Some(0.0));
        is_right &=
            print("newcomers that weren't let in", count(noticed.not_let_in + beside.not_let_in), "", Some(0.0));
        // Most nodes of this small federation are hostile, and may be all the homes of an inbox.
        let not_attached = count(noticed.not_attached + beside.not_attached);
        let is_judged = !self.course.quick && !told.contains_key("linked");
        is_right &= print("newcomers that attached nothing", not_attached, "", is_judged.then_some(0.0));
        self.judge_latency(attack, seen);
        // Of one core, including the time until the attackers' sessions are closed.
        print(
            "processor of the node",
            seen.usage.servers.as_secs_f64() / seen.usage.elapsed.as_secs_f64() * 100.0,
            "%",
            None,
        );
        let is_counted = attack.counted.is_empty()
            || (self.course.quick && attack.may_be_allowed())
            || attack.counted.iter().any(|name| grown.keys().any(|counter| counter.contains(name)));
        is_right &= print("refusals that the node didn't count", f64::from(u8::from(!is_counted)), "", Some(0.0));
        let mishaps = attack.mishaps(told);
        is_right &= print("what the attacker didn't do", count(mishaps.len() as u64), "", Some(0.0));
        mishaps.iter().for_each(|mishap| self.figures.warn(&format!("{}: the attacker counted {mishap}", attack.name)));
        let ledger = Ledger { attacker: told, grown: &grown, baseline: &seen.counted, dropped: seen.dropped };
        let wrong: Vec<_> = ledger.accounts().into_iter().filter(|account| !account.balances()).collect();
        for account in &wrong {
            self.figures.warn(&format!(
                "{}: {}: {} to {} by the attacker, {} by the node",
                attack.name, account.what, account.least, account.most, account.node
            ));
        }
        is_right &= print("accounts that don't balance", count(wrong.len() as u64), "", Some(0.0));
        is_right & print("panics", f64::from(u8::from(self.node.has_panicked())), "", Some(0.0))
    }

    /// Prints latencies without judging them, and warns if the node isn't their cause.
    fn judge_latency(&self, attack: &Attack, Seen { noticed, beside, usage, told, .. }: &Seen) {
        let figures = self.figures;
        let print = |what: &str, value: f64, target| {
            figures.print(&format!("{}: {what}", attack.name), value, "ms", target);
        };
        let is_enough = noticed.sent.min(beside.sent) >= ENOUGH;
        figures.remark(&format!("  {} messages of the honest, {} in quiet times", noticed.sent, beside.sent));
        print("p99 of the honest in quiet times", beside.p99, None);
        print("p99 of the honest", noticed.p99, is_enough.then_some(beside.p99 * 2.0));
        print("p99 of the honest from when they sent", noticed.p99_from_sent, None);
        print("p99 of the two whose codes are known", noticed.by_code_p99, None);
        let (second, slow) = noticed.slowest_second;
        figures.remark(&format!("  of the slowest hundredth, {slow} were due in second {second}"));
        if !is_enough {
            return;
        }
        let late = noticed.late_p99.max(beside.late_p99);
        if late > MAX_LATE {
            figures.warn(&format!("{}: the honest themselves were late by {late:.1} ms (p99)", attack.name));
        }
        let others = usage.others_on_servers * 100.0;
        if cores::are_two() && others > MAX_OTHERS {
            figures.warn(&format!("{}: other processes took {others:.0} % of the node's core", attack.name));
        }
        if let Some(put_off) = told.get("put off: too many under way") {
            figures.warn(&format!(
                "{}: the attacker was the limit, or the node: {put_off} turns were put off",
                attack.name
            ));
        }
    }
}

/// The node's counters and memory.
struct State {
    counters: BTreeMap<String, f64>,
    sessions: f64,
    /// In MiB.
    memory: f64,
}

impl State {
    async fn of(node: &Victim) -> Self {
        let counters = node.counters().await;
        let sessions = counters.get("sessions").copied().unwrap_or(0.0);
        Self { counters, sessions, memory: mib(node.process().resident_kib()) }
    }

    fn grown_since(&self, before: &Self) -> BTreeMap<String, f64> {
        let of = |name: &String| before.counters.get(name).copied().unwrap_or(0.0);
        let counters = self.counters.iter().filter(|(name, _)| name.contains("_total"));
        counters.map(|(name, value)| (name.clone(), value - of(name))).filter(|(_, grown)| *grown > 0.0).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "messages of some seconds")]
const fn count(number: u64) -> f64 {
    number as f64
}

fn mib(kib: u64) -> f64 {
    count(kib) / 1024.0
}
