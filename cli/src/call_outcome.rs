//! The result of a call, and the line that reports it.

use std::time::Duration;

use anyhow::Result;
use chappe_common::keys::NodeId;
use serde::Serialize;

use crate::{media::FRAMES_PER_SECOND, output::Output};

/// The result of a call for one side, or for both.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CallOutcome {
    /// The caller's node. The callee does not learn it.
    pub(crate) caller_node: Option<NodeId>,
    /// The callee's node.
    pub(crate) callee_node: Option<NodeId>,
    /// Number of delivered messages.
    pub(crate) delivered: u64,
    /// Time between sending the offer and receiving the answer.
    pub(crate) setup: Option<Duration>,
    /// Number of received audio packets.
    pub(crate) received: u64,
    /// Number of those that contained the tone of another `chappe`.
    pub(crate) heard: u64,
}

impl CallOutcome {
    /// Combines the results of both sides. The numbers of packets are the lower of both values.
    pub(crate) fn combine(caller: &Self, callee: &Self) -> Self {
        Self {
            caller_node: caller.caller_node,
            callee_node: callee.callee_node,
            delivered: caller.delivered + callee.delivered,
            setup: caller.setup,
            received: caller.received.min(callee.received),
            heard: caller.heard.min(callee.heard),
        }
    }
}

/// The last output line of a call.
#[derive(Debug, Serialize)]
pub(crate) struct CallLine {
    event: &'static str,
    ok: bool,
    caller_node: Option<String>,
    callee_node: Option<String>,
    delivered: u64,
    setup_ms: Option<f64>,
    /// Received packets of any sound.
    audio_packets: u64,
    /// Those with the tone of another `chappe`.
    tone_packets: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl CallLine {
    /// The line for a result.
    pub(crate) fn from_result(result: &Result<CallOutcome>) -> Self {
        let outcome = result.as_ref().copied().unwrap_or_default();
        Self {
            event: "call",
            ok: result.is_ok(),
            caller_node: outcome.caller_node.map(|node| node.to_string()),
            callee_node: outcome.callee_node.map(|node| node.to_string()),
            delivered: outcome.delivered,
            setup_ms: outcome.setup.map(|setup| (setup.as_secs_f64() * 1e4).round() / 10.0),
            audio_packets: outcome.received,
            tone_packets: outcome.heard,
            error: result.as_ref().err().map(|error| format!("{error:#}")),
        }
    }

    pub(crate) fn print(&self, output: Output) {
        let setup = self.setup_ms.map_or_else(String::new, |ms| format!(", answered {ms} ms after the offer"));
        let text = if self.ok {
            format!(
                "the call worked{setup}; {} sealed messages were delivered; {} audio packets ({:.1} s) were received",
                self.delivered,
                self.audio_packets,
                self.audio_packets as f64 / FRAMES_PER_SECOND as f64
            )
        } else {
            "the call failed".to_owned()
        };
        output.print(&text, self);
    }
}
