//! Replies of a session to its own client, and its close frame.

use std::ops::ControlFlow;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_common::client::{CLOSE_SLOW_CONSUMER, ErrorCode};
use rand::seq::IteratorRandom as _;

use super::{CLOSE_GOING_AWAY, SPARE_SUCCESSORS, SUCCESSORS, Session};
use crate::{client_protocol::reply::Reply, sessions::event::EndReason};

impl Session {
    pub(super) fn reply(&mut self, text: &str) {
        self.output.write(&self.handle, text);
    }

    pub(super) fn refuse(&mut self, id: Option<&str>, code: ErrorCode, message: &str) {
        self.core.context.metrics.refused(code);
        self.reply(&Reply::Error { message, code, id }.encode());
    }

    /// Ends the session with a close frame, after all earlier output.
    pub(super) fn close(&mut self, code: u16, reason: &'static str) -> ControlFlow<()> {
        self.output.batch.flush();
        self.handle.write_close(Some(code), reason);
        ControlFlow::Break(())
    }

    pub(super) fn end(&mut self, reason: EndReason) -> ControlFlow<()> {
        match reason {
            EndReason::SlowConsumer => {
                self.core.context.metrics.sessions_slow.inc();
                self.close(CLOSE_SLOW_CONSUMER, "slow_consumer")
            }
            EndReason::GoingAway => self.close(CLOSE_GOING_AWAY, "going_away"),
        }
    }

    pub(super) fn going_away(&mut self) {
        let view = self.core.members.view.load_full();
        let others = view.nodes().filter(|node| *node != self.core.context.me);
        let chosen = others.sample(&mut rand::rng(), SUCCESSORS + SPARE_SUCCESSORS);
        let records: Vec<_> = chosen
            .iter()
            .filter_map(|node| self.core.members.records.find(node, self.core.context.clock.now()))
            // Any client that connects would learn of a reserve node.
            .filter(|record| !record.is_reserve())
            .take(SUCCESSORS)
            .map(|record| URL_SAFE_NO_PAD.encode(record.as_bytes()))
            .collect();
        let grace_seconds = self.core.context.config.times.drain.as_secs();
        self.reply(&Reply::GoingAway { reason: "shutdown", nodes: &records, grace_seconds }.encode());
    }
}
