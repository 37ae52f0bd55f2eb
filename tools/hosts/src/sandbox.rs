//! The namespaces in which everything runs, and which end with this program.
//!
//! The program starts itself again by `unshare` with its own network, mounts and process ids. The child is process 1
//! there: when it ends, the kernel ends all processes inside, and with them the namespaces. The child reads a pipe that
//! nobody writes to, and ends when the parent has, for whatever reason.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    process::{Command, ExitStatus, Stdio},
};

/// The argument that distinguishes the child from the parent.
const INSIDE: &str = "--inside";

/// Why the namespaces can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The system doesn't let this user make them, or a tool is missing.
    #[error("this needs network namespaces, and {what}")]
    NotAllowed {
        /// What is in the way.
        what: String,
    },
    /// A process can't be started or waited for.
    #[error("cannot start this program again inside")]
    Io(#[from] io::Error),
}

/// Whether this process is the one inside.
pub fn is_inside() -> bool {
    std::env::args().nth(1).is_some_and(|arg| arg == INSIDE)
}

/// Runs this program inside, and waits for its end.
///
/// # Errors
/// Namespaces can't be made here.
pub fn run_inside() -> Result<ExitStatus, SandboxError> {
    for (tool, version) in [("ip", "-V"), ("nft", "-v")] {
        let found = Command::new(tool).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            return Err(not_allowed(format!("`{tool}` is not installed (Debian: iproute2, nftables)")));
        }
    }
    let tried = unshare().args(["ip", "link", "set", "lo", "up"]).stdin(Stdio::null()).output();
    match tried {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            return Err(not_allowed(format!("they aren't allowed here: {reason}")));
        }
        Err(error) => return Err(not_allowed(format!("`unshare` doesn't start: {error}"))),
    }
    let mut inside = unshare();
    inside.arg(std::env::current_exe()?).arg(INSIDE).args(std::env::args().skip(1));
    // Keep the pipe open until this process ends: its end tells the child.
    let mut child = inside.stdin(Stdio::piped()).spawn()?;
    let pipe = child.stdin.take();
    let status = child.wait();
    drop(pipe);
    Ok(status?)
}

fn not_allowed(what: String) -> SandboxError {
    SandboxError::NotAllowed { what }
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    // Without root, become root in a user namespace.
    if !std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command
}
