//! Standard output: lines for people, or one JSON object a line.

use std::{
    io::{self, Write as _},
    sync::OnceLock,
};

use serde::Serialize;
use tokio::sync::Notify;

/// Where results go. Writing never fails; whoever depends on the reader asks for the failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output(Form);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
    Nothing,
}

/// Standard output's first failure.
#[derive(Debug)]
struct State {
    failure: OnceLock<io::ErrorKind>,
    failed: Notify,
}

/// A process has one standard output.
static STATE: State = State { failure: OnceLock::new(), failed: Notify::const_new() };

impl Output {
    /// For programs with `json`, else for people.
    pub(crate) const fn new(json: bool) -> Self {
        Self(if json { Form::Json } else { Form::Text })
    }

    /// For nobody.
    pub(crate) const fn silent() -> Self {
        Self(Form::Nothing)
    }

    /// Says one thing: `text` to people, `event` to programs.
    pub(crate) fn say(self, text: &str, event: &impl Serialize) {
        match self.0 {
            Form::Text => write_line(text),
            Form::Json => write_line(&serde_json::to_string(event).expect("texts, numbers and lists are JSON")),
            Form::Nothing => {}
        }
    }

    /// Says something that only people need.
    pub(crate) fn remark(self, text: &str) {
        if self.0 == Form::Text {
            write_line(text);
        }
    }

    /// Waits until a line could not be written, for ever if all can.
    pub(crate) async fn failed(self) -> io::ErrorKind {
        let mut failed = std::pin::pin!(STATE.failed.notified());
        failed.as_mut().enable();
        if let Some(failure) = self.failure() {
            return failure;
        }
        failed.await;
        self.failure().unwrap_or(io::ErrorKind::Other)
    }

    /// Why a line could not be written, the first time.
    pub(crate) fn failure(self) -> Option<io::ErrorKind> {
        STATE.failure.get().copied()
    }

    /// Writes a result that is no line of this module's, such as a file for DNS.
    pub(crate) fn write(self, bytes: &[u8]) {
        note(io::stdout().lock().write_all(bytes).and_then(|()| io::stdout().flush()));
    }
}

fn write_line(line: &str) {
    let mut stdout = io::stdout().lock();
    note(writeln!(stdout, "{line}").and_then(|()| stdout.flush()));
}

fn note(written: io::Result<()>) {
    if let Err(error) = written
        && STATE.failure.set(error.kind()).is_ok()
    {
        STATE.failed.notify_waiters();
    }
}
