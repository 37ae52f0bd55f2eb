//! The log: lines for standard error, written by a separate thread.
//!
//! Invariant: logging neither waits for the reader of standard error, nor fails because of it. A line that cannot be
//! written, or that finds the queue full, is dropped and counted (`chappe_common::lost_lines`).

use std::{
    io::{self, IsTerminal as _, Write},
    sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use chappe_common::lost_lines;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, reload};

use crate::output::LogFields;

/// Capacity of the queue in lines of about 200 bytes: one second of a node with log level `debug`.
const QUEUE: usize = 1024;
/// How long the end of the process waits for the last lines to be written.
const FLUSH_WAIT: Duration = Duration::from_secs(1);
/// Interval at which the end of the process retries a full queue.
const FLUSH_LOOK: Duration = Duration::from_millis(10);

/// The environment variable for the log filter, such as `warn` or `chappe_node=debug`.
pub(crate) const LOG_VARIABLE: &str = "CHAPPE_LOG";

/// Parses a log filter. `module` is that of an example in the error.
///
/// # Errors
/// What is wrong with the text, and what to write.
pub(crate) fn parse_filter(text: &str, module: &str) -> Result<EnvFilter, String> {
    let example = || format!("write a level such as \"info\", or \"warn,{module}=debug\"");
    // The library would log all levels of that module. A missing level is more likely a mistake.
    if let Some(part) = text.split(',').map(str::trim).find(|part| part.ends_with('=')) {
        return Err(format!("`{part}` has no level; {}", example()));
    }
    EnvFilter::try_new(text).map_err(|error| format!("{error}; {}", example()))
}

/// The log filter in the environment, or `default` if there is none.
///
/// # Errors
/// The variable is no filter.
pub(crate) fn filter_of_environment(default: &str) -> anyhow::Result<EnvFilter> {
    let Some(text) = std::env::var_os(LOG_VARIABLE) else { return Ok(EnvFilter::new(default)) };
    let filter = text.to_str().ok_or_else(|| "not UTF-8".to_owned()).and_then(|text| parse_filter(text, "chappe_node"));
    filter.map_err(|error| anyhow!("{LOG_VARIABLE} in the environment: {error}"))
}

/// Replaces the filter of the subscriber.
type SetFilter = dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync;

/// The log of the process.
pub(crate) struct Log {
    queue: LineQueue,
    set_filter: Box<SetFilter>,
}

/// A handle to the writing thread. Clones share it.
#[derive(Clone, Debug)]
struct LineQueue(SyncSender<Item>);

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    /// Answered when all earlier lines are written or dropped.
    Flush(SyncSender<()>),
}

impl Log {
    /// Starts the thread, and directs traces and panics to it.
    ///
    /// # Errors
    /// The system cannot create a thread.
    pub(crate) fn start(filter: EnvFilter) -> io::Result<Self> {
        let (sender, items) = sync_channel(QUEUE);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&items, &mut io::stderr()))?;
        let queue = LineQueue(sender);
        // Colours would disturb searching in files and journals.
        let colours = io::stderr().is_terminal();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(LogFields)
            .with_env_filter(filter)
            .with_ansi(colours)
            // Otherwise the subscriber writes to standard error itself, and panics if that fails.
            .log_internal_errors(false)
            .with_writer(queue.clone())
            .with_filter_reloading();
        let handle = subscriber.reload_handle();
        subscriber.init();
        std::panic::set_hook(Box::new(|panic| {
            let backtrace = std::backtrace::Backtrace::capture();
            tracing::error!("{panic}\n{backtrace}");
        }));
        Ok(Self { queue, set_filter: Box::new(move |filter| handle.reload(filter)) })
    }

    /// Replaces the filter, unless the environment sets it. Returns whether it was replaced.
    pub(crate) fn set_filter(&self, filter: &str) -> bool {
        let is_free = std::env::var_os(LOG_VARIABLE).is_none();
        // The configuration was checked.
        let Ok(filter) = EnvFilter::try_new(filter) else { return false };
        is_free && (self.set_filter)(filter).is_ok()
    }

    /// Writes a last message after all logged lines. Waits for at most [`FLUSH_WAIT`].
    pub(crate) fn end_with(&self, last: Option<String>) {
        self.queue.end_with(last);
    }
}

