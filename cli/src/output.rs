//! Standard output: text for people, or one JSON object per line.
//!
//! Texts from nodes, registries and contacts are escaped in both formats and in the log. So no control characters, and
//! no characters that change the text direction, reach the terminal.

use std::{
    error::Error,
    fmt,
    io::{self, IsTerminal as _, Write as _},
    mem,
    sync::OnceLock,
};

use chappe_common::printable::{Escaped, EscapedLines, is_printable};
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};
use tokio::sync::Notify;
use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format::Writer},
};

/// The output of results. Writing never fails; callers that depend on the reader check for a failure separately.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output(Form);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
    Nothing,
}

/// The first failure of standard output.
#[derive(Debug)]
struct State {
    failure: OnceLock<io::ErrorKind>,
    failed: Notify,
}

/// The state of this process's only standard output.
static STATE: State = State { failure: OnceLock::new(), failed: Notify::const_new() };

impl Output {
    /// Prints JSON or text.
    pub(crate) const fn new(json: bool) -> Self {
        Self(if json { Form::Json } else { Form::Text })
    }

    /// Prints nothing.
    pub(crate) const fn silent() -> Self {
        Self(Form::Nothing)
    }

    /// Prints a result: `text` for people, or `event` as JSON.
    pub(crate) fn print(self, text: &str, event: &impl Serialize) {
        if let Some(line) = self.rendered(text, event) {
            write_line(&line);
        }
    }

    /// Prints a text for people, and nothing as JSON.
    pub(crate) fn print_text(self, text: &str) {
        if self.0 == Form::Text {
            write_line(&EscapedLines(text).to_string());
        }
    }

    fn rendered(self, text: &str, event: &impl Serialize) -> Option<String> {
        match self.0 {
            Form::Text => Some(EscapedLines(text).to_string()),
            Form::Json => Some(json(event)),
            Form::Nothing => None,
        }
    }

    /// Waits until a line cannot be written, which may never happen.
    pub(crate) async fn failed(self) -> io::ErrorKind {
        let mut failed = std::pin::pin!(STATE.failed.notified());
        failed.as_mut().enable();
        if let Some(failure) = self.failure() {
            return failure;
        }
        failed.await;
        self.failure().unwrap_or(io::ErrorKind::Other)
    }

    /// The first write error, if any.
    pub(crate) fn failure(self) -> Option<io::ErrorKind> {
        STATE.failure.get().copied()
    }

    /// Clears the screen, if texts for people go to a terminal.
    pub(crate) fn clear_screen(self) {
        if self.0 == Form::Text && io::stdout().is_terminal() {
            self.write(b"\x1b[H\x1b[J");
        }
    }

    /// Writes raw bytes, such as a zone file.
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

/// Serializes to JSON, with unprintable characters as escapes like `\u202e`.
fn json(event: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, PrintableJson);
    event.serialize(&mut serializer).expect("texts, numbers and lists are JSON");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

struct PrintableJson;

impl Formatter for PrintableJson {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| !is_printable(*c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        CompactFormatter.write_char_escape(writer, escape)
    }
}

/// The format of messages and fields in the log: errors with their causes, and everything escaped.
pub(crate) struct LogFields;

impl<'writer> FormatFields<'writer> for LogFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut written = WrittenFields { writer, separator: "", result: Ok(()) };
        fields.record(&mut written);
        written.result
    }
}

struct WrittenFields<'writer> {
    writer: Writer<'writer>,
    separator: &'static str,
    result: fmt::Result,
}

impl Visit for WrittenFields<'_> {
    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        let text = with_causes(error);
        self.record_debug(field, &format_args!("{text}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.result.is_err() {
            return;
        }
        let text = format!("{value:?}");
        let text = Escaped(&text);
        let separator = mem::replace(&mut self.separator, " ");
        self.result = match field.name() {
            "message" => write!(self.writer, "{separator}{text}"),
            name => write!(self.writer, "{separator}{name}={text}"),
        };
    }
}

/// An error with its causes, for people.
pub(crate) fn error_text(error: &anyhow::Error) -> String {
    EscapedLines(&with_causes(error.as_ref())).to_string()
}

/// An error and its causes in one text. A cause is left out if the text already ends with it.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(&format!(": {next}"));
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;

    use super::*;

    /// Collects what the log writes.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("a buffer").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(text: &str) -> String {
        let written = Written::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt().fmt_fields(LogFields).with_ansi(false);
        let log = log.with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            let error = io::Error::other(text.to_owned());
            let _span = tracing::info_span!("span", text, shown = %text).entered();
            tracing::error!(error = &error as &dyn Error, %text, debug = ?text, plain = text, "{text}");
        });
        let bytes = written.0.lock().expect("a buffer").clone();
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[derive(Serialize)]
    struct Event<'a> {
        text: &'a str,
    }

    #[test]
    fn a_repeated_reason_is_printed_once() {
        let error = anyhow::anyhow!("the disk is full").context("cannot write: the disk is full").context("stopped");
        assert_eq!(error_text(&error), "stopped: cannot write: the disk is full");
    }

    proptest! {
        #[test]
        fn any_text_leaves_as_printable_characters_and_json_keeps_its_value(text in any::<String>()) {
            let line = Output::new(false).rendered(&text, &()).expect("a line");
            prop_assert!(line.split('\n').all(|line| line.chars().all(is_printable)), "{:?}", line);
            let line = Output::new(true).rendered("", &Event { text: &text }).expect("a line");
            prop_assert!(line.chars().all(is_printable), "{:?}", line);
            let line = logged(&text);
            let (line, end) = line.split_at(line.len() - 1);
            prop_assert!(end == "\n" && line.chars().all(is_printable), "{:?}", line);
            let line = error_text(&anyhow::anyhow!(text.clone()).context("context"));
            prop_assert!(line.split('\n').all(|line| line.chars().all(is_printable)), "{:?}", line);
            let line = Output::new(true).rendered("", &Event { text: &text }).expect("a line");
            let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            prop_assert_eq!(value["text"].as_str(), Some(text.as_str()));
        }
    }
}
