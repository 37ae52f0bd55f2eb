//! A PostgreSQL server from this machine's package for one test: its data and socket are in a temporary folder, without
//! a TCP port.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// The server's user if the tests run as root, because PostgreSQL refuses to run as root.
const USER: &str = "nobody";

pub(crate) struct Server {
    dir: TempDir,
    binaries: PathBuf,
    child: Child,
}

impl Server {
    /// Starts a server. Returns `None` and prints a message if the package is not installed.
    pub(crate) fn start() -> Option<Self> {
        let Some(binaries) = binaries() else {
            eprintln!("skipped: no PostgreSQL here (Debian: postgresql)");
            return None;
        };
        let dir = tempfile::tempdir().expect("a temporary folder");
        if is_root() {
            done(Command::new("chown").arg(USER).arg(dir.path()));
        }
        let data = dir.path().join("data");
        let mut init = command(&binaries, "initdb", dir.path());
        init.args(["--username=chappe", "--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8", "-D"]);
        done(init.arg(&data));
        let mut server = command(&binaries, "postgres", dir.path());
        // The data does not have to survive a crash of the machine.
        server.args(["-F", "-c", "listen_addresses=", "-k"]).arg(dir.path()).arg("-D").arg(&data);
        let child = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a server");
        let server = Self { dir, binaries, child };
        server.wait();
        Some(server)
    }

    /// The URL of the server.
    pub(crate) fn url(&self) -> String {
        format!("postgres://chappe@/postgres?host={}", self.dir.path().display())
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut ask = Command::new(self.binaries.join("pg_isready"));
        ask.arg("-h").arg(self.dir.path()).stdout(Stdio::null());
        while !ask.status().expect("pg_isready").success() {
            assert!(Instant::now() < deadline, "the server does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A signal makes the server stop its own processes, which a kill would leave behind.
        let _ = Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

fn binaries() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin"));
    versions.filter(|bin| bin.join("initdb").exists()).max()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn command(binaries: &Path, program: &str, folder: &Path) -> Command {
    let program = binaries.join(program);
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir(folder);
    command
}

fn done(command: &mut Command) {
    let output = command.output().expect("a program that is there");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
