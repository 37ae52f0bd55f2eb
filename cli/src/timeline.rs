//! What happens in a call, step by step, in words for people who have never seen one.

use std::{collections::HashMap, time::Instant};

use chappe_client::{Event, Step, StepKind};
use chappe_common::{client::RelayKind, keys::NodeId};
use serde::Serialize;

use crate::output::Output;

/// The widest list of hops: «caller → node 20 → node 20».
const HOPS_WIDTH: usize = 28;

/// Prints steps with the time since it was made.
#[derive(Debug)]
pub(crate) struct Timeline {
    output: Output,
    started: Instant,
    names: HashMap<NodeId, String>,
}

#[derive(Serialize)]
struct StepLine<'a> {
    event: &'static str,
    ms: u64,
    hops: &'a [&'a str],
    what: &'a str,
}

impl Timeline {
    /// A timeline that starts at `started` and calls these nodes by these names.
    pub(crate) const fn new(output: Output, started: Instant, names: HashMap<NodeId, String>) -> Self {
        Self { output, started, names }
    }

    /// How a node is called here: by its name, or else by the start of its id.
    pub(crate) fn node(&self, node: NodeId) -> String {
        self.names.get(&node).cloned().unwrap_or_else(|| format!("node {}", node.short()))
    }

    /// Prints the heading.
    pub(crate) fn head(&self) {
        self.output.remark(&format!("\n{:>8}  {:<HOPS_WIDTH$}  what happens", "time", "hop"));
    }

    /// Prints one step.
    pub(crate) fn step(&self, at: Instant, hops: &[&str], what: &str) {
        let ms = u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
        let line = format!("{:>8}  {:<HOPS_WIDTH$}  {what}", format!("{ms} ms"), hops.join(" → "));
        self.output.say(&line, &StepLine { event: "step", ms, hops, what });
    }

    /// Prints a step that happens now.
    pub(crate) fn now(&self, hops: &[&str], what: &str) {
        self.step(Instant::now(), hops, what);
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
            Event::SearchFailed { error, .. } => self.now(&[who], &error.to_string()),
            Event::Step(step) => self.client_step(who, *step, peer_node),
            _ => {}
        }
    }

    fn client_step(&self, who: &str, step: Step, peer_node: Option<NodeId>) {
        let node = self.node(step.node);
        let peer_node = peer_node.map(|node| self.node(node));
        let there = peer_node.as_deref().filter(|peer_node| *peer_node != node);
        match step.kind {
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
                self.step(step.at, &hops, &format!("the {} was handed over", noun(kind)));
            }
            StepKind::Failed(kind, code) => {
                let why = code.map_or_else(|| "no answer".to_owned(), |code| code.to_string());
                self.step(step.at, &[&node, who], &format!("the {} was not handed over: {why}", noun(kind)));
            }
            StepKind::Received(kind) => {
                self.step(step.at, &[&node, who], &format!("opens the sealed {}", noun(kind)));
            }
        }
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