impl LineQueue {
    /// Writes a last message after all logged lines. Waits for at most [`FLUSH_WAIT`].
    fn end_with(&self, last: Option<String>) {
        let deadline = Instant::now() + FLUSH_WAIT;
        if let Some(mut text) = last {
            text.push('\n');
            self.send_by(Item::Line(text.into_bytes()), deadline);
        }
        let (sender, flushed) = sync_channel(1);
        if self.send_by(Item::Flush(sender), deadline) {
            // Ignore the timeout: a reader that does not read must not block the exit.
            let _ = flushed.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Sends an item before the deadline. Returns whether it succeeded.
    fn send_by(&self, mut item: Item, deadline: Instant) -> bool {
        loop {
            item = match self.0.try_send(item) {
                Ok(()) => return true,
                Err(TrySendError::Full(item)) if Instant::now() < deadline => item,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return false,
            };
            thread::sleep(FLUSH_LOOK);
        }
    }
}

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter(&self.0)
    }
}

/// Accepts one whole line per write, which is how the subscriber writes. Never fails.
#[derive(Debug)]
pub(crate) struct LineWriter<'a>(&'a SyncSender<Item>);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.try_send(Item::Line(line.to_vec())).is_err() {
            lost_lines::count();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines until all senders are gone.
fn write_all(items: &Receiver<Item>, to: &mut impl Write) {
    let mut lines = Lines { to, is_cut: false };
    let mut told = 0;
    let mut works = true;
    loop {
        let item = match items.try_recv() {
            Ok(item) => item,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                let lost = lost_lines::total();
                if works && lost > told {
                    // This line goes through the queue like any other.
                    tracing::warn!(lines = lost - told, "log lines were lost; writing the log again");
                    told = lost;
                    continue;
                }
                let Ok(item) = items.recv() else { return };
                item
            }
        };
        match item {
            Item::Line(line) => {
                works = lines.write(&line).is_ok();
                if !works {
                    lost_lines::count();
                }
            }
            // Ignore the error: at the end of the process nobody may be waiting.
            Item::Flush(flushed) => drop(flushed.try_send(())),
        }
    }
}

/// Writes whole lines, even after a line was written only partly.
struct Lines<'a, W> {
    to: &'a mut W,
    is_cut: bool,
}

impl<W: Write> Lines<'_, W> {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_cut {
            self.to.write_all(b"\n")?;
            self.is_cut = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    rest = &rest[written..];
                    self.is_cut = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that is full at `room` bytes.
    struct Disk {
        bytes: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let written = bytes.len().min(self.room - self.bytes.len());
            self.bytes.extend_from_slice(&bytes[..written]);
            if written == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(written) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_which_a_part_was_written_does_not_run_into_the_next() {
        let mut disk = Disk { bytes: Vec::new(), room: 10 };
        let mut lines = Lines { to: &mut disk, is_cut: false };
        assert!(lines.write(b"one\n").is_ok());
        assert!(lines.write(b"the second\n").is_err());
        assert!(lines.write(b"the third\n").is_err());
        lines.to.room = 100;
        assert!(lines.write(b"four\n").is_ok());
        assert_eq!(disk.bytes, b"one\nthe se\nfour\n");
    }

    #[test]
    fn a_full_queue_drops_the_line_and_does_not_block_the_logger() {
        let (sender, items) = sync_channel(1);
        let log = LineQueue(sender);
        let before = lost_lines::total();
        for _ in 0..3 {
            assert_eq!(log.make_writer().write(b"a line\n").ok(), Some(7));
        }
        assert_eq!(lost_lines::total() - before, 2);
        drop(items);
        log.end_with(Some("nobody reads".to_owned()));
    }
}
