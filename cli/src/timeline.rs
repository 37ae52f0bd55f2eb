//! What happens in a call, step by step, in words for people who have never seen one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use chappe_client::{Event, Step, StepKind};
use chappe_common::{client::RelayKind, keys::NodeId};
use chappe_discovery::race::confirm::Confirmation;
use serde::Serialize;
use tokio::{task::JoinSet, time::interval};

use crate::{explain, output::Output};

/// The widest list of hops: «caller → node 20 → node 20».
const HOPS_WIDTH: usize = 28;
/// The same where nodes are called by their ids: «node 12345678 → node 12345678 → you».
const ID_HOPS_WIDTH: usize = 36;

/// How long a step waits for earlier ones: several tasks tell what they see, and not in the order of time.
const REORDER: Duration = Duration::from_millis(50);

/// Prints steps in the order of time, counted from when it was made. Clones print to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    output: Output,
    started: Instant,
    names: HashMap<NodeId, String>,
    /// What is still to be printed: what happens within [`REORDER`], a few dozen steps.
    steps: Mutex<Vec<Entry>>,
    /// Prints what is due; ends with the last clone.
    _printer: JoinSet<()>,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    hops: Vec<String>,
    what: String,
}

#[derive(Serialize)]
struct StepLine<'a> {
    event: &'static str,
    ms: u64,
    hops: &'a [String],
    what: &'a str,
}

impl Timeline {
    /// A timeline that starts at `started` and calls these nodes by these names.
    pub(crate) fn new(output: Output, started: Instant, names: HashMap<NodeId, String>) -> Self {
        let inner = Arc::new_cyclic(|inner: &Weak<Inner>| {
            let inner = inner.clone();
            let mut printer = JoinSet::new();
            printer.spawn(async move {
                let mut every = interval(REORDER);
                loop {
                    every.tick().await;
                    let Some(inner) = inner.upgrade() else { return };
                    inner.print(Instant::now().checked_sub(REORDER));
                }
            });
            Inner { output, started, names, steps: Mutex::new(Vec::new()), _printer: printer }
        });
        Self { inner }
    }

    /// How a node is called here: by its name, or else by the start of its id.
    pub(crate) fn node(&self, node: NodeId) -> String {
        self.inner.names.get(&node).cloned().unwrap_or_else(|| format!("node {}", node.short()))
    }

    /// Prints the heading.
    pub(crate) fn head(&self) {
        let width = self.inner.hops_width();
        self.inner.output.remark(&format!("\n{:>8}  {:<width$}  what happens", "time", "hop"));
    }

    /// Prints one step.
    pub(crate) fn step(&self, at: Instant, hops: &[&str], what: &str) {
        let hops = hops.iter().map(|hop| (*hop).to_owned()).collect();
        self.inner.steps().push(Entry { at, hops, what: what.to_owned() });
    }

    /// Prints a step that happens now.
    pub(crate) fn now(&self, hops: &[&str], what: &str) {
        self.step(Instant::now(), hops, what);
    }

    /// Prints all that has been said so far.
    pub(crate) fn flush(&self) {
        self.inner.print(None);
    }

    /// Prints what a client tells of itself; `peer_node` is where the other side is, once that is known.
    pub(crate) fn client_event(&self, who: &str, event: &Event, peer_node: Option<NodeId>) {
        match event {
            Event::Connected { node, .. } => {
                let node = self.node(*node);
                self.now(&[who, &node], "connected by WebSocket; the node has proved its key");
            }
            Event::Disconnected { node, reason } => {
                self.now(&[who, &self.node(*node)], &format!("disconnected: {reason}"));
            }
            Event::NodeChecked { node, confirmation: Confirmation::Disagreement { what, .. } } => {
                self.now(&[who, &self.node(*node)], &explain::disagreement(what));
            }
            Event::SearchFailed { error, .. } => self.now(&[who], &error.to_string()),
            Event::NotReached { .. } => {
                self.now(&[who], "the contact is not reachable now; trying again for a few seconds");
            }
            Event::Step(step) => self.client_step(who, *step, peer_node),
            _ => {}
        }
    }

