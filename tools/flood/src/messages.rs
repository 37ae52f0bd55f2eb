//! Messages that no honest client sends, from a few hundred connections at once, as fast as the node reads them, up to
//! a rate.

use tokio::time::Instant;

use super::{MANY, client::Client, hostile_source, plan::Plan, wire::frame};

/// Connections at once.
const WORKERS: u32 = 200;
/// Messages of all connections in a second: a million in ten seconds.
const RATE: u32 = 100_000;
/// Messages in one write.
const BURST: usize = 20;

/// A kind of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// One byte more than allowed.
    TooLarge,
    /// Endless fragments of a message, empty and of one byte.
    Fragments,
    /// Pings.
    Pings,
    /// JSON nested as deeply as fits.
    Nested,
    /// A duplicate field.
    DuplicateKeys,
    /// Text that isn't UTF-8.
    NotUtf8,
    /// Unknown types.
    UnknownTypes,
    /// Binary messages.
    Binary,
    /// Frames marked as compressed.
    Compressed,
}

impl Message {
    /// The kind of the attack of this name.
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

    /// The bytes of a message. The first of a connection may differ.
    fn bytes(self, number: u64) -> Vec<u8> {
        match self {
            // The node stops reading at the header. Send the rest anyway.
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

    /// Whether it violates the framing. Each message of another kind is answered while the connection lasts.
    const fn breaks(self) -> bool {
        matches!(self, Self::TooLarge | Self::Fragments | Self::NotUtf8 | Self::Compressed)
    }

    /// Messages in one write, and of all connections in a second. Large messages have a lower rate.
    const fn pace(self) -> (usize, u32) {
        match self {
            Self::TooLarge | Self::Nested => (1, 2_000),
            _ => (BURST, RATE),
        }
    }
}

/// Sends until the time is over. A closed connection is replaced, within the rate limit of its address.
pub async fn run(plan: &Plan, message: Message) {
    let since = Instant::now();
    let count = plan.some(WORKERS);
    plan.all(count, count * 2, |worker| {
        let plan = plan.clone();
        async move { work(&plan, message, since, worker, count).await }
    })
    .await;
}

async fn work(plan: &Plan, message: Message, since: Instant, worker: u32, count: u32) {
    let (burst, rate) = message.pace();
    let rate = plan.some(rate / burst as u32);
    let (mut turn, mut opened) = (plan.first_turn(since, worker, count, rate), 0);
    while !plan.is_over() {
        let source = hostile_source((worker + opened * count) % MANY);
        opened += 1;
        plan.turn(since, turn, rate).await;
        turn += u64::from(count);
        let Ok(mut client) = Client::open(plan, source, message.breaks()).await else { continue };
        let mut number = 0;
        loop {
            let bytes: Vec<u8> = (0..burst as u64).flat_map(|one| message.bytes(number + one)).collect();
            number += burst as u64;
            plan.turn(since, turn, rate).await;
            turn += u64::from(count);
            if plan.is_over() {
                client.listen_on(plan).await;
                break;
            }
            if !client.write(plan, &bytes, burst as u64).await {
                break;
            }
        }
    }
}
