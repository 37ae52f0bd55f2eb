//! A baseline client: sends the messages of calls when they are due, and checks what it receives. Latency counts from
//! when a message was due, so that a node that stalls is charged for it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_tungstenite::tungstenite::Message;

use super::{
    callers::{OF_CALL, Shared, Socket},
    observation::Observation,
};

/// Repetitions of eight bytes in a payload: the second size of a sealed payload.
const FILL: usize = 350;

/// Where a client sends its messages.
pub(super) enum Recipient {
    /// An inbox.
    Inbox(String),
    /// The code of the paired client.
    Code(&'static str),
}

/// The padding of a client's messages.
pub(super) fn fill(number: u32) -> String {
    format!("{number:08}").repeat(FILL)
}

/// One side of a pair.
pub(super) struct Caller {
    pub(super) socket: Socket,
    pub(super) to: Recipient,
    /// The padding of its messages, and that of its peer's. No two clients have the same.
    pub(super) fills: [String; 2],
    pub(super) is_caller: bool,
    /// When its first message is due.
    pub(super) begin: Instant,
    /// The origin of all times in payloads.
    pub(super) epoch: Instant,
    pub(super) every: Duration,
    pub(super) shared: Arc<Shared>,
    /// Whether to stop sending.
    pub(super) stopped: watch::Receiver<bool>,
    /// The stretch of each message without an outcome yet, by the message's number.
    pub(super) open: HashMap<u32, usize>,
}

impl Caller {
    /// Calls until the connection ends or the task is aborted.
    pub(super) async fn call(mut self) {
        let (mut number, mut next) = (0_u32, 0_u32);
        loop {
            let due = self.begin + self.every * number;
            let is_stopped = *self.stopped.borrow();
            tokio::select! {
                biased;
                heard = self.socket.next() => match heard {
                    Some(Ok(Message::Text(text))) => self.hear(text.as_str(), &mut next),
                    Some(Ok(_)) => {}
                    None | Some(Err(_)) => break,
                },
                _ = self.stopped.changed(), if !is_stopped => {}
                () = sleep_until(due), if !is_stopped => {
                    if self.say(number, due).await.is_none() {
                        break;
                    }
                    number += 1;
                }
            }
        }
        // The node must not close an honest client.
        self.shared.record(None, |now| now.wrong += 1);
    }

    async fn say(&mut self, number: u32, due: Instant) -> Option<()> {
        let (stretch, second) = self.shared.stretch();
        let sent = Instant::now();
        let since = |then: Instant| then.duration_since(self.epoch).as_nanos();
        let payload = format!("{stretch} {number} {second} {} {} {}", since(due), since(sent), self.fills[0]);
        // Unique, so that an outcome belongs to one message.
        let id = number.to_string();
        let message = match (&self.to, number.is_multiple_of(OF_CALL)) {
            (Recipient::Inbox(to), is_first) => {
                let kind = match (is_first, self.is_caller) {
                    (true, true) => "call_offer",
                    (true, false) => "call_answer",
                    (false, _) => "call_ice",
                };
                json!({"type": kind, "to": to, "payload": payload, "id": id})
            }
            (Recipient::Code(target), _) => {
                json!({"type": "ice_candidate", "target": target, "payload": payload, "id": id})
            }
        };
        self.open.insert(number, stretch);
        self.shared.record(Some(stretch), |now| {
            now.sent += 1;
            now.late.push(sent.duration_since(due).as_secs_f64() * 1000.0);
        });
        self.socket.send(Message::text(message.to_string())).await.ok()
    }

    fn hear(&mut self, text: &str, next: &mut u32) {
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            return self.shared.record(None, |now| now.wrong += 1);
        };
        match message["type"].as_str() {
            Some("delivered") => return self.hear_of(&message, |then| then.delivered += 1),
            Some("error") => return self.hear_of(&message, |then| then.refused += 1),
            Some("pair_incoming") => return self.shared.record(None, |now| now.asked += 1),
            _ => {}
        }
        let Some(payload) = message["payload"].as_str() else { return };
        let words: Vec<_> = payload.split(' ').collect();
        let [stretch, number, second, due, sent, fill] = words[..] else {
            return self.shared.record(None, |now| now.wrong += 1);
        };
        let (stretch, number) = (stretch.parse().ok(), number.parse().ok());
        // Continue after a lost message: the loss shows in the sum.
        let is_right = number.is_some_and(|number| number >= *next) && fill == self.fills[1];
        *next = number.map_or(*next, |number: u32| number + 1);
        let millis = |since: &str| {
            let then = self.epoch + Duration::from_nanos(since.parse().unwrap_or(0));
            then.elapsed().as_secs_f64() * 1000.0
        };
        let (from_due, from_sent) = (millis(due), millis(sent));
        self.shared.record(stretch, |now| {
            if is_right {
                now.arrived += 1
            } else {
                now.wrong += 1
            }
            now.latencies.push((second.parse().unwrap_or(0), from_due, from_sent));
            if matches!(self.to, Recipient::Code(_)) {
                now.by_code.push(from_due);
            }
        });
    }

    /// Handles the outcome of a message. Each message has exactly one.
    fn hear_of(&mut self, told: &Value, outcome: impl FnOnce(&mut Observation)) {
        let number = told["id"].as_str().and_then(|id| id.parse().ok());
        match number.and_then(|number: u32| self.open.remove(&number)) {
            Some(stretch) => self.shared.record(Some(stretch), outcome),
            None => self.shared.record(None, |now| now.wrong += 1),
        }
    }
}
