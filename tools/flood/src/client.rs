//! A hostile client's conversation: every message that it sends is answered, or cut off by the connection's end, or left
//! open; and each is counted as what it came to.

use std::{io, net::IpAddr};

use serde_json::Value;
use tokio::{
    io::Interest,
    time::{Instant, timeout_at},
};

use super::{
    plan::Plan,
    wire::{OpenError, Said, Takes, Wire},
};

/// An open WebSocket, and what is still to be answered.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    /// Messages that were sent and not answered.
    open: u64,
    /// Whether what is sent breaks the framing: nothing is answered, and the connection is to be closed.
    breaks: bool,
}

impl Client {
    /// Opens one; `breaks`: what will be sent breaks the framing, so that the connection is to be closed for it.
    ///
    /// # Errors
    /// The node doesn't take it. That is counted.
    pub async fn open(plan: &Plan, source: IpAddr, breaks: bool) -> Result<Self, OpenError> {
        let opened = Wire::open(source, plan.node, Takes::All).await;
        plan.tally.count(match &opened {
            Ok(_) => "opened",
            Err(OpenError::NotConnected(_)) => "not connected",
            Err(OpenError::NotServed(_)) => "not opened",
        });
        opened.map(|(wire, _)| Self { wire, open: 0, breaks })
    }

    /// Sends what is so many messages, and hears what is answered meanwhile. Whether the connection is still there.
    pub async fn write(&mut self, plan: &Plan, bytes: &[u8], count: u64) -> bool {
        plan.tally.add("sent to it", count);
        self.open += count;
        let mut written = 0;
        while written < bytes.len() {
            match self.wire.stream.try_write(&bytes[written..]) {
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = self.wire.stream.ready(Interest::READABLE | Interest::WRITABLE);
                    if timeout_at(plan.listens_until(), ready).await.is_err() {
                        return self.end(plan, "not written by the end");
                    }
                }
                // What the node said last, where it said anything.
                Err(_) => {
                    while self.hear(plan, plan.listens_until()).await {}
                    return false;
                }
            }
            while let Some(said) = self.wire.try_next().transpose() {
                if !self.heard(plan, said) {
                    return false;
                }
            }
        }
        true
    }

    /// Sends one message, and hears at least one answer. Whether the connection is still there.
    pub async fn write_and_hear(&mut self, plan: &Plan, bytes: &[u8]) -> bool {
        let open = self.open;
        if !self.write(plan, bytes, 1).await {
            return false;
        }
        // What was heard while it was written may have been its answer.
        self.open <= open || self.hear(plan, plan.listens_until()).await
    }

    /// Hears the next that the node says, for which it has until then. Whether there is more to hear.
    pub async fn hear(&mut self, plan: &Plan, until: Instant) -> bool {
        match timeout_at(until, self.wire.next()).await {
            Ok(said) => self.heard(plan, said),
            Err(_) => false,
        }
    }

    /// Whether anything is still to be answered.
    pub const fn is_unanswered(&self) -> bool {
        self.open > 0
    }

    /// Hears, beside something else that ends it. Whether the connection is still there.
    pub async fn hear_until(&mut self, plan: &Plan, due: impl Future<Output = ()>) -> bool {
        tokio::pin!(due);
        loop {
            tokio::select! {
                biased;
                said = self.wire.next() => {
                    if !self.heard(plan, said) {
                        return false;
                    }
                }
                () = &mut due => return true,
            }
        }
    }

    /// Says no more, and hears what is still to be answered.
    pub async fn listen_on(&mut self, plan: &Plan) {
        // A connection that breaks the framing is to be closed, whatever was answered.
        while (self.open > 0 || self.breaks) && Instant::now() < plan.listens_until() {
            if !self.hear(plan, plan.listens_until()).await && Instant::now() < plan.listens_until() {
                return;
            }
        }
        if self.open > 0 || self.breaks {
            plan.tally.add("connections not refused by the end", self.breaks.into());
            self.end(plan, if self.breaks { "not refused by the end" } else { "unanswered at the end" });
        }
    }

    fn heard(&mut self, plan: &Plan, said: io::Result<Said>) -> bool {
        match said {
            Ok(Said::Text(text)) => {
                let answer = parsed(&text);
                plan.tally.count(&format!("answered {}", word(&answer)));
                for rejected in answer["rejected"].as_array().into_iter().flatten() {
                    plan.tally.count(&format!("rejected {}", word(rejected)));
                }
                self.open = self.open.saturating_sub(1);
                return true;
            }
            Ok(Said::Pong) => {
                plan.tally.count("answered pong");
                self.open = self.open.saturating_sub(1);
                return true;
            }
            Ok(Said::Other) => return true,
            Ok(Said::Close(_)) if self.breaks => plan.tally.count("closed for a breach"),
            Ok(Said::Close(code)) => plan.tally.count(&format!("closed with {code}")),
            Ok(Said::End) => plan.tally.count("ended without a word"),
            Err(_) => plan.tally.count("reset"),
        }
        self.end(plan, "cut off")
    }

    /// What is open will never be answered.
    fn end(&mut self, plan: &Plan, how: &str) -> bool {
        plan.tally.add(how, std::mem::take(&mut self.open));
        false
    }
}

/// What an answer is counted as: an error's code, or its type.
pub fn code_of(text: &str) -> String {
    word(&parsed(text)).to_owned()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn word(answer: &Value) -> &str {
    answer["code"].as_str().or(answer["type"].as_str()).unwrap_or("no JSON")
}
