//! Processes of the `chappe` binary and of other programs that print JSON. They are killed when dropped.

use std::{
    fs::OpenOptions,
    io::Read as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::cores;

/// The timeout of waiting for a line, or for the end of a process.
const PATIENCE: Duration = Duration::from_secs(20);

/// The `chappe` binary beside this one.
///
/// # Panics
/// It has not been built.
pub fn binary() -> PathBuf {
    beside("chappe")
}

/// The binary of this name in the same target folder as this program.
///
/// # Panics
/// It has not been built.
pub fn beside(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a path of this program");
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    beside.unwrap_or_else(|| panic!("{name} is not built; build it first by cargo build, with the profile of this"))
}

/// Builds the binary if cargo runs this program, in the same profile. Otherwise the existing binary is used. Returns
/// whether the build succeeded.
pub fn is_built() -> bool {
    let Some(cargo) = std::env::var_os("CARGO") else { return true };
    let mut build = std::process::Command::new(cargo);
    build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).args(["build", "--quiet", "-p", "chappe"]);
    let own = std::env::current_exe().expect("a path of this program");
    // The folder of an optimised profile has its name. That of the others is called «debug».
    let profile = ["dist", "release"].into_iter().find(|profile| own.ancestors().any(|dir| dir.ends_with(profile)));
    build.args(profile.map(|profile| ["--profile", profile]).into_iter().flatten());
    if profile == Some("dist") {
        build.args(["--features", "jemalloc"]);
    }
    build.status().is_ok_and(|status| status.success())
}

/// Ends this process when its standard input does, as it does when its parent ends. To be called before anything else.
pub fn end_with_parent() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
}

/// A process that prints a JSON object a line. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts `chappe --json` with these arguments. Its warnings go to this process's standard error.
    ///
    /// # Panics
    /// It doesn't start.
    pub fn start(args: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.arg("--json").args(args).env("CHAPPE_LOG", "warn").stdin(Stdio::null());
        Self::spawn(command)
    }

    /// Starts `chappe --json` with these arguments on one core, with its log in a file.
    ///
    /// # Panics
    /// It doesn't start.
    pub fn start_logged_on(core: usize, log: &Path, args: &[&str]) -> Self {
        let mut command = Command::from(cores::command_on(core, &binary()));
        command.arg("--json").args(args).env("CHAPPE_LOG", "info").stdin(Stdio::null()).stderr(log_file(log));
        Self::spawn(command)
    }

    /// Starts `chappe --json` with these arguments in a network namespace, with its log in a file.
    ///
    /// # Panics
    /// It doesn't start.
    pub fn start_in(namespace: &str, log: &Path, args: &[&str]) -> Self {
        let mut command = Command::new("ip");
        // It becomes the process that it starts: signals reach that.
        command.args(["netns", "exec", namespace]).arg(binary()).arg("--json").args(args);
        command.env("CHAPPE_LOG", "info").stdin(Stdio::null()).stderr(log_file(log));
        Self::spawn(command)
    }

    /// Starts `chappe --json` with these arguments on one core.
    ///
    /// # Panics
    /// It doesn't start.
    pub fn start_on(core: usize, args: &[&str]) -> Self {
        let mut command = Command::from(cores::command_on(core, &binary()));
        command.arg("--json").args(args).env("CHAPPE_LOG", "warn").stdin(Stdio::null());
        Self::spawn(command)
    }

    /// Starts another program that prints JSON and takes commands from [`Process::tell`].
    ///
    /// # Panics
    /// It doesn't start.
    pub fn start_told(command: std::process::Command) -> Self {
        let mut command = Command::from(command);
        command.stdin(Stdio::piped());
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.kill_on_drop(true).stdout(Stdio::piped()).spawn().expect("a process");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    /// Sends a signal, as `kill` names it.
    ///
    /// # Panics
    /// It has ended.
    pub fn signal(&self, name: &str) {
        let sent = std::process::Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Writes a line to its standard input.
    ///
    /// # Panics
    /// It has ended, or has no piped standard input.
    pub async fn tell(&mut self, line: &Value) {
        let input = self.child.stdin.as_mut().expect("an input");
        input.write_all(format!("{line}\n").as_bytes()).await.expect("a process that reads");
    }

    /// The next line.
    ///
    /// # Panics
    /// None comes in time, or it isn't JSON.
    pub async fn line(&mut self) -> Value {
        self.line_within(PATIENCE).await
    }

    /// The next line, with this timeout.
    ///
    /// # Panics
    /// None comes in time, or it isn't JSON.
    pub async fn line_within(&mut self, patience: Duration) -> Value {
        let line = timeout(patience, self.lines.next_line()).await.expect("a line in time").expect("a readable line");
        serde_json::from_str(&line.expect("a line, not the end")).expect("JSON")
    }

    /// The process's id.
    ///
    /// # Panics
    /// It has ended.
    pub fn id(&self) -> u32 {
        self.child.id().expect("a running process")
    }

    /// Its resident memory, in KiB.
    ///
    /// # Panics
    /// It has ended, or this is not Linux.
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// Its resident anonymous memory, in KiB: without pages of files, such as the program's code.
    pub fn anonymous_kib(&self) -> u64 {
        self.status_kib("RssAnon:")
    }

    /// Its peak resident memory since [`Self::forget_peak`], or since it started, in KiB.
    ///
    /// # Panics
    /// It has ended, or this is not Linux.
    pub fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// Resets the peak. If the kernel doesn't support that, the peak stays that since the start.
    pub fn forget_peak(&self) {
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.id()), "5");
    }

    fn status_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("Linux");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a field of memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// It can't be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("a process that ends");
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it ends by itself, and returns whether its status is success.
    ///
    /// # Panics
    /// It doesn't end in time.
    pub async fn succeeded(mut self) -> bool {
        timeout(PATIENCE, self.child.wait()).await.expect("an end in time").expect("a status").success()
    }
}

fn log_file(path: &Path) -> std::fs::File {
    OpenOptions::new().create(true).append(true).open(path).expect("a file for the log")
}

/// Writes a config file with `init`, and returns the line that it prints.
///
/// # Panics
/// `init` fails.
pub async fn init(kind: &str, config: &Path, more: &[&str]) -> Value {
    let mut args = vec![kind, "init", "--config", config.to_str().expect("a path in UTF-8")];
    args.extend_from_slice(more);
    let mut process = Process::start(&args);
    let made = process.line().await;
    assert!(process.succeeded().await);
    made
}
