//! The steps of a call, described for people who do not know the protocol.

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

/// Width of the column of hops: «caller → node 20 → node 20».
const HOPS_WIDTH: usize = 28;
/// Width of the column with node ids: «node 12345678 → node 12345678 → you».
const ID_HOPS_WIDTH: usize = 36;

/// How long steps are held back to be sorted, because several tasks report them concurrently.
const REORDER: Duration = Duration::from_millis(50);

/// Prints steps in chronological order, with times since its creation. Clones share the output.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    output: Output,
    started: Instant,
    names: HashMap<NodeId, String>,
    /// Steps of the last [`REORDER`] that are not printed yet: a few dozen.
    steps: Mutex<Vec<TimelineStep>>,
    /// The task that prints the steps. It ends with the last clone.
    _printer: JoinSet<()>,
}

#[derive(Debug)]
struct TimelineStep {
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
    /// Creates a timeline with the start time `started` and names for nodes.
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

    /// The name of a node, or the start of its id.
    pub(crate) fn node_name(&self, node: NodeId) -> String {
        self.inner.names.get(&node).cloned().unwrap_or_else(|| format!("node {}", node.short()))
    }

    pub(crate) fn print_heading(&self) {
        let width = self.inner.hops_width();
        self.inner.output.print_text(&format!("\n{:>8}  {:<width$}  what happens", "time", "hop"));
    }

    /// Adds a step.
    pub(crate) fn add_step(&self, at: Instant, hops: &[&str], what: &str) {
        let hops = hops.iter().map(|hop| (*hop).to_owned()).collect();
        self.inner.steps().push(TimelineStep { at, hops, what: what.to_owned() });
    }

    /// Adds a step that happens now.
    pub(crate) fn add_step_now(&self, hops: &[&str], what: &str) {
        self.add_step(Instant::now(), hops, what);
    }

    /// Prints all steps so far.
    pub(crate) fn flush(&self) {
        self.inner.print(None);
    }

    /// Adds a step for a client event. `peer_node` is the other side's node, if known.
    pub(crate) fn add_client_event(&self, who: &str, event: &Event, peer_node: Option<NodeId>) {
        match event {
            Event::Connected { node, .. } => {
                let node = self.node_name(*node);
                self.add_step_now(&[who, &node], "connected by WebSocket; the node has proved its key");
            }
            Event::Disconnected { node, reason } => {
                self.add_step_now(&[who, &self.node_name(*node)], &format!("disconnected: {reason}"));
            }
            Event::NodeChecked { node, confirmation: Confirmation::Disagreement { what, .. } } => {
                self.add_step_now(&[who, &self.node_name(*node)], &explain::disagreement(what));
            }
            Event::SearchFailed { error, .. } => self.add_step_now(&[who], &error.to_string()),
            Event::NotReached { .. } => {
                self.add_step_now(&[who], "the contact is not reachable now; retrying for a few seconds");
            }
            Event::Step(step) => self.add_client_step(who, *step, peer_node),
            _ => {}
        }
    }

    fn add_client_step(&self, who: &str, step: Step, peer_node: Option<NodeId>) {
        let node = self.node_name(step.node);
        let peer_node = peer_node.map(|node| self.node_name(node));
        let there = peer_node.as_deref().filter(|peer_node| *peer_node != node);
        match step.kind {
            StepKind::Attached { inboxes: 0 } => {}
            StepKind::Attached { inboxes } => {
                self.add_step(
                    step.at,
                    &[who, &node],
                    &format!("attached {inboxes} inboxes, so that contacts can call"),
                );
            }
            StepKind::Resolving => self.add_step(step.at, &[who, &node], "looks up the contact's inbox"),
            StepKind::Resolved { peer_node } => {
                let text = format!("the home nodes locate it at {}", self.node_name(peer_node));
                self.add_step(step.at, &[&node, who], &text);
            }
            StepKind::Sent(kind) => {
                let text = format!("sends the sealed {}", message_name(kind));
                let hops: Vec<&str> = [who, &node].into_iter().chain(there).collect();
                self.add_step(step.at, &hops, &text);
            }
            StepKind::Delivered(kind) => {
                let hops: Vec<&str> = there.into_iter().chain([node.as_str(), who]).collect();
                self.add_step(step.at, &hops, &format!("{} delivered", message_was(kind)));
            }
            StepKind::Failed(kind, code) => {
                let why = code.map_or_else(|| "no answer".to_owned(), |code| code.to_string());
                self.add_step(step.at, &[&node, who], &format!("{} not delivered: {why}", message_was(kind)));
            }
            StepKind::Received(kind) => {
                self.add_step(step.at, &[&node, who], &format!("opens the sealed {}", message_name(kind)));
            }
        }
    }
}

impl Inner {
    fn hops_width(&self) -> usize {
        if self.names.is_empty() { ID_HOPS_WIDTH } else { HOPS_WIDTH }
    }

    fn steps(&self) -> MutexGuard<'_, Vec<TimelineStep>> {
        // No code panics while it holds the lock, and the steps would still be valid.
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints the steps up to `until`, or all steps.
    fn print(&self, until: Option<Instant>) {
        let width = self.hops_width();
        let mut steps = self.steps();
        steps.sort_by_key(|step| step.at);
        let due = until.map_or(steps.len(), |until| steps.partition_point(|step| step.at <= until));
        for TimelineStep { at, hops, what } in steps.drain(..due) {
            let ms = u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
            let line = format!("{:>8}  {:<width$}  {what}", format!("{ms} ms"), hops.join(" → "));
            self.output.print(&line, &StepLine { event: "step", ms, hops: &hops, what: &what });
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.print(None);
    }
}

const fn message_name(kind: RelayKind) -> &'static str {
    match kind {
        RelayKind::Offer | RelayKind::CallOffer => "offer",
        RelayKind::Answer | RelayKind::CallAnswer => "answer",
        RelayKind::IceCandidate | RelayKind::CallIce => "candidates",
        RelayKind::CallReject => "rejection",
        RelayKind::CallHangup => "hangup",
    }
}

fn message_was(kind: RelayKind) -> String {
    format!("the {} {}", message_name(kind), if kind.is_ice() { "were" } else { "was" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn steps_are_held_back_until_earlier_ones_cannot_come_any_more() {
        let started = Instant::now();
        let timeline = Timeline::new(Output::silent(), started, HashMap::new());
        timeline.add_step(started + Duration::from_millis(2), &["b"], "second");
        timeline.add_step(started + Duration::from_millis(1), &["a"], "first");
        let waiting = || timeline.inner.steps().iter().map(|step| step.what.clone()).collect::<Vec<_>>();
        timeline.inner.print(started.checked_sub(REORDER));
        assert_eq!(waiting(), ["first", "second"]);
        timeline.inner.print(Some(started + Duration::from_millis(1)));
        assert_eq!(waiting(), ["second"]);
        timeline.flush();
        assert!(waiting().is_empty());
    }
}
