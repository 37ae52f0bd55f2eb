//! Runs the Autobahn suite against an echo server that uses the node's WebSocket code.
//!
//! `tests/autobahn/run.py` lists what has to be installed. The test is skipped unless `CHAPPE_AUTOBAHN` names a Python
//! interpreter.

use std::{future::poll_fn, net::Ipv4Addr, task::Poll};

use tokio::{
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinSet,
};

use super::{
    Connection,
    codec::{Incoming, Opcode},
    reader::{Ended, Next},
    upgrade::{self, First},
};
use crate::{config::LimitsSection, limits::memory_budget::MemoryBudget};

/// Larger than the suite's largest message.
const LARGEST: usize = 32 * 1024 * 1024;

/// The cases that echo binary messages. They fail, since the decoder discards the content of binary messages.
const BINARY: [&str; 5] = ["1.2.", "9.2.", "9.4.", "9.6.", "9.8."];

/// Echoes each message.
async fn echo(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let First::WebSocket { answer, rest, .. } = upgrade::read(&mut stream).await.ok()? else { return None };
    let limits = LimitsSection { max_message: LARGEST, max_queued: LARGEST, ..LimitsSection::default() };
    let Connection { mut incoming, mut out, .. } =
        Connection::new(stream, None, &answer, rest, &limits, &MemoryBudget::new(4 * LARGEST)).ok()?;
    // The response is sent with the first frame, but the server has no frame to send yet.
    out.flush().ok()?;
    let mut is_over = false;
    poll_fn(|cx| {
        loop {
            std::task::ready!(out.poll_flush(cx)).ok();
            if is_over {
                return Poll::Ready(());
            }
            let polled = incoming.poll_read(
                cx,
                false,
                |_, _| Ok(true),
                |incoming_message, _| {
                    let written = match incoming_message {
                        Incoming::Text(text) => out.write(Opcode::Text, &[text.as_bytes()], false),
                        Incoming::Ping(content) => out.write(Opcode::Pong, &[content], false),
                        Incoming::Binary => out.write(Opcode::Binary, &[], false),
                        Incoming::Pong => return Next::Read,
                        Incoming::Close(code) => {
                            is_over = true;
                            let code = code.map(u16::to_be_bytes);
                            out.write_last(Opcode::Close, &[code.as_ref().map_or(&[], |code| &code[..])])
                        }
                    };
                    is_over |= written.is_err();
                    // Write the echo before the next message is read.
                    Next::Wait
                },
            );
            match std::task::ready!(polled) {
                Ok(()) => {}
                Err(Ended::Violation(violation)) => {
                    is_over = true;
                    let _ = out.write_last(Opcode::Close, &[&violation.close_code().to_be_bytes()]);
                }
                Err(Ended::Closed | Ended::BudgetExceeded) => return Poll::Ready(()),
            }
        }
    })
    .await;
    Some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_autobahn_suite_finds_nothing_that_is_not_explained() {
    let Some(python) = std::env::var_os("CHAPPE_AUTOBAHN") else {
        println!("skipped: CHAPPE_AUTOBAHN names no Python that has the Autobahn suite (see tests/autobahn/run.py)");
        return;
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let url = format!("ws://{}/", listener.local_addr().expect("an address"));
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut echoes = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            echoes.spawn(echo(stream));
        }
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/autobahn/run.py");
    let ran = Command::new(python).args([script, &url]).kill_on_drop(true).output().await.expect("a process");
    let printed = String::from_utf8_lossy(&ran.stdout);
    let sum = printed.lines().last().unwrap_or_default();
    println!("{sum}");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(sum.starts_with("301 cases: "), "the suite has not run to its end: {sum}");
    let is_explained = |line: &str| line == sum || BINARY.iter().any(|prefix| line.starts_with(prefix));
    let failed = printed.lines().filter(|line| line.contains("FAILED") && !is_explained(line));
    assert_eq!(failed.collect::<Vec<_>>(), Vec::<&str>::new());
}
