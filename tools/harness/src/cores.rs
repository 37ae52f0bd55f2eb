//! Which core is whose: servers on the first, what drives them on the second.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::OnceLock,
};

/// The core of the servers that are measured.
pub const SERVERS: usize = 0;
/// The core of what drives them, and of the bench itself.
pub const GENERATORS: usize = 1;

/// Whether there is a core for each, and `taskset` to put them there; else all run anywhere, and figures say little.
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

/// A command that runs `program` on one core. It becomes the process that it starts: signals reach that.
pub fn command_on(core: usize, program: &Path) -> Command {
    if !are_two() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// A command that runs `program` on one core before all that has no such priority, and whether the system allows that
/// priority. What has it must leave the core most of the time.
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

/// Moves this process to one core. To be called before it has more than one thread.
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
