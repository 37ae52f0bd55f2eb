//! The real binary as a process: its output lines, its exit status, its end.

pub(crate) mod authority;
pub(crate) mod authority_front;
pub(crate) mod federation;
pub(crate) mod namespace;
pub(crate) mod tls;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// `chappe` with these arguments, without settings from the environment.
pub(crate) fn chappe(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chappe"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CHAPPE_")) {
        command.env_remove(name);
    }
    command
}

/// Runs a command to its end.
pub(crate) fn finished(args: &[&str]) -> Output {
    Running::start(&mut chappe(args)).finish()
}

/// A running process, which is killed on drop.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    errors: Option<thread::JoinHandle<String>>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let stderr = child.stderr.take();
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let errors = stderr.map(|mut stderr| {
            thread::spawn(move || {
                let mut text = String::new();
                let _ = stderr.read_to_string(&mut text);
                text
            })
        });
        Self { child, lines, errors }
    }

    /// The next line of standard output, or `None` at its end.
    pub(crate) fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {PATIENCE:?}"),
        }
    }

    /// The next JSON object of that kind. Others before it are skipped.
    pub(crate) fn event(&mut self, kind: &str) -> Value {
        let mut seen = Vec::new();
        while let Some(line) = self.line() {
            let event: Value = serde_json::from_str(&line).expect("with --json, every line is an object");
            if event["event"] == kind {
                return event;
            }
            seen.push(line);
        }
        let errors = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        panic!("no `{kind}` came, but {seen:#?}\n{errors}");
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to standard input, which must be a pipe, and closes it.
    pub(crate) fn tell(&mut self, line: &str) {
        let mut input = self.child.stdin.take().expect("a pipe");
        writeln!(input, "{line}").expect("a process that reads");
    }

    /// Sends a signal, named as for `kill`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill is there");
        assert!(sent.success());
    }

    /// Sends a signal several hundred times, because the system merges concurrent ones.
    pub(crate) fn signal_often(&self, name: &str) {
        // With a pause: the system merges signals of one kind that the process has not taken yet.
        let script = format!("for n in $(seq 300); do kill -{name} {}; sleep 0.001; done", self.child.id());
        let sent = Command::new("sh").args(["-c", &script]).status().expect("a shell");
        assert!(sent.success());
    }

    /// Waits for the end of the process.
    pub(crate) fn finish(mut self) -> Output {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                break status;
            }
            assert!(Instant::now() < deadline, "still running after {PATIENCE:?}");
            thread::sleep(Duration::from_millis(10));
        };
        let mut stdout = String::new();
        while let Some(line) = self.line() {
            stdout.push_str(&line);
            stdout.push('\n');
        }
        let stderr = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        Output { status, stdout: stdout.into_bytes(), stderr: stderr.into_bytes() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of the response to a request to the daemon at this address.
pub(crate) fn get(addr: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// Both outputs of a finished process.
pub(crate) fn texts(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().expect("a temporary path is text")
}