    fn client_step(&self, who: &str, step: Step, peer_node: Option<NodeId>) {
        let node = self.node(step.node);
        let peer_node = peer_node.map(|node| self.node(node));
        let there = peer_node.as_deref().filter(|peer_node| *peer_node != node);
        match step.kind {
            StepKind::Attached { inboxes: 0 } => {}
            StepKind::Attached { inboxes } => {
                self.step(step.at, &[who, &node], &format!("attached {inboxes} inboxes, so that contacts can call"));
            }
            StepKind::Resolving => self.step(step.at, &[who, &node], "where is my contact's inbox?"),
            StepKind::Resolved { peer_node } => {
                let text = format!("at {}, say the inbox's home nodes", self.node(peer_node));
                self.step(step.at, &[&node, who], &text);
            }
            StepKind::Sent(kind) => {
                let text = format!("sends the sealed {}", noun(kind));
                let hops: Vec<&str> = [who, &node].into_iter().chain(there).collect();
                self.step(step.at, &hops, &text);
            }
            StepKind::Delivered(kind) => {
                let hops: Vec<&str> = there.into_iter().chain([node.as_str(), who]).collect();
                self.step(step.at, &hops, &format!("{} handed over", noun_was(kind)));
            }
            StepKind::Failed(kind, code) => {
                let why = code.map_or_else(|| "no answer".to_owned(), |code| code.to_string());
                self.step(step.at, &[&node, who], &format!("{} not handed over: {why}", noun_was(kind)));
            }
            StepKind::Received(kind) => {
                self.step(step.at, &[&node, who], &format!("opens the sealed {}", noun(kind)));
            }
        }
    }
}

impl Inner {
    fn hops_width(&self) -> usize {
        if self.names.is_empty() { ID_HOPS_WIDTH } else { HOPS_WIDTH }
    }

    fn steps(&self) -> MutexGuard<'_, Vec<Entry>> {
        // Nothing panics while it holds the lock; and if it did, the steps would still be good.
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints what happened until then, or all.
    fn print(&self, until: Option<Instant>) {
        let width = self.hops_width();
        let mut steps = self.steps();
        steps.sort_by_key(|step| step.at);
        let due = until.map_or(steps.len(), |until| steps.partition_point(|step| step.at <= until));
        for Entry { at, hops, what } in steps.drain(..due) {
            let ms = u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
            let line = format!("{:>8}  {:<width$}  {what}", format!("{ms} ms"), hops.join(" → "));
            self.output.say(&line, &StepLine { event: "step", ms, hops: &hops, what: &what });
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.print(None);
    }
}

const fn noun(kind: RelayKind) -> &'static str {
    match kind {
        RelayKind::Offer | RelayKind::CallOffer => "offer",
        RelayKind::Answer | RelayKind::CallAnswer => "answer",
        RelayKind::IceCandidate | RelayKind::CallIce => "candidates",
        RelayKind::CallReject => "refusal",
        RelayKind::CallHangup => "goodbye",
    }
}

fn noun_was(kind: RelayKind) -> String {
    format!("the {} {}", noun(kind), if kind.is_ice() { "were" } else { "was" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn steps_are_held_back_until_earlier_ones_cannot_come_any_more() {
        let started = Instant::now();
        let timeline = Timeline::new(Output::silent(), started, HashMap::new());
        timeline.step(started + Duration::from_millis(2), &["b"], "second");
        timeline.step(started + Duration::from_millis(1), &["a"], "first");
        let waiting = || timeline.inner.steps().iter().map(|step| step.what.clone()).collect::<Vec<_>>();
        timeline.inner.print(started.checked_sub(REORDER));
        assert_eq!(waiting(), ["first", "second"]);
        timeline.inner.print(Some(started + Duration::from_millis(1)));
        assert_eq!(waiting(), ["second"]);
        timeline.flush();
        assert!(waiting().is_empty());
    }
}
