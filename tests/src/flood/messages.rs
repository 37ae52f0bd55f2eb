//! Messages that no honest client sends, from a few hundred connections at once, as fast as the node takes them up to a
//! bound.

use std::io;

use tokio::{
    io::Interest,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    MANY,
    attack::Plan,
    hostile_source,
    wire::{Said, Wire, frame},
};

/// How many do it at once.
const WORKERS: u32 = 200;
/// The most of them all in a second: a million in ten.
const RATE: u32 = 100_000;
/// How many are written at once.
const BURST: usize = 20;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// One byte more than allowed.
    TooLarge,
    /// Parts of a message without end, empty and of one byte.
    Fragments,
    /// Pings.
    Pings,
    /// JSON of as many levels as fit.
    Nested,
    /// A field that stands there twice.
    DuplicateKeys,
    /// A text that is none.
    NotUtf8,
    /// Types that nobody knows.
    UnknownTypes,
    /// Binary messages.
    Binary,
    /// Frames that say that they are compressed.
    Compressed,
}

impl Message {
    /// By the attack's name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "too-large" => Self::TooLarge,
            "fragments" => Self::Fragments,
            "pings" => Self::Pings,
            "nested" => Self::Nested,
            "duplicate-keys" => Self::DuplicateKeys,
            "not-utf8" => Self::NotUtf8,
            "unknown-types" => Self::UnknownTypes,
            "binary" => Self::Binary,
            "compressed" => Self::Compressed,
            _ => return None,
        })
    }

    /// One of them. The first of a connection may differ.
    fn bytes(self, number: u64) -> Vec<u8> {
        match self {
            // The node stops reading at the header; the rest is sent all the same.
            Self::TooLarge => frame(0x81, &[b'x'; 65_537]),
            Self::Fragments if number == 0 => frame(0x01, b"x"),
            Self::Fragments => frame(0x00, if number.is_multiple_of(2) { b"x" } else { b"" }),
            Self::Pings => frame(0x89, b"are you there?"),
            Self::Nested => frame(0x81, format!(r#"{{"type":"ping","x":{}"#, "[".repeat(60_000)).as_bytes()),
            Self::DuplicateKeys => frame(0x81, br#"{"type":"ping","type":"ping"}"#),
            Self::NotUtf8 => frame(0x81, b"{\"type\":\"\xFF\"}"),
            Self::UnknownTypes => frame(0x81, format!(r#"{{"type":"unheard-{number}"}}"#).as_bytes()),
            Self::Binary => frame(0x82, b"\0\x01\x02\x03"),
            Self::Compressed => frame(0xC1, b"\xAA\x56\x2A\xA9\x2C\x48\x55\xB2"),
        }
    }

    /// How many at once, and in a second of all: what is large is sent less often.
    const fn pace(self) -> (usize, u32) {
        match self {
            Self::TooLarge | Self::Nested => (1, 2_000),
            _ => (BURST, RATE),
        }
    }
}

/// Sends them until the time is over. Whoever is closed comes again, as often as its address may.
pub async fn run(plan: &Plan, message: Message) {
    let mut workers = JoinSet::new();
    let since = Instant::now();
    let (burst, rate) = message.pace();
    let count = plan.some(WORKERS);
    for worker in 0..count {
        let plan = plan.clone();
        workers.spawn(async move {
            let (mut turn, mut opened) = (u64::from(worker), 0);
            while !plan.is_over() {
                let source = hostile_source((worker + opened * count) % MANY);
                opened += 1;
                plan.turn(since, turn, plan.some(rate / burst as u32)).await;
                turn += u64::from(count);
                let Ok((mut wire, _)) = Wire::open(source, plan.node, None).await else {
                    plan.tally.count("not opened");
                    continue;
                };
                plan.tally.count("opened");
                let mut number = 0;
                while !plan.is_over() {
                    let bytes: Vec<u8> = (0..burst as u64).flat_map(|one| message.bytes(number + one)).collect();
                    number += burst as u64;
                    plan.turn(since, turn, plan.some(rate / burst as u32)).await;
                    turn += u64::from(count);
                    if !tell(&plan, &mut wire, &bytes, burst as u64).await {
                        break;
                    }
                }
            }
        });
    }
    workers.join_all().await;
}

/// Sends some, and takes what is answered meanwhile. Whether the connection is still there.
async fn tell(plan: &Plan, wire: &mut Wire, bytes: &[u8], count: u64) -> bool {
    let mut sent = 0;
    while sent < bytes.len() {
        match wire.stream.try_write(&bytes[sent..]) {
            Ok(written) => sent += written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if timeout_at(plan.until, wire.stream.ready(Interest::READABLE | Interest::WRITABLE)).await.is_err() {
                    return false;
                }
            }
            Err(_) => return ended(plan, wire).await,
        }
        while let Some(said) = wire.try_next().transpose() {
            if !heard(plan, said) {
                return false;
            }
        }
    }
    plan.tally.add("messages sent", count);
    true
}

/// What the node said last, where it said anything.
async fn ended(plan: &Plan, wire: &mut Wire) -> bool {
    while heard(plan, timeout_at(plan.until, wire.next()).await.unwrap_or(Ok(Said::End))) {}
    false
}

fn heard(plan: &Plan, said: io::Result<Said>) -> bool {
    match said {
        Ok(Said::Text(text)) => {
            plan.tally.count(&super::floods::code_of(&text));
            true
        }
        Ok(Said::Other) => true,
        Ok(Said::Close(code)) => {
            plan.tally.count(&format!("closed with {code}"));
            false
        }
        Ok(Said::End) => {
            plan.tally.count("ended without a word");
            false
        }
        Err(_) => {
            plan.tally.count("reset");
            false
        }
    }
}
