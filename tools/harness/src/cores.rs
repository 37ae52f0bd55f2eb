//! Which core runs what: the servers on the first, generators on the second.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

/// The core of the measured servers.
pub const SERVERS: usize = 0;
/// The core of the generators and of the measurement program itself.
pub const GENERATORS: usize = 1;

/// Whether the machine has both cores and `taskset`. Without them processes run on any core, and figures are not
/// reliable.
pub fn are_two() -> bool {
    static TWO: OnceLock<bool> = OnceLock::new();
    *TWO.get_or_init(|| {
        [SERVERS, GENERATORS].iter().all(|core| {
            let mut trial = Command::new("taskset");
            trial.args(["-c", &core.to_string(), "true"]).stderr(Stdio::null());
            trial.status().is_ok_and(|status| status.success())
        })
    })
}

/// A command that runs `program` on one core, by `exec`, so that signals reach the program.
pub fn command_on(core: usize, program: &Path) -> Command {
    if !are_two() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// A command that runs `program` on any core, although this process was moved to one.
pub fn command_on_all(program: &Path) -> Command {
    if !are_two() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", &format!("{SERVERS},{GENERATORS}")]).arg(program);
    command
}

/// A command that runs `program` on one core with real-time priority, and whether the system allows that priority. The
/// program must leave the core idle most of the time.
pub fn urgent_command_on(core: usize, program: &Path) -> (Command, bool) {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    let is_allowed = *ALLOWED.get_or_init(|| {
        let mut trial = Command::new("chrt");
        trial.args(["-f", "1", "true"]).stderr(Stdio::null());
        trial.status().is_ok_and(|status| status.success())
    });
    if !is_allowed {
        return (command_on(core, program), false);
    }
    let mut command = command_on(core, Path::new("chrt"));
    command.args(["-f", "1"]).arg(program);
    (command, true)
}

/// Moves this process to one core. Call it before starting threads.
///
/// # Panics
/// The system doesn't allow it.
pub fn move_to(core: usize) {
    if !are_two() {
        return;
    }
    let own = std::process::id().to_string();
    let moved = Command::new("taskset").args(["-cp", &core.to_string(), &own]).stdout(Stdio::null()).status();
    assert!(moved.is_ok_and(|status| status.success()), "the process can't be moved to core {core}");
}
