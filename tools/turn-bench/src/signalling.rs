//! Messages between two clients of a node, in a process that has priority over the load generator on their common core.

use std::time::{Duration, Instant};

use chappe_harness::{
    cores,
    figures::percentile,
    process::{self, Process},
};
use chappe_testkit::raw::{Raw, inbox, now_ms};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Messages a second: the signalling of dozens of calls that begin at once.
const RATE: f64 = 500.0;

/// The payload: a candidate with its description, sealed and padded.
const SIZE: usize = 1024;

/// How long the last message may be on its way.
const REST: Duration = Duration::from_secs(2);

/// The latencies of a stretch of time, in microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Latencies {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) lost: usize,
}

/// The process of the two clients.
pub(crate) struct Signalling(Process);

impl Signalling {
    /// Starts it. Returns whether it has priority over the generator.
    pub(crate) async fn start(url: &str) -> (Self, bool) {
        let (mut command, is_urgent) = cores::urgent_command_on(cores::GENERATORS, &process::beside("turn-bench"));
        command.args(["signal", url]);
        let mut process = Process::start_told(command);
        process.line().await;
        (Self(process), is_urgent)
    }

    /// Begins to send for this many seconds.
    pub(crate) async fn begin(&mut self, seconds: f64) {
        self.0.tell(&json!(seconds)).await;
    }

    /// Waits for the latencies.
    pub(crate) async fn finish(&mut self) -> Latencies {
        serde_json::from_value(self.0.line().await).expect("latencies")
    }

    /// Opens this many connections, one after the other. Returns the time from connecting to the node's first message.
    pub(crate) async fn connect(url: &str, count: usize) -> Latencies {
        let mut times = Vec::new();
        for _ in 0..count {
            let since = Instant::now();
            let raw = Raw::connect(url).await;
            times.push(since.elapsed().as_secs_f64() * 1e6);
            drop(raw);
        }
        Latencies { p50: percentile(&mut times, 0.5), p99: percentile(&mut times, 0.99), lost: 0 }
    }
}

/// Runs the process: for each number of seconds on standard input, sends messages, and prints their latencies.
///
/// # Panics
/// The node refuses a client.
pub fn run(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (key, address) = inbox(7);
        let mut callee = Raw::connect(url).await;
        callee.attach(&key, now_ms()).await;
        let mut caller = Raw::connect(url).await;
        println!("{}", json!("ready"));
        let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(tokio::io::stdin()));
        while let Ok(Some(line)) = lines.next_line().await {
            let seconds: f64 = serde_json::from_str(&line).expect("a number");
            println!("{}", json!(exchange(&mut caller, &mut callee, &address, seconds).await));
        }
    });
}

async fn exchange(caller: &mut Raw, callee: &mut Raw, address: &str, seconds: f64) -> Latencies {
    let start = Instant::now();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of messages")]
    let count = (seconds * RATE) as usize;
    let send = async {
        for number in 0..count {
            #[expect(clippy::cast_precision_loss, reason = "a number of messages")]
            let due = start + Duration::from_secs_f64(number as f64 / RATE);
            tokio::time::sleep_until(due.into()).await;
            let stamp = format!("{:0>SIZE$}", start.elapsed().as_nanos());
            caller.send(json!({"type": "call_ice", "to": address, "payload": stamp})).await;
        }
    };
    let mut times = Vec::with_capacity(count);
    let receive = async {
        while times.len() < count {
            let message = callee.next().await;
            let sent: u64 = message["payload"].as_str().and_then(|text| text.parse().ok()).expect("a stamp");
            times.push((start.elapsed() - Duration::from_nanos(sent)).as_secs_f64() * 1e6);
        }
    };
    let until = Duration::from_secs_f64(seconds) + REST;
    let _ = tokio::time::timeout(until, async { tokio::join!(send, receive) }).await;
    let lost = count - times.len();
    Latencies { p50: percentile(&mut times, 0.5), p99: percentile(&mut times, 0.99), lost }
}
