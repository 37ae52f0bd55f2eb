//! A hostile client. Each message that it sends is counted once: answered, cut off by the connection's end, or
//! unanswered.

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

/// An open WebSocket, and the number of unanswered messages.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    /// Messages sent and not yet answered.
    open: u64,
    /// Whether the client breaks the framing. The node has to close the connection then, without an answer.
    breaks: bool,
}

impl Client {
    /// Opens a connection. `breaks`: the client will break the framing, so that the node has to close the connection.
    ///
    /// # Errors
    /// The node doesn't accept it. That is counted.
    pub async fn open(plan: &Plan, source: IpAddr, breaks: bool) -> Result<Self, OpenError> {
        let opened = Wire::open(source, plan.node, Takes::All).await;
        plan.tally.count(match &opened {
            Ok(_) => "opened",
            Err(OpenError::NotConnected(_)) => "not connected",
            Err(OpenError::NotServed(_)) => "not opened",
        });
        opened.map(|(wire, _)| Self { wire, open: 0, breaks })
    }

    /// Sends `bytes`, which contain `count` messages, and receives answers meanwhile. Returns whether the connection is
    /// open.
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
                // Receive what the node sent last.
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

    /// Sends one message, and receives at least one answer. Returns whether the connection is open.
    pub async fn write_and_hear(&mut self, plan: &Plan, bytes: &[u8]) -> bool {
        let open = self.open;
        if !self.write(plan, bytes, 1).await {
            return false;
        }
        // Its answer may have arrived while it was written.
        self.open <= open || self.hear(plan, plan.listens_until()).await
    }

    /// Receives one message until the deadline. Returns whether more may come.
    pub async fn hear(&mut self, plan: &Plan, until: Instant) -> bool {
        match timeout_at(until, self.wire.next()).await {
            Ok(said) => self.heard(plan, said),
            Err(_) => false,
        }
    }

    /// Whether any message is unanswered.
    pub const fn is_unanswered(&self) -> bool {
        self.open > 0
    }

    /// Receives until `due` is ready. Returns whether the connection is open.
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

    /// Sends nothing more, and receives the remaining answers.
    pub async fn listen_on(&mut self, plan: &Plan) {
        // A connection that breaks the framing has to be closed, whether or not all is answered.
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

    /// Counts the unanswered messages under this name.
    fn end(&mut self, plan: &Plan, how: &str) -> bool {
        plan.tally.add(how, std::mem::take(&mut self.open));
        false
    }
}

/// The name that an answer is counted by: an error's code, or its type.
pub fn code_of(text: &str) -> String {
    word(&parsed(text)).to_owned()
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn word(answer: &Value) -> &str {
    answer["code"].as_str().or(answer["type"].as_str()).unwrap_or("no JSON")
}
