//! Standard output: lines for people, or one JSON object a line.

use std::io::Write as _;

use serde::Serialize;

/// Where results go. A reader that has gone is no reason to stop a daemon, so failing to write is not an error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output(Form);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
    Nothing,
}

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
}

fn write_line(line: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
