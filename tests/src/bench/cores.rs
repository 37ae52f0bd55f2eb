//! Which core is whose: servers on the first, what drives them on the second.

use std::{process::Command, thread::available_parallelism};

/// The core of the servers that are measured.
pub const SERVERS: usize = 0;
/// The core of what drives them, and of the bench itself.
pub const GENERATORS: usize = 1;

/// Whether the machine has a core for each; else all share one, and figures say little.
pub fn are_two() -> bool {
    std::fs::read_to_string("/proc/cpuinfo")
        .map_or_else(|_| available_parallelism().map_or(1, Into::into), |text| text.matches("processor\t").count())
        > 1
}

/// A command that runs `program` on one core. It becomes the process that it starts: signals reach that.
pub fn command_on(core: usize, program: &std::path::Path) -> Command {
    if !are_two() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

/// Moves this process to one core. To be called before it has more than one thread.
pub fn move_to(core: usize) {
    if !are_two() {
        return;
    }
    let own = std::process::id().to_string();
    let moved = Command::new("taskset").args(["-cp", &core.to_string(), &own]).output();
    assert!(moved.is_ok_and(|output| output.status.success()), "taskset (util-linux) can't move a process to a core");
}
